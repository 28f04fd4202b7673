"""Listing, searching and changing the memories of a user."""

from collections.abc import Sequence
from dataclasses import dataclass

from application.memory.forgetting import Forgetting
from application.memory.user_lock import UserLock
from application.ports.memory import LongTermMemory
from domain.conversation import UserId
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page


@dataclass(frozen=True)
class StoreFact:
    """Store a fact about a user, as given."""

    memory: LongTermMemory
    lock: UserLock

    async def __call__(self, user_id: UserId, fact: str, importance: float) -> Memory:
        async with self.lock.held(user_id):
            return await self.memory.store(user_id, fact, importance)


@dataclass(frozen=True)
class ListMemories:
    """Return a page of a user's memories, newest first; an empty one while the user is being forgotten."""

    memory: LongTermMemory
    forgetting: Forgetting

    async def __call__(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        if await self.forgetting.is_pending(user_id):
            return Page([], None)
        return await self.memory.page(user_id, limit, cursor)


@dataclass(frozen=True)
class RecallMemories:
    """Return the memories that fit a query, best first; none while the user is being forgotten."""

    memory: LongTermMemory
    forgetting: Forgetting

    async def __call__(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        if await self.forgetting.is_pending(user_id):
            return []
        return await self.memory.recall(user_id, query, limit)


@dataclass(frozen=True)
class CorrectMemory:
    """Change a memory's fact, its importance, or both. None leaves a value as it is."""

    memory: LongTermMemory
    lock: UserLock

    async def __call__(
        self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None
    ) -> Memory:
        async with self.lock.held(user_id):
            return await self.memory.correct(user_id, memory_id, fact, importance)


@dataclass(frozen=True)
class ForgetMemory:
    """Forget one memory."""

    memory: LongTermMemory
    lock: UserLock

    async def __call__(self, user_id: UserId, memory_id: MemoryId) -> None:
        async with self.lock.held(user_id):
            await self.memory.forget(user_id, memory_id)


@dataclass(frozen=True)
class ForgetMemories:
    """Forget everything about a user. False if that is not certain yet and continues in the background."""

    forgetting: Forgetting

    async def __call__(self, user_id: UserId) -> bool:
        return await self.forgetting.forget(user_id)
