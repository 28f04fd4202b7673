"""Long-term memory keeps up with what happened: completed turns are remembered, users are forgotten."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

import anyio

from application.ports.memory import LongTermMemory, LongTermMemoryError, MemoryRefused, MemoryUnavailable
from application.ports.memory_outbox import MemoryOutbox, Remembering
from application.ports.turn_observer import TurnObserver
from application.running_turns import RunningTurn
from domain.conversation import Turn, TurnStatus, UserId

INTERVAL: Final = 5.0
"""Seconds between two looks into the outbox, where nothing calls for one sooner."""

AT_ONCE: Final = 4
"""Turns that are remembered at a time."""

SHORTEST_PAUSE: Final = timedelta(seconds=2)
LONGEST_PAUSE: Final = timedelta(hours=1)
"""Between two attempts to remember a turn; each pause is twice the one before."""

GIVE_UP_AFTER: Final = timedelta(hours=24)
"""Age of a turn that is tried no more."""

FORGET_WAIT: Final = 5.0
"""Seconds that whoever asks for it waits for a user to be forgotten; then it goes on without them."""

LAST_SECONDS: Final = 1.0
"""Seconds for what is due when the service stops; the rest is done after the next start."""


class MemoryKeeper:
    """Works off the outbox in the background.

    What it does for one user happens one after the other: nothing is remembered of someone who is being forgotten.
    """

    def __init__(
        self, memory: LongTermMemory, outbox: MemoryOutbox, observer: TurnObserver, now: Callable[[], datetime]
    ) -> None:
        self._memory = memory
        self._outbox = outbox
        self._observer = observer
        self._now = now
        self._locks: dict[UserId, tuple[anyio.Lock, int]] = {}
        self._woken = anyio.Event()
        self._closing = False
        self._closed = anyio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Work while the context is open; leaving it gives what is due a last, bounded time."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._work)
            try:
                yield
            finally:
                self._closing = True
                self.wake()
                with anyio.move_on_after(LAST_SECONDS, shield=True):
                    await self._closed.wait()
                tasks.cancel_scope.cancel()

    def remember_at(self, running: RunningTurn, ended: Turn) -> datetime | None:
        """When a turn that ended so is to be remembered; None where it is not."""
        wanted = self._memory.learns and running.uses_memory and ended.status is TurnStatus.COMPLETED
        return self._now() if wanted else None

    def wake(self) -> None:
        """There is something in the outbox."""
        self._woken.set()

    @asynccontextmanager
    async def writing(self, user_id: UserId) -> AsyncIterator[None]:
        """Change a user's memories inside, while nothing else does.

        Raises:
            MemoryUnavailable: the user is still being forgotten, and what is written now would be lost with the rest.
            HistoryUnavailable: that can not be known.
        """
        async with self._alone_with(user_id):
            if self._memory.learns and await self._outbox.is_forgetting(user_id):
                raise MemoryUnavailable(
                    "The user is being forgotten; try again when that is done.", retry_after=INTERVAL
                )
            yield

    async def forget(self, user_id: UserId) -> bool:
        """Forget a user. False where that is not certain yet, and goes on in the background.

        Raises:
            LongTermMemoryError: nothing came of it. Only where memory does not learn: otherwise it is tried again.
            HistoryUnavailable: nothing came of it.
        """
        if not self._memory.learns:
            return await self._memory.forget_all(user_id)
        await self._outbox.begin_forgetting(user_id)
        return await self._forget(user_id)

    async def _forget(self, user_id: UserId) -> bool:
        with anyio.move_on_after(FORGET_WAIT):
            try:
                async with self._alone_with(user_id):
                    if not await self._outbox.is_forgetting(user_id):  # done by someone else; there may be new facts
                        return True
                    if await self._memory.forget_all(user_id):
                        await self._outbox.end_forgetting(user_id)
                        return True
            except LongTermMemoryError as error:
                self._observer.failed("forgetting a user", error)
        return False

    async def _work(self) -> None:
        last = False
        while not last:
            last = self._closing
            try:
                await self._work_off()
            except Exception as error:  # the loop outlives whatever the stores do
                self._observer.failed("working off the memory outbox", error)
            if not last:
                with anyio.move_on_after(INTERVAL):
                    await self._woken.wait()
                self._woken = anyio.Event()
        self._closed.set()

    async def _work_off(self) -> None:
        if not self._memory.learns:
            return
        for user_id in await self._outbox.forgetting(limit=100):
            await self._forget(user_id)
        while due := await self._outbox.due(self._now(), AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for job in due:
                    tasks.start_soon(self._remember, job)

    async def _remember(self, job: Remembering) -> None:
        turn = job.turn
        async with self._alone_with(turn.user_id):
            try:
                await self._memory.remember(turn)
                if not await self._outbox.settle(turn.id):  # deleted or forgotten meanwhile
                    await self._memory.unremember(turn)
            except LongTermMemoryError as error:
                await self._fail(job, error)

    async def _fail(self, job: Remembering, error: LongTermMemoryError) -> None:
        now = self._now()
        if isinstance(error, MemoryRefused) or now - job.turn.started_at > GIVE_UP_AFTER:
            self._observer.failed("remembering a turn, which is given up", error)
            await self._outbox.give_up(job.turn.id)
        else:
            pause = min(SHORTEST_PAUSE * 2 ** min(job.attempts, 20), LONGEST_PAUSE)
            await self._outbox.postpone(job.turn.id, now + max(pause, timedelta(seconds=error.retry_after or 0)))

    @asynccontextmanager
    async def _alone_with(self, user_id: UserId) -> AsyncIterator[None]:
        lock, users = self._locks.get(user_id, (anyio.Lock(), 0))
        self._locks[user_id] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[user_id]
            if users > 1:
                self._locks[user_id] = lock, users - 1
            else:
                del self._locks[user_id]
