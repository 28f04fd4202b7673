"""The server of `smart-chatbot serve`: uvicorn that drains running turns before it closes."""

import asyncio
import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final, cast

import uvicorn
from fastapi import FastAPI

from entrypoints.connection import Connection
from entrypoints.drain import Drain
from entrypoints.file_descriptors import ignore_failed_accepts, warn_if_exhausted
from entrypoints.listener import limit_sending, send_at_once, url_of
from entrypoints.refusal_queue import RefusalQueue
from entrypoints.settings import Settings
from entrypoints.shutdown import Shutdown
from entrypoints.signals import HURRY, signals_handled

TICKS_PER_SECOND: Final = 10
"""Of uvicorn's main loop."""


class DrainingServer(uvicorn.Server):
    """Serves until told to stop, then drains running turns before it closes the listener.

    The first signal keeps the listener open, so that `/readyz` can report 503, and gives running turns their grace
    period. A second one cancels them immediately. Plain uvicorn closes the listener first, waits for streams without
    a limit, and exits with the signal's status. Until the server has started, signals are handled as before.

    `on_alive` is called every second, and means that the server has a supervisor. Signals then only begin the drain,
    however many arrive: the supervisor, which may get the same signals from the same sender, skips the grace period
    with another one, `HURRY`.

    `on_started` is called with the server's URL. `keep_alive` is how many seconds an idle connection stays open.
    `close_timeout` is how many seconds open responses get to finish after the last turn has ended, if there is time.
    """

    def __init__(
        self,
        app: FastAPI,
        on_started: Callable[[str], None],
        on_alive: Callable[[], None] | None = None,
        *,
        keep_alive: int = 75,
        close_timeout: float = 1,
    ) -> None:
        settings: Settings = app.state.settings
        protocol = partial(
            Connection,
            head_timeout=settings.head_timeout,
            body_timeout=settings.body_timeout,
            refusals=RefusalQueue(),
        )
        super().__init__(
            uvicorn.Config(
                app,
                loop=settings.event_loop,
                http=cast(type[asyncio.Protocol], protocol),
                ws="none",
                access_log=False,
                log_config=None,
                log_level="warning",  # the command line prints the address
                server_header=False,
                proxy_headers=False,  # the application reads them itself; see TRUSTED_PROXIES
                timeout_keep_alive=keep_alive,
            )
        )
        self._send_timeout = settings.send_timeout
        self._drain: Drain = app.state.drain
        self._shutdown: Shutdown = app.state.container.shutdown()
        self._close_timeout = close_timeout
        self._on_started = on_started
        self._on_alive = on_alive
        self._stopping: set[asyncio.Task[None]] = set()
        self._signals = ExitStack()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals from the moment that `startup` has set."""
        with self._signals:
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            limit_sending(listener, self._send_timeout)
            send_at_once(listener)
        await super().startup(sockets)
        if self.started:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(ignore_failed_accepts)
            self._handle_signals(loop)
            _tune_garbage_collector()
            self._on_started(url_of(self.servers[0].sockets[0]))

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            warn_if_exhausted(self.servers[0].sockets[0].fileno())
            if self._on_alive is not None:
                self._on_alive()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timeout = min(self._close_timeout, self._shutdown.share())
        self.config.timeout_graceful_shutdown = timeout  # type: ignore[assignment]  # fractions work, too
        await super().shutdown(sockets)

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        first = iter([True])  # taken in one step, since a signal may interrupt the handler of another

        def on_signal(*_: object) -> None:
            if self._on_alive is None or next(first, False):
                loop.call_soon_threadsafe(self._stop, self._shutdown.signalled())

        def on_hurry(*_: object) -> None:
            on_signal()  # which the system may deliver later, although it was sent before
            loop.call_soon_threadsafe(self._stop, self._shutdown.signalled())

        self._shutdown.watch()
        self._signals.enter_context(signals_handled(on_signal))
        if self._on_alive is not None:
            self._signals.enter_context(signals_handled(on_hurry, [HURRY]))

    def _stop(self, at_once: bool) -> None:
        self._stopping.add(asyncio.ensure_future(self._drain_and_exit(at_once)))

    async def _drain_and_exit(self, at_once: bool) -> None:
        await self._drain.run(at_once=at_once)
        self.should_exit = True


def _tune_garbage_collector() -> None:
    """Exempt everything allocated during startup from collection, and collect less often.

    By default a collection runs after every 700 new objects, which a few streams allocate in no time, and each full
    collection traverses every imported module. Measured with 100 streams: 11 % of the cost of a chunk, and most of
    the latency of the slowest first tokens. Collecting the garbage of startup would take 70 ms and free 0.1 MB.

    The middle generation is collected early, because what survived in it is what many open connections hold: with a
    thousand of them, 200,000 new objects between two of its collections made each block everything for 95 ms, 50,000
    for 30 ms.
    """
    gc.freeze()
    gc.set_threshold(10_000, 5, 200)
    gc.enable()
