"""Compares a durable long-term memory with the one in memory."""

import asyncio
from abc import abstractmethod
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from adapters.memory_in_memory import MemoryInMemory
from application.ports.memory import LongTermMemory
from domain.conversation import UserId
from domain.errors import MemoryNotFound
from domain.memory import Memory, MemoryId

T = TypeVar("T")

USERS = st.sampled_from([UserId("ada"), UserId("ada2"), UserId("bob")])
WORDS = ("tea", "coffee", "cat", "dog", "vienna")
FACTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" and ".join)
IMPORTANCES = st.sampled_from([0.0, 0.5, 1.0])
Ids = tuple[MemoryId, MemoryId]
"""A memory's id in the model and in the memory under test."""


class DurableMemoryMachine(RuleBasedStateMachine):
    """Applies the same calls to both memories and compares the results.

    A subclass defines `opened`, as in `LongTermMemoryContract`; its `TestCase` runs the machine. The memory must take
    the time from `now`.
    """

    stored = Bundle("stored")

    def __init__(self) -> None:
        super().__init__()
        self.moment = datetime(2026, 3, 1, tzinfo=UTC)
        self.directory = TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.model: LongTermMemory = MemoryInMemory(self.now)
        self.run(self.open())

    def now(self) -> datetime:
        return self.moment

    @abstractmethod
    def opened(self, directory: Path) -> AbstractAsyncContextManager[LongTermMemory]: ...

    async def open(self) -> None:
        self._stack = AsyncExitStack()
        self.memory = await self._stack.enter_async_context(self.opened(Path(self.directory.name)))

    async def close(self) -> None:
        await self._stack.aclose()

    def teardown(self) -> None:
        self.run(self.close())
        self.runner.close()
        self.directory.cleanup()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    @rule(target=stored, user=USERS, fact=FACTS, importance=IMPORTANCES)
    def store(self, user: UserId, fact: str, importance: float) -> Ids:
        self.moment += timedelta(days=1)
        expected, kept = (self.run(memory.store(user, fact, importance)) for memory in (self.model, self.memory))
        assert seen(expected) == seen(kept)
        return expected.id, kept.id

    @rule(ids=stored, user=USERS, fact=st.none() | FACTS, importance=st.none() | IMPORTANCES)
    def correct(self, ids: Ids, user: UserId, fact: str | None, importance: float | None) -> None:
        calls = (memory.correct(user, id, fact, importance) for memory, id in zip(self.both, ids, strict=True))
        expected, corrected = (self.run(found(call)) for call in calls)
        assert (expected and seen(expected)) == (corrected and seen(corrected))

    @rule(ids=stored, user=USERS)
    def forget(self, ids: Ids, user: UserId) -> None:
        calls = (forgotten(memory, user, id) for memory, id in zip(self.both, ids, strict=True))
        expected, done = (self.run(call) for call in calls)
        assert expected == done

    @rule(user=USERS)
    def forget_all(self, user: UserId) -> None:
        assert [True, True] == [self.run(memory.forget_all(user)) for memory in self.both]

    @rule()
    def reopen(self) -> None:
        self.run(self.close())
        self.run(self.open())

    @rule(user=USERS, limit=st.integers(1, 5))
    def pages(self, user: UserId, limit: int) -> None:
        expected, listed = (self.run(everything(memory, user, limit)) for memory in self.both)
        assert expected == listed

    @rule(user=USERS, query=FACTS)
    def recall(self, user: UserId, query: str) -> None:
        """Both recall the same facts, in any order, since no word of these facts has inflected forms."""
        expected, recalled = (self.run(memory.recall(user, query, 200)) for memory in self.both)
        assert sorted(seen(one.memory) for one in expected) == sorted(seen(one.memory) for one in recalled)
        assert sorted((one.score for one in recalled), reverse=True) == [one.score for one in recalled]
        assert all(0 <= one.score <= 1 for one in recalled)

    @property
    def both(self) -> tuple[LongTermMemory, LongTermMemory]:
        return self.model, self.memory


Seen = tuple[datetime, str, str, float]


def seen(memory: Memory) -> Seen:
    """A memory without its id, which each of the two generates."""
    return memory.created_at, memory.owner, memory.fact, memory.importance


async def found(call: Coroutine[Any, Any, Memory]) -> Memory | None:
    try:
        return await call
    except MemoryNotFound:
        return None


async def forgotten(memory: LongTermMemory, user: UserId, id: MemoryId) -> bool:
    try:
        await memory.forget(user, id)
    except MemoryNotFound:
        return False
    return True


async def everything(memory: LongTermMemory, user: UserId, limit: int) -> list[Seen]:
    listed: list[Seen] = []
    cursor = None
    while True:
        page = await memory.page(user, limit, cursor)
        listed += map(seen, page.items)
        cursor = page.next_cursor
        if cursor is None:
            return listed
