"""Long-term memory that neither keeps anyone waiting nor is believed blindly."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, ParamSpec, TypeVar

import anyio

from application.ports.memory import (
    LongTermMemory,
    LongTermMemoryError,
    MemoryDisabled,
    MemoryLeaked,
    MemoryUnavailable,
)
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound, UnknownCursor
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT: Final = 30.0
"""Seconds that a call may take which someone waits for, but no reply."""

REMEMBER_TIMEOUT: Final = 120.0
"""Seconds for what happens in the background, where a model may be asked; adapters have limits of their own below."""

MAX_FAILURES: Final = 5
"""Recalls in a row that failed, after which replies do without for a while."""

PAUSE: Final = 30.0
"""Seconds of it; then one recall is let through, whose outcome decides."""


class GuardedMemory(LongTermMemory):
    """Wraps another: bounds how long a call takes, spares replies a recall that keeps failing, and checks answers.

    An answer with another user's memory is not used, and nothing at all is asked for a while: a store that mixes up two
    users may mix up all.
    """

    def __init__(self, memory: LongTermMemory, observer: TurnObserver, *, recall_timeout: float) -> None:
        self._memory = memory
        self._observer = observer
        self._recall_timeout = recall_timeout
        self._failed_recalls = 0
        self._recall_from = 0.0
        self._trust_from = 0.0
        self.extracts_from_turns = memory.extracts_from_turns

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        stored = await self._call(Where.STORING_FACT, TIMEOUT, self._memory.store, user_id, fact, importance)
        return self._belonging(user_id, [stored])[0]

    async def remember(self, turn: Turn) -> None:
        await self._call(Where.REMEMBERING_TURN, REMEMBER_TIMEOUT, self._memory.remember, turn)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        now = anyio.current_time()
        if now < self._recall_from:
            raise MemoryUnavailable(retry_after=self._recall_from - now)
        if self._failed_recalls >= MAX_FAILURES:
            self._recall_from = now + PAUSE  # for all others, until this one has shown how it goes
        where, recall = Where.RECALLING, self._memory.recall
        try:
            recalled = await self._call(where, self._recall_timeout, recall, user_id, query, limit)
        except MemoryUnavailable:
            self._failed_recalls += 1
            if self._failed_recalls >= MAX_FAILURES:
                self._recall_from = anyio.current_time() + PAUSE
            raise
        except BaseException:  # refused or cancelled, which shows nothing: let the next one try
            self._recall_from = 0.0
            raise
        self._failed_recalls, self._recall_from = 0, 0.0
        self._belonging(user_id, [one.memory for one in recalled])
        return recalled

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        page = await self._call(Where.LISTING_MEMORIES, TIMEOUT, self._memory.page, user_id, limit, cursor)
        self._belonging(user_id, page.items)
        return page

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        correct = self._memory.correct
        corrected = await self._call(Where.CORRECTING_MEMORY, TIMEOUT, correct, user_id, memory_id, fact, importance)
        return self._belonging(user_id, [corrected])[0]

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        await self._call(Where.FORGETTING_MEMORY, TIMEOUT, self._memory.forget, user_id, memory_id)

    async def forget_all(self, user_id: UserId) -> bool:
        return await self._call(Where.FORGETTING_USER, TIMEOUT, self._memory.forget_all, user_id)

    async def check(self) -> None:
        await self._call(Where.CHECKING_MEMORY, self._recall_timeout, self._memory.check)

    async def _call(
        self, where: Where, limit: float, method: Callable[P, Awaitable[T]], *arguments: P.args, **named: P.kwargs
    ) -> T:
        distrusted = self._trust_from - anyio.current_time()
        if distrusted > 0:
            raise MemoryUnavailable(retry_after=distrusted)
        try:
            with anyio.fail_after(limit):
                return await method(*arguments, **named)
        except (MemoryDisabled, MemoryNotFound, UnknownCursor):  # answers, of which whoever asks is told
            raise
        except LongTermMemoryError as error:
            self._observer.observe(BackgroundFailure(where, error))
            raise
        except Exception as error:  # a time-out, or what the adapter should have explained: no chat breaks for it
            failure = MemoryUnavailable()
            failure.__cause__ = error
            self._observer.observe(BackgroundFailure(where, failure))
            raise failure from error

    def _belonging(self, user_id: UserId, memories: Sequence[Memory]) -> Sequence[Memory]:
        """The memories, if all are the user's."""
        if any(memory.owner != user_id for memory in memories):
            self._trust_from = anyio.current_time() + PAUSE
            leak = MemoryLeaked()
            self._observer.observe(BackgroundFailure(Where.CHECKING_OWNER, leak))
            raise leak
        return memories
