"""Long-term memory in RAM, for trying things out and as the fake in tests."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count
from typing import NamedTuple, Self
from uuid import uuid4

from application.ports.memory import LongTermMemory
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound
from domain.memory import Memory, MemoryId, Recalled, content_words, index_text, rank
from domain.paging import Page, page_of_latest_memories, parse_cursor


class _Entry(NamedTuple):
    """A memory with its place and the words by which it is found."""

    place: int
    memory: Memory
    words: frozenset[str]

    @classmethod
    def of(cls, place: int, memory: Memory) -> Self:
        return cls(place, memory, frozenset(index_text(memory.fact).split()))


class MemoryInMemory(LongTermMemory):
    """Stores facts until the process ends, and recalls them by the words that they share with the query.

    Every method yields to other tasks once, as a store behind a socket would.
    """

    extracts_from_turns = False

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._places = count(1)
        self._memories: dict[UserId, dict[MemoryId, _Entry]] = {}

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        await asyncio.sleep(0)
        memory = Memory(MemoryId(str(uuid4())), user_id, fact, importance, self._now())
        self._memories.setdefault(user_id, {})[memory.id] = _Entry.of(next(self._places), memory)
        return memory

    async def remember(self, turn: Turn) -> None:
        await asyncio.sleep(0)

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        await asyncio.sleep(0)
        query_words, now = set(content_words(query)), self._now()
        found = []
        for _, memory, words in self._newest_first(user_id):
            shared = len(query_words & words)
            if shared:
                found.append(
                    Recalled(memory, rank(shared / len(query_words), memory.importance, now - memory.created_at))
                )
        return sorted(found, key=lambda recalled: recalled.score, reverse=True)[:limit]

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        await asyncio.sleep(0)
        before = parse_cursor(cursor)
        return page_of_latest_memories(
            (entry[:2] for entry in self._newest_first(user_id) if entry.place < before), limit
        )

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        await asyncio.sleep(0)
        place, memory, _ = self._entry(user_id, memory_id)
        corrected = replace(
            memory,
            fact=memory.fact if fact is None else fact,
            importance=memory.importance if importance is None else importance,
        )
        self._memories[user_id][memory_id] = _Entry.of(place, corrected)
        return corrected

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        await asyncio.sleep(0)
        self._entry(user_id, memory_id)
        del self._memories[user_id][memory_id]
        if not self._memories[user_id]:
            del self._memories[user_id]  # users without memories take no space

    async def forget_all(self, user_id: UserId) -> bool:
        await asyncio.sleep(0)
        self._memories.pop(user_id, None)
        return True

    async def check(self) -> None:
        await asyncio.sleep(0)

    def _newest_first(self, user_id: UserId) -> Sequence[_Entry]:
        return list(self._memories.get(user_id, {}).values())[::-1]

    def _entry(self, user_id: UserId, memory_id: MemoryId) -> _Entry:
        try:
            return self._memories[user_id][memory_id]
        except KeyError:
            raise MemoryNotFound from None
