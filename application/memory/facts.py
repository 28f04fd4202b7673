"""What can be asked of long-term memory, and changed in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from application.memory.outbox_worker import MemoryKeeper
from application.ports.memory import LongTermMemory
from domain.conversation import UserId
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page


@dataclass(frozen=True)
class StoreFact:
    """Keep a fact about a user, as it is given."""

    memory: LongTermMemory
    keeper: MemoryKeeper

    async def __call__(self, user_id: UserId, fact: str, importance: float) -> Memory:
        async with self.keeper.writing(user_id):
            return await self.memory.store(user_id, fact, importance)


@dataclass(frozen=True)
class ListMemories:
    """A page of what is kept of a user, newest first; nothing while they are being forgotten."""

    memory: LongTermMemory
    keeper: MemoryKeeper

    async def __call__(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        if await self.keeper.is_forgetting(user_id):
            return Page([], None)
        return await self.memory.page(user_id, limit, cursor)


@dataclass(frozen=True)
class RecallMemories:
    """The memories that fit a query best, best first; nothing while their user is being forgotten."""

    memory: LongTermMemory
    keeper: MemoryKeeper

    async def __call__(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        if await self.keeper.is_forgetting(user_id):
            return []
        return await self.memory.recall(user_id, query, limit)


@dataclass(frozen=True)
class CorrectMemory:
    """Change a memory's fact, its importance, or both; what is None stays."""

    memory: LongTermMemory
    keeper: MemoryKeeper

    async def __call__(
        self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None
    ) -> Memory:
        async with self.keeper.writing(user_id):
            return await self.memory.correct(user_id, memory_id, fact, importance)


@dataclass(frozen=True)
class ForgetMemory:
    """Forget one memory."""

    memory: LongTermMemory
    keeper: MemoryKeeper

    async def __call__(self, user_id: UserId, memory_id: MemoryId) -> None:
        async with self.keeper.writing(user_id):
            await self.memory.forget(user_id, memory_id)


@dataclass(frozen=True)
class ForgetMemories:
    """Forget all that is kept of a user. False where that is not certain yet, and goes on in the background."""

    keeper: MemoryKeeper

    async def __call__(self, user_id: UserId) -> bool:
        return await self.keeper.forget(user_id)
