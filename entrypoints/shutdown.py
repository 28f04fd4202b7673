"""The time budget of a shutdown, and the exit of a process that exceeds it."""

import asyncio
import faulthandler
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final, NoReturn

import structlog

from entrypoints.exit_status import HUNG

LOG_TIME: Final = 0.1
"""Seconds that the process has to log what hangs, before it is ended from outside of Python."""

CLOSE_TIME: Final = 0.1
"""Seconds between the end of the budget, when everything has been cancelled, and that log line."""


class Shutdown:
    """One budget for everything between the first signal and the end of the process.

    The first signal grants `grace` seconds to running turns, and `margin` to everything that has to be stored and
    closed afterwards. A second one leaves `hurry` seconds, a third ends the process. Each part may use half of the
    time that is left, so that one that hangs does not cost the others theirs. It is then cancelled, logged as a
    warning, and listed in `hung`.

    At the end of the budget the process exits whatever hangs. A thread logs a warning and ends it. If it cannot run,
    because other code keeps the interpreter's lock, or because the log cannot be written to, `faulthandler` ends it
    from a thread outside of Python.
    """

    def __init__(self, grace: float, *, margin: float = 1.9, hurry: float = 0.9) -> None:
        self.grace = grace
        self.hung: list[str] = []
        """Names of the parts that were cancelled."""
        self._seconds = grace + margin
        self._hurry = hurry
        self._signals = 0
        self._deadline: float | None = None
        self._open: list[str] = []
        self._exits: SimpleQueue[float] = SimpleQueue()  # its `put` is safe in signal handlers
        self._watching = False

    def watch(self) -> None:
        """Start the thread that ends the process. Call it before the first signal, as it cannot be started then."""
        if not self._watching:
            self._watching = True
            self._nowhere = open(os.devnull, "w")  # noqa: SIM115  # for the dump of `faulthandler`, which may block
            threading.Thread(target=self._watch, name="shutdown", daemon=True).start()

    def signalled(self) -> bool:
        """Count a signal and set the end of the process accordingly. Return whether to skip the grace period.

        Safe in signal handlers.
        """
        self._signals += 1
        if self._signals > 2:
            os._exit(HUNG)
        seconds = self._seconds if self._signals == 1 else self._hurry
        self._end_within(seconds)
        if self._watching:
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._nowhere)
            self._exits.put(time.monotonic() + seconds - LOG_TIME)
        return self._signals > 1

    def has_begun(self) -> bool:
        """Return whether the budget has begun, with a signal or without."""
        return self._deadline is not None

    def share(self) -> float:
        """Return half of the seconds that are left. Begins the budget if no signal did."""
        if self._deadline is None:
            self._end_within(self._seconds)
        assert self._deadline is not None
        return max(self._deadline - time.monotonic(), 0.0) / 2

    @asynccontextmanager
    async def part(self, name: str, seconds: float | None = None) -> AsyncIterator[None]:
        """Cancel the block after `seconds`, by default a share of what is left."""
        self._open.append(name)
        try:
            async with asyncio.timeout(self.share() if seconds is None else seconds) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            self.hung.append(name)
            structlog.get_logger().warning("shutdown timed out", waiting_for=[name])
        finally:
            self._open.remove(name)

    def exit(self) -> NoReturn:
        """End the process when everything has been closed, with status 1 if a part was cancelled.

        Skips the finalization of the interpreter: threads of a part that hung might keep it from ending. If none hung,
        finalization has nothing to do, but may exceed the rest of the budget on a busy machine.
        """
        _exit(HUNG if self.hung else 0)

    def _end_within(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds - LOG_TIME - CLOSE_TIME
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _watch(self) -> None:
        deadline: float | None = None
        while True:
            try:
                deadline = self._exits.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
            except Empty:
                structlog.get_logger().warning("shutdown timed out", waiting_for=self._open or ["the event loop"])
                _exit(HUNG)


def _exit(status: int) -> NoReturn:
    for file in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            file.flush()
    os._exit(status)
