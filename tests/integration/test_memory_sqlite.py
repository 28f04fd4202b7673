"""Long-term memory on SQLite: its file and its full-text index."""

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Select, TextClause, UpdateBase, create_engine, insert, make_url, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError

from adapters import memory_sql
from adapters.history_sql import HistorySQL
from adapters.memory_sql import MemorySQL
from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.database import DatabaseClosed
from adapters.sql.full_text import Hit
from adapters.sql.schema import HEAD, MIGRATIONS
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.sqlite.full_text import SEARCH, SQLiteFullText
from adapters.sql.tables import PLACES_PER_USER, memories, memory_owners
from application.ports.memory import LongTermMemory, MemoryUnavailable
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.memory import MAX_FACT_CHARS, MAX_QUERY_CHARS, MemoryId, index_text
from tests.harness.failing_database import FailingDatabase
from tests.harness.remnants import remnants, remnants_after_erasure

ADA, BOB = UserId("ada"), UserId("bob")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SEVERAL_SEGMENTS = 3_000
"""Number of facts for which SQLite has already merged some segments of the index before the first deletion."""


class Clock:
    """A clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "chat.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SQLiteDatabase]:
    async with SQLiteDatabase(f"sqlite:///{path}") as database:
        yield database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(database: SQLiteDatabase, clock: Clock) -> MemorySQL:
    return MemorySQL(database, clock)


async def recalled(memory: LongTermMemory, user_id: UserId, query: str, limit: int = 10) -> list[str]:
    return [item.memory.fact for item in await memory.recall(user_id, query, limit)]


def fill(connection: Connection, users: int, facts: Sequence[str]) -> None:
    """Store the facts for each of many other users."""
    numbers = range(1_000_000, 1_000_000 + users)
    owners = [{"number": n, "user_id": f"user{n}", "last_seq": len(facts)} for n in numbers]
    connection.execute(insert(memory_owners), owners)
    for seq, fact in enumerate(facts, start=1):
        row = {"created_at": NOW, "importance": 0.5, "fact": fact, "words": index_text(fact)}
        places = [{"place": n * PLACES_PER_USER + seq, "id": f"{n}-{seq}", "user_id": f"user{n}"} for n in numbers]
        connection.execute(insert(memories), [row | place for place in places])


# Ranking


async def test_memories_with_more_of_the_rare_words_come_first(memory: MemorySQL) -> None:
    for fact in ("likes green tea", "likes long walks", "likes the colour green", "likes cats"):
        await memory.store(ADA, fact, 0.5)

    assert (await recalled(memory, ADA, "Which tea do I like? Green?"))[:2] == [
        "likes green tea",
        "likes the colour green",
    ]


async def test_equally_relevant_memories_are_ordered_by_importance(memory: MemorySQL) -> None:
    for name, importance in (("Minka", 0.2), ("Felix", 0.9), ("Tom", 0.5)):
        await memory.store(ADA, f"The cat is called {name}", importance)

    assert [f"The cat is called {name}" for name in ("Felix", "Tom", "Minka")] == await recalled(memory, ADA, "my cat")


async def test_equally_relevant_and_important_memories_are_ordered_newest_first(
    memory: MemorySQL, clock: Clock
) -> None:
    for name in ("Minka", "Felix", "Tom"):
        await memory.store(ADA, f"The cat is called {name}", 0.5)
        clock.now += timedelta(days=30)

    assert [f"The cat is called {name}" for name in ("Tom", "Felix", "Minka")] == await recalled(memory, ADA, "my cat")


async def test_relevance_outweighs_importance(memory: MemorySQL) -> None:
    await memory.store(ADA, "The cat is called Felix and likes salmon", 0.0)
    await memory.store(ADA, "The cat has a vet", 1.0)

    assert (await recalled(memory, ADA, "Does my cat like salmon?"))[0] == "The cat is called Felix and likes salmon"


# Words


@pytest.mark.parametrize(
    ("fact", "query"),
    [
        ("has two daughters", "a present for my daughter"),
        ("is planning a wedding", "all those wedding plans"),
        ("lives in Zurich", "Zürich"),
        ("lives in Schloßstraße 4", "Where is SCHLOSSSTRASSE?"),
        ("lives in Schlossstrasse 4", "Schlossstraße"),
        ("the file is called tax_return", "tax_return"),
        ("любит чай", "Чай"),
        ("ζει στην ΟΔΟΣ 7", "οδος"),
    ],
)
async def test_other_forms_of_a_word_are_found(memory: MemorySQL, fact: str, query: str) -> None:
    await memory.store(ADA, fact, 0.5)

    assert [fact] == await recalled(memory, ADA, query)


@pytest.mark.parametrize(
    "query",
    [
        "tea AND coffee",
        "tea NOT tea",
        "NOT tea",
        "tea OR",
        "OR tea",
        "NEAR(tea coffee, 5)",
        "NEAR(tea",
        "fact:tea",
        "{fact}:tea",
        "- fact : tea",
        "tea*",
        "^tea",
        "tea + tea",
        '"tea',
        '""tea""',
        "tea')) --",
        "'; DROP TABLE memories; -- tea",
        "tea\x00",
        "\x00tea",
        "(((((tea",
        "tea " + " ".join(f"word{n}" for n in range(200)),
        "tea " + "x" * 100_000,
    ],
)
async def test_query_syntax_is_treated_as_plain_words(memory: MemorySQL, query: str) -> None:
    await memory.store(ADA, "drinks tea", 0.5)
    await memory.store(ADA, "has a dog", 0.5)
    await memory.store(BOB, "drinks tea too", 0.5)

    assert ["drinks tea"] == await recalled(memory, ADA, query)


async def test_facts_and_queries_in_rare_scripts_are_accepted(memory: MemorySQL) -> None:
    everything = "".join(map(chr, range(0x20, 0x3000, 7))) + " 𞤀𞤁 𐓏 🧑‍🚀 ²³ ½ _ __"
    for start in range(0, len(everything), 50):
        await memory.recall(ADA, everything[start:], 10)
    await memory.store(ADA, everything[:2000], 0.5)

    assert [everything[:2000]] == [item.fact for item in (await memory.page(ADA, 10, None)).items]


# Correcting


async def test_a_corrected_fact_is_no_longer_found_by_its_old_words(memory: MemorySQL) -> None:
    stored = await memory.store(ADA, "The cat is called Minka", 0.5)
    await memory.correct(ADA, stored.id, "The dog is called Bello", None)

    assert [] == await recalled(memory, ADA, "Minka the cat")
    assert ["The dog is called Bello"] == await recalled(memory, ADA, "dog")


async def test_fact_and_importance_can_be_corrected_together(memory: MemorySQL) -> None:
    stored = await memory.store(ADA, "likes tea", 0.5)
    corrected = await memory.correct(ADA, stored.id, "likes coffee", 0.9)

    assert ("likes coffee", 0.9) == (corrected.fact, corrected.importance)


async def test_correcting_nothing_changes_nothing(memory: MemorySQL) -> None:
    stored = await memory.store(ADA, "likes tea", 0.5)

    assert stored == await memory.correct(ADA, stored.id, None, None)


# Many users


async def test_a_thousand_users_recall_only_their_own_memories(memory: MemorySQL, database: SQLiteDatabase) -> None:
    await memory.store(ADA, "likes green tea", 0.5)
    await database.write(lambda connection: fill(connection, 1_000, ["likes black tea", "likes green apples"]))
    await memory.store(BOB, "likes white tea", 0.5)

    assert ["likes green tea"] == await recalled(memory, ADA, "green black white tea apples")
    assert ["likes white tea"] == await recalled(memory, BOB, "green black white tea apples")
    assert [] == await recalled(memory, UserId("unknown"), "green black white tea apples")
    assert len(await recalled(memory, UserId("user1000500"), "tea apples")) == 2
    assert await memory.forget_all(UserId("user1000500"))
    assert [] == await recalled(memory, UserId("user1000500"), "tea apples")
    assert len(await recalled(memory, UserId("user1000501"), "tea apples")) == 2
    assert len(await recalled(memory, UserId("user1000499"), "tea apples")) == 2


async def test_a_user_who_gets_a_reused_number_recalls_nothing_of_the_previous_one(memory: MemorySQL) -> None:
    await memory.store(ADA, "likes tea", 0.5)
    await memory.forget_all(ADA)
    await memory.store(BOB, "likes coffee", 0.5)

    assert [] == await recalled(memory, BOB, "tea")
    assert ["likes coffee"] == await recalled(memory, BOB, "coffee")


async def test_a_row_in_the_range_of_another_user_is_not_disclosed(memory: MemorySQL, database: SQLiteDatabase) -> None:
    await memory.store(ADA, "likes tea", 0.5)
    await database.write(lambda connection: connection.execute(text("UPDATE memories SET user_id = 'bob'")).close())

    assert [] == await recalled(memory, ADA, "tea")
    assert [] == (await memory.page(ADA, 10, None)).items


async def test_a_cursor_reveals_nothing_about_other_users(memory: MemorySQL, database: SQLiteDatabase) -> None:
    await database.write(lambda connection: fill(connection, 100, ["likes tea"]))
    for n in range(3):
        await memory.store(ADA, f"fact number{n}", 0.5)

    assert (await memory.page(ADA, 1, None)).next_cursor == "3"


# Cost


def steps(connection: Connection, sql: str) -> list[str]:
    """Return the steps of SQLite's query plan."""
    return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", ("[]",) * sql.count("?"))]


