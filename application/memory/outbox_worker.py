"""Long-term memory keeps up with what happened: completed turns are remembered, users are forgotten."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Final, TypeVar

import anyio
from anyio.abc import TaskGroup

from application.memory.user_locks import UserLocks
from application.ports.history import HistoryError
from application.ports.memory import LongTermMemory, LongTermMemoryError, MemoryRefused, MemoryUnavailable
from application.ports.memory_outbox import MemoryOutbox, Remembering
from application.ports.turn_observer import TurnObserver
from application.turns.running import RunningTurn
from domain.conversation import Turn, TurnStatus, UserId

Job = TypeVar("Job")

INTERVAL: Final = 5.0
"""Seconds between two looks into the outbox, where nothing calls for one sooner."""

AT_ONCE: Final = 8
"""Users for whom something is under way in the background, one thing for each."""

MANY: Final = 10_000
"""Users who are looked through for one whose forgetting is due."""

SHORTEST_PAUSE: Final = timedelta(seconds=2)
LONGEST_PAUSE: Final = timedelta(hours=1)
"""Between two attempts to remember a turn; each pause is twice the one before."""

GIVE_UP_AFTER: Final = timedelta(hours=24)
ENOUGH_ATTEMPTS: Final = 5
"""A turn that is so old and was tried so often is tried no more."""

LONGEST_FORGET_PAUSE: Final = 300.0
"""Seconds between two attempts to forget a user where the store fails; it begins with INTERVAL."""

WAIT: Final = 5.0
"""Seconds that who asks for something waits for what is under way for the same user."""

LATE: Final = 120.0
"""Seconds for which something may still arrive that a store was told and did not confirm."""

LONGEST_TURN: Final = 7200.0
"""Seconds; longer than any turn may take and its end be tried to be stored."""

LAST_SECONDS: Final = 1.0
"""Seconds for what is due when the service stops; the rest is done after the next start."""


class MemoryKeeper:
    """Works off the outbox in the background, one thing at a time for each user, where the memory learns at all.

    So nothing is remembered of someone who is being forgotten, and a user whose memories hang holds up nobody else's.
    """

    def __init__(
        self, memory: LongTermMemory, outbox: MemoryOutbox, observer: TurnObserver, now: Callable[[], datetime]
    ) -> None:
        self._memory = memory
        self._outbox = outbox
        self._observer = observer
        self._now = now
        self._forgotten_at: dict[UserId, float] = {}
        self._locks = UserLocks()
        self._busy: set[UserId] = set()
        self._late: dict[UserId, float] = {}
        self._failed_forgets: dict[UserId, tuple[int, float]] = {}
        """How often in a row a user could not be forgotten, and when it is tried again."""
        self._attempted: dict[UserId, anyio.Event] = {}
        self._tasks: TaskGroup | None = None
        self._woken = anyio.Event()
        self._closing = False
        self._closed = anyio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Work while the context is open; leaving it gives what is due a last, bounded time."""
        if not self._memory.learns:  # nothing is put into the outbox
            yield
            return
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._work)
            try:
                yield
            finally:
                self._closing = True
                self.wake()
                with anyio.move_on_after(LAST_SECONDS, shield=True):
                    await self._closed.wait()
                self._tasks.cancel_scope.cancel()

    def remember_at(self, running: RunningTurn, ended: Turn) -> datetime | None:
        """When a turn that ended so is to be remembered; None where it is not."""
        wanted = self._memory.learns and running.uses_memory and ended.status is TurnStatus.COMPLETED
        forgotten = self._forgotten_at.get(ended.user_id, 0.0) >= running.started_at
        return self._now() if wanted and not forgotten else None

    def wake(self) -> None:
        """There is something in the outbox."""
        self._woken.set()

    async def is_forgetting(self, user_id: UserId) -> bool:
        """Whether a user is still to be forgotten, and nothing of theirs is to be shown.

        Raises:
            HistoryUnavailable: that can not be known.
        """
        return self._memory.learns and await self._outbox.is_forgetting(user_id)

    @asynccontextmanager
    async def writing(self, user_id: UserId) -> AsyncIterator[None]:
        """Change a user's memories inside, while nothing else does.

        Raises:
            MemoryUnavailable: something else does for longer than one waits; or the user is still being forgotten, and
                what is written now would be lost with the rest.
            HistoryUnavailable: whether they are can not be known.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._locks.alone_with(user_id, wait=WAIT))
            except TimeoutError:
                raise MemoryUnavailable("Something else is under way for the user.", retry_after=INTERVAL) from None
            if await self.is_forgetting(user_id):
                raise MemoryUnavailable("The user is still being forgotten.", retry_after=INTERVAL)
            try:
                yield
            except MemoryUnavailable:
                if self._memory.learns:  # otherwise there is nobody who would look after it
                    self._expect_late(user_id)
                raise

    async def forget(self, user_id: UserId) -> bool:
        """Forget a user, and nothing of the turns so far is remembered. False where that goes on in the background.

        Raises:
            LongTermMemoryError: nothing came of it. Only where memory does not learn: otherwise it is tried again.
            HistoryUnavailable: nothing came of it.
        """
        if not self._memory.learns:
            return await self._memory.forget_all(user_id)
        self._forgotten_at[user_id] = anyio.current_time()
        attempted = self._attempted.setdefault(user_id, anyio.Event())
        await self._outbox.begin_forgetting(user_id)
        self._failed_forgets.pop(user_id, None)
        self.wake()
        with anyio.move_on_after(WAIT):
            await attempted.wait()
            try:
                return not await self._outbox.is_forgetting(user_id)
            except HistoryError as error:
                self._observer.failed("asking whether a user has been forgotten", error)
        return False

    async def _work(self) -> None:
        while True:
            closing = self._closing
            try:
                await self._hand_out()
            except Exception as error:  # the loop outlives whatever the stores do
                self._observer.failed("looking into the memory outbox", error)
            if closing and not self._busy:
                return self._closed.set()
            with anyio.move_on_after(INTERVAL):
                await self._woken.wait()
            self._woken = anyio.Event()

    async def _hand_out(self) -> None:
        """Begin what is due, for as many users as may be at once."""
        now = anyio.current_time()
        self._late = {user_id: until for user_id, until in self._late.items() if until > now}
        self._forgotten_at = {user_id: at for user_id, at in self._forgotten_at.items() if at > now - LONGEST_TURN}
        for user_id in await self._outbox.forgetting(MANY):
            _, again_at = self._failed_forgets.get(user_id, (0, 0.0))
            if self._has_room and user_id not in self._busy and again_at <= now:
                self._begin(user_id, self._forget, user_id)
        while self._has_room:
            jobs = await self._outbox.due(self._now(), AT_ONCE, besides=self._busy)
            if not jobs:
                return
            for job in jobs:
                if self._has_room and job.turn.user_id not in self._busy:
                    self._begin(job.turn.user_id, self._remember, job)

    @property
    def _has_room(self) -> bool:
        return len(self._busy) < AT_ONCE

    def _begin(self, user_id: UserId, work: Callable[[Job], Awaitable[None]], job: Job) -> None:
        assert self._tasks is not None, "work is handed out while the context is open"
        self._busy.add(user_id)
        self._tasks.start_soon(self._run, user_id, work, job)

    async def _run(self, user_id: UserId, work: Callable[[Job], Awaitable[None]], job: Job) -> None:
        try:
            async with self._locks.alone_with(user_id):
                await work(job)
            self._busy.remove(user_id)
            self.wake()
        except Exception as error:  # not woken, so that what fails at once is tried again after the interval only
            self._busy.remove(user_id)
            self._observer.failed("working off the memory outbox", error)

    async def _forget(self, user_id: UserId) -> None:
        if not await self._outbox.is_forgetting(user_id):
            return  # it was done after we had looked into the outbox, and there may be new facts
        failures, _ = self._failed_forgets.get(user_id, (0, 0.0))
        pause = INTERVAL
        try:
            certain = await self._memory.forget_all(user_id)
            if certain and user_id not in self._late:
                await self._outbox.end_forgetting(user_id)
                self._failed_forgets.pop(user_id, None)
                return
            failures = 0
        except LongTermMemoryError:  # whoever raised it has said so
            failures += 1
            pause = min(INTERVAL * 2 ** min(failures, 20), LONGEST_FORGET_PAUSE)
        finally:
            if attempted := self._attempted.pop(user_id, None):
                attempted.set()
        self._failed_forgets[user_id] = failures, anyio.current_time() + pause

    async def _remember(self, job: Remembering) -> None:
        try:
            await self._memory.remember(job.turn)
        except Exception as error:  # whatever it is, the others' turn comes
            await self._fail(job, error)
        else:
            await self._outbox.settle(job.turn.id)

    async def _fail(self, job: Remembering, error: Exception) -> None:
        self._expect_late(job.turn.user_id)
        now = self._now()
        too_old = now - job.turn.started_at > GIVE_UP_AFTER and job.attempts >= ENOUGH_ATTEMPTS
        if isinstance(error, MemoryRefused) or too_old:
            self._observer.failed("remembering a turn, which is given up", error)
            await self._outbox.give_up(job.turn.id)
        else:
            await self._outbox.postpone(job.turn.id, now + _pause(job.attempts, error))

    def _expect_late(self, user_id: UserId) -> None:
        """Something was told to the store and may still arrive; who is forgotten until then is forgotten again."""
        self._late[user_id] = anyio.current_time() + LATE


def _pause(attempts: int, error: Exception) -> timedelta:
    """Until the next attempt to remember a turn: as long as was asked for, and longer with each."""
    asked_for = error.retry_after if isinstance(error, LongTermMemoryError) else None
    seconds = min(asked_for or 0.0, LONGEST_PAUSE.total_seconds())
    return max(timedelta(seconds=seconds), min(SHORTEST_PAUSE * (1 << min(attempts, 20)), LONGEST_PAUSE))
