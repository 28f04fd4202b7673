"""Watches the sockets that tests open: none may leave the machine, and only tests marked `server` may use TCP."""

import errno
import ipaddress
import sys
from typing import Any


class SocketGuard:
    """An audit hook cannot be removed, so a process needs only one guard.

    The loops of asyncio wake themselves through Unix sockets, which are not watched.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        """Addresses outside this machine that something tried to connect to."""
        self.unmarked: list[str] = []
        """TCP addresses that were bound or connected to while `servers_allowed` was False."""
        self.servers_allowed = True

    def install(self) -> None:
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("socket.connect", "socket.bind") or not isinstance(arguments[1], tuple):
            return
        host = str(arguments[1][0])
        if event == "socket.connect" and not _is_loopback(host):
            self.refused.append(host)
            raise PermissionError(errno.EACCES, f"a test tried to connect to {host}")
        if not self.servers_allowed:
            self.unmarked.append(f"{event} {arguments[1]}")
            raise PermissionError(errno.EACCES, f"{event} {arguments[1]} in a test that is not marked `server`")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