def work(connection: Connection, query: Callable[[Connection], object]) -> int:
    """Count the virtual machine instructions that SQLite executes for a query."""
    executed = 0

    def count() -> int:
        nonlocal executed
        executed += 1
        return 0

    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_progress_handler(count, 1)
    query(connection)
    driver.set_progress_handler(None, 0)
    return executed


@pytest.mark.parametrize("statement", ["_GET", "_PAGE", "_LOCK_OWNER", "_DELETE", "_DELETE_ALL", "_DELETE_OWNER"])
async def test_statements_read_only_the_users_own_rows(database: SQLiteDatabase, statement: str) -> None:
    sql = str(getattr(memory_sql, statement).compile(dialect=sqlite.dialect()))
    plan = await database.read(lambda connection: steps(connection, sql))

    assert plan != []
    assert [step for step in plan if "SCAN" in step or "TEMP B-TREE" in step] == []


async def test_the_index_is_searched_only_within_the_users_places(database: SQLiteDatabase) -> None:
    plan = await database.read(
        lambda connection: steps(connection, str(SEARCH.statement.compile(dialect=sqlite.dialect())))
    )

    assert plan[1].startswith("SEARCH memory_owners USING INDEX")
    assert plan[2].startswith("SCAN asked VIRTUAL TABLE")
    assert plan[3].startswith("SCAN memory_words VIRTUAL TABLE INDEX ")
    assert plan[3].endswith("><")  # between two places
    assert plan[5:] == ["SCAN found", "SEARCH memories USING INTEGER PRIMARY KEY (rowid=?)"]


