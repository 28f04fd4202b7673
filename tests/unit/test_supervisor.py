"""The supervisor of several workers, on workers that do as the test says."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from domain.retry import RetryPolicy
from entrypoints.restarts import Restarts
from entrypoints.signals import HURRY
from entrypoints.supervisor import Supervisor, WorkerExit
from tests.harness.script import until


class FakeWorker:
    """Listens and exits when the test says so, or, if it is `obedient`, when it is told to drain."""

    def __init__(self, pid: int, *, obedient: bool = True) -> None:
        self.pid = pid
        self.signals: list[int] = []
        self._obedient = obedient
        self._listening = asyncio.Event()
        self._exit: asyncio.Future[WorkerExit] = asyncio.get_running_loop().create_future()

    def listen(self) -> None:
        self._listening.set()

    def exit(self, status: int, sentence: str = "", reason: str = "") -> None:
        self._listening.set()
        self._exit.set_result(WorkerExit(self.pid, status, sentence, reason))

    async def exited(self, on_listening: Callable[[], None]) -> WorkerExit:
        await self._listening.wait()
        if not self._exit.done():
            on_listening()
        return await self._exit

    def send_signal(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL:
            self.exit(-signal.SIGKILL)
        elif self._obedient and not self._exit.done():
            self.exit(0)


class Supervised:
    """A running supervisor and the workers that it has started."""

    def __init__(
        self,
        count: int,
        *,
        obedient: bool = True,
        grace: float = 600,
        margin: float = 600,
        failing_starts: int = 0,
        first_delay: float = 0.001,
    ) -> None:
        self.workers: list[FakeWorker] = []
        self.announcements = 0
        self._obedient = obedient
        self._failing_starts = failing_starts
        policy = RetryPolicy(first_delay=timedelta(seconds=first_delay), max_delay=timedelta(hours=1))
        self.supervisor = Supervisor(
            self._start, count, self._announce, grace=grace, margin=margin, new_restarts=lambda: Restarts(policy)
        )

    async def _start(self) -> FakeWorker:
        if self._failing_starts:
            self._failing_starts -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.workers.append(FakeWorker(len(self.workers) + 1, obedient=self._obedient))
        return self.workers[-1]

    def _announce(self) -> None:
        self.announcements += 1

    async def started(self, count: int) -> Sequence[FakeWorker]:
        """Wait for so many starts, and have those workers listen."""
        for index in range(count):
            await until(lambda: len(self.workers) > index)  # noqa: B023  # awaited at once
            self.workers[index].listen()
        await until(lambda: bool(self.announcements))
        return self.workers[:count]


@asynccontextmanager
async def running(supervised: Supervised) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(supervised.supervisor.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_first_worker_starts_alone_and_the_address_is_announced_once() -> None:
    supervised = Supervised(3)
    async with running(supervised):
        await until(lambda: bool(supervised.workers))
        await asyncio.sleep(0.01)
        assert (len(supervised.workers), supervised.announcements) == (1, 0)
        await supervised.started(3)
        await asyncio.sleep(0.01)
        assert (len(supervised.workers), supervised.announcements) == (3, 1)


@pytest.mark.parametrize("status", [0, 1, -signal.SIGKILL])
async def test_a_worker_that_ends_is_replaced_and_that_is_logged(status: int) -> None:
    supervised = Supervised(2)
    with capture_logs() as log:
        async with running(supervised):
            await supervised.started(2)
            supervised.workers[1].exit(status)
            await supervised.started(3)
            assert supervised.workers[0].signals == []
    (died,) = (event for event in log if event["event"] == "worker died")
    cause = {"status": status} if status >= 0 else {"signal": "SIGKILL"}
    assert {name: died.get(name) for name in ("pid", *cause, "restart_in_seconds")} == {
        "pid": 2,
        **cause,
        "restart_in_seconds": 0.0,
    }


async def test_the_reason_why_a_worker_was_killed_is_logged() -> None:
    supervised = Supervised(2)
    with capture_logs() as log:
        async with running(supervised):
            await supervised.started(2)
            supervised.workers[1].exit(-signal.SIGKILL, reason="no sign of life")
            await supervised.started(3)
    (died,) = (event for event in log if event["event"] == "worker died")
    assert (died["signal"], died["reason"]) == ("SIGKILL", "no sign of life")


async def test_a_worker_that_cannot_be_started_for_the_moment_is_started_later() -> None:
    supervised = Supervised(2, failing_starts=3)
    async with running(supervised):
        await supervised.started(2)


async def test_a_worker_that_cannot_use_the_configuration_stops_all_with_its_sentence() -> None:
    supervised = Supervised(3)
    async with running(supervised) as task:
        await supervised.started(3)
        supervised.workers[2].exit(3, "Check DATABASE_URL.")
        assert await task == 3
    assert supervised.supervisor.refusal == "Check DATABASE_URL."
    assert [worker.signals for worker in supervised.workers[:2]] == [[signal.SIGTERM]] * 2


async def test_a_first_worker_that_refuses_is_the_only_one() -> None:
    supervised = Supervised(3)
    async with running(supervised) as task:
        await until(lambda: bool(supervised.workers))
        supervised.workers[0].exit(3)
        assert await task == 3
    assert (len(supervised.workers), supervised.announcements) == (1, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_drains_all_workers_and_replaces_none(number: signal.Signals) -> None:
    supervised = Supervised(3)
    async with running(supervised) as task:
        await supervised.started(3)
        signal.raise_signal(number)
        assert await task == 0
    assert [worker.signals for worker in supervised.workers] == [[signal.SIGTERM]] * 3


async def test_a_signal_before_the_first_worker_listens_ends_with_its_number() -> None:
    supervised = Supervised(3)
    async with running(supervised) as task:
        await until(lambda: bool(supervised.workers))
        signal.raise_signal(signal.SIGINT)
        assert await task == 128 + signal.SIGINT
    assert len(supervised.workers) == 1


async def test_a_second_signal_hurries_the_workers_and_a_third_kills_them() -> None:
    supervised = Supervised(2, obedient=False)
    async with running(supervised) as task:
        workers = await supervised.started(2)
        for number in (signal.SIGTERM, HURRY, signal.SIGKILL):
            signal.raise_signal(signal.SIGTERM)
            await until(lambda: workers[1].signals[-1:] == [number])  # noqa: B023  # awaited at once
        assert await task == 1
    assert [worker.signals for worker in workers] == [[signal.SIGTERM, HURRY, signal.SIGKILL]] * 2


async def test_workers_that_do_not_end_in_time_are_killed() -> None:
    supervised = Supervised(2, obedient=False, grace=0, margin=0.01)
    with capture_logs() as log:
        async with running(supervised) as task:
            workers = await supervised.started(2)
            workers[0].exit(0)
            await supervised.started(3)
            signal.raise_signal(signal.SIGTERM)
            assert await task == 1
    assert sorted(event["pid"] for event in log if event["event"] == "worker killed") == [2, 3]


async def test_a_worker_in_backoff_does_not_delay_the_end() -> None:
    supervised = Supervised(1, first_delay=3600)
    async with running(supervised) as task:
        await supervised.started(1)
        supervised.workers[0].exit(1)
        await supervised.started(2)
        supervised.workers[1].exit(1)
        await asyncio.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)
        assert await task == 0
    assert len(supervised.workers) == 2
