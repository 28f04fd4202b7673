"""The listening socket."""

import socket

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


def url_of(listener: socket.socket) -> str:
    """Return the URL at which clients on this machine reach a listening socket."""
    host, port, *_ = listener.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
