"""What every history does: one suite for the fake and the databases."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.history_in_memory import HistoryInMemory
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.history import ConversationHistory
from domain.conversation import DEFAULT_CONVERSATION, Conversation, ConversationId, Turn, TurnId, TurnStatus, UserId
from domain.errors import Cancelled, TurnNotFound, UnknownCursor, WorkerLost

ADA, BOB = UserId("ada"), UserId("bob")
HOME, WORK = ConversationId("home"), ConversationId("work")
START = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)


@pytest.fixture(params=["in_memory", "sql_on_sqlite"])
async def history(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ConversationHistory]:
    store: Literal["in_memory", "sql_on_sqlite"] = request.param
    match store:
        case "in_memory":
            yield HistoryInMemory()
        case "sql_on_sqlite":
            database = SQLiteDatabase(f"sqlite:///{tmp_path}/chat.db")
            await database.open()
            yield HistorySQL(database)
            await database.close()


def new_turn(
    message: str = "Hello",
    user_id: UserId = ADA,
    conversation_id: ConversationId = DEFAULT_CONVERSATION,
    started_at: datetime = START,
) -> Turn:
    return Turn(TurnId(str(uuid4())), user_id, conversation_id, started_at, message)


async def begun(history: ConversationHistory, *turns: Turn) -> None:
    for turn in turns:
        await history.begin(turn)


async def kept(history: ConversationHistory, turn: Turn, reply: str = "Hi") -> Turn:
    """The turn, begun and completed."""
    await history.begin(turn)
    ended = turn.completed(reply, "stop")
    await history.finish(ended)
    return ended


async def several(history: ConversationHistory, count: int, conversation_id: ConversationId = HOME) -> list[Turn]:
    return [await kept(history, new_turn(f"message {n}", conversation_id=conversation_id)) for n in range(count)]


# One turn


async def test_a_turn_that_has_begun_is_there_as_it_was_given(history: ConversationHistory) -> None:
    turn = new_turn()
    await history.begin(turn)
    assert turn == await history.get(turn.id)


async def test_a_turn_is_kept_as_it_ended(history: ConversationHistory) -> None:
    turn = new_turn()
    await history.begin(turn)
    ended = turn.completed("Hi, there", "length")
    assert await history.finish(ended)
    assert ended == await history.get(turn.id)


async def test_a_turn_is_kept_as_it_was_cut(history: ConversationHistory) -> None:
    turn = new_turn()
    await history.begin(turn)
    ended = turn.cut("Hi, th", Cancelled())
    assert await history.finish(ended)
    assert ended == await history.get(turn.id)


async def test_the_first_end_of_a_turn_stands(history: ConversationHistory) -> None:
    first = await kept(history, new_turn(), "first")
    assert await history.finish(replace(first, reply="second", status=TurnStatus.INTERRUPTED, reason="cancelled"))
    assert first == await history.get(first.id)


async def test_a_turn_that_never_began_can_not_be_finished(history: ConversationHistory) -> None:
    turn = new_turn()
    assert not await history.finish(turn.completed("Hi", "stop"))
    with pytest.raises(TurnNotFound):
        await history.get(turn.id)


@pytest.mark.parametrize("turn_id", ["00000000-0000-4000-8000-000000000000", "no uuid", "", "' OR 1=1 --", "%"])
async def test_an_unknown_turn_is_not_found(history: ConversationHistory, turn_id: str) -> None:
    await history.begin(new_turn())
    with pytest.raises(TurnNotFound):
        await history.get(TurnId(turn_id))


async def test_moments_keep_their_microseconds_and_come_back_in_utc(history: ConversationHistory) -> None:
    moments = [
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    turns = [new_turn(started_at=moment) for moment in moments]
    await begun(history, *turns)
    page = await history.page(ADA, None, 10, None)
    assert moments == [turn.started_at for turn in page.items]
    assert {timedelta(0)} == {turn.started_at.utcoffset() for turn in page.items}


async def test_a_moment_in_another_zone_is_the_same_moment(history: ConversationHistory) -> None:
    turn = new_turn(started_at=START.astimezone(timezone(timedelta(hours=5, minutes=30))))
    await history.begin(turn)
    assert turn.started_at == (await history.get(turn.id)).started_at


# Text so far


async def test_the_text_so_far_is_seen_while_the_turn_runs(history: ConversationHistory) -> None:
    turn, other = new_turn(), new_turn()
    await begun(history, turn, other)
    await history.save_progress({turn.id: "Hi, th", other.id: "Well"})
    assert [replace(turn, reply="Hi, th"), replace(other, reply="Well")] == [
        await history.get(turn.id),
        await history.get(other.id),
    ]


async def test_the_text_so_far_changes_no_turn_that_has_ended(history: ConversationHistory) -> None:
    ended = await kept(history, new_turn(), "Hi, there")
    await history.save_progress({ended.id: "Hi, th"})
    assert ended == await history.get(ended.id)


async def test_the_text_so_far_brings_no_deleted_turn_back(history: ConversationHistory) -> None:
    turn = new_turn()
    await history.begin(turn)
    await history.clear(ADA, None)
    await history.save_progress({turn.id: "Hi"})
    assert (await history.page(ADA, None, 10, None)).items == []


async def test_no_texts_at_all_can_be_saved(history: ConversationHistory) -> None:
    await history.save_progress({})


# What a dead process left behind


async def test_turns_left_running_are_interrupted_where_they_have_text_and_failed_where_not(
    history: ConversationHistory,
) -> None:
    silent, cut = new_turn(), new_turn()
    await begun(history, silent, cut)
    await history.save_progress({cut.id: "Hi, th"})
    assert await history.finish_abandoned() == 2
    assert [silent.cut("", WorkerLost()), cut.cut("Hi, th", WorkerLost())] == [
        await history.get(silent.id),
        await history.get(cut.id),
    ]


async def test_turns_that_had_ended_are_not_abandoned(history: ConversationHistory) -> None:
    ended = await kept(history, new_turn())
    assert await history.finish_abandoned() == 0
    assert ended == await history.get(ended.id)


# The latest turns of a conversation


async def test_the_latest_turns_come_latest_first_and_no_more_than_asked_for(history: ConversationHistory) -> None:
    turns = await several(history, 5)
    assert [turn.exchange for turn in turns[:1:-1]] == list(await history.latest(ADA, HOME, 3))


async def test_the_latest_turns_are_those_that_ended_with_text(history: ConversationHistory) -> None:
    told = await kept(history, new_turn())
    await kept(history, new_turn(), reply="")
    running = new_turn()
    await history.begin(running)
    await history.save_progress({running.id: "Hi, th"})
    assert [told.exchange] == list(await history.latest(ADA, DEFAULT_CONVERSATION, 10))


async def test_the_latest_turns_are_of_that_conversation_and_that_user(history: ConversationHistory) -> None:
    mine = await kept(history, new_turn(conversation_id=HOME))
    await kept(history, new_turn(conversation_id=WORK))
    await kept(history, new_turn(user_id=BOB, conversation_id=HOME))
    assert [mine.exchange] == list(await history.latest(ADA, HOME, 10))


async def test_nothing_was_said_in_an_unknown_conversation(history: ConversationHistory) -> None:
    assert list(await history.latest(ADA, HOME, 10)) == []


# Pages


async def test_a_page_holds_the_newest_turns_oldest_first(history: ConversationHistory) -> None:
    turns = await several(history, 5)
    page = await history.page(ADA, HOME, 3, None)
    assert turns[2:] == list(page.items)


async def test_pages_lead_to_every_turn_once(history: ConversationHistory) -> None:
    turns = await several(history, 7)
    newest = await history.page(ADA, None, 3, None)
    older = await history.page(ADA, None, 3, newest.next_cursor)
    oldest = await history.page(ADA, None, 3, older.next_cursor)
    assert turns == [*oldest.items, *older.items, *newest.items]
    assert oldest.next_cursor is None


async def test_a_page_that_just_holds_all_turns_is_the_last(history: ConversationHistory) -> None:
    await several(history, 3)
    assert (await history.page(ADA, None, 3, None)).next_cursor is None


async def test_turns_that_begin_meanwhile_do_not_move_older_pages(history: ConversationHistory) -> None:
    turns = await several(history, 4)
    newest = await history.page(ADA, None, 2, None)
    await several(history, 3)
    assert turns[:2] == list((await history.page(ADA, None, 2, newest.next_cursor)).items)


async def test_a_page_holds_running_and_failed_turns_too(history: ConversationHistory) -> None:
    failed = await kept(history, new_turn(), reply="")
    running = new_turn()
    await history.begin(running)
    assert [failed, running] == list((await history.page(ADA, None, 10, None)).items)


async def test_a_page_without_a_conversation_holds_all_of_them_in_order(history: ConversationHistory) -> None:
    turns = [
        await kept(history, new_turn(conversation_id=HOME)),
        await kept(history, new_turn(conversation_id=WORK)),
        await kept(history, new_turn(conversation_id=HOME)),
    ]
    assert turns == list((await history.page(ADA, None, 10, None)).items)


async def test_a_page_of_one_conversation_holds_no_other(history: ConversationHistory) -> None:
    home = await several(history, 3, HOME)
    await several(history, 3, WORK)
    newest = await history.page(ADA, HOME, 2, None)
    oldest = await history.page(ADA, HOME, 2, newest.next_cursor)
    assert home == [*oldest.items, *newest.items]


async def test_a_page_holds_no_other_users_turns(history: ConversationHistory) -> None:
    await kept(history, new_turn(user_id=BOB))
    assert list((await history.page(ADA, None, 10, None)).items) == []


async def test_the_place_of_a_turn_is_that_of_its_begin_whenever_it_ends(history: ConversationHistory) -> None:
    first, second = new_turn("first"), new_turn("second")
    await begun(history, first, second)
    await history.finish(second.completed("b", "stop"))
    await history.finish(first.completed("a", "stop"))
    assert [t.user_message for t in (await history.page(ADA, None, 10, None)).items] == ["first", "second"]


async def test_a_page_ends_early_where_its_texts_are_long_and_the_next_one_goes_on(
    history: ConversationHistory,
) -> None:
    turns = [await kept(history, new_turn(str(number)), "\u00e4" * 100_000) for number in range(9)]
    newest = await history.page(ADA, None, 200, None)
    older = await history.page(ADA, None, 200, newest.next_cursor)
    oldest = await history.page(ADA, None, 200, older.next_cursor)
    assert [turns[5:], turns[1:5], turns[:1]] == [list(page.items) for page in (newest, older, oldest)]
    assert oldest.next_cursor is None


async def test_a_page_holds_one_turn_however_long_it_is(history: ConversationHistory) -> None:
    turn = await kept(history, new_turn(), "x" * 1_000_000)
    await kept(history, new_turn(), "x" * 1_000_000)
    newest = await history.page(ADA, None, 200, None)
    assert [turn] == list((await history.page(ADA, None, 200, newest.next_cursor)).items)


@pytest.mark.parametrize("cursor", ["", " 1", "-1", "1.0", "1e3", "٣", "²", "0x1", "a", "1\n", "9" * 19, "1" * 5000])
async def test_a_cursor_that_no_page_gave_is_refused(history: ConversationHistory, cursor: str) -> None:
    await several(history, 1)
    with pytest.raises(UnknownCursor):
        await history.page(ADA, None, 10, cursor)
    with pytest.raises(UnknownCursor):
        await history.page(ADA, HOME, 10, cursor)
    with pytest.raises(UnknownCursor):
        await history.conversations(ADA, 10, cursor)


# Conversations


async def test_conversations_come_in_outline_the_one_with_the_latest_turn_first(history: ConversationHistory) -> None:
    minutes = [START + timedelta(minutes=n) for n in range(4)]
    for conversation, moment in zip((HOME, WORK, WORK, HOME), minutes, strict=True):
        await history.begin(new_turn(conversation_id=conversation, started_at=moment))
    assert [
        Conversation(ADA, HOME, minutes[0], minutes[3], 2),
        Conversation(ADA, WORK, minutes[1], minutes[2], 2),
    ] == list((await history.conversations(ADA, 10, None)).items)


async def test_pages_lead_to_every_conversation_once(history: ConversationHistory) -> None:
    ids = [ConversationId(f"c{n}") for n in range(5)]
    await begun(history, *(new_turn(conversation_id=id) for id in ids))
    first = await history.conversations(ADA, 2, None)
    second = await history.conversations(ADA, 2, first.next_cursor)
    third = await history.conversations(ADA, 2, second.next_cursor)
    assert ids[::-1] == [c.id for c in (*first.items, *second.items, *third.items)]
    assert third.next_cursor is None


async def test_an_unknown_user_has_no_conversations(history: ConversationHistory) -> None:
    await history.begin(new_turn(user_id=BOB))
    assert list((await history.conversations(ADA, 10, None)).items) == []


# Deleting


async def test_clearing_a_user_leaves_nothing_of_theirs_and_all_of_others(history: ConversationHistory) -> None:
    await several(history, 2, HOME)
    await several(history, 1, WORK)
    other = await kept(history, new_turn(user_id=BOB))
    assert await history.clear(ADA, None) == 3
    assert list((await history.page(ADA, None, 10, None)).items) == []
    assert list((await history.conversations(ADA, 10, None)).items) == []
    assert [other] == list((await history.page(BOB, None, 10, None)).items)


async def test_clearing_a_conversation_leaves_the_others(history: ConversationHistory) -> None:
    await several(history, 2, HOME)
    work = await several(history, 2, WORK)
    assert await history.clear(ADA, HOME) == 2
    assert work == list((await history.page(ADA, None, 10, None)).items)
    assert [c.id for c in (await history.conversations(ADA, 10, None)).items] == [WORK]
    assert list(await history.latest(ADA, HOME, 10)) == []


async def test_clearing_again_or_nothing_deletes_nothing(history: ConversationHistory) -> None:
    await several(history, 2, HOME)
    assert [
        await history.clear(ADA, WORK),
        await history.clear(ADA, HOME),
        await history.clear(ADA, HOME),
        await history.clear(BOB, None),
    ] == [0, 2, 0, 0]


async def test_a_turn_that_was_deleted_can_not_be_finished(history: ConversationHistory) -> None:
    turn = new_turn()
    await history.begin(turn)
    await history.clear(ADA, None)
    assert not await history.finish(turn.completed("Hi", "stop"))
    with pytest.raises(TurnNotFound):
        await history.get(turn.id)


async def test_a_turn_after_the_deletion_starts_an_empty_history(history: ConversationHistory) -> None:
    await several(history, 3, HOME)
    await history.clear(ADA, None)
    turn = await kept(history, new_turn(conversation_id=HOME))
    assert [turn] == list((await history.page(ADA, None, 10, None)).items)
    assert [Conversation(ADA, HOME, START, START, 1)] == list((await history.conversations(ADA, 10, None)).items)


# At the same time


async def test_turns_that_begin_at_the_same_time_all_get_a_place_of_their_own(history: ConversationHistory) -> None:
    turns = [new_turn(str(n), user, home) for n in range(20) for user in (ADA, BOB) for home in (HOME, WORK)]
    await asyncio.gather(*map(history.begin, turns))
    newest = await history.page(ADA, None, 25, None)
    oldest = await history.page(ADA, None, 25, newest.next_cursor)
    expected = sorted(turn.id for turn in turns if turn.user_id == ADA)
    assert expected == sorted(turn.id for turn in (*oldest.items, *newest.items))


async def test_what_has_returned_is_seen_by_whoever_asks_next(history: ConversationHistory) -> None:
    async def converse(user_id: UserId) -> None:
        for _ in range(10):
            turn = await kept(history, new_turn(user_id=user_id))
            assert turn == (await history.page(user_id, None, 1, None)).items[0]
            assert turn.exchange == (await history.latest(user_id, DEFAULT_CONVERSATION, 1))[0]

    await asyncio.gather(*(converse(UserId(f"user{n}")) for n in range(5)))


async def test_a_turn_is_wholly_deleted_or_wholly_kept_by_a_clear_at_the_same_time(
    history: ConversationHistory,
) -> None:
    for _ in range(20):
        turn = new_turn()
        await history.begin(turn)
        finished, deleted = await asyncio.gather(history.finish(turn.completed("Hi", "stop")), history.clear(ADA, None))
        assert deleted == 1
        assert list((await history.page(ADA, None, 10, None)).items) == []
        assert finished in (True, False)


async def test_a_store_that_works_answers(history: ConversationHistory) -> None:
    await history.check()


# Texts

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
"""Whatever can reach a history: NUL and lone surrogates are stopped before."""


@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=100, max_size=150))
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
async def test_every_text_comes_back_as_it_was_given(
    history: ConversationHistory, texts: list[tuple[str, str]]
) -> None:
    turns = [new_turn(message) for message, _ in texts]
    ended = [turn.completed(reply, "stop") for turn, (_, reply) in zip(turns, texts, strict=True)]
    await asyncio.gather(*map(history.begin, turns))
    await asyncio.gather(*map(history.finish, ended))
    assert ended == list(await asyncio.gather(*(history.get(turn.id) for turn in turns)))


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nb\rc\nd\u2028e\u2029f\x85g",
        "e\u0301 is not \u00e9",
        "👩‍👩‍👧‍👦 🇪🇺 \U0010ffff",
        "'; DROP TABLE turns; -- :name %s %(name)s ?",
        "\x01\x1b[31m\x7f\ufeff\ufffe\uffff",
        "x" * 256_000,
        " \t ",
    ],
    ids=["line ends", "normal forms", "beyond the basic plane", "SQL", "controls", "long", "blank"],
)
async def test_a_hostile_text_comes_back_as_it_was_given(history: ConversationHistory, text: str) -> None:
    ended = await kept(history, new_turn(text), text)
    assert ended == await history.get(ended.id)


async def test_ids_that_differ_in_case_or_look_like_patterns_are_different(history: ConversationHistory) -> None:
    users = [UserId(id) for id in ("ada", "Ada", "ADA", "a.a", "ada~", "a|a", "a_a")]
    await begun(history, *(new_turn(id, user_id=id) for id in users))
    await history.clear(UserId("a_a"), None)
    found = [[t.user_message for t in (await history.page(id, None, 10, None)).items] for id in users]
    assert [[id] for id in users[:-1]] + [[]] == found