async def test_the_cost_of_a_recall_does_not_depend_on_the_size_of_the_database(
    memory: MemorySQL, database: SQLiteDatabase
) -> None:
    for n in range(30):
        await memory.store(ADA, f"likes tea number{n}", 0.5)
    query = ["likes", "tea", "number7"]

    def search_and_rank(connection: Connection) -> object:
        hits = database.full_text.search(connection, ADA, query, NOW)
        return memory_sql._best(connection, ADA, hits, 10)

    def recall(connection: Connection) -> int:
        return work(connection, search_and_rank)

    alone = await database.read(recall)
    await database.write(lambda connection: fill(connection, 1_000, ["likes tea", "likes black tea", "tea"]))

    assert await database.read(recall) < 1.2 * alone


async def test_only_a_users_newest_memories_are_searched(path: Path) -> None:
    async with SQLiteDatabase(f"sqlite:///{path}", full_text=SQLiteFullText(max_searched_memories=3)) as database:
        memory = MemorySQL(database, lambda: NOW)
        for fact in ("oldest likes tea", "older likes tea", "likes coffee", "likes milk"):
            await memory.store(ADA, fact, 0.5)

        assert ["older likes tea"] == await recalled(memory, ADA, "tea")


async def test_two_thousand_memories_of_a_user_are_searched(memory: MemorySQL, database: SQLiteDatabase) -> None:
    def store(connection: Connection) -> None:
        fill(connection, 1, ["oldest tea", "older tea", *["coffee"] * 1_999])

    await database.write(store)

    assert ["older tea"] == await recalled(memory, UserId("user1000000"), "tea")


