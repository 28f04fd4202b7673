"""The server of `smart-chatbot serve`: uvicorn that lets running turns end before it closes its doors."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from entrypoints.drain import Drain

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open."""

LAST_SECONDS = 1
"""Seconds that open responses get after the last turn has ended: their end is on its way already."""


class DrainingServer(uvicorn.Server):
    """Serves until told to stop, and then until no turn runs.

    SIGTERM leaves the listener open, so that readiness can say no, and gives running turns their bounded time. SIGINT,
    or a second signal, ends them at once. uvicorn on its own closes the listener first, waits for streams without
    limit, and exits with the signal's status.
    """

    def __init__(self, app: FastAPI, on_started: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop=app.state.settings.event_loop,
                http="httptools",
                ws="none",
                access_log=False,
                log_config=None,
                log_level="warning",  # where it listens, the command line says
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=LAST_SECONDS,
            )
        )
        self._drain: Drain = app.state.drain
        self._on_started = on_started
        self._stopping: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            _collect_rarely()
            host, port, *_ = self.servers[0].sockets[0].getsockname()
            self._on_started(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._stop, sig == signal.SIGINT or bool(self._stopping))

    def _stop(self, at_once: bool) -> None:
        self._stopping.add(asyncio.ensure_future(self._drain_and_exit(at_once)))

    async def _drain_and_exit(self, at_once: bool) -> None:
        await self._drain.run(at_once=at_once)
        self.should_exit = True


def _collect_rarely() -> None:
    """Have the garbage collector look rarely, and not at what stays anyway.

    It looks for cycles whenever 700 objects have been added, which a few streams do in a moment, and each full round
    walks through every module that was imported. Measured at 100 streams: a ninth of a chunk's cost, and most of what
    the slowest first tokens wait for. Looking for what a start leaves behind would take 70 ms, and bring 0.1 MB.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()
