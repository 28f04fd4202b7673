"""What every long-term memory does: one suite for the fakes and whatever stands behind the port."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args
from uuid import uuid4

import anyio
import pytest

from adapters.memory_guarded import GuardedMemory
from adapters.memory_in_memory import MemoryInMemory
from adapters.memory_mem0_platform import MemoryMem0Platform
from adapters.memory_sql import MemorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.memory import LongTermMemory
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import MemoryNotFound, UnknownCursor
from domain.memory import MAX_FACT_CHARS, Memory, MemoryId
from tests.harness.fakes import LearningMemory
from tests.harness.mem0_platform import KEY, Lag, Mem0Platform
from tests.harness.memory_upstream import MemoryUpstream, memory_upstream_in_thread, open_mem0
from tests.harness.script import Observed

ADA, BOB = UserId("ada"), UserId("bob")
NEIGHBOURS = ("a", "ada2", "ADA", "ada.", "ada|bob", "ada@example.com", "user:ada", "ada~")
"""Ids that a careless query would take for Ada's."""
NOBODY = MemoryId("00000000-0000-4000-8000-000000000000")


Kind = Literal[
    "in_memory",
    "learning",
    "guarded",
    "sql_on_sqlite",
    "mem0_on_qdrant",
    "mem0_on_pgvector",
    "mem0_platform",
    "mem0_platform_lagging",
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[MemoryUpstream]:
    with memory_upstream_in_thread() as upstream:
        yield upstream


@pytest.fixture(params=get_args(Kind))
async def memory(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LongTermMemory]:
    kind: Kind = request.param
    match kind:
        case "in_memory":
            yield MemoryInMemory(lambda: datetime.now(UTC))
        case "learning":
            yield LearningMemory()
        case "guarded":
            yield GuardedMemory(LearningMemory(), Observed(), recall_timeout=60)
        case "sql_on_sqlite":
            database = SQLiteDatabase(f"sqlite:///{tmp_path}/chat.db")
            await database.open()
            yield MemorySQL(database, lambda: datetime.now(UTC))
            await database.close()
        case "mem0_on_qdrant":
            async with open_mem0(tmp_path, request.getfixturevalue("upstream")) as memory:
                yield memory
        case "mem0_on_pgvector":
            url = request.getfixturevalue("postgres").new_database()
            async with open_mem0(tmp_path, request.getfixturevalue("upstream"), store_url=url) as memory:
                yield memory
        case "mem0_platform" | "mem0_platform_lagging":
            lag = Lag(add=0.004, index=0.004, delete=0.02, search=0.01) if kind == "mem0_platform_lagging" else Lag()
            async with Mem0Platform(lag) as platform:
                hosted = MemoryMem0Platform(
                    api_key=KEY, host=platform.host, data_dir=tmp_path, settle_timeout=5, forget_interval=0.05
                )
                await hosted.open()
                yield hosted
                await hosted.close()


def completed(message: str, user_id: UserId = ADA) -> Turn:
    turn = Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message)
    return turn.completed("I see.", "stop")


async def everything(memory: LongTermMemory, user_id: UserId, limit: int = 200) -> list[Memory]:
    """All pages together."""
    found: list[Memory] = []
    cursor = None
    while True:
        page = await memory.page(user_id, limit, cursor)
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def facts(memory: LongTermMemory, user_id: UserId) -> list[str]:
    return [one.fact for one in await everything(memory, user_id)]


async def recalled(memory: LongTermMemory, user_id: UserId, query: str, limit: int = 10) -> list[str]:
    return [one.memory.fact for one in await memory.recall(user_id, query, limit)]


async def forgotten(memory: LongTermMemory, user_id: UserId) -> None:
    """Forget a user, as often as it takes."""
    with anyio.fail_after(60):
        while not await memory.forget_all(user_id):
            await anyio.sleep(0.05)


# Facts


async def test_a_stored_fact_is_there_as_it_was_given(memory: LongTermMemory) -> None:
    before = datetime.now(UTC)
    stored = await memory.store(ADA, "Ada's dog is called Bello.", 0.7)

    assert [stored] == await everything(memory, ADA)
    assert ("Ada's dog is called Bello.", 0.7, "ada") == (stored.fact, stored.importance, stored.owner)
    assert abs(stored.created_at - before) < timedelta(minutes=1)
    assert stored.created_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "fact",
    [
        "Quotes \" and \\ and ' and %s",
        "line\nbreaks\r\nand\ttabs",
        "ümläute, 漢字, العربية, 🧑‍🚀",
        '{"json": ["yes"]}',
        "' OR 1=1 --",
        "*",
        "x" * MAX_FACT_CHARS,
    ],
)
async def test_a_fact_may_be_any_text(memory: LongTermMemory, fact: str) -> None:
    stored = await memory.store(ADA, fact, 0.5)

    assert fact == stored.fact
    assert [fact] == await facts(memory, ADA)


