"""Turns on two connections of PostgreSQL: two workers write about the same turn, or the same conversation, at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Thread
from time import monotonic, sleep

import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, text

from adapters.sql import turn_statements
from adapters.sql.lease_statements import Applicant, take_or_wait
from adapters.sql.postgres.database import PostgresDatabase
from adapters.sql.postgres.turn_writes import PostgresTurnWrites
from adapters.sql.turn_statements import finish_abandoned, get, save_progress
from application.ports.history import ReplyAddition, TurnBegin
from domain.conversation import DEFAULT_CONVERSATION, ConversationId, Turn, TurnId, TurnStatus, UserId
from tests.harness.exchange import TIMEOUT
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.server

NOW, LEASE = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=15)
SOON, LATER = NOW + timedelta(seconds=1), NOW + 2 * LEASE
"""When the paused worker saves text, too early to renew the lease, and when another one looks for abandoned turns."""


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    url = postgres.new_database()
    PostgresDatabase(url).migrate()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    yield engine
    engine.dispose()


@pytest.fixture
def turn(engine: Engine) -> Turn:
    """A running turn of which text is saved."""
    turn = Turn(TurnId("turn"), UserId("ada"), DEFAULT_CONVERSATION, NOW, "Hello")
    with engine.begin() as connection:
        assert PostgresTurnWrites().begin(connection, TurnBegin(turn, LEASE), NOW)()
        assert not save_progress(connection, {turn.id: ReplyAddition(0, "one ")}, LEASE, NOW)
    return turn


def test_a_turn_is_not_ended_while_its_worker_saves_text(engine: Engine, turn: Turn) -> None:
    with engine.begin() as paused:
        assert not save_progress(paused, {turn.id: ReplyAddition(4, "two")}, LEASE, SOON)
        with engine.begin() as other:
            assert 0 == finish_abandoned(other, LATER)
    with engine.begin() as other:
        assert 1 == finish_abandoned(other, LATER)
        ended = get(other, turn.id, None)
    assert ended is not None
    assert (TurnStatus.INTERRUPTED, "one two") == (ended.status, ended.reply)


def test_no_text_is_saved_for_a_turn_that_is_just_being_ended(engine: Engine, turn: Turn) -> None:
    lost: list[TurnId] = []

    def save() -> None:
        with engine.begin() as resumed:
            lost.extend(save_progress(resumed, {turn.id: ReplyAddition(4, "two")}, LEASE, SOON))

    saving = Thread(target=save)
    with engine.begin() as other:
        assert 1 == finish_abandoned(other, LATER)
        saving.start()
        saving.join(0.3)
    saving.join()
    with engine.begin() as other:
        ended = get(other, turn.id, None)
    assert ended is not None
    assert (TurnStatus.INTERRUPTED, "one ") == (ended.status, ended.reply)
    assert lost == [turn.id]


def test_text_that_is_saved_while_its_turn_is_deleted_is_deleted_with_it(engine: Engine, turn: Turn) -> None:
    def delete() -> int:
        with engine.begin() as deleting:
            return turn_statements.clear(deleting, turn.user_id, None)

    with ThreadPoolExecutor() as threads:
        with engine.begin() as saving:
            assert not save_progress(saving, {turn.id: ReplyAddition(4, "two")}, LEASE, SOON)
            deletion = threads.submit(delete)
            until_one_waits_for_a_lock(engine)
        assert 1 == deletion.result(TIMEOUT)
    with engine.begin() as other:
        assert [] == other.execute(text("SELECT * FROM reply_parts")).all()


def until_one_waits_for_a_lock(engine: Engine) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    give_up_at = monotonic() + TIMEOUT
    while True:
        with engine.begin() as observer:
            if observer.execute(waiting).scalar_one():
                return
        assert monotonic() < give_up_at
        sleep(0.01)


def begin(connection: Connection, conversation: str, turn_id: str) -> bool:
    turn = Turn(TurnId(turn_id), UserId("ada"), ConversationId(conversation), NOW, "Hello")
    return PostgresTurnWrites().begin(connection, TurnBegin(turn, LEASE, takes_conversation=True), NOW)()


def take(connection: Connection, conversation: str, turn_id: str) -> bool:
    turn = Turn(TurnId(turn_id), UserId("ada"), ConversationId(conversation), NOW, "Hello")
    return PostgresTurnWrites().take_conversation(connection, turn, NOW)


def wait(connection: Connection, conversation: str, turn_id: str) -> bool:
    applicant = Applicant(TurnId(turn_id), UserId("ada"), ConversationId(conversation))
    take_or_wait(connection, applicant, 4, NOW, waits=True)
    return False


def clear(connection: Connection, conversation: str, _: str) -> bool:
    PostgresTurnWrites().delete_leases(connection, UserId("ada"), ConversationId(conversation), NOW)
    return False


@pytest.mark.parametrize("act", [begin, take, wait, clear])
def test_batches_with_two_conversations_of_a_user_in_common_do_not_deadlock(
    engine: Engine, turn: Turn, act: Callable[[Connection, str, str], bool]
) -> None:
    with engine.begin() as connection:  # as after a turn of each
        for conversation in ("first", "second"):
            assert take(connection, conversation, turn_id="")

    def other_batch() -> bool:
        with engine.begin() as connection:
            acted = act(connection, "second", "c")
            begin(connection, "first", "d")
            return acted

    with ThreadPoolExecutor() as threads:
        with engine.begin() as connection:  # a batch of jobs is one transaction
            begin(connection, "first", "a")
            other = threads.submit(other_batch)
            with suppress(TimeoutError):
                other.result(0.3)
            begin(connection, "second", "b")
        other.result()
