"""Another host on the network, which no page of the service may contact."""

import asyncio
from typing import Self

NAME = "evil.test"
"""The host in tests/xss.json."""


class Elsewhere:
    """Listens for connections; `requests` are the first lines of what arrived.

    With `flag`, a browser reaches it by NAME, and no other host.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.flag = f"--host-resolver-rules=MAP {NAME} 127.0.0.1:{port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        self.requests.append(line.decode("latin-1").strip())
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
