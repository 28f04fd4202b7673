"""The contract suite of LongTermMemory."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from application.ports.memory import LongTermMemory
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import MemoryNotFound, UnknownCursor
from domain.memory import MAX_FACT_CHARS, Memory, MemoryId
from tests.contract.suite import Suite

ADA, BOB = UserId("ada"), UserId("bob")
NEIGHBOURS = ("a", "ada2", "ADA", "ada.", "ada|bob", "ada@example.com", "user:ada", "ada~")
"""Ids that a careless query would confuse with Ada's."""
UNKNOWN = MemoryId("00000000-0000-4000-8000-000000000000")


def completed(message: str, user_id: UserId = ADA) -> Turn:
    turn = Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message)
    return turn.completed("I see.", "stop")


async def list_all(memory: LongTermMemory, user_id: UserId, limit: int = 200) -> list[Memory]:
    """The memories of all pages."""
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
    return [one.fact for one in await list_all(memory, user_id)]


async def recalled(memory: LongTermMemory, user_id: UserId, query: str, limit: int = 10) -> list[str]:
    return [one.memory.fact for one in await memory.recall(user_id, query, limit)]


async def forget_all(memory: LongTermMemory, user_id: UserId) -> None:
    """Forget the user; repeat until it is certain."""
    with anyio.fail_after(60):
        while not await memory.forget_all(user_id):
            await anyio.sleep(0.05)


