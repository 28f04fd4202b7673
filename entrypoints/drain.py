"""Drain running turns on shutdown."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from application.turns.runner import TurnRunner
from entrypoints.shutdown import Shutdown
from entrypoints.signals import signals_handled

STORE_TIMEOUT = 1.0
"""Seconds that the ends of turns may take to be stored after the grace period."""

HURRIED_STORE_TIMEOUT = 0.3
"""The same after a second signal."""


class Drain:
    """Stops accepting turns, waits for running ones during the grace period, then cancels the rest."""

    def __init__(self, turns: TurnRunner, shutdown: Shutdown) -> None:
        self._turns = turns
        self._shutdown = shutdown

    @property
    def draining(self) -> bool:
        """Whether draining has begun: `/readyz` fails and new requests are rejected."""
        return self._turns.draining

    async def run(self, *, at_once: bool = False) -> None:
        """Drain, and return when all turns have ended. `at_once` skips the grace period."""
        grace, storing = (0.0, HURRIED_STORE_TIMEOUT) if at_once else (self._shutdown.grace, STORE_TIMEOUT)
        async with self._shutdown.part("running turns", grace + storing + 0.1):
            await self._turns.drain(grace, storing=storing)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Begin draining on the first signal, before the server's own handler runs.

        For servers that wait for open responses before they shut the application down, e.g. plain uvicorn. The server
        is told about a hangup as if it was SIGTERM. Does nothing outside the main thread.
        """
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        server = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def start(at_once: bool) -> None:
            tasks.add(asyncio.ensure_future(self.run(at_once=at_once)))

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(start, self._shutdown.signalled())
            number = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
            handler = server[number]
            if callable(handler):
                handler(number, frame)

        self._shutdown.watch()
        with signals_handled(on_signal):
            yield