async def test_only_the_beginning_of_a_query_is_searched_for(memory: MemorySQL) -> None:
    await memory.store(ADA, "likes tea", 0.5)

    assert ["likes tea"] == await recalled(memory, ADA, "green ".ljust(MAX_QUERY_CHARS - 3) + "tea")
    assert [] == await recalled(memory, ADA, "green ".ljust(MAX_QUERY_CHARS) + "tea")


# Long searches


class GatedFullText(SQLiteFullText):
    """Notes who is searched for, and holds searches of these users until `gate` is set."""

    def __init__(self, *held: UserId) -> None:
        super().__init__()
        self.__dict__ |= {"held": held, "gate": threading.Event(), "searches": []}

    held: Sequence[UserId]
    gate: threading.Event
    searches: list[tuple[UserId, str]]

    def search(self, connection: Connection, user_id: UserId, words: Sequence[str], now: datetime) -> Sequence[Hit]:
        self.searches.append((user_id, threading.current_thread().name))
        if user_id in self.held:
            assert self.gate.wait(60)
        return super().search(connection, user_id, words, now)


@asynccontextmanager
async def gated(path: Path, *held: UserId) -> AsyncIterator[tuple[GatedFullText, MemorySQL, HistorySQL]]:
    """A database with 101 memories for each of Ada and Bob."""
    full_text = GatedFullText(*held)
    async with SQLiteDatabase(f"sqlite:///{path}", full_text=full_text) as database:
        memory = MemorySQL(database, lambda: NOW)
        await asyncio.gather(*(memory.store(user, f"tea number{n}", 0.5) for user in (ADA, BOB) for n in range(101)))
        try:
            yield full_text, memory, HistorySQL(database)
        finally:
            full_text.gate.set()


async def test_only_searches_of_many_memories_have_a_thread_of_their_own(path: Path) -> None:
    few, none = UserId("few"), UserId("none")
    async with gated(path) as (full_text, memory, _):
        await asyncio.gather(*(memory.store(few, f"tea number{n}", 0.5) for n in range(100)))
        found = [len(await memory.recall(user, "tea", 200)) for user in (ADA, few, none)]

    assert found == [101, 100, 0]
    assert full_text.searches == [(ADA, "sqlite-searcher"), (few, "sqlite-reader")]


async def test_a_long_search_delays_neither_turns_nor_short_searches(path: Path) -> None:
    async with gated(path, ADA) as (full_text, memory, history):
        carl = UserId("carl")
        await memory.store(carl, "likes tea", 0.5)
        searching = asyncio.create_task(memory.recall(ADA, "tea", 10))
        await history.latest(carl, DEFAULT_CONVERSATION, 10)
        await history.page(ADA, None, 10, None)
        assert ["likes tea"] == await recalled(memory, carl, "tea")
        assert not searching.done()
        full_text.gate.set()
        assert len(await searching) == 10


async def test_searches_of_one_user_delay_those_of_another_by_one_at_most(path: Path) -> None:
    async with gated(path, ADA) as (full_text, memory, _):
        searches = [asyncio.create_task(memory.recall(ADA, "tea", 10)) for _ in range(5)]
        async with asyncio.timeout(20):
            while not full_text.searches:
                await asyncio.sleep(0.01)
        searches.append(asyncio.create_task(memory.recall(BOB, "tea", 10)))
        await memory.page(BOB, 1, None)  # by now, Bob's search waits for the thread
        await memory.page(BOB, 1, None)
        full_text.gate.set()
        await asyncio.gather(*searches)

    assert [user for user, _ in full_text.searches] == [ADA, BOB, ADA, ADA, ADA, ADA]


# Forgetting