class LongTermMemoryContract(Suite[LongTermMemory]):
    """Run by every LongTermMemory."""

    @pytest.fixture
    async def memory(self, tmp_path: Path) -> AsyncIterator[LongTermMemory]:
        async with self.opened(tmp_path) as memory:
            yield memory

    # Facts

    async def test_a_stored_fact_is_listed_unchanged(self, memory: LongTermMemory) -> None:
        before = datetime.now(UTC)
        stored = await memory.store(ADA, "Ada's dog is called Bello.", 0.7)

        assert [stored] == await list_all(memory, ADA)
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
    async def test_a_fact_may_be_any_text(self, memory: LongTermMemory, fact: str) -> None:
        stored = await memory.store(ADA, fact, 0.5)

        assert fact == stored.fact
        assert [fact] == await facts(memory, ADA)

    @pytest.mark.parametrize("importance", [0.0, 0.25, 1.0])
    async def test_the_importance_is_stored(self, memory: LongTermMemory, importance: float) -> None:
        await memory.store(ADA, "likes tea", importance)

        assert [importance] == [one.importance for one in await list_all(memory, ADA)]

    async def test_concurrent_stores_all_succeed(self, memory: LongTermMemory) -> None:
        await asyncio.gather(*(memory.store(ADA, f"fact number{n}", 0.5) for n in range(20)))

        assert {f"fact number{n}" for n in range(20)} == set(await facts(memory, ADA))

    # Recall

    async def test_a_related_query_recalls_the_fact(self, memory: LongTermMemory) -> None:
        for fact in ("The dog is called Bello", "The favourite colour is green", "The flat is in Vienna"):
            await memory.store(ADA, fact, 0.5)

        assert (await recalled(memory, ADA, "Which colour should the new curtains have?"))[0] == (
            "The favourite colour is green"
        )

    async def test_recall_returns_scores_between_0_and_1_best_first(self, memory: LongTermMemory) -> None:
        await memory.store(ADA, "green tea with milk", 0.5)
        await memory.store(ADA, "green curtains", 0.5)
        found = await memory.recall(ADA, "green tea with milk", 10)
        scores = [one.score for one in found]

        assert found[0].memory.fact == "green tea with milk"
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)

    async def test_recall_returns_at_most_limit_memories(self, memory: LongTermMemory) -> None:
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
    async def test_any_text_is_a_valid_query(self, memory: LongTermMemory, query: str) -> None:
        await memory.store(ADA, "drinks tea", 0.5)

        assert set(await recalled(memory, ADA, query)) <= {"drinks tea"}

    async def test_recall_without_memories_is_empty(self, memory: LongTermMemory) -> None:
        assert [] == await recalled(memory, ADA, "tea")

    # Pages

    async def test_following_cursors_returns_every_memory_once_newest_first(self, memory: LongTermMemory) -> None:
        stored = [await memory.store(ADA, f"fact number{n}", 0.5) for n in range(125)]
        expected = [one.fact for one in reversed(stored)]

        assert expected == [one.fact for one in await list_all(memory, ADA, limit=50)]
        assert expected == [one.fact for one in await list_all(memory, ADA, limit=200)]

    async def test_an_unknown_user_has_an_empty_page(self, memory: LongTermMemory) -> None:
        page = await memory.page(ADA, 50, None)

        assert ([], None) == (list(page.items), page.next_cursor)

    @pytest.mark.parametrize("cursor", ["x", "", "-1", "1.5", "9" * 30, "*"])
    async def test_an_invalid_cursor_is_rejected(self, memory: LongTermMemory, cursor: str) -> None:
        with pytest.raises(UnknownCursor):
            await memory.page(ADA, 50, cursor)

    # Correcting and forgetting

    async def test_a_fact_can_be_corrected(self, memory: LongTermMemory) -> None:
        stored = await memory.store(ADA, "The cat is called Minka", 0.4)
        corrected = await memory.correct(ADA, stored.id, "The cat is called Felix", None)

        assert ("The cat is called Felix", 0.4, stored.id) == (corrected.fact, corrected.importance, corrected.id)
        assert stored.created_at == corrected.created_at
        assert [corrected] == await list_all(memory, ADA)
        assert ["The cat is called Felix"] == await recalled(memory, ADA, "Felix")

    async def test_an_importance_can_be_corrected(self, memory: LongTermMemory) -> None:
        stored = await memory.store(ADA, "likes tea", 0.4)
        await memory.correct(ADA, stored.id, None, 0.9)

        assert [("likes tea", 0.9)] == [(one.fact, one.importance) for one in await list_all(memory, ADA)]

    async def test_one_memory_can_be_forgotten(self, memory: LongTermMemory) -> None:
        stored = await memory.store(ADA, "likes tea", 0.5)
        await memory.store(ADA, "likes coffee", 0.5)
        await memory.forget(ADA, stored.id)

        assert ["likes coffee"] == await facts(memory, ADA)
        assert "likes tea" not in await recalled(memory, ADA, "tea")
        with pytest.raises(MemoryNotFound):
            await memory.forget(ADA, stored.id)

    async def test_an_unknown_memory_can_be_neither_corrected_nor_forgotten(self, memory: LongTermMemory) -> None:
        await memory.store(ADA, "likes tea", 0.5)
        with pytest.raises(MemoryNotFound):
            await memory.correct(ADA, UNKNOWN, "likes coffee", None)
        with pytest.raises(MemoryNotFound):
            await memory.forget(ADA, UNKNOWN)

        assert ["likes tea"] == await facts(memory, ADA)

    async def test_all_memories_of_a_user_can_be_forgotten(self, memory: LongTermMemory) -> None:
        for n in range(125):
            await memory.store(ADA, f"fact number{n}", 0.5)
        await memory.store(BOB, "likes tea", 0.5)
        await forget_all(memory, ADA)

        assert [] == await facts(memory, ADA)
        assert [] == await recalled(memory, ADA, "fact number7")
        assert ["likes tea"] == await facts(memory, BOB)

    async def test_forgetting_an_unknown_user_succeeds(self, memory: LongTermMemory) -> None:
        await forget_all(memory, ADA)
        await forget_all(memory, ADA)

    async def test_a_forgotten_user_can_store_facts_again(self, memory: LongTermMemory) -> None:
        await memory.store(ADA, "likes tea", 0.5)
        await forget_all(memory, ADA)
        await memory.store(ADA, "likes coffee", 0.5)

        assert ["likes coffee"] == await facts(memory, ADA)

    # Isolation

    @pytest.mark.parametrize("neighbour", NEIGHBOURS)
    async def test_a_user_cannot_see_another_users_memories(self, memory: LongTermMemory, neighbour: str) -> None:
        await memory.store(ADA, "likes green tea", 0.5)
        other = UserId(neighbour)

        assert [] == await facts(memory, other)
        assert [] == await recalled(memory, other, "green tea")

    @pytest.mark.parametrize("neighbour", NEIGHBOURS)
    async def test_forgetting_a_user_keeps_the_memories_of_others(self, memory: LongTermMemory, neighbour: str) -> None:
        await memory.store(ADA, "likes tea", 0.5)
        await memory.store(UserId(neighbour), "likes coffee", 0.5)
        await forget_all(memory, UserId(neighbour))

        assert ["likes tea"] == await facts(memory, ADA)
        assert [] == await facts(memory, UserId(neighbour))

    async def test_another_users_memory_can_be_neither_corrected_nor_forgotten(self, memory: LongTermMemory) -> None:
        stored = await memory.store(ADA, "likes tea", 0.5)
        with pytest.raises(MemoryNotFound):
            await memory.correct(BOB, stored.id, "likes coffee", 0.1)
        with pytest.raises(MemoryNotFound):
            await memory.forget(BOB, stored.id)

        assert [stored] == await list_all(memory, ADA)
        assert [] == await list_all(memory, BOB)

    async def test_every_memory_names_its_owner(self, memory: LongTermMemory) -> None:
        await memory.store(ADA, "likes tea", 0.5)

        assert ["ada"] == [one.owner for one in await list_all(memory, ADA)]
        assert ["ada"] == [one.memory.owner for one in await memory.recall(ADA, "tea", 10)]

    # Remembering

    async def test_a_memory_that_extracts_from_turns_keeps_facts_from_them(self, memory: LongTermMemory) -> None:
        await memory.remember(completed("My dog is called Bello"))

        assert bool(memory.extracts_from_turns) == any("Bello" in fact for fact in await facts(memory, ADA))
        assert [] == await facts(memory, BOB)

    async def test_remembering_a_turn_again_adds_nothing(self, memory: LongTermMemory) -> None:
        turn = completed("My dog is called Bello")
        await memory.remember(turn)
        once = await list_all(memory, ADA)
        await memory.remember(turn)

        assert once == await list_all(memory, ADA)

    async def test_facts_extracted_from_turns_are_forgotten_with_the_user(self, memory: LongTermMemory) -> None:
        await memory.remember(completed("My dog is called Bello"))
        await forget_all(memory, ADA)

        assert [] == await facts(memory, ADA)

    async def test_the_check_of_a_working_memory_succeeds(self, memory: LongTermMemory) -> None:
        await memory.check()