@pytest.mark.parametrize("importance", [0.0, 0.25, 1.0])
async def test_the_importance_is_kept(memory: LongTermMemory, importance: float) -> None:
    await memory.store(ADA, "likes tea", importance)

    assert [importance] == [one.importance for one in await everything(memory, ADA)]


async def test_concurrent_stores_all_stay(memory: LongTermMemory) -> None:
    await asyncio.gather(*(memory.store(ADA, f"fact number{n}", 0.5) for n in range(20)))

    assert {f"fact number{n}" for n in range(20)} == set(await facts(memory, ADA))


# Recall


async def test_a_fact_is_recalled_by_what_is_said_about_it(memory: LongTermMemory) -> None:
    for fact in ("The dog is called Bello", "The favourite colour is green", "The flat is in Vienna"):
        await memory.store(ADA, fact, 0.5)

    assert (await recalled(memory, ADA, "Which colour should the new curtains have?"))[0] == (
        "The favourite colour is green"
    )


async def test_what_is_recalled_comes_best_first_with_its_score(memory: LongTermMemory) -> None:
    await memory.store(ADA, "green tea with milk", 0.5)
    await memory.store(ADA, "green curtains", 0.5)
    found = await memory.recall(ADA, "green tea with milk", 10)
    scores = [one.score for one in found]

    assert found[0].memory.fact == "green tea with milk"
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


async def test_no_more_is_recalled_than_asked_for(memory: LongTermMemory) -> None:
    for n in range(5):
        await memory.store(ADA, f"tea kind{n}", 0.5)

    assert len(await memory.recall(ADA, "tea", 3)) == 3


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "?!",
        '"',
        "'",
        "a AND NOT (b",
        "NEAR(tea",
        "tea*",
        "*",
        "user:ada",
        "^tea",
        "\x1b[0m",
        "漢字",
        "tea " * 9_999,
    ],
)
async def test_any_query_will_do(memory: LongTermMemory, query: str) -> None:
    await memory.store(ADA, "drinks tea", 0.5)

    assert set(await recalled(memory, ADA, query)) <= {"drinks tea"}


async def test_who_has_nothing_recalls_nothing(memory: LongTermMemory) -> None:
    assert [] == await recalled(memory, ADA, "tea")


# Pages


async def test_pages_hold_each_memory_once_newest_first(memory: LongTermMemory) -> None:
    stored = [await memory.store(ADA, f"fact number{n}", 0.5) for n in range(125)]
    expected = [one.fact for one in reversed(stored)]

    assert expected == [one.fact for one in await everything(memory, ADA, limit=50)]
    assert expected == [one.fact for one in await everything(memory, ADA, limit=200)]


async def test_an_unknown_user_has_an_empty_page(memory: LongTermMemory) -> None:
    page = await memory.page(ADA, 50, None)

    assert ([], None) == (list(page.items), page.next_cursor)


@pytest.mark.parametrize("cursor", ["x", "", "-1", "1.5", "9" * 30, "*"])
async def test_a_cursor_that_no_page_gave_is_refused(memory: LongTermMemory, cursor: str) -> None:
    with pytest.raises(UnknownCursor):
        await memory.page(ADA, 50, cursor)


# Correcting and forgetting


async def test_a_fact_can_be_corrected(memory: LongTermMemory) -> None:
    stored = await memory.store(ADA, "The cat is called Minka", 0.4)
    corrected = await memory.correct(ADA, stored.id, "The cat is called Felix", None)

    assert ("The cat is called Felix", 0.4, stored.id) == (corrected.fact, corrected.importance, corrected.id)
    assert stored.created_at == corrected.created_at
    assert [corrected] == await everything(memory, ADA)
    assert ["The cat is called Felix"] == await recalled(memory, ADA, "Felix")


async def test_an_importance_can_be_corrected(memory: LongTermMemory) -> None:
    stored = await memory.store(ADA, "likes tea", 0.4)
    await memory.correct(ADA, stored.id, None, 0.9)

    assert [("likes tea", 0.9)] == [(one.fact, one.importance) for one in await everything(memory, ADA)]