SECRETS = [a + b for a in ("qua", "zy", "wob", "xen", "kri") for b in ("blorping", "vantelly", "mizzards", "zugness")]
"""Words that occur in no other facts."""
TRACES = sorted({trace for word in SECRETS for trace in (word[3:], word[2:-3])})
"""The parts of them that the index stores: stemmed, and without the prefix shared with the preceding word."""


async def many_facts(memory: LongTermMemory, secret: UserId) -> list[MemoryId]:
    """Store facts of many users, among them some with secret words; return the ids of the latter."""
    dice = random.Random(7)
    common = ["".join(dice.choices("bcdfghjklm", k=2) + dice.choices("aeiou", k=2)) * 2 for _ in range(2_000)]
    stored = []
    for start in range(0, SEVERAL_SEGMENTS, 30):

        async def store(n: int) -> None:
            words = dice.sample(common, 6) + (dice.sample(SECRETS, 3) if n % 3 == 0 else [])
            fact = await memory.store(secret if n % 3 == 0 else UserId(f"user{n % 20}"), " ".join(words), 0.5)
            if n % 3 == 0:
                stored.append(fact.id)

        await asyncio.gather(*map(store, range(start, start + 30)))
    return stored


async def indexed(database: SQLiteDatabase) -> set[str]:
    """Return the traces that the pages of the full-text index contain."""
    blocks = text("SELECT block FROM memory_words_data")
    pages = b"".join(await database.read(lambda connection: connection.execute(blocks).scalars().all()))
    return {trace for trace in TRACES if trace.encode() in pages}


async def test_no_file_contains_forgotten_words(memory: MemorySQL, database: SQLiteDatabase, path: Path) -> None:
    await many_facts(memory, UserId("canary"))
    in_files = {word for _, word in await asyncio.to_thread(remnants, path, [*TRACES, "canary"])}
    in_index = await indexed(database)
    await memory.forget_all(UserId("canary"))

    assert {*TRACES, "canary"} == in_files
    assert len(in_index) > 5
    assert [] == await remnants_after_erasure(database, path, [*TRACES, "canary"])


async def test_no_file_contains_words_forgotten_one_by_one(
    memory: MemorySQL, database: SQLiteDatabase, path: Path
) -> None:
    canary = UserId("canary")
    doomed = [await memory.store(canary, f"{secret} and tea", 0.5) for secret in SECRETS]
    for n in range(100):
        await memory.store(BOB, f"likes tea number{n}", 0.5)
    await asyncio.gather(*(memory.forget(canary, item.id) for item in doomed))

    assert [] == await remnants_after_erasure(database, path, [*TRACES, "canary"])
    assert len(await recalled(memory, BOB, "tea", 200)) == 100


HAN_SECRETS = ["饕餮", "貔貅", "魑魅", "魍魉", "狻猊", "睚眦"]
"""Rare words: each of their characters occurs in no other fact."""


async def test_no_file_contains_characters_of_forgotten_facts_in_languages_without_spaces(
    memory: MemorySQL, database: SQLiteDatabase, path: Path
) -> None:
    canary = UserId("canary")
    for n in range(600):
        await memory.store(canary, f"我的{HAN_SECRETS[n % 6]}和{HAN_SECRETS[n // 6 % 6]}喝茶", 0.5)
        await memory.store(BOB, f"我的狗喝茶 {n}", 0.5)
    characters = sorted(set("".join(HAN_SECRETS)))
    after_shared_prefix = [word[1] for word in HAN_SECRETS]
    blocks = text("SELECT block FROM memory_words_data")
    index = b"".join(await database.read(lambda connection: connection.execute(blocks).scalars().all()))
    assert [] == [character for character in after_shared_prefix if character.encode() not in index]
    assert set(characters) == {character for _, character in await asyncio.to_thread(remnants, path, characters)}
    listed = (await memory.page(canary, 200, None)).items
    await memory.correct(canary, listed[0].id, "喝茶", None)
    await memory.forget(canary, listed[1].id)
    await memory.forget_all(canary)

    assert [] == await remnants_after_erasure(database, path, characters)
    assert len(await recalled(memory, BOB, "狗", 1_000)) == 600


