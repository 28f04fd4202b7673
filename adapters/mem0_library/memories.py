"""The port's promises on an `AsyncMemory`. Runs on Mem0's own loop, and raises what Mem0 and its libraries raise."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from adapters.mem0_library.embedders import QUERY_CHARS
from adapters.mem0_library.setup import Opened
from adapters.mem0_library.swallowed_errors import watched
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound
from domain.memory import DEFAULT_IMPORTANCE, MAX_FACT_CHARS, Memory, MemoryId, Recalled, only_asks, rank
from domain.paging import Page, page_of, parse_cursor

MAX_MEMORIES: Final = 1_000_000
"""Of one user. Mem0 lists without pages; what is beyond would not be listed."""

CANDIDATES: Final = 20
"""Memories that fit, looked at for the order in which importance and age have a say."""

MESSAGE_CHARS: Final = 8_000
"""Of a longer message the rest is not read for facts. Mem0's instructions alone are 34,000 characters."""

NOBODY: Final = "00000000-0000-4000-8000-000000000000"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_TIES: Final = 100
"""Memories of the same microsecond that can be told apart in a cursor before they borrow from the next one."""


class Memories:
    """What Mem0 keeps. `infer`: facts are drawn from turns by a model; otherwise what the user said is kept."""

    def __init__(self, opened: Opened, *, infer: bool) -> None:
        self._mem0 = opened.memory
        self._store = opened.store
        self._recent = opened.recent
        self._threshold = opened.threshold
        self._infer = infer
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def _writing(self, user_id: UserId) -> AsyncIterator[None]:
        """One change of a user's memories at a time, also where the caller of the one before has gone."""
        lock = self._locks.setdefault(user_id, asyncio.Lock())
        async with lock:
            with watched():
                yield

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        now = datetime.now(UTC)
        metadata = {"importance": importance, "created_at": now.isoformat()}
        async with self._writing(user_id):
            ((memory_id, text),) = await self._add([_said("user", fact)], user_id, metadata, infer=False)
        return Memory(memory_id, user_id, text, importance, now)

    async def remember(self, turn: Turn) -> None:
        if not self._infer and only_asks(turn.user_message):
            return
        user_id = turn.user_id
        async with self._writing(user_id):
            if await self._of_turn(turn):
                return
            messages = [_said("user", _plain(turn.user_message)[: MESSAGE_CHARS if self._infer else MAX_FACT_CHARS])]
            if self._infer:
                messages.append(_said("assistant", _plain(turn.reply)[:MESSAGE_CHARS]))
            metadata = {"importance": DEFAULT_IMPORTANCE, "turn_id": turn.id}
            try:
                with watched():
                    await self._add(messages, user_id, metadata, infer=self._infer)
            except Exception:
                # A part may have been kept, and would be taken for the whole when the turn is remembered again.
                self._recent.forget(user_id)
                for memory in await self._of_turn(turn):
                    await self._delete(memory.id)
                raise

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        asked = _plain(query)[:QUERY_CHARS].strip()
        if not asked:
            return []
        found = await self._mem0.search(
            asked,
            filters={"user_id": str(user_id)},
            top_k=max(limit, CANDIDATES),
            threshold=self._threshold,
            explain=True,
        )
        now = datetime.now(UTC)
        ranked = [
            Recalled(memory, rank(self._relevance(row["score_details"]), memory.importance, now - memory.created_at))
            for row, memory in ((row, _memory(row)) for row in found["results"])
        ]
        return sorted(ranked, key=lambda recalled: recalled.score, reverse=True)[:limit]

    def _relevance(self, details: Mapping[str, float]) -> float:
        """Mem0's score, with the part of the cosine that says nothing taken off: it would drown the differences."""
        cosine = (min(details["semantic_score"], 1) - self._threshold) / (1 - self._threshold)
        combined = cosine + details["bm25_score"] + details["entity_boost"]
        return min(combined / details["max_possible_score"], 1)

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        before = parse_cursor(cursor)
        placed = _places(await self._all(user_id))
        return page_of(((place, memory) for place, memory in placed if place < before), limit)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        async with self._writing(user_id):
            await self._own(user_id, memory_id)
            self._recent.forget(user_id)
            metadata = None if importance is None else {"importance": importance}
            if fact is not None or metadata:
                try:
                    await self._mem0.update(memory_id, text=fact, metadata=metadata)
                except ValueError:
                    await self._own(user_id, memory_id)  # not any more, where another process has forgotten it
                    raise
            if fact is not None:
                await asyncio.to_thread(self._store.erase)
            return await self._own(user_id, memory_id)

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        async with self._writing(user_id):
            await self._own(user_id, memory_id)
            self._recent.forget(user_id)
            await self._delete(memory_id)
            await asyncio.to_thread(self._store.erase)

    async def forget_all(self, user_id: UserId) -> bool:
        async with self._writing(user_id):
            self._recent.forget(user_id)
            await self._mem0.delete_all(user_id=str(user_id))
            left = await self._all(user_id, limit=1) or await self._entities(user_id)
            await asyncio.to_thread(self._store.erase)
        return not left

    async def check(self) -> None:
        await self._mem0.get(NOBODY)

    async def _add(
        self, messages: Sequence[Mapping[str, str]], user_id: UserId, metadata: Mapping[str, Any], *, infer: bool
    ) -> Sequence[tuple[MemoryId, str]]:
        added = await self._mem0.add(list(messages), user_id=str(user_id), metadata=dict(metadata), infer=infer)
        return [(MemoryId(row["id"]), row["memory"]) for row in added["results"]]

    async def _delete(self, memory_id: MemoryId) -> None:
        """Also where another process is faster."""
        try:
            await self._mem0.delete(memory_id)
        except ValueError:
            if await self._mem0.get(memory_id) is not None:
                raise

    async def _own(self, user_id: UserId, memory_id: MemoryId) -> Memory:
        row = await self._mem0.get(memory_id)
        if row is None or row.get("user_id") != user_id:
            raise MemoryNotFound
        return _memory(row)

    async def _of_turn(self, turn: Turn) -> Sequence[Memory]:
        # Compared once more: not every store of Mem0's heeds a filter by what it does not know.
        rows = await self._rows({"user_id": str(turn.user_id), "turn_id": turn.id}, MAX_MEMORIES)
        return [
            _memory(row)
            for row in rows
            if row.get("user_id") == turn.user_id and _metadata(row).get("turn_id") == turn.id
        ]

    async def _all(self, user_id: UserId, limit: int = MAX_MEMORIES) -> Sequence[Memory]:
        return [_memory(row) for row in await self._rows({"user_id": str(user_id)}, limit)]

    async def _rows(self, filters: Mapping[str, str], limit: int) -> Sequence[Mapping[str, Any]]:
        found = await self._mem0.get_all(filters=filters, top_k=limit, show_expired=True)
        rows: Sequence[Mapping[str, Any]] = found["results"]
        return rows

    async def _entities(self, user_id: UserId) -> bool:
        """Whether anything is left of the names and things that Mem0 links a user's memories by."""
        listed = await asyncio.to_thread(self._mem0.entity_store.list, filters={"user_id": str(user_id)}, top_k=1)
        rows = listed[0] if listed and isinstance(listed[0], list) else listed
        return bool(rows)


def _said(role: str, text: str) -> Mapping[str, str]:
    return {"role": role, "content": text}


def _plain(text: str) -> str:
    """Without what no store takes: NULs, and halves of characters."""
    return text.replace("\0", "").encode(errors="replace").decode()


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get("metadata") or {}


def _memory(row: Mapping[str, Any]) -> Memory:
    importance = _metadata(row).get("importance", DEFAULT_IMPORTANCE)
    return Memory(
        MemoryId(str(row["id"])),
        str(row.get("user_id", "")),
        row["memory"],
        float(importance),
        datetime.fromisoformat(row["created_at"]).astimezone(UTC) if row.get("created_at") else _EPOCH,
    )


def _places(memories: Sequence[Memory]) -> Sequence[tuple[int, Memory]]:
    """Newest first, each with a place of its own, which is the same in every listing."""
    placed: list[tuple[int, Memory]] = []
    place = 0
    for memory in sorted(memories, key=lambda one: (one.created_at, one.id)):
        microseconds = (memory.created_at - _EPOCH) // timedelta(microseconds=1)
        place = max(microseconds * _TIES, place + 1)
        placed.append((place, memory))
    return placed[::-1]
