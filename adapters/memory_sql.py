"""Long-term memory in a relational database."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nlargest
from math import log
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, insert, select, text, update

from adapters.sql.database import Database, Statements, T
from adapters.sql.errors import raised_as
from adapters.sql.sqlite.full_text import FIND, phrases, rid_of_deleted
from adapters.sql.tables import MEMORIES_OF_ONE, memories, memory_owners
from application.ports.memory import LongTermMemory, MemoryUnavailable
from domain.conversation import Turn, UserId
from domain.errors import MemoryNotFound
from domain.memory import Memory, MemoryId, Recalled, rank, words
from domain.paging import Page, page_of, parse_cursor

CONSIDERED_CHARS: Final = 1_000
"""How much of a query is looked at, in characters."""


class MemorySQL(LongTermMemory):
    """For keeping facts as rows, as durable as the database's commits, recalled by its full-text search.

    Learns nothing from turns: what users are to be remembered by is stored by whoever knows it.
    """

    extracts_from_turns = False

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    async def store(self, user_id: UserId, fact: str, importance: float) -> Memory:
        memory = Memory(MemoryId(str(uuid4())), user_id, fact, importance, self._now())
        with raised_as(MemoryUnavailable):
            await self._database.write(lambda connection: _store(connection, memory))
        return memory

    async def remember(self, turn: Turn) -> None:
        """Nothing."""

    async def recall(self, user_id: UserId, query: str, limit: int) -> Sequence[Recalled]:
        asked = words(query[:CONSIDERED_CHARS])
        if not asked:
            return []
        wanted = {"user": user_id, "phrases": phrases(asked), "now": self._now()}
        return await self._read(lambda connection: _recall(connection, wanted, limit))

    async def page(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Memory]:
        wanted = {"user": user_id, "before": min(parse_cursor(cursor), MEMORIES_OF_ONE), "rows": limit + 1}
        rows = await self._read(lambda connection: connection.execute(_PAGE, wanted).all())
        return page_of(((row.place % MEMORIES_OF_ONE, _memory(row)) for row in rows), limit)

    async def correct(self, user_id: UserId, memory_id: MemoryId, fact: str | None, importance: float | None) -> Memory:
        one, change = {"user": user_id, "memory": memory_id}, {"fact": fact, "importance": importance}
        change = {name: value for name, value in change.items() if value is not None}
        if fact is not None:
            await self._erase(lambda connection: _reword(connection, one, change))
        elif change:
            with raised_as(MemoryUnavailable):
                await self._database.write(lambda connection: _change(connection, one, change))
        row = await self._read(lambda connection: connection.execute(_GET, one).one_or_none())
        if row is None:
            raise MemoryNotFound
        return _memory(row)

    async def forget(self, user_id: UserId, memory_id: MemoryId) -> None:
        one = {"user": user_id, "memory": memory_id}
        if not await self._erase(lambda connection: _forget(connection, one)):
            raise MemoryNotFound

    async def forget_all(self, user_id: UserId) -> bool:
        await self._erase(lambda connection: _forget_all(connection, {"user": user_id}))
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


_TAKE_PLACE: Final = text(
    "INSERT INTO memory_owners (user_id, last_seq) VALUES (:user, 1)"
    " ON CONFLICT (user_id) DO UPDATE SET last_seq = memory_owners.last_seq + 1 RETURNING number, last_seq"
)
_INSERT: Final = insert(memories)


def _store(connection: Connection, memory: Memory) -> None:
    number, seq = connection.execute(_TAKE_PLACE, {"user": memory.owner}).one()
    row = {
        "place": number * MEMORIES_OF_ONE + seq,
        "id": memory.id,
        "user_id": memory.owner,
        "created_at": memory.created_at,
        "importance": memory.importance,
        "fact": memory.fact,
    }
    connection.execute(_INSERT, row)


_OWNER: Final = memory_owners.c.user_id == bindparam("user")
_OF_USER: Final = memories.c.user_id == bindparam("user")
_FIRST: Final = memory_owners.c.number * MEMORIES_OF_ONE
_ONE: Final = and_(memories.c.id == bindparam("memory"), _OF_USER)
_GET: Final = select(memories).where(_ONE)
_AT: Final = select(memories).where(memories.c.place.in_(bindparam("places", expanding=True)), _OF_USER)
_PAGE: Final = (
    select(memories)
    .join_from(
        memory_owners,
        memories,
        and_(memories.c.place >= _FIRST, memories.c.place < _FIRST + bindparam("before")),
    )
    .where(_OWNER, _OF_USER)
    .order_by(memories.c.place.desc())
    .limit(bindparam("rows"))
)
_CHECK: Final = select(memories.c.place).limit(1)


def _recall(connection: Connection, wanted: Mapping[str, Any], limit: int) -> Sequence[Recalled]:
    """What has the asked words fits by how many it has and how rare they are among all that has any."""
    hits = FIND.run(connection, wanted).fetchall()
    if not hits:
        return []
    found = {place: (importance, age) for _, place, importance, age in hits}
    rarity = {word: log(1 + len(found) / count) for word, count in Counter(hit[0] for hit in hits).items()}
    weights = dict.fromkeys(found, 0.0)
    for word, place, _, _ in hits:
        weights[place] += rarity[word]
    heaviest = max(weights.values())
    best = nlargest(
        limit,
        (
            (rank(weights[place] / heaviest, importance, timedelta(microseconds=age)), place)
            for place, (importance, age) in found.items()
        ),
    )
    rows = connection.execute(_AT, {"user": wanted["user"], "places": [place for _, place in best]})
    memory_at = {row.place: _memory(row) for row in rows}  # without what was forgotten since
    return [Recalled(memory_at[place], score) for score, place in best if place in memory_at]


_NUMBER: Final = select(memory_owners.c.number).where(_OWNER)
_DELETE: Final = delete(memories).where(_ONE)
_DELETE_ALL: Final = delete(memories).where(
    memories.c.place >= bindparam("first"), memories.c.place < bindparam("beyond"), _OF_USER
)
_DELETE_OWNER: Final = delete(memory_owners).where(
    _OWNER, ~exists().where(memories.c.place >= _FIRST, memories.c.place < _FIRST + MEMORIES_OF_ONE)
)


def _change(connection: Connection, one: Mapping[str, Any], change: Mapping[str, Any]) -> int:
    return connection.execute(update(memories).where(_ONE).values(change), one).rowcount


def _reword(connection: Connection, one: Mapping[str, Any], change: Mapping[str, Any]) -> int:
    if connection.execute(_GET, one).one_or_none() is None:
        return 0
    with rid_of_deleted(connection):
        return _change(connection, one, change)


def _forget(connection: Connection, one: Mapping[str, Any]) -> int:
    if connection.execute(_GET, one).one_or_none() is None:
        return 0
    with rid_of_deleted(connection):
        deleted = connection.execute(_DELETE, one).rowcount
    connection.execute(_DELETE_OWNER, one)
    return deleted


def _forget_all(connection: Connection, user: Mapping[str, Any]) -> int:
    number = connection.execute(_NUMBER, user).scalar()
    if number is None:
        return 0
    places = {"first": number * MEMORIES_OF_ONE, "beyond": (number + 1) * MEMORIES_OF_ONE}
    with rid_of_deleted(connection):
        deleted = connection.execute(_DELETE_ALL, {**user, **places}).rowcount
    connection.execute(_DELETE_OWNER, user)
    return deleted