async def test_no_file_contains_corrected_words(memory: MemorySQL, database: SQLiteDatabase, path: Path) -> None:
    doomed = [await memory.store(ADA, f"{secret} and tea", 0.5) for secret in SECRETS]
    for item in doomed:
        await memory.correct(ADA, item.id, "likes coffee", None)

    assert [] == await remnants_after_erasure(database, path, TRACES)
    assert len(await recalled(memory, ADA, "coffee", 200)) == len(SECRETS)


async def test_no_file_contains_words_that_were_stored_between_two_deletions(
    memory: MemorySQL, database: SQLiteDatabase, path: Path
) -> None:
    for _ in range(2):
        await many_facts(memory, UserId("canary"))
        await memory.forget_all(UserId("canary"))

    assert [] == await remnants_after_erasure(database, path, [*TRACES, "canary"])


async def test_the_index_stays_consistent_after_forgetting(memory: MemorySQL, database: SQLiteDatabase) -> None:
    doomed = await many_facts(memory, ADA)
    for memory_id in doomed[:20]:
        await memory.forget(ADA, memory_id)
        await memory.store(ADA, "likes tea", 0.5)
    check = text("INSERT INTO memory_words (memory_words) VALUES ('integrity-check')")

    await database.write(lambda connection: connection.execute(check).close())
    assert len(await recalled(memory, ADA, "tea", 200)) == 20


# Older databases


def migrated(path: Path, revision: str) -> None:
    """Create a database as an older version of the service did."""
    path.parent.mkdir()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, revision)
    engine.dispose()


async def test_migrating_a_database_without_memories_keeps_its_turns(path: Path) -> None:
    await asyncio.to_thread(migrated, path, "0001")
    with closing(sqlite3.connect(path)) as older:
        older.execute("INSERT INTO users VALUES ('ada', 1)")
        older.execute("INSERT INTO conversations VALUES ('ada', 'default', 0, 0, 1, 1)")
        older.execute("INSERT INTO turns VALUES ('t', 'ada', 'default', 1, 0, 'Hello', 'Hi', 'completed', 'stop')")
        older.commit()
    async with SQLiteDatabase(f"sqlite:///{path}") as database:
        memory = MemorySQL(database, lambda: NOW)
        await memory.store(ADA, "likes tea", 0.5)
        turn = await HistorySQL(database).get(TurnId("t"), ADA)
        found = await recalled(memory, ADA, "tea")

    assert ("Hello", "Hi", ["likes tea"]) == (turn.user_message, turn.reply, found)


FACTS_OF_OLD = ["我的狗叫贝罗。", "Мою собаку зовут Белло", "has two daughters", "lives in Zürich"]


def old_database(path: Path) -> None:
    """Create a database of the previous version with facts of two users."""
    migrated(path, "0004")
    with closing(sqlite3.connect(path)) as older:
        older.execute("INSERT INTO memory_owners VALUES (1, 'ada', 9), (2, 'canary', 9)")
        rows = [
            (number * PLACES_PER_USER + seq, f"{number:08}-0000-4000-8000-{seq:012}", user, 0, 0.5, fact)
            for number, user, facts in ((1, "ada", FACTS_OF_OLD), (2, "canary", ["我的饕餮喝茶 quablorping"]))
            for seq, fact in enumerate(facts, start=1)
        ]
        older.executemany("INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?)", rows)
        older.commit()


async def test_facts_of_an_older_database_are_found_by_their_words_in_any_form(path: Path) -> None:
    await asyncio.to_thread(old_database, path)
    async with SQLiteDatabase(f"sqlite:///{path}") as database:
        memory = MemorySQL(database, lambda: NOW)
        found = [await recalled(memory, ADA, query) for query in ("狗", "собака", "daughter", "zurich")]
        listed = [one.fact for one in (await memory.page(ADA, 10, None)).items]

    assert [[fact] for fact in FACTS_OF_OLD] == found
    assert FACTS_OF_OLD[::-1] == listed


async def test_facts_of_an_older_database_are_forgotten_without_a_trace(path: Path) -> None:
    await asyncio.to_thread(old_database, path)
    async with SQLiteDatabase(f"sqlite:///{path}") as database:
        memory = MemorySQL(database, lambda: NOW)
        assert await memory.forget_all(UserId("canary"))
        assert ["我的狗叫贝罗。"] == await recalled(memory, ADA, "狗")

        assert [] == await remnants_after_erasure(database, path, ["canary", "blorping", "饕", "餮"])


