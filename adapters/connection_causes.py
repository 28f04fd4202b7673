"""Tell in a word why a service could not be reached, from the exceptions of httpx and of the libraries built on it."""

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from adapters.error_translation import exception_chain

NO_ROUTE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
"""Numbers of system errors about a host that cannot be reached."""

_BY_CLASS: Final = {
    "ProxyError": "proxy",
    "ConnectTimeout": "connect timeout",
    "RemoteProtocolError": "connection broken",
    "ReadError": "connection broken",
    "WriteError": "connection broken",
    "CloseError": "connection broken",
}
"""Causes by the names of classes, which httpx and httpx2 share."""


def connection_cause(error: BaseException) -> str | None:
    """Return `certificate`, `tls`, `dns`, `refused`, `no route`, `proxy`, `connect timeout` or `connection broken`.

    None if `error` was not caused by a connection.
    """
    links = list(_links(error))
    causes = [*map(_cause_of_system_error, links), *(_BY_CLASS.get(type(link).__name__) for link in links)]
    return next((cause for cause in causes if cause), None)


def _links(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what caused it, and the errors that these wrap: httpx's library for connections hides causes."""
    for link in exception_chain(error):
        yield link
        for wrapped in (*link.args[:1], *(link.exceptions if isinstance(link, BaseExceptionGroup) else ())):
            if isinstance(wrapped, BaseException):
                yield from _links(wrapped)


def _cause_of_system_error(error: BaseException) -> str | None:
    match error:
        case ssl.SSLCertVerificationError():
            return "certificate"
        case ssl.SSLError():
            return "tls"
        case socket.gaierror():
            return "dns"
        case ConnectionRefusedError():
            return "refused"
        case OSError(errno=number) if number in NO_ROUTE:
            return "no route"
    return None
