"""Whether a request comes directly from this machine, and not by way of a proxy or another site's page."""

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.types import Scope

_HOST: Final = re.compile(rb"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.]+)(?::[0-9]{0,5})?")

_PROXY_HEADERS: Final = frozenset({b"forwarded", b"via", b"x-real-ip"})
"""Headers that only proxies send, besides those that begin with `X-Forwarded-`."""


def is_local(scope: Scope) -> bool:
    """Return whether server, client and `Host` are loopback, and no proxy has forwarded the request.

    The server does not tell the application on which address it listens, so this is checked for each request. A page
    of another site can send requests from the user's browser to a name that it has resolve to 127.0.0.1 (DNS
    rebinding): such requests have that name in `Host`.
    """
    hosts = []
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value)
        elif name in _PROXY_HEADERS or name.startswith(b"x-forwarded-"):
            return False
    return (
        len(hosts) == 1
        and _is_loopback_host(hosts[0])
        and _is_loopback_socket(scope.get("server"))
        and _is_loopback_socket(scope.get("client"))
    )


def _is_loopback_socket(address: tuple[str, int | None] | None) -> bool:
    """Return False for a Unix socket, too, whose clients are unknown."""
    return address is not None and _is_loopback_address(address[0])


def _is_loopback_host(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    name = match["name"].decode().lower()
    return name == "localhost" or _is_loopback_address(name.strip("[]"))


@lru_cache(maxsize=1_024)  # parsing costs more than all the rest, and addresses repeat
def _is_loopback_address(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