def test_the_migration_of_the_index_is_reversible(path: Path) -> None:
    old_database(path)
    engine = create_engine(f"sqlite:///{path}")
    query = "SELECT count(*) FROM memory_words WHERE memory_words MATCH 'daughter'"
    with engine.begin() as connection:
        schema = connection.execute(text("SELECT name, sql FROM sqlite_master ORDER BY name")).all()
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0005")
        upgraded = connection.execute(text(query)).scalar()
        command.downgrade(config, "0004")
        downgraded = connection.execute(text(query)).scalar()
        assert schema == connection.execute(text("SELECT name, sql FROM sqlite_master ORDER BY name")).all()
    engine.dispose()

    assert (1, 1) == (upgraded, downgraded)


def test_the_migration_that_adds_memories_is_reversible(path: Path) -> None:
    migrated(path, HEAD)
    engine = create_engine(f"sqlite:///{path}")
    tables = "SELECT name FROM sqlite_master WHERE name LIKE 'memor%' ORDER BY name"
    with engine.begin() as connection:
        before = connection.execute(text(tables)).all()
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.downgrade(config, "0002")
        between = connection.execute(text(tables)).all()
        command.upgrade(config, HEAD)
        after = connection.execute(text(tables)).all()
    engine.dispose()

    assert [] == between
    assert before == after != []


# Errors


def all_subclasses(error: type[Exception]) -> set[type[Exception]]:
    return {error}.union(*(all_subclasses(kind) for kind in error.__subclasses__()))


NOTHING = MemoryId("00000000-0000-4000-8000-000000000000")
CALLS: list[Callable[[MemorySQL], Awaitable[object]]] = [
    lambda memory: memory.store(ADA, "likes tea", 0.5),
    lambda memory: memory.recall(ADA, "tea", 10),
    lambda memory: memory.page(ADA, 10, None),
    lambda memory: memory.correct(ADA, NOTHING, None, None),
    lambda memory: memory.correct(ADA, NOTHING, None, 0.5),
    lambda memory: memory.correct(ADA, NOTHING, "likes coffee", None),
    lambda memory: memory.forget(ADA, NOTHING),
    lambda memory: memory.forget_all(ADA),
    lambda memory: memory.check(),
]


@pytest.mark.parametrize(
    "kind",
    sorted(all_subclasses(SQLAlchemyError) | {DatabaseClosed}, key=lambda kind: str(kind)),
)
async def test_every_database_error_is_mapped_to_an_error_of_the_port(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    for call in CALLS:
        with pytest.raises(MemoryUnavailable) as raised:
            await call(MemorySQL(FailingDatabase(error), Clock()))
        assert (raised.value.__cause__, raised.value.retry_after) == (error, 1.0)


async def test_remembering_a_turn_does_not_use_the_database() -> None:
    memory = MemorySQL(FailingDatabase(DatabaseClosed()), Clock())
    turn = Turn(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, NOW, "My dog is called Bello").completed("Hi", "stop")
    await memory.remember(turn)

    assert not memory.extracts_from_turns
    assert [] == await memory.recall(ADA, "What is it?", 10)


# PostgreSQL


def test_every_statement_compiles_for_postgresql() -> None:
    values = vars(memory_sql).values()
    statements = [
        value for value in values if isinstance(value, Select | TextClause | UpdateBase | PrecompiledStatement)
    ]
    assert len(statements) > 8
    for statement in statements:
        assert str(statement.compile(dialect=make_url("postgresql://").get_dialect()()))


async def test_a_page_ends_before_its_text_exceeds_a_megabyte(memory: MemorySQL) -> None:
    for _ in range(100):
        await memory.store(ADA, "\x01" * MAX_FACT_CHARS, 0.5)
    page = await memory.page(ADA, 200, None)

    assert 60 < len(page.items) < 80
    assert len((await memory.page(ADA, 200, page.next_cursor)).items) == 100 - len(page.items)
