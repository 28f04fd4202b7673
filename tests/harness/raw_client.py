"""An HTTP client on a bare socket, which can close its connection in every possible way."""

import asyncio
import json
import socket
import struct
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.harness.chat_stream import ChatStream

READ_TIMEOUT: Final = 15
"""Seconds for each read; fails the test of a service that hangs."""


class RawClient:
    """One connection for one request. `body` is the part of the body received so far, without the chunk framing."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._receive_buffer = receive_buffer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def __aenter__(self) -> Self:
        connection = socket.socket()
        if self._receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, self._address)
        # A small buffer does not read ahead, so that backpressure from a slow reader reaches the service.
        self._reader, self._writer = await asyncio.open_connection(sock=connection, limit=self._receive_buffer or 65536)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def has_room(self) -> bool:
        """Wait until there is room to send more; false if the connection has ended."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return False
        return not self._writer.is_closing()

    def post(self, path: str, fields: dict[str, Any]) -> None:
        body = json.dumps(fields).encode()
        self.request("POST", path, f"Content-Type: application/json\r\nContent-Length: {len(body)}", body)

    def request(self, method: str, path: str, headers: str = "", body: bytes = b"") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers.splitlines()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def head(self) -> int:
        async with asyncio.timeout(READ_TIMEOUT):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        pairs = (line.split(": ", 1) for line in lines[1:-2])
        self.headers = {name.lower(): value for name, value in pairs}
        return self.status

    async def chunk(self) -> bytes:
        """Read the next chunk of the body; empty after the last one."""
        async with asyncio.timeout(READ_TIMEOUT):
            size = int(await self._reader.readline(), 16)
            data = (await self._reader.readexactly(size + 2))[:size]
        self.body += data
        return data

    async def events(self, count: int) -> None:
        """Read until at least `count` events have arrived."""
        while len(self.stream.data) < count:
            assert await self.chunk(), f"the stream ended after {self.body!r}"

    async def rest(self) -> None:
        """Read the rest of the body, whether it is chunked or has a length."""
        if "content-length" in self.headers:
            self.body += await self._reader.readexactly(int(self.headers["content-length"]) - len(self.body))
        else:
            while await self.chunk():
                pass

    async def closed(self) -> bytes:
        """Wait until the service closes the connection, and return the bytes received until then."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""

    @property
    def stream(self) -> ChatStream:
        return ChatStream.of(self.body)

    @property
    def socket(self) -> socket.socket:
        connection: socket.socket = self._writer.get_extra_info("socket")
        return connection

    def leave(self, how: str) -> None:
        """Close the connection with a FIN (`fin`) or RST (`rst`), or only its sending half (`half`)."""
        match how:
            case "fin":
                self._writer.transport.close()
            case "rst":
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._writer.transport.abort()
            case "half":
                self._writer.write_eof()
