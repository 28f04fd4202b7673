"""Tell why a service cannot be reached, from the exceptions of the HTTP library."""

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import aiohttp

from adapters.error_translation import exception_chain
from adapters.openai_api.classification import CHECK_PROXY, PROXY_AUTH_REQUIRED, PROXY_REFUSED
from adapters.openai_api.http_client import BadProxyURL, ConnectError

_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})

_HINTS: Final[Mapping[str, str]] = {
    "dns": "The host name of the model's service cannot be resolved: check OPENAI_BASE_URL.",
    "refused": "The model's service refuses connections: check the host and port of OPENAI_BASE_URL.",
    "no route": "There is no route to the model's service: check the host of OPENAI_BASE_URL.",
    "connect timeout": "No connection to the model's service in time: check scheme, host and port of OPENAI_BASE_URL.",
    "certificate": "The certificate of the model's service is not trusted: check SSL_CERT_FILE or OPENAI_BASE_URL.",
    "tls": "A TLS connection to the model's service failed: check whether OPENAI_BASE_URL is http or https.",
    "proxy": f"The proxy does not connect to the model's service: {CHECK_PROXY}.",
}
"""What to tell the client, by cause."""


def network_cause(error: BaseException) -> Mapping[str, str | int]:
    """Return the `cause` of a connection's failure, with what is known about it. No text of the peer is part of it."""
    # Innermost first: aiohttp's errors are of the same classes as those that they wrap, without their details.
    links = [inner for link in exception_chain(error) for inner in (link, *_wrapped(link))][::-1]
    for link in links:
        if isinstance(link, BadProxyURL):
            problem = (
                f"scheme {link.scheme} is not supported" if link.scheme not in ("", "http", "https") else "not a URL"
            )
            return {"cause": "proxy", "cause_detail": problem}
        if isinstance(link, aiohttp.ClientHttpProxyError):
            return {"cause": "proxy", "proxy_status": link.status}
    causes = _cause(links)
    if any(isinstance(link, aiohttp.ClientProxyConnectionError) for link in links):
        return {"cause": "proxy", "cause_detail": str(causes.get("cause", "not connected"))}
    return causes


def hint(cause: Mapping[str, str | int]) -> str | None:
    """Return the sentence for the client."""
    return PROXY_REFUSED if cause.get("proxy_status") == PROXY_AUTH_REQUIRED else _HINTS.get(str(cause.get("cause")))


def is_lasting(error: BaseException, cause: Mapping[str, str | int]) -> bool:
    """Whether no connection will succeed before the operator changes something."""
    is_bad_url = any(isinstance(link, BadProxyURL) for link in exception_chain(error))
    return is_bad_url or cause.get("cause") == "certificate" or cause.get("proxy_status") == PROXY_AUTH_REQUIRED


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, aiohttp.ClientConnectorError):
        yield error.os_error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        yield error.certificate_error


def _cause(links: Sequence[BaseException]) -> Mapping[str, str | int]:
    for link in links:
        match link:
            case ssl.SSLCertVerificationError():
                return {"cause": "certificate", "cause_detail": link.verify_message or "not trusted"}
            case ssl.SSLError():
                return {"cause": "tls", "cause_detail": link.reason or "failed"}
            case socket.gaierror() | aiohttp.ClientConnectorDNSError():
                return {"cause": "dns"}
            case ConnectionRefusedError():
                return {"cause": "refused"}
            case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
                return {"cause": "reset"}
            case aiohttp.ConnectionTimeoutError():
                return {"cause": "connect timeout"}
            case aiohttp.ServerDisconnectedError():
                return {"cause": "closed"}
            case OSError(errno=number) if number in _UNREACHABLE:
                return {"cause": "no route"}
    if any(isinstance(link, TimeoutError) for link in links):
        connecting = any(isinstance(link, ConnectError) for link in links)
        return {"cause": "connect timeout" if connecting else "timeout"}
    return {}
