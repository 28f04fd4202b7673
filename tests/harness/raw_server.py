"""A TCP server that sends exactly the bytes that a test chooses.

async def handle(call: Call) -> None:      runs for each connection
    await call.request()
    await call.send(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")

async with RawServer(handle) as server: ...
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self


class Call:
    """One connection. It is closed when its handler returns."""

    def __init__(self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """Read the next request and return its head."""
        head = await self.head()
        _, _, length = head.lower().partition(b"\r\ncontent-length: ")
        await self.reader.readexactly(int(length.partition(b"\r\n")[0] or 0))
        return head

    async def head(self) -> bytes:
        """Read the head of the next request, but not its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.server.requests.append(head)
        return head

    async def send(self, data: bytes) -> None:
        """Send `data`, wait until the buffer has room again, and let other tasks run."""
        self.writer.write(data)
        self.server.sent += len(data)
        await self.writer.drain()
        await asyncio.sleep(0)

    async def send_for_ever(self, data: bytes) -> None:
        while True:
            await self.send(data)

    async def left(self) -> None:
        """Read until the client closes the connection."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Handler = Callable[[Call], Awaitable[None]]

Play = Handler


class RawServer:
    """Runs `handler` for each connection, and records the heads of requests, the connections and the bytes sent."""

    def __init__(self, handler: Handler, *, secure: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.open = 0
        self.sent = 0
        self.port = 0
        self._handler = handler
        self._secure = secure
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http{'s' if self._secure else ''}://localhost:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._secure)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def all_closed(self) -> None:
        """Wait until no connection is open; the timeout of the test limits this."""
        while self.open or not self.connections:
            await asyncio.sleep(0.005)

    async def stalled(self) -> None:
        """Wait until nothing was sent for a tenth of a second."""
        before = -1
        while before != self.sent:
            before = self.sent
            await asyncio.sleep(0.1)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self._tasks.add(asyncio.create_task(self._serve(Call(self, reader, writer))))

    async def _serve(self, call: Call) -> None:
        try:
            with suppress(OSError, EOFError):
                await self._handler(call)
            call.writer.close()
            with suppress(OSError):
                await call.writer.wait_closed()
        except asyncio.CancelledError:
            call.writer.transport.abort()
            raise
        finally:
            self.open -= 1
