"""A TCP proxy between a browser and the service that cuts connections."""

import asyncio
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards connections to the service at `url`; `self.url` is the same service through the proxy.

    Each connection is cut `lifetime` seconds after it was opened; None is never. `cut()` cuts all at once. While
    `is_down`, connections are closed without an answer. While `holds_responses`, requests arrive at the service, but
    nothing comes back: `held` is what the service has sent. `cuts` counts the connections that were cut.
    """

    def __init__(self, url: str, *, lifetime: float | None = None) -> None:
        self._server_address = urlsplit(url)
        self._connections: set[asyncio.Task[None]] = set()
        self.lifetime = lifetime
        self.is_down = False
        self.holds_responses = False
        self.held = b""
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        for connection in self._connections:
            connection.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.is_down:
            to_client.transport.abort()
            return
        address = self._server_address
        from_server, to_server = await asyncio.open_connection(address.hostname, address.port)
        try:
            async with asyncio.timeout(self.lifetime):
                await asyncio.wait(
                    [
                        asyncio.ensure_future(_copy(from_client, to_server)),
                        asyncio.ensure_future(self._copy_responses(from_server, to_client)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
        except (TimeoutError, asyncio.CancelledError):
            self.cuts += 1
        finally:
            for writer in (to_client, to_server):
                writer.transport.abort()

    async def _copy_responses(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.holds_responses:
                self.held += data
            else:
                writer.write(data)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
