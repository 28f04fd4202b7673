"""Tell why a service cannot be reached, from the exceptions of the HTTP library."""

import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import aiohttp.http_exceptions

from adapters.connection_causes import NO_ROUTE
from adapters.error_translation import exception_chain
from adapters.openai_api.classification import CHECK_SCHEME, PROXY_AUTH_REQUIRED, PROXY_REFUSED
from adapters.openai_api.http_client import ConnectError
from adapters.openai_api.tls_failures import NO_TLS, REJECTED, lasting_failure
from adapters.proxies import CHECK_PROXY, BadProxyURL

_WITH_ADDRESS: Final = (aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError)
"""Errors that tell which host did not accept the connection."""

_TLS_ALERT: Final = "b'\\x15"
"""The beginning of a TLS alert, as aiohttp quotes what it received instead of a status line."""

_TLS_REQUIRED: Final = "required"
"""Detail of the failure of a request without TLS to a service that requires it."""

_HINTS: Final[Mapping[str, str]] = {
    "dns": "The host name of the model's service cannot be resolved: check OPENAI_BASE_URL.",
    "refused": "The model's service refuses connections: check the host and port of OPENAI_BASE_URL.",
    "no route": "There is no route to the model's service: check the host of OPENAI_BASE_URL.",
    "connect timeout": "No connection to the model's service in time: check scheme, host and port of OPENAI_BASE_URL.",
    "certificate": "The certificate of the model's service is not trusted: check SSL_CERT_FILE or OPENAI_BASE_URL.",
    "tls": "The TLS connection to the model's service failed.",
    "proxy": f"The proxy does not connect to the model's service: {CHECK_PROXY}.",
    "not http": "The model's service does not speak HTTP: check the host and port of OPENAI_BASE_URL.",
}
"""What to tell the client, by cause."""

_CHECK_PROXY_SCHEME: Final = "check whether the URL of the proxy is http or https"

_PROXY_HINTS: Final[Mapping[str, str]] = {
    "dns": f"The host name of the proxy cannot be resolved: {CHECK_PROXY}.",
    "refused": f"The proxy refuses connections: {CHECK_PROXY}.",
    "no route": f"There is no route to the proxy: {CHECK_PROXY}.",
    "connect timeout": f"No connection through the proxy in time: {CHECK_PROXY}, or the host of OPENAI_BASE_URL.",
    "closed": f"The proxy closed the connection: {CHECK_PROXY}, or the host of OPENAI_BASE_URL.",
    "reset": f"The proxy closed the connection: {CHECK_PROXY}, or the host of OPENAI_BASE_URL.",
    "certificate": f"The certificate of the proxy is not trusted: check SSL_CERT_FILE, or {CHECK_PROXY}.",
    "tls": f"The TLS connection to the proxy failed: {_CHECK_PROXY_SCHEME}.",
    "not http": f"The proxy does not speak HTTP: {CHECK_PROXY}.",
}
"""The same for connections to a proxy, by `cause_detail`."""

_NOT_ALLOWED: Final = range(400, 500)
_TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})
"""Statuses of a proxy that does not connect to the service: by its rules, or for now."""

_TLS_HINTS: Final[Mapping[str | None, str]] = {
    _TLS_REQUIRED: f"The model's service, or the proxy, requires TLS: {CHECK_SCHEME}.",
    NO_TLS: f"The model's service does not use TLS: {CHECK_SCHEME}.",
    REJECTED: "The model's service and this chatbot do not agree on a TLS connection: check the host of "
    "OPENAI_BASE_URL, and which versions of TLS and which certificates the service accepts.",
}

_CLOSED_HINT: Final = f"The model's service closed the connection without a response: {CHECK_SCHEME}."


@dataclass(frozen=True)
class Proxy:
    """The proxy of requests. If it `tunnels`, a failure of TLS may be the service's as well as its own."""

    host: str
    port: int
    tunnels: bool


