"""Drain running turns on shutdown."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from application.turns.runner import TurnRunner

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """Stops accepting turns, waits up to `grace` seconds for running ones, then cancels the rest."""

    def __init__(self, turns: TurnRunner, grace: float) -> None:
        self._turns = turns
        self._grace = grace

    @property
    def draining(self) -> bool:
        """Whether draining has begun: `/readyz` fails and new requests are rejected."""
        return self._turns.draining

    async def run(self, *, at_once: bool = False) -> None:
        """Drain, and return when all turns have ended. `at_once` skips the grace period."""
        await self._turns.drain(0 if at_once else self._grace)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Begin draining on the first SIGTERM or SIGINT, before the server's own handler runs.

        For servers that wait for open responses before they shut the application down, e.g. plain uvicorn.
        Does nothing outside the main thread, which is the only one that can handle signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        previous = {number: signal.getsignal(number) for number in SIGNALS}

        def start(at_once: bool) -> None:
            tasks.add(asyncio.ensure_future(self.run(at_once=at_once)))

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(start, number == signal.SIGINT or self.draining)
            handler = previous[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        for number in SIGNALS:
            signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