async def test_one_memory_can_be_forgotten(memory: LongTermMemory) -> None:
    stored = await memory.store(ADA, "likes tea", 0.5)
    await memory.store(ADA, "likes coffee", 0.5)
    await memory.forget(ADA, stored.id)

    assert ["likes coffee"] == await facts(memory, ADA)
    assert "likes tea" not in await recalled(memory, ADA, "tea")
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, stored.id)


async def test_what_is_not_there_can_neither_be_corrected_nor_forgotten(memory: LongTermMemory) -> None:
    await memory.store(ADA, "likes tea", 0.5)
    with pytest.raises(MemoryNotFound):
        await memory.correct(ADA, NOBODY, "likes coffee", None)
    with pytest.raises(MemoryNotFound):
        await memory.forget(ADA, NOBODY)

    assert ["likes tea"] == await facts(memory, ADA)


async def test_all_of_a_user_can_be_forgotten_however_much_it_is(memory: LongTermMemory) -> None:
    for n in range(125):
        await memory.store(ADA, f"fact number{n}", 0.5)
    await memory.store(BOB, "likes tea", 0.5)
    await forgotten(memory, ADA)

    assert [] == await facts(memory, ADA)
    assert [] == await recalled(memory, ADA, "fact number7")
    assert ["likes tea"] == await facts(memory, BOB)


async def test_who_is_unknown_is_forgotten_already(memory: LongTermMemory) -> None:
    await forgotten(memory, ADA)
    await forgotten(memory, ADA)


async def test_after_being_forgotten_a_user_can_be_remembered_anew(memory: LongTermMemory) -> None:
    await memory.store(ADA, "likes tea", 0.5)
    await forgotten(memory, ADA)
    await memory.store(ADA, "likes coffee", 0.5)

    assert ["likes coffee"] == await facts(memory, ADA)


# Isolation


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
async def test_nobody_sees_anothers_memories(memory: LongTermMemory, neighbour: str) -> None:
    await memory.store(ADA, "likes green tea", 0.5)
    other = UserId(neighbour)

    assert [] == await facts(memory, other)
    assert [] == await recalled(memory, other, "green tea")


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
async def test_forgetting_one_user_leaves_the_others(memory: LongTermMemory, neighbour: str) -> None:
    await memory.store(ADA, "likes tea", 0.5)
    await memory.store(UserId(neighbour), "likes coffee", 0.5)
    await forgotten(memory, UserId(neighbour))

    assert ["likes tea"] == await facts(memory, ADA)
    assert [] == await facts(memory, UserId(neighbour))


async def test_anothers_memory_can_neither_be_corrected_nor_forgotten(memory: LongTermMemory) -> None:
    stored = await memory.store(ADA, "likes tea", 0.5)
    with pytest.raises(MemoryNotFound):
        await memory.correct(BOB, stored.id, "likes coffee", 0.1)
    with pytest.raises(MemoryNotFound):
        await memory.forget(BOB, stored.id)

    assert [stored] == await everything(memory, ADA)
    assert [] == await everything(memory, BOB)


async def test_whose_a_memory_is_is_told_with_it(memory: LongTermMemory) -> None:
    await memory.store(ADA, "likes tea", 0.5)

    assert ["ada"] == [one.owner for one in await everything(memory, ADA)]
    assert ["ada"] == [one.memory.owner for one in await memory.recall(ADA, "tea", 10)]


# Remembering


async def test_what_a_user_said_is_remembered_by_a_memory_that_learns(memory: LongTermMemory) -> None:
    await memory.remember(completed("My dog is called Bello"))

    assert bool(memory.extracts_from_turns) == any("Bello" in fact for fact in await facts(memory, ADA))
    assert [] == await facts(memory, BOB)


async def test_remembering_a_turn_again_adds_nothing(memory: LongTermMemory) -> None:
    turn = completed("My dog is called Bello")
    await memory.remember(turn)
    once = await everything(memory, ADA)
    await memory.remember(turn)

    assert once == await everything(memory, ADA)


async def test_what_was_remembered_is_forgotten_with_the_user(memory: LongTermMemory) -> None:
    await memory.remember(completed("My dog is called Bello"))
    await forgotten(memory, ADA)

    assert [] == await facts(memory, ADA)


async def test_it_says_that_it_works(memory: LongTermMemory) -> None:
    await memory.check()