def network_cause(error: BaseException, proxy: Proxy | None = None) -> Mapping[str, str | int]:
    """Return the `cause` of a connection's failure, with what is known about it. No text of the peer is part of it."""
    links = _links(error)
    for link in links:
        if isinstance(link, BadProxyURL):
            return {"cause": "proxy", "cause_detail": link.problem}
        if isinstance(link, aiohttp.ClientHttpProxyError):
            return {"cause": "proxy", "proxy_status": link.status}
    causes = _cause(links)
    cause = str(causes.get("cause", "not connected"))
    connecting = any(isinstance(link, ConnectError) for link in links)
    if (connecting and proxy is not None and _fails(proxy, cause, links)) or any(
        isinstance(link, aiohttp.ClientProxyConnectionError) for link in links
    ):
        return {"cause": "proxy", "cause_detail": cause}
    return causes


def _fails(proxy: Proxy, cause: str, links: Sequence[BaseException]) -> bool:
    """Whether a failure to connect is the proxy's."""
    if not proxy.tunnels or cause not in ("certificate", "tls"):
        return True
    failed = (link for link in links if isinstance(link, _WITH_ADDRESS))
    return any((link.host, link.port) == (proxy.host, proxy.port) for link in failed)


def hint(error: BaseException, cause: Mapping[str, str | int], *, may_lack_tls: bool) -> str | None:
    """Return the sentence for the client. `may_lack_tls`: the request was sent to the service without TLS."""
    if cause.get("proxy_status") == PROXY_AUTH_REQUIRED:
        return PROXY_REFUSED
    name = str(cause.get("cause"))
    if name == "proxy":
        return _PROXY_HINTS.get(str(cause.get("cause_detail"))) or _HINTS[name]
    if name in ("closed", "reset") and not isinstance(error, ConnectError):
        return _CLOSED_HINT if may_lack_tls else None
    return (_TLS_HINTS.get(_lasting_tls_failure(error)) if name == "tls" else None) or _HINTS.get(name)


def is_lasting(error: BaseException, cause: Mapping[str, str | int]) -> bool:
    """Whether no connection will succeed before the operator changes something."""
    status = cause.get("proxy_status")
    if (status in _NOT_ALLOWED and status not in _TRANSIENT_STATUSES) or _lasting_tls_failure(error) is not None:
        return True
    return any(isinstance(link, (BadProxyURL, ssl.SSLCertVerificationError)) for link in _links(error))


def _lasting_tls_failure(error: BaseException) -> str | None:
    for link in _links(error):
        if isinstance(link, ssl.SSLError):
            return lasting_failure(_reason(link))
        if _requires_tls(link):
            return _TLS_REQUIRED
    return None


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "reason", None) or ""  # Python leaves it out if OpenSSL gave none


def _requires_tls(link: BaseException) -> bool:
    """Whether the peer sent a TLS alert instead of a status line."""
    return isinstance(link, aiohttp.http_exceptions.BadStatusLine) and _TLS_ALERT in link.message


def _links(error: BaseException) -> Sequence[BaseException]:
    """Return the errors in a chain, innermost first: aiohttp's are of the classes that they wrap, without details."""
    return [inner for link in exception_chain(error) for inner in (link, *_wrapped(link))][::-1]


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
                # In words: a long constant looks like a credential, and would be redacted.
                return {"cause": "tls", "cause_detail": (_reason(link) or "failed").replace("_", " ").lower()}
            case _ if _requires_tls(link):
                return {"cause": "tls", "cause_detail": _TLS_REQUIRED}
            case socket.gaierror() | aiohttp.ClientConnectorDNSError():
                return {"cause": "dns"}
            case aiohttp.http_exceptions.BadStatusLine():
                return {"cause": "not http"}
            case ConnectionRefusedError():
                return {"cause": "refused"}
            case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
                return {"cause": "reset"}
            case aiohttp.ConnectionTimeoutError():
                return {"cause": "connect timeout"}
            case aiohttp.ServerDisconnectedError():
                return {"cause": "closed"}
            case OSError(errno=number) if number in NO_ROUTE:
                return {"cause": "no route"}
    if any(isinstance(link, TimeoutError) for link in links):
        connecting = any(isinstance(link, ConnectError) for link in links)
        return {"cause": "connect timeout" if connecting else "timeout"}
    return {}
