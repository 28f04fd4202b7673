"""The contract suite of ConversationHistory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from application.ports.history import KEY_RETENTION, ConversationHistory, ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import (
    DEFAULT_CONVERSATION,
    Conversation,
    ConversationId,
    Turn,
    TurnId,
    TurnStatus,
    Usage,
    UserId,
)
from domain.errors import (
    Cancelled,
    ChatError,
    ClientDisconnected,
    ConversationNotFound,
    IdempotencyKeyReused,
    ServerShuttingDown,
    TurnDeadline,
    TurnNotFound,
    UnknownCursor,
    WorkerLost,
)
from domain.idempotency import IdempotencyKey
from domain.resent import MAX_STORED_CHARS, SentMessage
from tests.contract.suite import Suite

ADA, BOB = UserId("ada"), UserId("bob")
HOME, WORK = ConversationId("home"), ConversationId("work")
START = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)


def new_turn(
    message: str = "Hello",
    user_id: UserId = ADA,
    conversation_id: ConversationId = DEFAULT_CONVERSATION,
    started_at: datetime = START,
    chosen_id: TurnId | None = None,
) -> Turn:
    return Turn(TurnId(str(uuid4())), user_id, conversation_id, started_at, message, chosen_id=chosen_id)


LEASE = timedelta(hours=1)
"""A lease that does not expire during a test."""


async def begin(history: ConversationHistory, *turns: Turn, lease: timedelta = LEASE) -> None:
    for turn in turns:
        await history.begin(TurnBegin(turn, lease))


KEY = IdempotencyKey("name", "fingerprint")
CHOSEN, OTHER_CHOSEN = TurnId("5f0c4f2e-1111-4111-8111-0123456789ab"), TurnId("5f0c4f2e-2222-4222-8222-0123456789ab")


async def begin_keyed(
    history: ConversationHistory, turn: Turn, key: IdempotencyKey = KEY, retention: timedelta = KEY_RETENTION
) -> Turn:
    return await history.begin(TurnBegin(turn, LEASE, key, retention))


async def fail(history: ConversationHistory, turn: Turn) -> Turn:
    """End a turn that has begun by an error, without text."""
    failed = await history.finish(TurnEnd(turn.ended_by(TurnDeadline())))
    assert failed is not None
    return failed


async def save(history: ConversationHistory, turn: Turn, text: str, start: int = 0, lease: timedelta = LEASE) -> None:
    await history.save_progress({turn.id: ReplyAddition(start, text)}, lease)


async def complete(history: ConversationHistory, turn: Turn, reply: str = "Hi") -> Turn:
    """Begin and finish the turn; return it as it ended."""
    await begin(history, turn)
    ended = turn.completed(reply, "stop")
    await history.finish(TurnEnd(ended))
    return ended


async def begin_instead(
    history: ConversationHistory, first: Turn, turn: Turn | None = None, key: IdempotencyKey | None = None
) -> Turn:
    """Begin a turn that takes the place of `first` and of the turns after it."""
    turn = turn or new_turn("instead", conversation_id=first.conversation_id)
    return await history.begin(TurnBegin(turn, LEASE, key, retracts_from=first.id))


async def complete_several(
    history: ConversationHistory, count: int, conversation_id: ConversationId = HOME
) -> list[Turn]:
    return [await complete(history, new_turn(f"message {n}", conversation_id=conversation_id)) for n in range(count)]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
"""Text that can reach a history: NUL and lone surrogates are rejected before."""


class ConversationHistoryContract(Suite[ConversationHistory]):
    """Run by every ConversationHistory."""

    @pytest.fixture
    async def history(self, tmp_path: Path) -> AsyncIterator[ConversationHistory]:
        async with self.opened(tmp_path) as history:
            yield history

    # One turn

    async def test_a_begun_turn_can_be_read_back(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        assert turn == await history.get(turn.id, None)

    async def test_a_completed_turn_can_be_read_back(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        ended = turn.completed("Hi, there", "length")
        assert ended == await history.finish(TurnEnd(ended))
        assert ended == await history.get(turn.id, None)

    async def test_an_interrupted_turn_can_be_read_back(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        ended = turn.ended_by(Cancelled(), "Hi, th")
        assert ended == await history.finish(TurnEnd(ended))
        assert ended == await history.get(turn.id, None)

    async def test_finishing_a_finished_turn_changes_nothing(self, history: ConversationHistory) -> None:
        first = await complete(history, new_turn(), "first")
        second = replace(first, reply="second", status=TurnStatus.INTERRUPTED, reason="cancelled")
        assert first == await history.finish(TurnEnd(second))
        assert first == await history.get(first.id, None)

    async def test_a_turn_that_never_began_cannot_be_finished(self, history: ConversationHistory) -> None:
        turn = new_turn()
        assert await history.finish(TurnEnd(turn.completed("Hi", "stop"))) is None
        with pytest.raises(TurnNotFound):
            await history.get(turn.id, None)

    @pytest.mark.parametrize("turn_id", ["00000000-0000-4000-8000-000000000000", "not a uuid", "", "' OR 1=1 --", "%"])
    async def test_an_unknown_turn_is_not_found(self, history: ConversationHistory, turn_id: str) -> None:
        await begin(history, new_turn())
        with pytest.raises(TurnNotFound):
            await history.get(TurnId(turn_id), None)

    async def test_timestamps_keep_microseconds_and_are_returned_in_utc(self, history: ConversationHistory) -> None:
        moments = [
            datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(2026, 3, 29, 2, 30, 0, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        ]
        turns = [new_turn(started_at=moment) for moment in moments]
        await begin(history, *turns)
        page = await history.page(ADA, None, 10, None)
        assert moments == [turn.started_at for turn in page.items]
        assert {timedelta(0)} == {turn.started_at.utcoffset() for turn in page.items}

    async def test_a_timestamp_in_another_time_zone_is_the_same_instant(self, history: ConversationHistory) -> None:
        turn = new_turn(started_at=START.astimezone(timezone(timedelta(hours=5, minutes=30))))
        await begin(history, turn)
        assert turn.started_at == (await history.get(turn.id, None)).started_at

    # Progress

    async def test_saved_progress_is_visible_while_the_turn_runs(self, history: ConversationHistory) -> None:
        turn, other = new_turn(), new_turn()
        await begin(history, turn, other)
        additions = {turn.id: ReplyAddition(0, "Hi, th"), other.id: ReplyAddition(0, "Well")}
        await history.save_progress(additions, LEASE)
        assert [replace(turn, reply="Hi, th"), replace(other, reply="Well")] == [
            await history.get(turn.id, None),
            await history.get(other.id, None),
        ]

    async def test_saving_progress_does_not_change_a_finished_turn(self, history: ConversationHistory) -> None:
        ended = await complete(history, new_turn(), "Hi, there")
        await save(history, ended, "Hi, th")
        assert ended == await history.get(ended.id, None)

    async def test_saving_progress_does_not_restore_a_deleted_turn(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        await history.clear(ADA, None)
        await save(history, turn, "Hi")
        assert (await history.page(ADA, None, 10, None)).items == []

    async def test_additions_are_joined_in_order_while_the_turn_runs_and_after_it_ended(
        self, history: ConversationHistory
    ) -> None:
        turn = new_turn()
        await begin(history, turn)
        parts = [f"part {n} é\U0001f600, " for n in range(12)]
        for n, part in enumerate(parts):
            await save(history, turn, part, start=len("".join(parts[:n])))
        saved = "".join(parts)
        assert [saved, saved] == [
            (await history.get(turn.id, None)).reply,
            (await history.page(ADA, None, 10, None)).items[0].reply,
        ]
        ended = turn.completed(saved + "end", "stop")
        assert ended == await history.finish(TurnEnd(ended))
        assert ended == await history.get(turn.id, None)
        assert [ended] == list((await history.page(ADA, None, 10, None)).items)
        assert [ended.exchange] == list(await history.latest(ADA, DEFAULT_CONVERSATION, 10))

    async def test_a_reply_that_was_saved_completely_is_part_of_the_context(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        await save(history, turn, "Hi")
        ended = turn.completed("Hi", "stop")
        assert ended == await history.finish(TurnEnd(ended))
        assert ended == await history.get(turn.id, None)
        assert [ended.exchange] == list(await history.latest(ADA, DEFAULT_CONVERSATION, 10))

    async def test_a_repeated_save_does_not_duplicate_text(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        for start, text in [(0, "Hi"), (0, "Hi, "), (4, "th"), (4, "there"), (4, "there"), (9, "")]:
            await save(history, turn, text, start=start)
        assert (await history.get(turn.id, None)).reply == "Hi, there"

    async def test_saving_an_addition_does_not_change_a_finished_turn(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        await save(history, turn, "Hi, th")
        ended = turn.ended_by(Cancelled(), "Hi, there")
        await history.finish(TurnEnd(ended))
        await save(history, turn, "ere, late", start=6)
        assert ended == await history.get(turn.id, None)

    async def test_turns_do_not_share_additions(self, history: ConversationHistory) -> None:
        first, second = new_turn(), new_turn(user_id=BOB)
        await begin(history, first, second)
        await save(history, first, "first")
        await save(history, second, "second")
        await history.clear(ADA, None)
        third = new_turn()
        await begin(history, third)
        await save(history, third, "third")
        assert ["second", "third"] == [(await history.get(turn.id, None)).reply for turn in (second, third)]

    async def test_saving_no_progress_is_allowed(self, history: ConversationHistory) -> None:
        assert not await history.save_progress({}, LEASE)

    async def test_turns_that_do_not_run_any_more_are_reported_when_their_progress_is_saved(
        self, history: ConversationHistory
    ) -> None:
        running, ended, deleted, other = new_turn(), new_turn(), new_turn(user_id=BOB), new_turn()
        await begin(history, running, ended, deleted, other)
        await history.finish(TurnEnd(ended.completed("Hi", "stop")))
        await history.clear(BOB, None)

        lost = await history.save_progress({turn.id: ReplyAddition(0, "") for turn in (running, ended, deleted)}, LEASE)

        assert {ended.id, deleted.id} == set(lost)

    async def test_the_stored_end_is_returned_to_a_later_finish(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn, lease=timedelta(0))
        await history.finish_abandoned()
        stored = await history.finish(TurnEnd(turn.completed("Hi", "stop")))
        assert stored == turn.ended_by(WorkerLost()) == await history.get(turn.id, None)

    @pytest.mark.parametrize("usage", [Usage(10, 4), Usage(10, 4, estimated=True), None])
    async def test_usage_is_stored_with_the_turn(self, history: ConversationHistory, usage: Usage | None) -> None:
        turn = new_turn()
        await begin(history, turn)
        await history.finish(TurnEnd(turn.completed("Hi", "stop", usage)))
        assert usage == (await history.get(turn.id, None)).usage
        assert [usage] == [turn.usage for turn in (await history.page(ADA, None, 10, None)).items]

    # Idempotency keys

    async def test_begin_returns_the_turn(self, history: ConversationHistory) -> None:
        plain, keyed = new_turn(), new_turn()
        assert [plain, keyed] == [await history.begin(TurnBegin(plain, LEASE)), await begin_keyed(history, keyed)]

    async def test_a_key_names_its_turn_in_every_state(self, history: ConversationHistory) -> None:
        turn = new_turn()
        assert await history.find(KEY) is None
        await begin_keyed(history, turn)
        assert turn == await history.find(KEY)
        await save(history, turn, "Hi, th")
        assert replace(turn, reply="Hi, th") == await history.find(KEY)
        ended = turn.completed("Hi, there", "length", Usage(10, 4))
        await history.finish(TurnEnd(ended))
        assert ended == await history.find(KEY)

    async def test_a_failed_turn_is_found_by_its_key(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin_keyed(history, turn)
        assert await fail(history, turn) == await history.find(KEY)

    @pytest.mark.parametrize("end", ["running", "completed", "empty", "interrupted"])
    async def test_a_key_that_names_a_turn_begins_no_other(self, history: ConversationHistory, end: str) -> None:
        first = new_turn()
        await begin_keyed(history, first)
        ends = {
            "completed": first.completed("Hi", "stop"),
            "empty": first.completed("", "stop"),
            "interrupted": first.ended_by(Cancelled()),
        }
        if end in ends:
            await history.finish(TurnEnd(ends[end]))
        stored, second = ends.get(end, first), new_turn()
        assert stored == await begin_keyed(history, second)
        assert [stored] == list((await history.page(ADA, None, 10, None)).items)
        assert [1] == [one.turns for one in (await history.conversations(ADA, 10, None)).items]
        with pytest.raises(TurnNotFound):
            await history.get(second.id, None)

    async def test_a_failed_turn_is_replaced_by_the_next_with_its_key(self, history: ConversationHistory) -> None:
        minutes = [START + timedelta(minutes=n) for n in range(3)]
        failed, other, second = (new_turn(started_at=moment) for moment in minutes)
        await begin_keyed(history, failed)
        await fail(history, failed)
        await begin(history, other)
        assert second == await begin_keyed(history, second)
        assert [other, second] == list((await history.page(ADA, None, 10, None)).items)
        assert [Conversation(ADA, DEFAULT_CONVERSATION, minutes[1], minutes[2], 2, "Hello")] == list(
            (await history.conversations(ADA, 10, None)).items
        )
        assert second == await history.find(KEY)
        with pytest.raises(TurnNotFound):
            await history.get(failed.id, None)
        assert await history.finish(TurnEnd(failed.completed("late", "stop"))) is None

    @pytest.mark.parametrize(
        ("end", "reply", "replaced"),
        [
            (ServerShuttingDown(), "", True),
            (ServerShuttingDown(), "Hi", False),
            (Cancelled(), "", False),
            (ClientDisconnected(), "", False),
            (TurnDeadline(), "Hi", False),
        ],
    )
    async def test_an_interrupted_turn_is_replaced_only_if_a_shutdown_ended_it_before_any_text(
        self, history: ConversationHistory, end: ChatError, reply: str, replaced: bool
    ) -> None:
        first, second = new_turn(), new_turn()
        await begin_keyed(history, first)
        ended = await history.finish(TurnEnd(first.ended_by(end, reply)))
        assert (second if replaced else ended) == await begin_keyed(history, second)
        assert [second if replaced else ended] == list((await history.page(ADA, None, 10, None)).items)

    async def test_a_failed_turn_can_be_replaced_repeatedly_and_deleted(self, history: ConversationHistory) -> None:
        for _ in range(3):
            turn = new_turn()
            await begin_keyed(history, turn)
            await fail(history, turn)
        assert 1 == await history.clear(ADA, None)
        assert [] == list((await history.conversations(ADA, 10, None)).items)

    async def test_another_request_with_the_same_key_is_rejected(self, history: ConversationHistory) -> None:
        turn, other = new_turn(), KEY._replace(fingerprint="other")
        await begin_keyed(history, turn)
        for stored in (turn, await fail(history, turn)):
            with pytest.raises(IdempotencyKeyReused):
                await history.find(other)
            with pytest.raises(IdempotencyKeyReused):
                await begin_keyed(history, new_turn(), other)
            assert [stored.id] == [turn.id for turn in (await history.page(ADA, None, 10, None)).items]

    async def test_other_keys_and_turns_without_a_key_begin(self, history: ConversationHistory) -> None:
        turns = [new_turn() for _ in range(4)]
        await begin_keyed(history, turns[0])
        await begin_keyed(history, turns[1], KEY._replace(name="other"))
        await begin(history, *turns[2:])
        assert turns == list((await history.page(ADA, None, 10, None)).items)
        assert turns[:2] == [await history.find(KEY), await history.find(KEY._replace(name="other"))]

    async def test_an_expired_key_names_nothing_and_can_be_used_again(self, history: ConversationHistory) -> None:
        first, second = new_turn(), new_turn()
        await begin_keyed(history, first, retention=timedelta(0))
        assert await history.find(KEY) is None
        other = KEY._replace(fingerprint="other")
        assert second == await begin_keyed(history, second, other)
        assert second == await history.find(other)
        assert [first, second] == list((await history.page(ADA, None, 10, None)).items)

    async def test_expired_keys_do_not_disturb_others(self, history: ConversationHistory) -> None:
        lasting = new_turn()
        await begin_keyed(history, lasting)
        for n in range(10):
            await begin_keyed(history, new_turn(), IdempotencyKey(f"expired {n}", ""), timedelta(0))
        assert lasting == await history.find(KEY)
        assert 11 == await history.clear(ADA, None)

    @pytest.mark.parametrize("conversation", [None, HOME])
    async def test_the_key_of_a_deleted_turn_names_nothing(
        self, history: ConversationHistory, conversation: ConversationId | None
    ) -> None:
        kept = KEY._replace(name="kept")
        await begin_keyed(history, new_turn(conversation_id=HOME))
        await begin_keyed(history, new_turn(user_id=BOB, conversation_id=HOME), kept)
        await history.clear(ADA, conversation)
        assert await history.find(KEY) is None
        assert await history.find(kept) is not None
        turn = new_turn()
        assert turn == await begin_keyed(history, turn, KEY._replace(fingerprint="other"))

    async def test_deleting_another_conversation_keeps_the_key(self, history: ConversationHistory) -> None:
        turn = new_turn(conversation_id=HOME)
        await begin_keyed(history, turn)
        await complete(history, new_turn(conversation_id=WORK))
        await history.clear(ADA, WORK)
        assert turn == await history.find(KEY)

    async def test_of_concurrent_begins_with_one_key_one_begins(self, history: ConversationHistory) -> None:
        turns = [new_turn() for _ in range(20)]
        begun = await asyncio.gather(*(begin_keyed(history, turn) for turn in turns))
        (winner,) = {turn.id for turn in begun}
        assert [winner] == [turn.id for turn in (await history.page(ADA, None, 50, None)).items]

    async def test_of_concurrent_begins_with_the_key_of_a_failed_turn_one_begins(
        self, history: ConversationHistory
    ) -> None:
        failed, turns = new_turn(), [new_turn() for _ in range(20)]
        await begin_keyed(history, failed)
        await fail(history, failed)
        (winner,) = {turn.id for turn in await asyncio.gather(*(begin_keyed(history, turn) for turn in turns))}
        assert [winner] == [turn.id for turn in (await history.page(ADA, None, 50, None)).items]
        assert winner != failed.id

    # Ownership

    async def test_a_turn_is_found_for_its_owner_and_for_an_operator(self, history: ConversationHistory) -> None:
        turn = await complete(history, new_turn())
        assert [turn, turn] == [await history.get(turn.id, ADA), await history.get(turn.id, None)]

    async def test_another_users_turn_is_not_found(self, history: ConversationHistory) -> None:
        turn = await complete(history, new_turn())
        with pytest.raises(TurnNotFound):
            await history.get(turn.id, BOB)

    # Abandoned turns

    async def test_abandoned_turns_become_interrupted_if_they_have_text_and_failed_if_not(
        self,
        history: ConversationHistory,
    ) -> None:
        silent, cut = new_turn(), new_turn()
        await begin(history, silent, cut, lease=timedelta(0))
        await save(history, cut, "Hi, th", lease=timedelta(0))
        assert await history.finish_abandoned() == 2
        assert [silent.ended_by(WorkerLost()), cut.ended_by(WorkerLost(), "Hi, th")] == [
            await history.get(silent.id, None),
            await history.get(cut.id, None),
        ]

    async def test_turns_whose_lease_has_not_expired_are_not_abandoned(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        assert await history.finish_abandoned() == 0
        assert turn == await history.get(turn.id, None)

    async def test_saving_progress_renews_the_lease(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn, lease=timedelta(0))
        await save(history, turn, "")
        assert await history.finish_abandoned() == 0

    async def test_finished_turns_are_not_abandoned(self, history: ConversationHistory) -> None:
        ended = await complete(history, new_turn())
        assert await history.finish_abandoned() == 0
        assert ended == await history.get(ended.id, None)

    # Latest turns

    async def test_latest_returns_at_most_limit_turns_newest_first(self, history: ConversationHistory) -> None:
        turns = await complete_several(history, 5)
        assert [turn.exchange for turn in turns[:1:-1]] == list(await history.latest(ADA, HOME, 3))

    async def test_latest_omits_running_and_empty_turns(self, history: ConversationHistory) -> None:
        told = await complete(history, new_turn())
        await complete(history, new_turn(), reply="")
        running = new_turn()
        await begin(history, running)
        await save(history, running, "Hi, th")
        assert [told.exchange] == list(await history.latest(ADA, DEFAULT_CONVERSATION, 10))

    async def test_latest_includes_interrupted_turns_with_a_reply(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        await history.finish(TurnEnd(turn.ended_by(Cancelled(), "Hi, th")))
        assert [("Hello", "Hi, th")] == list(await history.latest(ADA, DEFAULT_CONVERSATION, 10))

    async def test_latest_is_limited_to_one_conversation_of_one_user(self, history: ConversationHistory) -> None:
        mine = await complete(history, new_turn(conversation_id=HOME))
        await complete(history, new_turn(conversation_id=WORK))
        await complete(history, new_turn(user_id=BOB, conversation_id=HOME))
        assert [mine.exchange] == list(await history.latest(ADA, HOME, 10))

    async def test_latest_of_an_unknown_conversation_is_empty(self, history: ConversationHistory) -> None:
        assert list(await history.latest(ADA, HOME, 10)) == []

    # Pages

    async def test_a_page_holds_the_newest_turns_oldest_first(self, history: ConversationHistory) -> None:
        turns = await complete_several(history, 5)
        page = await history.page(ADA, HOME, 3, None)
        assert turns[2:] == list(page.items)

    async def test_following_cursors_returns_every_turn_once(self, history: ConversationHistory) -> None:
        turns = await complete_several(history, 7)
        newest = await history.page(ADA, None, 3, None)
        older = await history.page(ADA, None, 3, newest.next_cursor)
        oldest = await history.page(ADA, None, 3, older.next_cursor)
        assert turns == [*oldest.items, *older.items, *newest.items]
        assert oldest.next_cursor is None

    async def test_a_page_that_holds_all_turns_has_no_next_cursor(self, history: ConversationHistory) -> None:
        await complete_several(history, 3)
        assert (await history.page(ADA, None, 3, None)).next_cursor is None

    async def test_new_turns_do_not_shift_older_pages(self, history: ConversationHistory) -> None:
        turns = await complete_several(history, 4)
        newest = await history.page(ADA, None, 2, None)
        await complete_several(history, 3)
        assert turns[:2] == list((await history.page(ADA, None, 2, newest.next_cursor)).items)

    async def test_a_page_includes_running_and_failed_turns(self, history: ConversationHistory) -> None:
        failed = await complete(history, new_turn(), reply="")
        running = new_turn()
        await begin(history, running)
        assert [failed, running] == list((await history.page(ADA, None, 10, None)).items)

    async def test_a_page_without_a_conversation_covers_all_in_order(self, history: ConversationHistory) -> None:
        turns = [
            await complete(history, new_turn(conversation_id=HOME)),
            await complete(history, new_turn(conversation_id=WORK)),
            await complete(history, new_turn(conversation_id=HOME)),
        ]
        assert turns == list((await history.page(ADA, None, 10, None)).items)

    async def test_a_page_of_one_conversation_excludes_the_others(self, history: ConversationHistory) -> None:
        home = await complete_several(history, 3, HOME)
        await complete_several(history, 3, WORK)
        newest = await history.page(ADA, HOME, 2, None)
        oldest = await history.page(ADA, HOME, 2, newest.next_cursor)
        assert home == [*oldest.items, *newest.items]

    async def test_a_page_excludes_other_users_turns(self, history: ConversationHistory) -> None:
        await complete(history, new_turn(user_id=BOB))
        assert list((await history.page(ADA, None, 10, None)).items) == []

    async def test_turns_are_ordered_by_their_begin_not_by_their_end(self, history: ConversationHistory) -> None:
        first, second = new_turn("first"), new_turn("second")
        await begin(history, first, second)
        await history.finish(TurnEnd(second.completed("b", "stop")))
        await history.finish(TurnEnd(first.completed("a", "stop")))
        assert [t.user_message for t in (await history.page(ADA, None, 10, None)).items] == ["first", "second"]

    async def test_a_page_of_many_turns_holds_each_once(self, history: ConversationHistory) -> None:
        turns = await complete_several(history, 120)
        newest = await history.page(ADA, HOME, 103, None)
        oldest = await history.page(ADA, None, 200, newest.next_cursor)
        assert turns == [*oldest.items, *newest.items]
        assert [103, None] == [len(newest.items), oldest.next_cursor]

    async def test_long_texts_end_a_page_early_and_the_next_page_continues(
        self,
        history: ConversationHistory,
    ) -> None:
        turns = [await complete(history, new_turn(str(number)), "\u00e4" * 100_000) for number in range(9)]
        newest = await history.page(ADA, None, 200, None)
        older = await history.page(ADA, None, 200, newest.next_cursor)
        oldest = await history.page(ADA, None, 200, older.next_cursor)
        assert [turns[5:], turns[1:5], turns[:1]] == [list(page.items) for page in (newest, older, oldest)]
        assert oldest.next_cursor is None

    async def test_a_page_holds_at_least_one_turn_of_any_length(self, history: ConversationHistory) -> None:
        turn = await complete(history, new_turn(), "x" * 1_000_000)
        await complete(history, new_turn(), "x" * 1_000_000)
        newest = await history.page(ADA, None, 200, None)
        assert [turn] == list((await history.page(ADA, None, 200, newest.next_cursor)).items)

    @pytest.mark.parametrize(
        "cursor", ["", " 1", "-1", "1.0", "1e3", "٣", "²", "0x1", "a", "1\n", "9" * 19, "1" * 5000]
    )
    async def test_an_invalid_cursor_is_rejected(self, history: ConversationHistory, cursor: str) -> None:
        await complete_several(history, 1)
        with pytest.raises(UnknownCursor):
            await history.page(ADA, None, 10, cursor)
        with pytest.raises(UnknownCursor):
            await history.page(ADA, HOME, 10, cursor)
        with pytest.raises(UnknownCursor):
            await history.conversations(ADA, 10, cursor)

    # Conversations

    async def test_conversations_are_summarised_most_recent_first(self, history: ConversationHistory) -> None:
        minutes = [START + timedelta(minutes=n) for n in range(4)]
        for conversation, moment in zip((HOME, WORK, WORK, HOME), minutes, strict=True):
            await begin(history, new_turn(conversation_id=conversation, started_at=moment))
        assert [
            Conversation(ADA, HOME, minutes[0], minutes[3], 2, "Hello"),
            Conversation(ADA, WORK, minutes[1], minutes[2], 2, "Hello"),
        ] == list((await history.conversations(ADA, 10, None)).items)

    async def test_following_cursors_returns_every_conversation_once(self, history: ConversationHistory) -> None:
        ids = [ConversationId(f"c{n}") for n in range(5)]
        await begin(history, *(new_turn(conversation_id=id) for id in ids))
        first = await history.conversations(ADA, 2, None)
        second = await history.conversations(ADA, 2, first.next_cursor)
        third = await history.conversations(ADA, 2, second.next_cursor)
        assert ids[::-1] == [c.id for c in (*first.items, *second.items, *third.items)]
        assert third.next_cursor is None

    async def test_a_conversation_is_listed_once_although_its_turns_are_spread(
        self, history: ConversationHistory
    ) -> None:
        for conversation in (HOME, WORK, HOME):
            await begin(history, new_turn(conversation_id=conversation))
        first = await history.conversations(ADA, 1, None)
        second = await history.conversations(ADA, 1, first.next_cursor)
        assert [(HOME, 2), (WORK, 1)] == [(c.id, c.turns) for c in (*first.items, *second.items)]
        assert second.next_cursor is None

    async def test_an_unknown_user_has_no_conversations(self, history: ConversationHistory) -> None:
        await begin(history, new_turn(user_id=BOB))
        assert list((await history.conversations(ADA, 10, None)).items) == []

    # Titles

    async def test_a_conversation_is_titled_by_its_first_message(self, history: ConversationHistory) -> None:
        long = "Tell me\n\tabout  trees. " * 10_000
        await begin(history, new_turn(" Where\nto? ", conversation_id=HOME), new_turn("There", conversation_id=HOME))
        await begin(history, new_turn(long, conversation_id=WORK))
        titles = {one.id: one.title for one in (await history.conversations(ADA, 10, None)).items}
        assert {HOME: "Where to?", WORK: "Tell me about trees. " * 3 + "Tell me about tre"} == titles

    async def test_a_title_can_be_set_replaced_and_reset(self, history: ConversationHistory) -> None:
        await begin(history, new_turn("Where to?", conversation_id=HOME), new_turn("Hi", conversation_id=WORK))
        for title, shown in (("Holidays", "Holidays"), ("Résumé 🗺️", "Résumé 🗺️"), (None, "Where to?")):
            home = await history.set_title(ADA, HOME, title)
            assert Conversation(ADA, HOME, START, START, 1, shown) == home
            assert ["Hi", shown] == [one.title for one in (await history.conversations(ADA, 10, None)).items]

    async def test_a_title_that_was_set_stays_when_turns_follow(self, history: ConversationHistory) -> None:
        await complete_several(history, 1)
        await history.set_title(ADA, HOME, "Holidays")
        await complete_several(history, 1)
        assert ["Holidays"] == [one.title for one in (await history.conversations(ADA, 10, None)).items]

    async def test_the_title_of_a_conversation_that_is_not_there_cannot_be_set(
        self, history: ConversationHistory
    ) -> None:
        await begin(history, new_turn(user_id=BOB, conversation_id=HOME), new_turn(conversation_id=WORK))
        for title in ("Holidays", None):
            with pytest.raises(ConversationNotFound):
                await history.set_title(ADA, HOME, title)
        assert ["Hello"] == [one.title for one in (await history.conversations(BOB, 10, None)).items]

    @pytest.mark.parametrize("cleared", [None, HOME])
    async def test_a_title_is_deleted_with_its_conversation(
        self, history: ConversationHistory, cleared: ConversationId | None
    ) -> None:
        await complete_several(history, 1)
        await history.set_title(ADA, HOME, "Holidays")
        await history.clear(ADA, cleared)
        await complete_several(history, 1)
        assert ["message 0"] == [one.title for one in (await history.conversations(ADA, 10, None)).items]

    # Messages of a conversation

    async def test_the_messages_of_a_conversation_are_told_with_whether_there_is_a_reply(
        self, history: ConversationHistory
    ) -> None:
        ended = (await complete_several(history, 1))[0]
        failed, saved, running = (new_turn(name, conversation_id=HOME) for name in ("failed", "saved", "running"))
        await begin(history, failed, saved, running)
        await fail(history, failed)
        await save(history, saved, "Hi")
        told = [
            (turn.id, SentMessage(turn.user_message, turn in (ended, saved)))
            for turn in (ended, failed, saved, running)
        ]
        assert told == list(await history.messages(ADA, HOME, 10))
        assert told[2:] == list(await history.messages(ADA, HOME, 2))

    async def test_long_messages_of_a_conversation_are_told_up_to_a_limit(self, history: ConversationHistory) -> None:
        half = MAX_STORED_CHARS // 2
        first, *fitting, beyond = (
            new_turn("x" * chars, conversation_id=HOME) for chars in (1, half, half, 2 * half + 1)
        )
        await begin(history, first, *fitting)
        assert [turn.id for turn in fitting] == [id for id, _ in await history.messages(ADA, HOME, 10)]
        await begin(history, beyond)
        assert [beyond.id] == [id for id, _ in await history.messages(ADA, HOME, 10)]

    async def test_the_messages_of_a_long_conversation_are_told_in_order(self, history: ConversationHistory) -> None:
        said = [new_turn(str(number), conversation_id=HOME) for number in range(501)]
        await begin(history, *said)
        for limit in (500, 502):
            assert [turn.id for turn in said[-limit:]] == [id for id, _ in await history.messages(ADA, HOME, limit)]

    async def test_the_messages_of_a_conversation_are_its_own_and_not_retracted(
        self, history: ConversationHistory
    ) -> None:
        kept, retracted = await complete_several(history, 2)
        await complete(history, new_turn(conversation_id=WORK))
        await complete(history, new_turn(user_id=BOB, conversation_id=HOME))
        instead = await begin_instead(history, retracted)
        assert [kept.id, instead.id] == [id for id, _ in await history.messages(ADA, HOME, 10)]
        assert [] == list(await history.messages(BOB, WORK, 10))

    # Retracted turns

    async def test_retracted_turns_are_out_of_context_and_pages_but_stay_stored(
        self, history: ConversationHistory
    ) -> None:
        kept, first, second = await complete_several(history, 3)
        other = await complete(history, new_turn(conversation_id=WORK))
        instead = await begin_instead(history, first)
        assert [kept, instead] == list((await history.page(ADA, HOME, 10, None)).items)
        assert [kept, other, instead] == list((await history.page(ADA, None, 10, None)).items)
        assert [kept.exchange] == list(await history.latest(ADA, HOME, 10))
        assert [first, second] == [await history.get(turn.id, ADA) for turn in (first, second)]
        ended = instead.completed("Hi", "stop")
        await history.finish(TurnEnd(ended))
        assert [ended.exchange, kept.exchange] == list(await history.latest(ADA, HOME, 10))

    async def test_pages_are_full_although_turns_between_were_retracted(self, history: ConversationHistory) -> None:
        kept = await complete_several(history, 3)
        instead = await begin_instead(history, (await complete_several(history, 3))[0])
        newest = await history.page(ADA, HOME, 2, None)
        oldest = await history.page(ADA, HOME, 2, newest.next_cursor)
        assert [[kept[2], instead], kept[:2]] == [list(newest.items), list(oldest.items)]
        assert oldest.next_cursor is None

    async def test_retracted_turns_are_not_counted_nor_part_of_the_title(self, history: ConversationHistory) -> None:
        minutes = [START + timedelta(minutes=n) for n in range(3)]
        turns = [new_turn(f"message {n}", started_at=moment) for n, moment in enumerate(minutes)]
        await begin(history, *turns[:2])
        await begin_instead(history, turns[0], turns[2])
        assert [Conversation(ADA, DEFAULT_CONVERSATION, minutes[0], minutes[2], 1, "message 2")] == list(
            (await history.conversations(ADA, 10, None)).items
        )

    async def test_turns_can_be_retracted_again_from_the_same_place(self, history: ConversationHistory) -> None:
        kept, first = await complete_several(history, 2)
        for n in range(3):
            instead = await begin_instead(history, first)
            assert [kept, instead] == list((await history.page(ADA, HOME, 10, None)).items)
            assert [2] == [one.turns for one in (await history.conversations(ADA, 10, None)).items]
            await history.finish(TurnEnd(instead.completed(f"reply {n}", "stop")))
        assert ["reply 2", "Hi"] == [one.reply for one in await history.latest(ADA, HOME, 10)]

    async def test_a_turn_retracts_none_of_other_conversations_and_users(self, history: ConversationHistory) -> None:
        first = (await complete_several(history, 1))[0]
        others = [
            await complete(history, new_turn(conversation_id=WORK)),
            await complete(history, new_turn(user_id=BOB, conversation_id=HOME)),
        ]
        instead = await begin_instead(history, first)
        assert [others[0], instead] == list((await history.page(ADA, None, 10, None)).items)
        assert [others[1]] == list((await history.page(BOB, None, 10, None)).items)

    async def test_only_turns_of_the_same_conversation_can_be_retracted(self, history: ConversationHistory) -> None:
        turn = (await complete_several(history, 1))[0]
        strangers = [
            new_turn(conversation_id=HOME),
            await complete(history, new_turn(conversation_id=WORK)),
            await complete(history, new_turn(user_id=BOB, conversation_id=HOME)),
        ]
        before = (await history.page(ADA, None, 10, None)).items
        for stranger in strangers:
            instead = new_turn(conversation_id=HOME)
            with pytest.raises(TurnNotFound):
                await begin_instead(history, stranger, instead)
            with pytest.raises(TurnNotFound):
                await history.get(instead.id, None)
        assert before == (await history.page(ADA, None, 10, None)).items
        assert [turn] == list((await history.page(ADA, HOME, 10, None)).items)

    async def test_nothing_of_a_user_is_left_by_a_turn_that_could_not_retract(
        self, history: ConversationHistory
    ) -> None:
        with pytest.raises(TurnNotFound):
            await begin_instead(history, new_turn())
        assert [] == list((await history.conversations(ADA, 10, None)).items)
        assert 0 == await history.clear(ADA, None)

    async def test_a_running_turn_that_was_retracted_ends_as_others_do(self, history: ConversationHistory) -> None:
        running = new_turn(conversation_id=HOME)
        await begin(history, running)
        instead = await begin_instead(history, running)
        assert {running.id: False, instead.id: False} == {
            turn.id: turn.id in await history.save_progress({turn.id: ReplyAddition(0, "Hi")}, LEASE)
            for turn in (running, instead)
        }
        ended = running.completed("Hi, there", "stop")
        assert ended == await history.finish(TurnEnd(ended)) == await history.get(running.id, ADA)
        assert [] == list(await history.latest(ADA, HOME, 10))

    async def test_a_retracted_turn_is_found_by_its_key(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin_keyed(history, turn)
        ended = await history.finish(TurnEnd(turn.completed("Hi", "stop")))
        await begin_instead(history, turn)
        assert ended == await history.find(KEY) == await begin_keyed(history, new_turn())

    async def test_of_concurrent_turns_that_retract_the_same_one_stays(self, history: ConversationHistory) -> None:
        first = (await complete_several(history, 1))[0]
        turns = [new_turn(conversation_id=HOME) for _ in range(10)]
        await asyncio.gather(*(begin_instead(history, first, turn) for turn in turns))
        (shown,) = (await history.page(ADA, HOME, 50, None)).items
        assert shown in turns
        assert [1] == [one.turns for one in (await history.conversations(ADA, 10, None)).items]

    async def test_a_turn_that_runs_again_keeps_what_its_failed_one_had_retracted(
        self, history: ConversationHistory
    ) -> None:
        first = (await complete_several(history, 1))[0]
        failed, again = new_turn(conversation_id=HOME), new_turn(conversation_id=HOME)
        await begin_instead(history, first, failed, KEY)
        await fail(history, failed)
        assert again == await begin_instead(history, first, again, KEY)
        assert [again] == list((await history.page(ADA, HOME, 10, None)).items)
        assert [Conversation(ADA, HOME, START, START, 1, "Hello")] == list(
            (await history.conversations(ADA, 10, None)).items
        )

    async def test_a_turn_that_runs_again_may_retract_from_its_failed_one_on(
        self, history: ConversationHistory
    ) -> None:
        (kept,) = await complete_several(history, 1)
        failed, again = new_turn(conversation_id=HOME), new_turn(conversation_id=HOME)
        await begin_keyed(history, failed)
        failed = await fail(history, failed)
        await complete_several(history, 1)
        assert again == await begin_instead(history, failed, again, KEY)
        assert [kept, again] == list((await history.page(ADA, HOME, 10, None)).items)
        assert [2] == [one.turns for one in (await history.conversations(ADA, 10, None)).items]
        with pytest.raises(TurnNotFound):
            await history.get(failed.id, ADA)

    async def test_a_failed_turn_that_was_retracted_can_be_replaced(self, history: ConversationHistory) -> None:
        failed, again = new_turn(conversation_id=HOME), new_turn(conversation_id=HOME)
        await begin_keyed(history, failed)
        await fail(history, failed)
        instead = await begin_instead(history, failed)
        assert again == await begin_keyed(history, again)
        assert [instead, again] == list((await history.page(ADA, HOME, 10, None)).items)
        assert [2] == [one.turns for one in (await history.conversations(ADA, 10, None)).items]

    @pytest.mark.parametrize("cleared", [None, HOME])
    async def test_retracted_turns_are_deleted_with_the_others(
        self, history: ConversationHistory, cleared: ConversationId | None
    ) -> None:
        first = (await complete_several(history, 2))[0]
        await begin_instead(history, first)
        assert 3 == await history.clear(ADA, cleared)
        assert 0 == await history.clear(ADA, None)
        with pytest.raises(TurnNotFound):
            await history.get(first.id, None)

    # Ids that clients choose

    async def test_a_turn_is_found_by_the_id_that_its_client_has_chosen(self, history: ConversationHistory) -> None:
        turn = new_turn(chosen_id=CHOSEN)
        await begin(history, turn)
        await save(history, turn, "Hi, th")
        running = replace(turn, reply="Hi, th")
        assert [running] * 3 == [await history.get(id, ADA) for id in (CHOSEN, turn.id, turn.public_id)]
        ended = turn.completed("Hi, there", "stop")
        await history.finish(TurnEnd(ended))
        assert [ended, ended] == [await history.get(CHOSEN, ADA), *(await history.page(ADA, None, 10, None)).items]

    async def test_users_do_not_notice_that_others_have_chosen_the_same_id(self, history: ConversationHistory) -> None:
        turns = [new_turn(user_id=user, chosen_id=CHOSEN, started_at=START) for user in (ADA, BOB)]
        named = new_turn(user_id=BOB, chosen_id=turns[0].id)
        await begin(history, *turns, named)
        assert turns == [await history.get(CHOSEN, user) for user in (ADA, BOB)]
        assert [turns[0], named] == [await history.get(turns[0].id, user) for user in (ADA, BOB)]
        with pytest.raises(TurnNotFound):
            await history.get(CHOSEN, UserId("eve"))

    async def test_without_an_owner_a_chosen_id_is_that_of_the_first_turn(self, history: ConversationHistory) -> None:
        bobs = new_turn(user_id=BOB, chosen_id=CHOSEN, started_at=START + timedelta(minutes=1))
        adas = new_turn(chosen_id=CHOSEN)
        await begin(history, bobs, adas)
        assert adas == await history.get(CHOSEN, None)
        hidden = new_turn(user_id=BOB, chosen_id=adas.id, started_at=START - timedelta(hours=1))
        await begin(history, hidden)
        assert adas == await history.get(adas.id, None)

    async def test_a_prefix_hides_the_turns_of_other_users(self, history: ConversationHistory) -> None:
        bobs, adas = [new_turn(user_id=user, chosen_id=CHOSEN, started_at=START) for user in (BOB, ADA)]
        named = new_turn(chosen_id=bobs.id)
        await begin(history, bobs, adas, named)
        assert [adas, bobs, bobs] == [await history.get(CHOSEN, None, prefix) for prefix in (ADA[:2], BOB, "")]
        assert [named, bobs] == [await history.get(bobs.id, None, prefix) for prefix in (ADA[:2], BOB)]
        for prefix in (ADA[:2].upper(), "_", "%", f"{ADA}.", " "):
            with pytest.raises(TurnNotFound):
                await history.get(CHOSEN, None, prefix)

    @pytest.mark.parametrize("key", [None, KEY])
    async def test_an_id_by_which_the_user_knows_a_turn_cannot_be_chosen(
        self, history: ConversationHistory, key: IdempotencyKey | None
    ) -> None:
        chosen, plain = new_turn(chosen_id=CHOSEN), new_turn()
        await begin(history, chosen, plain)
        await history.finish(TurnEnd(chosen.ended_by(TurnDeadline())))
        for id in (CHOSEN, plain.id):
            with pytest.raises(IdempotencyKeyReused):
                await history.begin(TurnBegin(new_turn(chosen_id=id), LEASE, key))
        assert 2 == await history.clear(ADA, None)

    async def test_a_failed_turn_is_replaced_under_the_id_that_its_client_has_chosen(
        self, history: ConversationHistory
    ) -> None:
        failed, second = new_turn(chosen_id=CHOSEN), new_turn(chosen_id=CHOSEN)
        await begin_keyed(history, failed)
        await fail(history, failed)
        assert second == await begin_keyed(history, second)
        assert second == await history.get(CHOSEN, ADA) == await history.find(KEY)
        assert 1 == await history.clear(ADA, None)

    async def test_the_key_of_a_turn_with_a_chosen_id_lasts_as_long_as_the_turn(
        self, history: ConversationHistory
    ) -> None:
        turn = new_turn(chosen_id=CHOSEN)
        await begin_keyed(history, turn, retention=timedelta(0))
        for n in range(5):
            await begin_keyed(history, new_turn(), IdempotencyKey(f"expired {n}", ""), timedelta(0))
        assert turn == await history.find(KEY) == await begin_keyed(history, new_turn(chosen_id=OTHER_CHOSEN))
        await history.clear(ADA, None)
        assert await history.find(KEY) is None
        assert turn == await begin_keyed(history, turn)

    # Deleting

    async def test_clearing_a_user_deletes_all_their_turns_and_no_others(self, history: ConversationHistory) -> None:
        await complete_several(history, 2, HOME)
        await complete_several(history, 1, WORK)
        other = await complete(history, new_turn(user_id=BOB))
        assert await history.clear(ADA, None) == 3
        assert list((await history.page(ADA, None, 10, None)).items) == []
        assert list((await history.conversations(ADA, 10, None)).items) == []
        assert [other] == list((await history.page(BOB, None, 10, None)).items)

    async def test_clearing_a_conversation_keeps_the_others(self, history: ConversationHistory) -> None:
        await complete_several(history, 2, HOME)
        work = await complete_several(history, 2, WORK)
        assert await history.clear(ADA, HOME) == 2
        assert work == list((await history.page(ADA, None, 10, None)).items)
        assert [c.id for c in (await history.conversations(ADA, 10, None)).items] == [WORK]
        assert list(await history.latest(ADA, HOME, 10)) == []

    async def test_clearing_an_empty_history_deletes_nothing(self, history: ConversationHistory) -> None:
        await complete_several(history, 2, HOME)
        assert [
            await history.clear(ADA, WORK),
            await history.clear(ADA, HOME),
            await history.clear(ADA, HOME),
            await history.clear(BOB, None),
        ] == [0, 2, 0, 0]

    async def test_a_deleted_turn_cannot_be_finished(self, history: ConversationHistory) -> None:
        turn = new_turn()
        await begin(history, turn)
        await history.clear(ADA, None)
        assert await history.finish(TurnEnd(turn.completed("Hi", "stop"))) is None
        with pytest.raises(TurnNotFound):
            await history.get(turn.id, None)

    async def test_after_a_deletion_the_history_starts_empty(self, history: ConversationHistory) -> None:
        await complete_several(history, 3, HOME)
        await history.clear(ADA, None)
        turn = await complete(history, new_turn(conversation_id=HOME))
        assert [turn] == list((await history.page(ADA, None, 10, None)).items)
        assert [Conversation(ADA, HOME, START, START, 1, "Hello")] == list(
            (await history.conversations(ADA, 10, None)).items
        )

    async def test_a_cursor_issued_before_a_deletion_shows_no_newer_turns(self, history: ConversationHistory) -> None:
        await complete_several(history, 10)
        cursor = (await history.page(ADA, None, 2, None)).next_cursor
        await history.clear(ADA, None)
        await complete_several(history, 3)
        assert list((await history.page(ADA, None, 10, cursor)).items) == []

    # Concurrency

    async def test_turns_that_begin_concurrently_are_all_kept(self, history: ConversationHistory) -> None:
        turns = [new_turn(str(n), user, home) for n in range(20) for user in (ADA, BOB) for home in (HOME, WORK)]
        await asyncio.gather(*(begin(history, turn) for turn in turns))
        newest = await history.page(ADA, None, 25, None)
        oldest = await history.page(ADA, None, 25, newest.next_cursor)
        expected = sorted(turn.id for turn in turns if turn.user_id == ADA)
        assert expected == sorted(turn.id for turn in (*oldest.items, *newest.items))

    async def test_a_finished_turn_is_visible_to_the_next_call(self, history: ConversationHistory) -> None:
        async def converse(user_id: UserId) -> None:
            for _ in range(10):
                turn = await complete(history, new_turn(user_id=user_id))
                assert turn == (await history.page(user_id, None, 1, None)).items[0]
                assert turn.exchange == (await history.latest(user_id, DEFAULT_CONVERSATION, 1))[0]

        await asyncio.gather(*(converse(UserId(f"user{n}")) for n in range(5)))

    async def test_a_turn_finished_during_a_clear_is_deleted_completely(
        self,
        history: ConversationHistory,
    ) -> None:
        for _ in range(20):
            turn = new_turn()
            await begin(history, turn)
            finished, deleted = await asyncio.gather(
                history.finish(TurnEnd(turn.completed("Hi", "stop"))), history.clear(ADA, None)
            )
            assert deleted == 1
            assert list((await history.page(ADA, None, 10, None)).items) == []
            assert finished is None or finished.status is TurnStatus.COMPLETED

    async def test_the_check_of_a_working_store_succeeds(self, history: ConversationHistory) -> None:
        await history.check()

    async def test_a_write_probe_of_an_empty_store_succeeds_each_time(self, history: ConversationHistory) -> None:
        for _ in range(3):
            await history.probe_write()
        assert list((await history.page(ADA, None, 10, None)).items) == []

    async def test_a_write_probe_changes_nothing_visible(self, history: ConversationHistory) -> None:
        finished, running = await complete_several(history, 2), new_turn()
        await begin(history, running)
        conversations = (await history.conversations(ADA, 10, None)).items
        await history.probe_write()
        assert [*finished, running] == list((await history.page(ADA, None, 10, None)).items)
        assert conversations == (await history.conversations(ADA, 10, None)).items
        assert await history.finish_abandoned() == 0

    async def test_write_probes_at_the_same_time_succeed(self, history: ConversationHistory) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(history.probe_write())
        await history.check()

    @given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=100, max_size=150))
    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[
            HealthCheck.differing_executors,
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    async def test_any_text_is_returned_unchanged(
        self, history: ConversationHistory, texts: list[tuple[str, str]]
    ) -> None:
        turns = [new_turn(message) for message, _ in texts]
        ended = [turn.completed(reply, "stop") for turn, (_, reply) in zip(turns, texts, strict=True)]
        await asyncio.gather(*(begin(history, turn) for turn in turns))
        await asyncio.gather(*(history.finish(TurnEnd(turn)) for turn in ended))
        assert ended == list(await asyncio.gather(*(history.get(turn.id, None) for turn in turns)))

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
    async def test_hostile_text_is_returned_unchanged(self, history: ConversationHistory, text: str) -> None:
        ended = await complete(history, new_turn(text), text)
        assert ended == await history.get(ended.id, None)

    async def test_user_ids_are_case_sensitive_and_never_patterns(self, history: ConversationHistory) -> None:
        users = [UserId(id) for id in ("ada", "Ada", "ADA", "a.a", "ada~", "a|a", "a_a")]
        await begin(history, *(new_turn(id, user_id=id) for id in users))
        await history.clear(UserId("a_a"), None)
        found = [[t.user_message for t in (await history.page(id, None, 10, None)).items] for id in users]
        assert [[id] for id in users[:-1]] + [[]] == found


class DurableHistoryContract(ConversationHistoryContract):
    """Run by every ConversationHistory that still holds its turns after it is closed and opened again."""

    async def test_a_finished_turn_survives_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as history:
            turn = await complete(history, new_turn())
        async with self.opened(tmp_path) as history:
            assert turn == await history.get(turn.id, None)
            assert [turn.exchange] == list(await history.latest(ADA, DEFAULT_CONVERSATION, 10))

    async def test_a_running_turn_and_its_progress_survive_reopening(self, tmp_path: Path) -> None:
        turn = new_turn()
        async with self.opened(tmp_path) as history:
            await begin(history, turn)
            await save(history, turn, "Hi")
            await save(history, turn, ", th", start=2)
        async with self.opened(tmp_path) as history:
            assert replace(turn, reply="Hi, th") == await history.get(turn.id, None)

    async def test_turns_survive_a_process_that_dies(self, tmp_path: Path) -> None:
        running, finished = new_turn(), new_turn()
        await self.call_in_dying_process(tmp_path, begin, running)
        await self.call_in_dying_process(tmp_path, complete, finished)
        async with self.opened(tmp_path) as history:
            page = await history.page(ADA, None, 10, None)
            assert [running, finished.completed("Hi", "stop")] == list(page.items)

    async def test_a_key_survives_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as history:
            turn = new_turn()
            await begin_keyed(history, turn)
        async with self.opened(tmp_path) as history:
            assert turn == await history.find(KEY) == await begin_keyed(history, new_turn())

    async def test_a_key_survives_a_process_that_dies(self, tmp_path: Path) -> None:
        turn = new_turn()
        await self.call_in_dying_process(tmp_path, begin_keyed, turn)
        async with self.opened(tmp_path) as history:
            assert turn == await history.find(KEY)

    async def test_an_expired_lease_is_still_expired_after_reopening(self, tmp_path: Path) -> None:
        turn = new_turn()
        async with self.opened(tmp_path) as history:
            await begin(history, turn, lease=timedelta(0))
        async with self.opened(tmp_path) as history:
            assert await history.finish_abandoned() == 1
            assert turn.ended_by(WorkerLost(), "") == await history.get(turn.id, None)

    async def test_a_deletion_survives_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as history:
            await complete_several(history, 2, HOME)
            work = await complete_several(history, 2, WORK)
            await history.clear(ADA, HOME)
        async with self.opened(tmp_path) as history:
            assert work == list((await history.page(ADA, None, 10, None)).items)

    async def test_order_and_cursors_survive_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as history:
            turns = await complete_several(history, 4)
            cursor = (await history.page(ADA, None, 2, None)).next_cursor
        async with self.opened(tmp_path) as history:
            turns += await complete_several(history, 2)
            assert turns == list((await history.page(ADA, None, 10, None)).items)
            assert turns[:2] == list((await history.page(ADA, None, 10, cursor)).items)

    async def test_positions_are_not_reused_after_a_deletion_and_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as history:
            await complete_several(history, 10)
            cursor = (await history.page(ADA, None, 2, None)).next_cursor
            await history.clear(ADA, None)
        async with self.opened(tmp_path) as history:
            await complete_several(history, 3)
            assert list((await history.page(ADA, None, 10, cursor)).items) == []

    async def test_retractions_titles_and_chosen_ids_survive_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as history:
            first = (await complete_several(history, 1))[0]
            instead = await begin_instead(history, first, new_turn(conversation_id=HOME, chosen_id=CHOSEN))
            await history.set_title(ADA, HOME, "Holidays")
        async with self.opened(tmp_path) as history:
            assert [instead] == list((await history.page(ADA, None, 10, None)).items)
            assert first == await history.get(first.id, ADA)
            assert instead == await history.get(CHOSEN, ADA)
            assert [Conversation(ADA, HOME, START, START, 1, "Holidays")] == list(
                (await history.conversations(ADA, 10, None)).items
            )

    async def test_conversations_survive_reopening(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as history:
            await complete_several(history, 2, HOME)
        async with self.opened(tmp_path) as history:
            assert [Conversation(ADA, HOME, START, START, 2, "message 0")] == list(
                (await history.conversations(ADA, 10, None)).items
            )


class ExclusiveHistoryContract(DurableHistoryContract):
    """Run by every durable ConversationHistory that a single process opens exclusively."""

    async def test_a_running_turn_can_be_abandoned_after_reopening(self, tmp_path: Path) -> None:
        turn = new_turn()
        async with self.opened(tmp_path) as history:
            await begin(history, turn)
        async with self.opened(tmp_path) as history:
            assert await history.finish_abandoned() == 1
            assert turn.ended_by(WorkerLost(), "") == await history.get(turn.id, None)
