"""The memory outbox on two connections of PostgreSQL: one worker acts between two statements of the other."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError

from adapters.sql import outbox_statements as outbox
from adapters.sql.postgres.database import PostgresDatabase
from adapters.sql.postgres.turn_writes import PostgresTurnWrites
from adapters.sql.turn_statements import get
from adapters.sql.turn_writes import TurnWrites
from application.ports.history import TurnBegin, TurnEnd
from application.ports.memory_outbox import ForgetUser, OutboxCounts, RememberTurn
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, TurnStatus, UserId
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.server

ADA = UserId("ada")
NOW, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    url = postgres.new_database()
    PostgresDatabase(url).migrate()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    yield engine
    engine.dispose()


@pytest.fixture(params=[TurnWrites, PostgresTurnWrites])
def writes(request: pytest.FixtureRequest) -> TurnWrites:
    writes = request.param()
    assert isinstance(writes, TurnWrites)
    return writes


def finish_turn(writes: TurnWrites, connection: Connection, turn: Turn) -> None:
    writes.finish(connection, TurnEnd(turn.completed("Hi", "stop"), remember=True), NOW)()


def new_turn() -> Turn:
    return Turn(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, NOW, "Hello")


def begin_turn(writes: TurnWrites, engine: Engine) -> Turn:
    turn = new_turn()
    with engine.begin() as connection:
        writes.begin(connection, TurnBegin(turn, HOUR), NOW)()
    return turn


def run_before_claim(connection: Connection, action: Callable[[], None]) -> None:
    """Run `action` once, when the connection is about to claim a job that it has found."""
    actions = [action]

    def before(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if "memory_users" in sql and "RETURNING" in sql and actions:
            actions.pop()()

    event.listen(connection, "before_cursor_execute", before)


def test_a_turn_that_is_stored_while_its_user_is_forgotten_does_not_stay_in_the_outbox(
    engine: Engine, writes: TurnWrites
) -> None:
    turn = begin_turn(writes, engine)

    def forget() -> None:
        with engine.begin() as connection:
            outbox.begin_forgetting(connection, ADA, NOW)

    forgetting = Thread(target=forget)
    with engine.begin() as connection:
        finish_turn(writes, connection, turn)
        forgetting.start()
        forgetting.join(0.3)  # it waits for this transaction
    forgetting.join()

    with engine.begin() as connection:
        assert 0 == outbox.counts(connection).pending


def test_a_turn_that_waits_for_its_user_to_be_forgotten_does_not_enter_the_outbox(
    engine: Engine, writes: TurnWrites
) -> None:
    turn = begin_turn(writes, engine)

    def finish() -> None:
        with engine.begin() as connection:
            finish_turn(writes, connection, turn)

    finishing = Thread(target=finish)
    with engine.begin() as connection:
        outbox.begin_forgetting(connection, ADA, NOW)
        finishing.start()
        finishing.join(0.3)  # it waits for this transaction
    finishing.join()

    with engine.begin() as connection:
        assert 0 == outbox.counts(connection).pending
        stored = get(connection, turn.id, None)
        assert stored is not None
        assert stored.status is TurnStatus.COMPLETED


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


def test_a_turn_that_another_worker_has_just_remembered_is_not_remembered_again(
    engine: Engine, writes: TurnWrites
) -> None:
    turn = begin_turn(writes, engine)
    with engine.begin() as connection:
        finish_turn(writes, connection, turn)

    def other_worker() -> None:
        with engine.begin() as connection:
            (job,) = outbox.claim(connection, 8, HOUR, NOW)
            assert isinstance(job, RememberTurn)
            outbox.settle(connection, job, NOW)

    with engine.begin() as connection:
        run_before_claim(connection, other_worker)
        assert [] == outbox.claim(connection, 8, HOUR, NOW)
        assert outbox.claim_user(connection, ADA, HOUR, NOW)


def test_the_end_of_a_turn_that_is_to_be_remembered_waits_for_its_user_before_it_locks_the_turn(
    engine: Engine, writes: TurnWrites
) -> None:
    turn = begin_turn(writes, engine)

    def finish() -> None:
        with engine.begin() as connection:
            finish_turn(writes, connection, turn)

    finishing = Thread(target=finish)
    with engine.begin() as deleting:
        deleting.execute(text("SELECT FROM users WHERE id = 'ada' FOR UPDATE"))
        finishing.start()
        finishing.join(0.3)
        deleting.execute(text("SELECT FROM turns FOR UPDATE NOWAIT"))  # which a deletion does next
    finishing.join()


def test_a_user_is_forgotten_while_another_worker_settles_a_turn(engine: Engine, writes: TurnWrites) -> None:
    turn = begin_turn(writes, engine)
    with engine.begin() as connection:
        finish_turn(writes, connection, turn)
        (job,) = outbox.claim(connection, 8, HOUR, NOW)
        assert isinstance(job, RememberTurn)
    errors: list[Exception] = []

    def forget() -> None:
        try:
            with engine.begin() as connection:
                outbox.begin_forgetting(connection, ADA, NOW)
        except DBAPIError as error:
            errors.append(error)

    forgetting = Thread(target=forget)
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM memory_users FOR UPDATE"))  # which settling does first
        forgetting.start()
        forgetting.join(0.3)
        outbox.settle(connection, job, NOW)
    forgetting.join()
    assert errors == []
    with engine.begin() as connection:
        assert outbox.counts(connection) == OutboxCounts(0, 0, 1)


def test_workers_that_end_turns_of_a_user_and_begin_others_do_not_deadlock(engine: Engine, writes: TurnWrites) -> None:
    turns = [begin_turn(writes, engine) for _ in range(2)]
    both_end = Barrier(2)

    def end_and_begin(turn: Turn) -> None:
        with engine.begin() as connection:  # a batch of jobs is one transaction
            finish_turn(writes, connection, turn)
            with suppress(BrokenBarrierError):  # the other worker waits for this one
                both_end.wait(0.5)
            writes.begin(connection, TurnBegin(new_turn(), HOUR), NOW)()

    with ThreadPoolExecutor() as threads:
        for result in [threads.submit(end_and_begin, turn) for turn in turns]:
            result.result()
