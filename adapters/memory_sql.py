"""Long-term memory in a relational database."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nlargest
from itertools import compress
from math import log
from typing import Any, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, insert, select, text, update

from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.database import Database, Statements, T
from adapters.sql.errors import raised_as
from adapters.sql.full_text import FullText, Hit
from adapters.sql.tables import PLACES_PER_USER, memories, memory_owners
from application.ports.memory import LongTermMemory, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound
from domain.memory import MAX_SEARCH_WORDS, Memory, MemoryId, Recalled, content_words, index_text, rank
from domain.paging import Page, page_of_latest_memories, parse_cursor


class MemorySQL(LongTermMemory):
    """Stores facts as rows and recalls them by the database's full-text search.

    Extracts nothing from turns: it holds only the facts that are stored explicitly. The memories of a user with more
    than `max_quick_search` are searched apart from other reads, by one query at a time, so that these searches delay no
    turns of users with fewer memories.
    """

    extracts_from_turns = False

    def __init__(self, database: Database, now: Callable[[], datetime], *, max_quick_search: int = 100) -> None:
        self._database = database
        self._now = now
        self._max_quick_search = max_quick_search
        self._searching: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        memory = Memory(MemoryId(str(uuid4())), user_id, fact, importance, self._now())
        with raised_as(MemoryUnavailable):
            await self._database.write(lambda connection: _store(connection, memory))
        return memory

    async def remember(self, turn: Turn) -> None:
        """Do nothing."""

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        wanted = content_words(query)
        if not wanted:
            return []
        full_text, now = self._database.full_text, self._now()

        def search(connection: Connection) -> Sequence[Recalled]:
            return _best(connection, user_id, full_text.search(connection, user_id, wanted, now), limit)

        def search_if_few(connection: Connection) -> Sequence[Recalled] | None:
            found = _LAST_SEQ.execute_raw(connection, {"user": user_id}).fetchall()
            if not found:
                return []
            return search(connection) if found[0][0] <= self._max_quick_search else None

        recalled = await self._read(search_if_few)
        if recalled is None:
            async with self._searching.setdefault(user_id, asyncio.Lock()):
                with raised_as(MemoryUnavailable):
                    recalled = await self._database.search(search)
        return recalled

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        values = {"user": user_id, "before": min(parse_cursor(cursor), PLACES_PER_USER), "rows": limit + 1}
        rows = await self._read(lambda connection: connection.execute(_PAGE, values).all())
        return page_of_latest_memories(((row.place % PLACES_PER_USER, _memory(row)) for row in rows), limit)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        key = {"user": user_id, "memory": memory_id}
        changes: dict[str, Any] = {} if importance is None else {"importance": importance}
        full_text = self._database.full_text
        if fact is not None:
            changes |= {"fact": fact, "words": index_text(fact)}
            await self._erase(lambda connection: _replace_fact(connection, full_text, key, changes))
        elif changes:
            with raised_as(MemoryUnavailable):
                await self._database.write(lambda connection: _update(connection, key, changes))
        row = await self._read(lambda connection: connection.execute(_GET, key).one_or_none())
        if row is None:
            raise MemoryNotFound
        return _memory(row)

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        key, full_text = {"user": user_id, "memory": memory_id}, self._database.full_text
        if not await self._erase(lambda connection: _forget(connection, full_text, key)):
            raise MemoryNotFound

    async def forget_all(self, user_id: UserId) -> bool:
        key, full_text = {"user": user_id}, self._database.full_text
        await self._erase(lambda connection: _forget_all(connection, full_text, key))
        return True

    async def check(self) -> None:
        await self._read(lambda connection: connection.execute(_CHECK).all())

    async def _read(self, statements: Statements[T]) -> T:
        with raised_as(MemoryUnavailable):
            return await self._database.read(statements)

    async def _erase(self, statements: Statements[int]) -> int:
        with raised_as(MemoryUnavailable):
            return await self._database.erase(statements)


def _memory(row: Row[*tuple[Any, ...]]) -> Memory:
    _, id, user_id, created_at, importance, fact = row
    return Memory(MemoryId(id), user_id, fact, importance, created_at)


_NEXT_PLACE: Final = text(
    "UPDATE memory_owners SET last_seq = last_seq + 1 WHERE user_id = :user RETURNING number, last_seq"
)
_FIRST_PLACE: Final = text(
    "INSERT INTO memory_owners (user_id, last_seq) VALUES (:user, 1)"
    " ON CONFLICT (user_id) DO UPDATE SET last_seq = memory_owners.last_seq + 1 RETURNING number, last_seq"
)
"""Also right for a known user, but PostgreSQL would then use up a number, of which there are only 2³¹."""

_INSERT: Final = insert(memories)


def _store(connection: Connection, memory: Memory) -> None:
    owner = {"user": memory.owner}
    known = connection.execute(_NEXT_PLACE, owner).one_or_none()
    number, seq = known or connection.execute(_FIRST_PLACE, owner).one()
    row = {
        "place": number * PLACES_PER_USER + seq,
        "id": memory.id,
        "user_id": memory.owner,
        "created_at": memory.created_at,
        "importance": memory.importance,
        "fact": memory.fact,
        "words": index_text(memory.fact),
    }
    connection.execute(_INSERT, row)


_OWNER: Final = memory_owners.c.user_id == bindparam("user")
_OF_USER: Final = memories.c.user_id == bindparam("user")
_FIRST: Final = memory_owners.c.number * PLACES_PER_USER
_ONE: Final = and_(memories.c.id == bindparam("memory"), _OF_USER)
_MEMORY: Final = select(*(column for column in memories.c if column is not memories.c.words))
_GET: Final = _MEMORY.where(_ONE)
_AT_PLACES: Final = _MEMORY.where(memories.c.place.in_(bindparam("places", expanding=True)), _OF_USER)
_PAGE: Final = (
    _MEMORY.join_from(
        memory_owners,
        memories,
        and_(memories.c.place >= _FIRST, memories.c.place < _FIRST + bindparam("before")),
    )
    .where(_OWNER, _OF_USER)
    .order_by(memories.c.place.desc())
    .limit(bindparam("rows"))
)
_LAST_SEQ: Final = PrecompiledStatement(select(memory_owners.c.last_seq).where(_OWNER))
_CHECK: Final = select(memories.c.place).limit(1)


def _best(connection: Connection, user_id: UserId, hits: Sequence[Hit], limit: int) -> Sequence[Recalled]:
    """Rank the memories by how many of the words they contain and how rare each word is among all memories found."""
    if not hits:
        return []
    found = [_flags(words) for *_, words in hits]
    counts = [column.count(1) for column in zip(*found, strict=True)]
    rarity = [log(1 + len(hits) / count) if count else 0.0 for count in counts]
    weights = [sum(compress(rarity, flags)) for flags in found]
    heaviest = max(weights)
    best = nlargest(
        limit,
        (
            (rank(weight / heaviest, importance, timedelta(microseconds=age)), place)
            for weight, (place, importance, age, _) in zip(weights, hits, strict=True)
        ),
    )
    rows = connection.execute(_AT_PLACES, {"user": user_id, "places": [place for _, place in best]})
    memory_at = {row.place: _memory(row) for row in rows}  # a memory may have been forgotten since the search
    return [Recalled(memory_at[place], score) for score, place in best if place in memory_at]


_AS_FLAGS: Final = bytes.maketrans(b"01", b"\x00\x01")


def _flags(words: int) -> bytes:
    """Return a byte, 0 or 1, for each word that may have been searched for. Loops over them are slow in Python."""
    return f"{words:0{MAX_SEARCH_WORDS}b}".encode().translate(_AS_FLAGS)


_LOCK_OWNER: Final = select(memory_owners.c.number).where(_OWNER).with_for_update()
"""Comes first, to wait for other workers that are storing a memory of the user. Otherwise only the deletion of the
owner would wait: it would not see that memory, which could then be neither found nor deleted."""

_DELETE: Final = delete(memories).where(_ONE)
_DELETE_ALL: Final = delete(memories).where(
    memories.c.place >= bindparam("first"), memories.c.place < bindparam("beyond"), _OF_USER
)
_DELETE_OWNER: Final = delete(memory_owners).where(
    _OWNER, ~exists().where(memories.c.place >= _FIRST, memories.c.place < _FIRST + PLACES_PER_USER)
)


def _update(connection: Connection, key: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
    return connection.execute(update(memories).where(_ONE).values(changes), key).rowcount


def _replace_fact(
    connection: Connection, full_text: FullText, key: Mapping[str, Any], changes: Mapping[str, Any]
) -> int:
    replaced = _update(connection, key, changes)
    if replaced:
        full_text.purge_deleted(connection)
    return replaced


def _forget(connection: Connection, full_text: FullText, key: Mapping[str, Any]) -> int:
    connection.execute(_LOCK_OWNER, {"user": key["user"]}).close()
    deleted = connection.execute(_DELETE, key).rowcount
    if deleted:
        full_text.purge_deleted(connection)
        connection.execute(_DELETE_OWNER, key)
    return deleted


def _forget_all(connection: Connection, full_text: FullText, key: Mapping[str, Any]) -> int:
    number = connection.execute(_LOCK_OWNER, key).scalar()
    if number is None:
        return 0
    places = {"first": number * PLACES_PER_USER, "beyond": (number + 1) * PLACES_PER_USER}
    deleted = connection.execute(_DELETE_ALL, {**key, **places}).rowcount
    full_text.purge_deleted(connection)
    connection.execute(_DELETE_OWNER, key)
    return deleted
