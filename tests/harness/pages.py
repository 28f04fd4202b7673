"""A web server for pages of another origin than the service, and a connection to the service that breaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/favicon.ico":  # which browsers ask for by themselves
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Keep the output of tests free of requests."""


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve the files of a directory, and return the origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def cutting_proxy(url: str, cuts: list[int]) -> AsyncIterator[str]:
    """Forward connections to a service, and break those of streams: the first after `cuts[0]` events, and so on.

    A cut after 0 events comes before the response. Those that were made are removed from `cuts`; without any, no
    connection is broken.
    """
    target = urlsplit(url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(target.hostname, target.port)

        async def requests() -> None:
            while data := await reader.read(65_536):
                upstream.write(data)

        async def responses() -> None:
            events: int | None = None
            while data := await upstream_reader.read(65_536):
                if b"text/event-stream" in data:
                    events = 0
                for line in data.splitlines(keepends=True):
                    if events is not None and cuts and events == cuts[0]:
                        cuts.pop(0)
                        return
                    writer.write(line)
                    if events is not None and line.startswith(b"data: "):
                        events += 1

        try:
            done, pending = await asyncio.wait(
                [asyncio.create_task(requests()), asyncio.create_task(responses())],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        finally:
            for each in (writer, upstream):
                each.transport.abort()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5)
