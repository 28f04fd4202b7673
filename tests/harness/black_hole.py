"""A client that vanishes: its connection stays open, but no packet that arrives there is received or confirmed."""

import ctypes
import socket
import struct
from typing import Final

_SO_ATTACH_FILTER: Final = 26


def receive_no_more(connection: socket.socket) -> None:
    """Have Linux drop every packet that arrives at a connection, before TCP sees it."""
    drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # the instruction "return 0 bytes"
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(drop)))