class DurableMemoryContract(LongTermMemoryContract):
    """Run by every LongTermMemory that still holds its memories after it is closed and opened again."""

    async def test_a_stored_fact_survives_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as memory:
            stored = await memory.store(ADA, "likes tea", 0.5)
        async with self.opened(tmp_path) as memory:
            assert [stored] == await list_all(memory, ADA)
            assert ["likes tea"] == await recalled(memory, ADA, "tea")

    async def test_a_correction_survives_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as memory:
            stored = await memory.store(ADA, "likes tea", 0.5)
            corrected = await memory.correct(ADA, stored.id, "likes coffee", 0.9)
        async with self.opened(tmp_path) as memory:
            assert [corrected] == await list_all(memory, ADA)

    async def test_a_forgotten_memory_stays_forgotten_after_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as memory:
            forgotten = await memory.store(ADA, "likes tea", 0.5)
            await memory.store(ADA, "likes coffee", 0.5)
            await memory.forget(ADA, forgotten.id)
        async with self.opened(tmp_path) as memory:
            assert ["likes coffee"] == await facts(memory, ADA)

    async def test_a_forgotten_user_stays_forgotten_after_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as memory:
            await memory.store(ADA, "likes tea", 0.5)
            await memory.store(BOB, "likes coffee", 0.5)
            await forget_all(memory, ADA)
        async with self.opened(tmp_path) as memory:
            assert ([], ["likes coffee"]) == (await facts(memory, ADA), await facts(memory, BOB))

    async def test_remembering_a_turn_again_after_reopening_adds_nothing(self, tmp_path: Path) -> None:
        turn = completed("My dog is called Bello")
        async with self.opened(tmp_path) as memory:
            await memory.remember(turn)
            once = await list_all(memory, ADA)
        async with self.opened(tmp_path) as memory:
            await memory.remember(turn)
            assert once == await list_all(memory, ADA)


