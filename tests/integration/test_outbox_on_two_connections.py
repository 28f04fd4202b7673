"""The memory outbox on two connections of PostgreSQL: one worker acts between two statements of the other."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url

from adapters.sql import outbox_statements as outbox
from adapters.sql import turn_statements as turns
from adapters.sql.tables import metadata
from application.ports.history import TurnBegin, TurnEnd
from application.ports.memory_outbox import ForgetUser, RememberTurn
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.server

ADA = UserId("ada")
NOW, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    engine = create_engine(make_url(postgres.new_database()).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        metadata.create_all(connection)
    yield engine
    engine.dispose()


def finish_turn(connection: Connection, turn: Turn) -> None:
    turns.finish(connection, TurnEnd(turn.completed("Hi", "stop"), remember=True), NOW)


def begin_turn(engine: Engine) -> Turn:
    turn = Turn(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, NOW, "Hello")
    with engine.begin() as connection:
        turns.begin(connection, TurnBegin(turn, HOUR), NOW)
    return turn


def run_before_claim(connection: Connection, action: Callable[[], None]) -> None:
    """Run `action` once, when the connection is about to claim a job that it has found."""
    actions = [action]

    def before(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if "memory_users" in sql and "RETURNING" in sql and actions:
            actions.pop()()

    event.listen(connection, "before_cursor_execute", before)


def test_a_turn_that_is_stored_while_its_user_is_forgotten_does_not_stay_in_the_outbox(engine: Engine) -> None:
    turn = begin_turn(engine)

    def forget() -> None:
        with engine.begin() as connection:
            outbox.begin_forgetting(connection, ADA, NOW)

    forgetting = Thread(target=forget)
    with engine.begin() as connection:
        finish_turn(connection, turn)
        forgetting.start()
        forgetting.join(0.3)  # it waits for this transaction
    forgetting.join()

    with engine.begin() as connection:
        assert 0 == outbox.counts(connection).pending


def test_a_user_whom_another_worker_has_just_forgotten_is_not_forgotten_again(engine: Engine) -> None:
    with engine.begin() as connection:
        outbox.begin_forgetting(connection, ADA, NOW)

    def other_worker() -> None:
        with engine.begin() as connection:
            (job,) = outbox.claim(connection, 8, HOUR, NOW)
            assert isinstance(job, ForgetUser)
            outbox.end_forgetting(connection, job, NOW)

    with engine.begin() as connection:
        run_before_claim(connection, other_worker)
        assert [] == outbox.claim(connection, 8, HOUR, NOW)


def test_a_turn_that_another_worker_has_just_remembered_is_not_remembered_again(engine: Engine) -> None:
    turn = begin_turn(engine)
    with engine.begin() as connection:
        finish_turn(connection, turn)

    def other_worker() -> None:
        with engine.begin() as connection:
            (job,) = outbox.claim(connection, 8, HOUR, NOW)
            assert isinstance(job, RememberTurn)
            outbox.settle(connection, job, NOW)

    with engine.begin() as connection:
        run_before_claim(connection, other_worker)
        assert [] == outbox.claim(connection, 8, HOUR, NOW)
        assert outbox.claim_user(connection, ADA, HOUR, NOW)
