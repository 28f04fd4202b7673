"""The listening socket."""

import socket
import sys

from domain.errors import Unusable
from entrypoints.settings import Settings


def listen(settings: Settings, backlog: int = 2048) -> socket.socket:
    """Bind the listening socket, before anything else is touched. `backlog` limits pending connections."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=backlog)
    except OSError as error:
        cause = str(error.strerror).partition(" (")[0]
        raise Unusable(
            f"Cannot listen on {settings.host}, port {settings.port}: {cause}; check HOST and PORT."
        ) from None


def limit_sending(listener: socket.socket, timeout: float, buffer: int = 64 * 1024) -> None:
    """Bound what the connections of a listener hold for a client that does not read, and for how long.

    After `timeout` seconds in which a client confirms nothing of what it was sent, or has no room for what is waiting,
    Linux resets the connection. Other systems have no such option. `buffer` is the size of the system's send buffer in
    bytes, which would otherwise grow to megabytes; Linux doubles it for its own overhead.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(timeout * 1000)))


def send_at_once(listener: socket.socket) -> None:
    """Have the connections of a listener send each write without waiting for the client to confirm the one before.

    asyncio, unlike uvloop, does not do that for the connections of a socket that was created elsewhere. The head and
    the body of a response are two writes, and clients may delay a confirmation by 40 ms (Nagle's algorithm).
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def url_of(listener: socket.socket) -> str:
    """Return the URL at which clients on this machine reach a listening socket."""
    host, port, *_ = listener.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
