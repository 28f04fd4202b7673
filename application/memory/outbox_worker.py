"""OutboxWorker: runs the jobs of the memory outbox in the background. They remember turns and forget users."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Final

import anyio
from anyio.abc import TaskGroup

from application.ports.memory import (
    FactsNotExtracted,
    LongTermMemory,
    LongTermMemoryError,
    MemoryNotReady,
    MemoryRefused,
)
from application.ports.memory_outbox import SETTLE_TIME, ForgetUser, MemoryOutbox, OutboxJob, RememberTurn
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where
from domain.retry import RetryPolicy

REMEMBER_POLICY: Final = RetryPolicy(
    first_delay=timedelta(seconds=2),
    max_delay=timedelta(hours=1),
    give_up_after=timedelta(hours=24),
    min_attempts=6,
)
EXTRACTION_POLICY: Final = RetryPolicy(
    first_delay=timedelta(minutes=1), max_delay=timedelta(hours=1), give_up_after=timedelta(0), min_attempts=6
)
"""For turns from which the model has not extracted facts. Each attempt costs a prompt of some 10,000 tokens, so a turn
is given up after six attempts, half an hour after it ended."""

FORGET_POLICY: Final = RetryPolicy(first_delay=timedelta(seconds=10), max_delay=timedelta(minutes=5))


class OutboxWorker:
    """Claims jobs from the memory outbox and runs up to `concurrency` of them at a time, one per user.

    All state is in the outbox: several workers may share one, and a job whose worker died is claimed again when its
    `lease` expires. The lease therefore exceeds every timeout of a memory call. After a failed or unconfirmed write,
    the memory store may still apply it for `settle_time`.
    """

    def __init__(
        self,
        memory: LongTermMemory,
        outbox: MemoryOutbox,
        observer: TurnObserver,
        now: Callable[[], datetime],
        *,
        poll_interval: float = 5.0,
        concurrency: int = 8,
        lease: timedelta = timedelta(minutes=5),
        settle_time: timedelta = SETTLE_TIME,
        remember_policy: RetryPolicy = REMEMBER_POLICY,
        extraction_policy: RetryPolicy = EXTRACTION_POLICY,
        forget_policy: RetryPolicy = FORGET_POLICY,
        shutdown_timeout: float = 1.0,
    ) -> None:
        self.enabled = memory.extracts_from_turns
        """Whether there is anything to do: a memory that does not extract facts from turns has no use for an outbox."""
        self.failed_extractions = 0
        """Number of attempts since the start in which the model did not extract facts from a turn."""
        self.not_ready: MemoryNotReady | None = None
        """The error of the latest attempt to remember a turn, if the memory was not ready."""
        self._not_ready_since: datetime | None = None
        self._memory = memory
        self._outbox = outbox
        self._observer = observer
        self._now = now
        self._poll_interval = poll_interval
        self._concurrency = concurrency
        self._lease = lease
        self._settle_time = settle_time
        self._remember_policy = remember_policy
        self._extraction_policy = extraction_policy
        self._forget_policy = forget_policy
        self._shutdown_timeout = shutdown_timeout
        self._running = 0
        self._wake = anyio.Event()
        self._closing = False
        self._finished = anyio.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Work while the context is open. On exit, jobs that are due get `shutdown_timeout` seconds."""
        if not self.enabled:
            yield
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._work, tasks)
            try:
                yield
            finally:
                self._closing = True
                self.wake()
                with anyio.move_on_after(self._shutdown_timeout, shield=True):
                    await self._finished.wait()
                tasks.cancel_scope.cancel()

    def wake(self) -> None:
        """Look into the outbox now, instead of at the next poll."""
        self._wake.set()

    async def _work(self, tasks: TaskGroup) -> None:
        while True:
            closing = self._closing
            try:
                await self._start_due_jobs(tasks)
            except Exception as error:  # of any kind: the loop must survive
                self._report(Where.CLAIMING_JOBS, error)
            if closing and not self._running:
                return self._finished.set()
            with anyio.move_on_after(self._poll_interval):
                await self._wake.wait()
            self._wake = anyio.Event()

    async def _start_due_jobs(self, tasks: TaskGroup) -> None:
        while (free := self._concurrency - self._running) > 0:
            jobs = await self._outbox.claim(free, self._lease)
            for job in jobs:
                self._running += 1
                tasks.start_soon(self._run, job)
            if len(jobs) < free:
                return

    async def _run(self, job: OutboxJob) -> None:
        try:
            match job:
                case RememberTurn():
                    await self._remember(job)
                case ForgetUser():
                    await self._forget(job)
        except Exception as error:  # the outcome could not be stored, so the job will be repeated
            self._report(Where.RUNNING_JOB, error)
            await anyio.sleep(self._poll_interval)
            with suppress(Exception):  # if this fails, too, the claim expires with its lease
                await self._outbox.release(job.claim, unsettled_for=self._settle_time)
        finally:
            self._running -= 1
            self.wake()

    async def _remember(self, job: RememberTurn) -> None:
        try:
            await self._memory.remember(job.turn)
        except MemoryNotReady as error:
            await self._postpone_until_ready(job, error)
        except Exception as error:  # of any kind: it concerns this turn only
            await self._retry_or_give_up(job, error)
        else:
            self.not_ready = self._not_ready_since = None
            await self._outbox.settle(job)

    async def _postpone_until_ready(self, job: RememberTurn, error: MemoryNotReady) -> None:
        """Wait twice as long as the turn has been waiting for the memory, and do not count the attempt against it."""
        now, policy = self._now(), self._remember_policy
        self.not_ready = error
        self._not_ready_since = self._not_ready_since or now
        waited = now - max(job.turn.started_at, self._not_ready_since)
        delay = min(max(policy.first_delay, 2 * waited), policy.max_delay)
        await self._outbox.postpone(job, delay, unsettled_for=self._settle_time, counts=False)

    async def _retry_or_give_up(self, job: RememberTurn, error: Exception) -> None:
        self.not_ready = self._not_ready_since = None
        policy, failures = self._remember_policy, job.attempts + 1
        if isinstance(error, FactsNotExtracted):
            self.failed_extractions += 1
            policy = self._extraction_policy
        if isinstance(error, MemoryRefused) or policy.gives_up(failures, self._now() - job.turn.started_at):
            self._report(Where.GIVING_UP_TURN, error)
            await self._outbox.give_up(job, unsettled_for=self._settle_time)
        else:
            retry_after = error.retry_after if isinstance(error, LongTermMemoryError) else None
            delay = policy.delay(failures, retry_after)
            await self._outbox.postpone(job, delay, unsettled_for=self._settle_time)

    async def _forget(self, job: ForgetUser) -> None:
        try:
            certain = await self._memory.forget_all(job.claim.user_id)
        except LongTermMemoryError:  # has been reported by the memory's guard
            await self._outbox.postpone(job, self._forget_policy.delay(job.attempts + 1))
            return
        if certain and not job.unsettled:
            await self._outbox.end_forgetting(job)
        else:
            await self._outbox.postpone(job, timedelta(seconds=self._poll_interval))

    def _report(self, where: Where, error: Exception) -> None:
        self._observer.observe(BackgroundFailure(where, error))
