"""What to tell the operator if the platform cannot be reached."""

from collections.abc import Mapping
from typing import Final

from adapters.connection_causes import connection_cause
from application.ports.memory import MemoryNotReady, MemoryUnavailable

NOT_BUILT: Final = "The memory platform's client cannot be set up; check MEM0_HOST, HTTPS_PROXY and SSL_CERT_FILE."

_PROXY: Final = (
    "The proxy does not connect to the memory platform; check HTTP_PROXY, HTTPS_PROXY, NO_PROXY and MEM0_HOST."
)

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

_LASTING: Final = frozenset({"dns", "certificate", "proxy"})
"""Causes that stay until the operator changes something."""

_OF_A_PROXY: Final = frozenset({"refused", "dns", "no route", "connect timeout"})
"""Causes that concern the proxy, if there is one."""


def connection_failure(error: Exception, *, proxied: bool) -> MemoryUnavailable | None:
    """Return the error to raise if the platform could not be reached, or None for any other error.

    `proxied` tells whether requests go through a proxy.
    """
    cause = connection_cause(error)
    if cause is None:
        return None
    kind = MemoryNotReady if cause in _LASTING else MemoryUnavailable
    return kind(_PROXY if proxied and cause in _OF_A_PROXY else _HINTS[cause])
