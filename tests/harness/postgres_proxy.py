"""A TCP proxy before a PostgreSQL server that cuts connections while the server commits."""

import asyncio
from contextlib import suppress
from typing import Self

from sqlalchemy import make_url


class PostgresProxy:
    """Forwards connections to the server at `url`; `self.url` is the same database through the proxy.

    Of the commits of turns, it cuts the connections of the next `commits_to_cut` once the server has committed, so that
    the client never learns the outcome.
    """

    def __init__(self, url: str) -> None:
        self._server_url = make_url(url)
        self._connections: set[asyncio.Task[None]] = set()
        self.commits_to_cut = 0
        self.commits_cut = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        through = self._server_url.set(host="127.0.0.1", port=port).difference_update_query(["host"])
        self.url = through.render_as_string(hide_password=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._forward(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _forward(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        socket = f"{self._server_url.query['host']}/.s.PGSQL.5432"
        from_server, to_server = await asyncio.open_unix_connection(socket)
        writes_turns = is_cut = False

        async def requests() -> None:
            nonlocal writes_turns, is_cut
            while data := await from_client.read(65536):
                writes_turns = writes_turns or b"pg_advisory_lock_shared" in data  # taken by the session of turns only
                if writes_turns and b"COMMIT\0" in data and self.commits_to_cut > self.commits_cut:
                    self.commits_cut += 1
                    is_cut = True
                to_server.write(data)
            to_server.close()

        async def responses() -> None:
            while data := await from_server.read(65536):
                if is_cut:  # this is the response to the commit
                    break
                to_client.write(data)
            to_client.close()

        try:
            with suppress(OSError):
                await asyncio.gather(requests(), responses())
        finally:
            for writer in (to_server, to_client):
                writer.transport.abort()
