"""The operations of the port on Mem0's `AsyncMemory`.

They run on Mem0's background loop and raise the exceptions of Mem0 and its libraries.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from weakref import WeakValueDictionary

from adapters.mem0_library.embedders import MAX_QUERY_CHARS
from adapters.mem0_library.rows import memory_from, message, metadata_from, storable
from adapters.mem0_library.setup import Mem0Runtime
from adapters.mem0_library.swallowed_errors import reraise_swallowed_errors
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, MemoryId, Recalled, only_asks_questions, rank
from domain.paging import Page, page_of_memories, parse_cursor

_UNUSED_ID: Final = "00000000-0000-4000-8000-000000000000"


class Memories:
    """The memories of all users. With `infer`, a model extracts facts from turns; otherwise the user's words are kept.

    `candidates` memories that match a query are ranked by importance and age, too. Messages are cut to
    `max_message_chars` for extraction, whose prompt alone has 34,000 characters. A user's memories beyond
    `max_memories` are not listed, because Mem0 lists without pages.
    """

    def __init__(
        self,
        runtime: Mem0Runtime,
        now: Callable[[], datetime],
        *,
        infer: bool,
        candidates: int = 20,
        max_message_chars: int = 8_000,
        max_memories: int = 1_000_000,
    ) -> None:
        self._mem0 = runtime.memory
        self._store = runtime.store
        self._threshold = runtime.threshold
        self._now = now
        self._infer = infer
        self._candidates = candidates
        self._max_message_chars = max_message_chars
        self._max_memories = max_memories
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def _user_lock(self, user_id: UserId) -> AsyncIterator[None]:
        """Serialize the writes of a user, including those whose callers have gone."""
        lock = self._locks.setdefault(user_id, asyncio.Lock())
        async with lock:
            with reraise_swallowed_errors():
                yield

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        now = self._now()
        metadata = {"importance": importance, "created_at": now.isoformat()}
        async with self._user_lock(user_id):
            ((memory_id, text),) = await self._add([message("user", fact)], user_id, metadata, infer=False)
        return Memory(memory_id, user_id, text, importance, now)

    async def remember(self, turn: Turn) -> None:
        if not self._infer and only_asks_questions(turn.user_message):
            return
        user_id = turn.user_id
        max_chars = self._max_message_chars if self._infer else MAX_FACT_CHARS
        async with self._user_lock(user_id):
            if await self._of_turn(turn):
                return
            messages = [message("user", storable(turn.user_message)[:max_chars])]
            if self._infer:
                messages.append(message("assistant", storable(turn.reply)[:max_chars]))
            metadata = {"importance": DEFAULT_IMPORTANCE, "turn_id": turn.id}
            try:
                with reraise_swallowed_errors():
                    await self._add(messages, user_id, metadata, infer=self._infer)
            except Exception:
                # If some of the facts were stored, a retry would take them for all of them.
                for memory in await self._of_turn(turn):
                    await self._delete(memory.id)
                raise

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        text = storable(query)[:MAX_QUERY_CHARS].strip()
        if not text:
            return []
        found = await self._mem0.search(
            text,
            filters={"user_id": str(user_id)},
            top_k=max(limit, self._candidates),
            threshold=self._threshold,
            explain=True,
        )
        now = self._now()
        ranked = [
            Recalled(memory, rank(self._relevance(row["score_details"]), memory.importance, now - memory.created_at))
            for row, memory in ((row, memory_from(row)) for row in found["results"])
        ]
        return sorted(ranked, key=lambda recalled: recalled.score, reverse=True)[:limit]

    def _relevance(self, details: Mapping[str, float]) -> float:
        """Mem0's score, with the cosine rescaled from [threshold, 1] to [0, 1] so that small differences count."""
        cosine = (min(details["semantic_score"], 1) - self._threshold) / (1 - self._threshold)
        combined = cosine + details["bm25_score"] + details["entity_boost"]
        return min(combined / details["max_possible_score"], 1)

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        parse_cursor(cursor)  # an invalid one is rejected before anything is read
        return page_of_memories(await self._all(user_id), limit, cursor)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        async with self._user_lock(user_id):
            await self._get(user_id, memory_id)
            metadata = None if importance is None else {"importance": importance}
            if fact is not None or metadata:
                try:
                    await self._mem0.update(memory_id, text=fact, metadata=metadata)
                except ValueError:
                    await self._get(user_id, memory_id)  # raises MemoryNotFound if another process has deleted it
                    raise
            if fact is not None:
                await asyncio.to_thread(self._store.erase)
            return await self._get(user_id, memory_id)

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        async with self._user_lock(user_id):
            await self._get(user_id, memory_id)
            await self._delete(memory_id)
            await asyncio.to_thread(self._store.erase)

    async def forget_all(self, user_id: UserId) -> bool:
        async with self._user_lock(user_id):
            await self._mem0.delete_all(user_id=str(user_id))
            left = await self._all(user_id, limit=1) or await self._has_entities(user_id)
            await asyncio.to_thread(self._store.erase)
        return not left

    async def check(self) -> None:
        await self._mem0.get(_UNUSED_ID)

    async def _add(
        self, messages: Sequence[Mapping[str, str]], user_id: UserId, metadata: Mapping[str, Any], *, infer: bool
    ) -> Sequence[tuple[MemoryId, str]]:
        added = await self._mem0.add(list(messages), user_id=str(user_id), metadata=dict(metadata), infer=infer)
        return [(MemoryId(row["id"]), row["memory"]) for row in added["results"]]

    async def _delete(self, memory_id: MemoryId) -> None:
        """Delete a memory, if another process has not deleted it already."""
        try:
            await self._mem0.delete(memory_id)
        except ValueError:
            if await self._mem0.get(memory_id) is not None:
                raise

    async def _get(self, user_id: UserId, memory_id: MemoryId) -> Memory:
        row = await self._mem0.get(memory_id)
        if row is None or row.get("user_id") != user_id:
            raise MemoryNotFound
        return memory_from(row)

    async def _of_turn(self, turn: Turn) -> Sequence[Memory]:
        # Filtered again: some of Mem0's stores ignore filters by keys that they do not know.
        rows = await self._rows({"user_id": str(turn.user_id), "turn_id": turn.id}, self._max_memories)
        return [
            memory_from(row)
            for row in rows
            if row.get("user_id") == turn.user_id and metadata_from(row).get("turn_id") == turn.id
        ]

    async def _all(self, user_id: UserId, limit: int | None = None) -> Sequence[Memory]:
        return [memory_from(row) for row in await self._rows({"user_id": str(user_id)}, limit or self._max_memories)]

    async def _rows(self, filters: Mapping[str, str], limit: int) -> Sequence[Mapping[str, Any]]:
        found = await self._mem0.get_all(filters=filters, top_k=limit, show_expired=True)
        rows: Sequence[Mapping[str, Any]] = found["results"]
        return rows

    async def _has_entities(self, user_id: UserId) -> bool:
        """Whether any of the entities (names and things) is left by which Mem0 links a user's memories."""
        listed = await asyncio.to_thread(self._mem0.entity_store.list, filters={"user_id": str(user_id)}, top_k=1)
        rows = listed[0] if listed and isinstance(listed[0], list) else listed
        return bool(rows)
