"""What every memory outbox does, together with the history that puts turns into it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from adapters.history_in_memory import HistoryInMemory
from adapters.history_sql import HistorySQL
from adapters.memory_outbox_sql import MemoryOutboxSQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.history import ConversationHistory
from application.ports.memory_outbox import MemoryOutbox, OutboxCounts, Remembering
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled

ADA, BOB = UserId("ada"), UserId("bob")
HOME, WORK = ConversationId("home"), ConversationId("work")
NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@dataclass
class Kept:
    history: ConversationHistory
    outbox: MemoryOutbox

    async def turn(self, user: UserId = ADA, conversation: ConversationId = HOME, at: datetime | None = NOW) -> Turn:
        """A completed turn that is to be remembered at `at`."""
        turn = Turn(TurnId(str(uuid4())), user, conversation, NOW, "Hello")
        await self.history.begin(turn)
        ended = turn.completed("Hi", "stop")
        assert await self.history.finish(ended, remember_at=at)
        return ended

    async def due(self, now: datetime = NOW, limit: int = 100) -> list[Turn]:
        return [job.turn for job in await self.outbox.due(now, limit)]


@pytest.fixture(params=["in_memory", "sql_on_sqlite"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    store: Literal["in_memory", "sql_on_sqlite"] = request.param
    match store:
        case "in_memory":
            history = HistoryInMemory()
            yield Kept(history, history)
        case "sql_on_sqlite":
            database = SQLiteDatabase(f"sqlite:///{tmp_path}/chat.db")
            await database.open()
            yield Kept(HistorySQL(database), MemoryOutboxSQL(database))
            await database.close()


# Remembering


async def test_a_turn_is_due_from_its_time_on(kept: Kept) -> None:
    turn = await kept.turn(at=NOW)

    assert [] == await kept.due(NOW - SECOND)
    assert [Remembering(turn, 0)] == await kept.outbox.due(NOW, 100)


async def test_a_turn_that_is_not_to_be_remembered_is_never_due(kept: Kept) -> None:
    await kept.turn(at=None)

    assert [] == await kept.due(NOW + 1000 * SECOND)


async def test_what_waits_longest_comes_first_and_no_more_than_asked_for(kept: Kept) -> None:
    late, early = await kept.turn(at=NOW), await kept.turn(at=NOW - SECOND)

    assert [early, late] == await kept.due()
    assert [early] == await kept.due(limit=1)


async def test_a_turn_that_has_ended_already_is_not_put_in_again(kept: Kept) -> None:
    turn = await kept.turn(at=NOW)
    await kept.outbox.settle(turn.id)
    assert await kept.history.finish(turn, remember_at=NOW)

    assert [] == await kept.due()


async def test_a_deleted_turn_is_not_put_in(kept: Kept) -> None:
    turn = Turn(TurnId(str(uuid4())), ADA, HOME, NOW, "Hello")
    await kept.history.begin(turn)
    await kept.history.clear(ADA, None)

    assert not await kept.history.finish(turn.completed("Hi", "stop"), remember_at=NOW)
    assert [] == await kept.due()


async def test_a_settled_turn_is_not_due_again(kept: Kept) -> None:
    settled, other = await kept.turn(), await kept.turn()
    await kept.outbox.settle(settled.id)

    assert [other] == await kept.due()


async def test_turns_of_users_who_have_their_turn_already_are_left_out(kept: Kept) -> None:
    of_ada, of_bob = await kept.turn(ADA), await kept.turn(BOB)

    assert [Remembering(of_bob, 0)] == await kept.outbox.due(NOW, 1, besides={ADA})
    assert [] == await kept.outbox.due(NOW, 10, besides={ADA, BOB})
    assert {of_ada.id, of_bob.id} == {turn.id for turn in await kept.due()}


async def test_a_postponed_turn_is_due_later_and_knows_its_attempts(kept: Kept) -> None:
    turn = await kept.turn()
    await kept.outbox.postpone(turn.id, NOW + SECOND)

    assert [] == await kept.due(NOW)
    assert [Remembering(turn, 1)] == await kept.outbox.due(NOW + SECOND, 100)


async def test_a_turn_that_was_given_up_is_only_counted(kept: Kept) -> None:
    given_up, pending = await kept.turn(), await kept.turn()
    await kept.outbox.give_up(given_up.id)

    assert [pending] == await kept.due(NOW + 1000 * SECOND)
    assert OutboxCounts(pending=1, dead=1, forgetting=0) == await kept.outbox.counts()


async def test_a_deleted_turn_is_no_longer_wanted(kept: Kept) -> None:
    _, other = await kept.turn(conversation=HOME), await kept.turn(conversation=WORK)
    await kept.history.clear(ADA, HOME)

    assert [other] == await kept.due()
    assert OutboxCounts(pending=1, dead=0, forgetting=0) == await kept.outbox.counts()


@pytest.mark.parametrize("method", ["settle", "give_up", "postpone"])
async def test_nothing_comes_of_a_turn_that_is_not_there(kept: Kept, method: str) -> None:
    nobody = TurnId(str(uuid4()))
    arguments = (NOW,) if method == "postpone" else ()
    await getattr(kept.outbox, method)(nobody, *arguments)

    assert OutboxCounts(0, 0, 0) == await kept.outbox.counts()


async def test_an_interrupted_turn_can_be_kept_out(kept: Kept) -> None:
    turn = Turn(TurnId(str(uuid4())), ADA, HOME, NOW, "Hello")
    await kept.history.begin(turn)
    await kept.history.finish(turn.cut("H", Cancelled()))

    assert [] == await kept.due()


# Forgetting


async def test_a_user_who_is_to_be_forgotten_is_so_until_it_is_done(kept: Kept) -> None:
    await kept.outbox.begin_forgetting(ADA)
    await kept.outbox.begin_forgetting(ADA)

    assert await kept.outbox.is_forgetting(ADA)
    assert not await kept.outbox.is_forgetting(BOB)
    assert [ADA] == await kept.outbox.forgetting(100)
    await kept.outbox.end_forgetting(ADA)
    assert not await kept.outbox.is_forgetting(ADA)
    assert [] == await kept.outbox.forgetting(100)


async def test_turns_of_who_is_to_be_forgotten_are_no_longer_wanted(kept: Kept) -> None:
    _, others = await kept.turn(ADA), await kept.turn(BOB)
    await kept.outbox.begin_forgetting(ADA)

    assert [others] == await kept.due()
    await kept.outbox.end_forgetting(ADA)
    assert [others] == await kept.due()


async def test_turns_that_come_while_their_user_is_being_forgotten_wait(kept: Kept) -> None:
    await kept.outbox.begin_forgetting(ADA)
    after = await kept.turn(ADA)

    assert [] == await kept.due()
    await kept.outbox.end_forgetting(ADA)
    assert [after] == await kept.due()


async def test_forgetting_outlives_the_history(kept: Kept) -> None:
    await kept.turn(ADA)
    await kept.outbox.begin_forgetting(ADA)
    await kept.history.clear(ADA, None)

    assert [ADA] == await kept.outbox.forgetting(100)


async def test_users_to_forget_are_counted_and_come_in_parts(kept: Kept) -> None:
    for user in (BOB, ADA):
        await kept.outbox.begin_forgetting(user)

    assert 1 == len(await kept.outbox.forgetting(1))
    assert OutboxCounts(0, 0, 2) == await kept.outbox.counts()