WORDS_OF_MANY_LANGUAGES = [
    ("我的狗叫贝罗。", "狗"),
    ("我的狗叫贝罗。", "我的狗叫什么名字？"),
    ("我的狗叫贝罗。", "贝罗"),
    ("我對花生過敏。", "花生"),
    ("住在维也纳", "我在维也纳住哪里？"),
    ("私の犬の名前はベロです。", "犬"),
    ("私の犬の名前はベロです。", "犬は何という名前ですか？"),
    ("私の犬の名前はベロです。", "ベロ"),
    ("私の犬の名前はベロです。", "ﾍﾞﾛ"),
    ("ねこがすきです", "ねこ"),
    ("アイスコーヒーが好き", "コーヒー"),
    ("제 개의 이름은 벨로입니다.", "개가 아파요"),
    ("제 개의 이름은 벨로입니다.", "벨로"),
    ("강아지를 키웁니다", "제 강아지는 몇 살인가요?"),
    ("หมาของฉันชื่อเบลโล", "หมา"),
    ("หมาของฉันชื่อเบลโล", "หมาชื่ออะไร"),
    ("Мою собаку зовут Белло", "собака"),
    ("Мою собаку зовут Белло", "Что едят собаки?"),
    ("живёт в Вене", "Вена"),
    ("живёт в Вене", "Где он живет?"),
    ("любит чай", "Какой чай я люблю?"),
    ("пьёт много чая", "чай"),
    ("работает врачом", "врач на работе"),
    ("اسم كلبي بيلو", "ما اسم الكلب؟"),
    ("يحب القهوة", "قهوة"),
    ("يَشرَبُ الشّاي", "شاي"),
    ("मेरे कुत्ते का नाम बेलो है।", "बेलो"),
    ("has a 🐕", "🐕"),
    ("likes ☕️ in the morning", "☕"),
    ("is a 👩🏽‍🚀", "🚀"),
    ("is from 🇦🇹", "🇦🇹"),
    ("lives in Zürich", "zurich"),
    ("lives in Schloßstraße 4", "SCHLOSSSTRASSE"),
    ("ζει στην ΟΔΟΣ 7", "οδός"),
    ("ＴＥＡ drinker", "tea"),
]
"""Facts and queries that find them: languages without spaces, inflected words, symbols, and spellings."""

OTHER_WORDS = [
    ("我的狗叫贝罗。", "你的猫呢？"),
    ("我的狗叫贝罗。", "我的"),
    ("私の犬の名前はベロです。", "猫です"),
    ("제 개의 이름은 벨로입니다.", "고양이입니다"),
    ("หมาของฉันชื่อเบลโล", "ปลา"),
    ("Мою собаку зовут Белло", "кошка"),
    ("Мою собаку зовут Белло", "Где мой дом?"),
    ("اسم كلبي بيلو", "قهوة"),
    ("is from 🇦🇹", "🇦🇺"),
    ("likes ☕️", "🫖"),
    ("has a 🐕️", "☕️"),
]
"""Facts and queries that share no word."""


class RecallByWordsContract(LongTermMemoryContract):
    """Run by every LongTermMemory that recalls by words, in addition to its other suites."""

    @pytest.mark.parametrize(("fact", "query"), WORDS_OF_MANY_LANGUAGES)
    async def test_a_fact_is_recalled_by_its_words_in_any_form(
        self, memory: LongTermMemory, fact: str, query: str
    ) -> None:
        await memory.store(ADA, fact, 0.5)

        assert [fact] == await recalled(memory, ADA, query)

    @pytest.mark.parametrize(("fact", "query"), OTHER_WORDS)
    async def test_a_fact_is_not_recalled_by_other_words(self, memory: LongTermMemory, fact: str, query: str) -> None:
        await memory.store(ADA, fact, 0.5)

        assert [] == await recalled(memory, ADA, query)

    async def test_a_fact_that_shares_more_words_comes_first_in_a_language_without_spaces(
        self, memory: LongTermMemory
    ) -> None:
        for fact in ("我的猫叫咪咪。", "我的狗叫贝罗。", "我的妹妹叫安娜。"):
            await memory.store(ADA, fact, 0.5)

        assert (await recalled(memory, ADA, "我的狗叫什么名字？"))[0] == "我的狗叫贝罗。"

    async def test_a_corrected_fact_is_recalled_by_its_new_words_only(self, memory: LongTermMemory) -> None:
        stored = await memory.store(ADA, "我的狗叫贝罗。", 0.5)
        await memory.correct(ADA, stored.id, "Мою кошку зовут Мурка", None)

        assert [] == await recalled(memory, ADA, "狗")
        assert ["Мою кошку зовут Мурка"] == await recalled(memory, ADA, "кошка")

    async def test_every_word_of_a_long_fact_is_found(self, memory: LongTermMemory) -> None:
        fact = " ".join(f"word{n}" for n in range(200)) + " 狗"
        await memory.store(ADA, fact, 0.5)

        assert [[fact], [fact]] == [await recalled(memory, ADA, query) for query in ("word199", "狗")]
