"""Stopping without cutting anyone off in mid-sentence."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from application.turns.runner import TurnRunner

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Drain:
    """Gives running turns a bounded time to end, then ends them with an event that says so."""

    def __init__(self, turns: TurnRunner, grace: float) -> None:
        self._turns = turns
        self._grace = grace
        self.begun = False
        """Readiness says no, and new requests are refused."""

    async def run(self, *, at_once: bool = False) -> None:
        """Return when no turn runs any more."""
        self.begun = True
        await self._turns.drain(0 if at_once else self._grace)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Start with the first signal to stop, ahead of the server that handles it.

        For servers that wait for open responses to end before they shut the application down, as uvicorn does.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def start(at_once: bool) -> None:
            running.add(asyncio.ensure_future(self.run(at_once=at_once)))

        def on_signal(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(start, number == signal.SIGINT or self.begun)
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)

        for number in SIGNALS:
            signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
