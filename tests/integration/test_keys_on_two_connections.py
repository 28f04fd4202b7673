"""Idempotency keys on two connections of PostgreSQL: two workers receive the same request."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from threading import Thread
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine, func, make_url, select, text

from adapters.sql.key_statements import REMOVE_EXPIRED, find
from adapters.sql.tables import idempotency_keys, metadata, turns
from adapters.sql.turn_statements import begin_in_steps, finish
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import WorkerLost
from domain.idempotency import IdempotencyKey
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.server

NOW, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)
KEY = IdempotencyKey("name", "fingerprint")


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    engine = create_engine(make_url(postgres.new_database()).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        metadata.create_all(connection)
    yield engine
    engine.dispose()


def new_turn(user: str = "ada") -> Turn:
    return Turn(TurnId(str(uuid4())), UserId(user), DEFAULT_CONVERSATION, NOW, "Hello")


def begin(connection: Connection, turn: Turn, key: IdempotencyKey = KEY, now: datetime = NOW) -> Turn | None:
    """Begin a turn, or return the one that the key names already."""
    named = begin_in_steps(connection, TurnBegin(turn, HOUR, key), now)
    return named and named.turn


@pytest.mark.parametrize("earlier", ["none", "failed"])
def test_the_second_of_two_begins_waits_for_the_first_and_gets_its_turn(engine: Engine, earlier: str) -> None:
    first, second, results = new_turn(), new_turn(), SimpleQueue[Turn | None]()
    if earlier == "failed":
        with engine.begin() as connection:
            failed = new_turn()
            begin(connection, failed)
            finish(connection, TurnEnd(failed.ended_by(WorkerLost())), NOW)

    def begin_second() -> None:
        with engine.begin() as connection:
            results.put(begin(connection, second))

    other = Thread(target=begin_second)
    with engine.begin() as connection:
        assert begin(connection, first) is None
        other.start()
        other.join(0.2)
        assert results.empty()
    other.join(10)

    assert first == results.get_nowait()
    with engine.begin() as connection:
        counts = [select(func.count()).select_from(table) for table in (turns, idempotency_keys)]
        assert [1, 1] == [connection.scalar(count) for count in counts]


def test_two_begins_that_remove_expired_keys_do_not_wait_for_each_other(engine: Engine) -> None:
    with engine.begin() as connection:
        for n in range(6):
            begin(connection, new_turn(f"user{n}"), IdempotencyKey(f"expired {n}", ""), NOW - timedelta(days=2))
    with engine.connect() as one, engine.connect() as other, one.begin(), other.begin():
        assert begin(one, new_turn("ada"), IdempotencyKey("a", "")) is None
        assert begin(other, new_turn("bob"), IdempotencyKey("b", "")) is None
    with engine.begin() as connection:
        assert ["a", "b"] == sorted(connection.scalars(select(idempotency_keys.c.name)))


def test_removing_expired_keys_scans_no_table(engine: Engine) -> None:
    statement = REMOVE_EXPIRED.compile(engine)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))  # for tables this small
        parameters = statement.construct_params({"now": 0, "rows": 4})
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
    assert [step for step in plan if "Seq Scan" in step] == []


def test_an_expired_key_that_is_used_again_names_the_new_turn(engine: Engine) -> None:
    earlier, later = new_turn(), new_turn("bob")
    with engine.begin() as connection:
        for n in range(9):  # more than are removed at once
            begin(connection, new_turn(f"user{n}"), IdempotencyKey(f"expired {n}", ""), NOW - timedelta(days=3))
        begin(connection, earlier, KEY, NOW - timedelta(days=2))
    with engine.begin() as connection:
        assert begin(connection, later) is None
        named = find(connection, KEY, NOW)
        assert named is not None
        assert named.turn == later
