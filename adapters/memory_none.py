"""No long-term memory."""

from collections.abc import Sequence

from application.ports.memory import LongTermMemory, MemoryDisabled
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound
from domain.memory import Memory, MemoryId, Recalled
from domain.paging import Page, parse_cursor


class NoMemory(LongTermMemory):
    """Holds nothing: `store` raises `MemoryDisabled`, listings and recalls are empty, and forgetting succeeds."""

    extracts_from_turns = False

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        raise MemoryDisabled

    async def remember(self, turn: Turn) -> None:
        pass

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        return []

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        parse_cursor(cursor)
        return Page([], None)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        raise MemoryNotFound

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        raise MemoryNotFound

    async def forget_all(self, user_id: UserId) -> bool:
        return True

    async def check(self) -> None:
        pass
