"""The parent process of `serve --workers N`: keeps N workers running on one socket, and stops them together."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final, Protocol

import structlog

from entrypoints.exit_status import HUNG, UNUSABLE
from entrypoints.restarts import Restarts
from entrypoints.signals import HURRY, signals_handled

DEATH_TIME: Final = 0.3
"""Seconds that killed workers have to end. The system does not kill one that waits for, e.g., a hanging disk."""

_ORDERS: Final = (signal.SIGTERM, HURRY, signal.SIGKILL)
"""What workers are sent upon the first, second and third signal to the supervisor."""

_CLEAN: Final = frozenset({0, 128 + signal.SIGTERM, -signal.SIGTERM, -HURRY})
"""Statuses of a worker that was told to end: after serving, or, the others, before it served."""


@dataclass(frozen=True)
class WorkerExit:
    """How a worker has ended. `status` is negative if a signal ended it.

    `sentence` says for the operator why the worker is unusable, unless its log does, and `reason` why it was killed.
    """

    pid: int
    status: int
    sentence: str = ""
    reason: str = ""


class Worker(Protocol):
    """A running worker process."""

    @property
    def pid(self) -> int: ...

    async def exited(self, on_listening: Callable[[], None]) -> WorkerExit:
        """Wait until the process has exited. Calls `on_listening` when it accepts requests."""

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has exited."""


class Supervisor:
    """Keeps `count` workers running until a signal ends them all.

    The first worker starts alone, so that a database is migrated once and a worker that refuses to start does so once;
    the others follow when it listens. A worker that ends is started again, with backoff, see `Restarts`. If one exits
    because the configuration cannot be used, the others are drained.

    The first SIGTERM, SIGINT or SIGHUP drains all workers, the second skips their grace period, the third kills them.
    Those that do not end in time are killed: `margin` seconds after the grace period, or `hurry` seconds after a second
    signal. By themselves they end 2 and 1 seconds after these, see `Shutdown`.

    Args:
        start: starts a worker.
        on_listening: called once, when the first worker accepts requests.
        grace: seconds that running turns get on shutdown.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Worker]],
        count: int,
        on_listening: Callable[[], None],
        *,
        grace: float,
        margin: float = 2.3,
        hurry: float = 1.3,
        new_restarts: Callable[[], Restarts] = Restarts,
    ) -> None:
        self.refusal = ""
        """Sentence of the worker that cannot use the configuration, if its log does not have it."""
        self._start = start
        self._count = count
        self._on_listening = on_listening
        self._seconds = grace + margin
        self._hurry = hurry
        self._new_restarts = new_restarts
        self._workers: set[Worker] = set()
        self._listening = False
        self._refused = False
        self._unclean = False
        """A worker was killed, or did not end as it was told."""
        self._signals = 0
        self._first_signal = 0
        self._orders = 0
        """How many of `_ORDERS` have been given."""
        self._proceed = asyncio.Event()
        """The first worker listens, or all are being stopped."""
        self._stop = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger()

    async def run(self) -> int:
        """Return the exit status when all workers have ended.

        It is 3 if a worker could not use the configuration, 128 plus the number of a signal that arrived before the
        first worker listened, 1 if a worker did not end by itself in time, and otherwise 0.
        """
        loop = asyncio.get_running_loop()

        def on_signal(number: int, _: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._signalled, number)

        with signals_handled(on_signal):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._keep_running())
                    await self._proceed.wait()
                    for _ in range(1, self._count):
                        group.create_task(self._keep_running())
            finally:
                for worker in self._workers:  # none, unless this process has failed
                    worker.send_signal(signal.SIGKILL)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._refused:
            return UNUSABLE
        if not self._listening:
            return 128 + self._first_signal
        return HUNG if self._unclean else 0

    async def _keep_running(self) -> None:
        loop, restarts = asyncio.get_running_loop(), self._new_restarts()
        while not self._stop.is_set():
            began = loop.time()
            ended = await self._run_worker()
            if ended is not None and ended.status == UNUSABLE:
                self._refused = True
                self.refusal = self.refusal or ended.sentence
                self._order(1)
            if self._stop.is_set():
                self._unclean |= ended is not None and ended.status not in {*_CLEAN, UNUSABLE}
                return
            delay = restarts.delay_after(loop.time() - began)
            if ended is not None:
                self._log.warning("worker died", pid=ended.pid, **_cause(ended), restart_in_seconds=delay)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)

    async def _run_worker(self) -> WorkerExit | None:
        """Run a worker until it exits. Return None if it could not be started."""
        try:
            worker = await self._start()
        except OSError as error:  # e.g. too many processes
            self._log.warning("worker not started", cause=error.strerror)
            return None
        self._workers.add(worker)
        if self._orders:
            worker.send_signal(_ORDERS[self._orders - 1])

        def on_listening() -> None:
            self._log.info("worker started", pid=worker.pid)
            self._note_listening()

        try:
            return await worker.exited(on_listening)
        finally:
            self._workers.discard(worker)

    def _note_listening(self) -> None:
        if not self._listening:
            self._listening = True
            self._on_listening()
        self._proceed.set()

    def _signalled(self, number: int) -> None:
        self._first_signal = self._first_signal or number
        self._signals += 1
        self._order(self._signals)

    def _order(self, order: int) -> None:
        """Send the workers the signal of this step, unless they have got it, and limit how long they take."""
        if order <= self._orders:
            return
        self._orders = min(order, len(_ORDERS))
        self._stop.set()
        self._proceed.set()
        if self._orders == len(_ORDERS):
            self._kill()
            return
        for worker in self._workers:
            worker.send_signal(_ORDERS[self._orders - 1])
        self._kill_in(self._seconds if self._orders == 1 else self._hurry)

    def _kill_in(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._kill)

    def _kill(self) -> None:
        self._orders = len(_ORDERS)
        for worker in self._workers:
            self._log.warning("worker killed", pid=worker.pid)
            worker.send_signal(signal.SIGKILL)
        asyncio.get_running_loop().call_later(DEATH_TIME, os._exit, HUNG)


def _cause(ended: WorkerExit) -> dict[str, object]:
    """Return the fields of a log line that say how a worker has ended.

    >>> _cause(WorkerExit(1, status=-11)), _cause(WorkerExit(1, status=2))
    ({'signal': 'SIGSEGV'}, {'status': 2})
    """
    reason = {"reason": ended.reason} if ended.reason else {}
    if ended.status >= 0:
        return {"status": ended.status, **reason}
    with suppress(ValueError):  # a real-time signal has no name
        return {"signal": signal.Signals(-ended.status).name, **reason}
    return {"signal": -ended.status, **reason}
