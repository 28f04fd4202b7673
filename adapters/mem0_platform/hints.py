"""What to tell the operator if the platform cannot be reached."""

from collections.abc import Mapping
from typing import Final

from adapters.connection_causes import connection_cause
from adapters.mem0_proxies import (
    CAUSES_OF_A_PROXY,
    credentials_refused,
    is_proxied,
    refuses_credentials,
    unsupported_proxy,
)
from adapters.proxies import CHECK_PROXY
from application.ports.memory import MemoryMisconfigured, MemoryNotReady, MemoryUnavailable

_NOT_BUILT: Final = "The memory platform's client cannot be set up; check MEM0_HOST, HTTPS_PROXY and SSL_CERT_FILE."

_PROXY: Final = f"The proxy does not connect to the memory platform; {CHECK_PROXY}, or the host of MEM0_HOST."

_HINTS: Final[Mapping[str, str]] = {
    "refused": "The memory platform refuses connections; check the host and port of MEM0_HOST.",
    "dns": "The host name of the memory platform cannot be resolved; check MEM0_HOST.",
    "no route": "There is no route to the memory platform; check the host of MEM0_HOST.",
    "connect timeout": "No connection to the memory platform in time; check the host and port of MEM0_HOST.",
    "certificate": "The certificate of the memory platform is not trusted; check SSL_CERT_FILE or MEM0_HOST.",
    "tls": "A TLS connection to the memory platform failed; check whether MEM0_HOST is http or https.",
    "connection broken": "The memory platform broke the connection; check whether MEM0_HOST is http or https.",
    "proxy": _PROXY,
}
"""By cause."""

_LASTING: Final[Mapping[str, type[MemoryNotReady]]] = {
    "dns": MemoryNotReady,
    "proxy": MemoryNotReady,
    "certificate": MemoryMisconfigured,
}
"""Errors for causes that stay until the operator or another service changes something."""


def not_built() -> MemoryNotReady:
    """Return the error to raise if the client cannot be set up."""
    return MemoryMisconfigured(unsupported_proxy() or _NOT_BUILT)


def connection_failure(error: Exception, url: str) -> MemoryUnavailable | None:
    """Return the error to raise if the platform at `url` could not be reached, or None for any other error."""
    cause = connection_cause(error)
    if cause is None:
        return None
    if refuses_credentials(error):
        return MemoryMisconfigured(credentials_refused(url))
    kind = _LASTING.get(cause, MemoryUnavailable)
    return kind(_PROXY if cause in CAUSES_OF_A_PROXY and is_proxied(url) else _HINTS[cause])
