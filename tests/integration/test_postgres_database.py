"""PostgreSQL as the database: connecting, locks, broken connections, errors, and the schema."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, delete, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError

from adapters.history_sql import HistorySQL
from adapters.sql.database import DatabaseClosed, Statements
from adapters.sql.databases import database_at
from adapters.sql.errors import DATABASE_ERRORS
from adapters.sql.postgres.database import PostgresDatabase
from adapters.sql.schema import HEAD, MIGRATIONS, OLDEST_COMPATIBLE
from adapters.sql.tables import metadata, users
from adapters.sql.turn_statements import save_progress
from adapters.sql.turn_writes import Sent
from application.ports.history import HistoryUnavailable, ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, TurnStatus, UserId
from domain.errors import TemporarilyUnusable, Unusable
from tests.harness.postgres import URL_FILE, Postgres

pytestmark = pytest.mark.server

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def url(postgres_in_tmp_path: None, tmp_path: Path) -> str:
    return (tmp_path / URL_FILE).read_text()


@pytest.fixture
def new_url(postgres: Postgres) -> str:
    """The URL of a database of its own, for tests that change the schema."""
    url = postgres.new_database()
    PostgresDatabase(url).migrate()
    return url


def downgrade_to(url: str, version: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        command.downgrade(migrations(connection), version)
    engine.dispose()


async def add_user(database: PostgresDatabase, name: str) -> None:
    await database.write(lambda connection: connection.execute(insert(users).values(id=name, last_seq=1)).close())


def _names(connection: Connection) -> Sequence[str]:
    return connection.execute(select(users.c.id).order_by(users.c.id)).scalars().all()


async def names(database: PostgresDatabase) -> Sequence[str]:
    return await database.read(_names)


async def end_sessions(postgres: Postgres, url: str) -> None:
    """End all sessions of the database on the server, as an administrator or a failover does."""
    statement = (
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{make_url(url).database}'"
    )
    assert all(ended for (ended,) in await asyncio.to_thread(postgres.execute, statement))


# Choosing the dialect


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_url_chooses_the_dialect(scheme: str) -> None:
    assert isinstance(database_at(f"{scheme}://user@host/chat"), PostgresDatabase)


def test_a_missing_driver_is_named_with_the_command_that_installs_it() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from adapters.sql.databases import database_at\n"
        "try: database_at('postgresql://user:canary@host/chat')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    expected = 'Unusable The driver for PostgreSQL is not installed; run: pip install "psycopg[binary]>=3.3"'
    assert ran.stdout.strip() == expected


# Opening


async def test_the_database_is_open_only_inside_its_block(url: str) -> None:
    async with PostgresDatabase(url) as database:
        assert await names(database) == []

    with pytest.raises(DatabaseClosed):
        await names(database)


async def test_a_closed_database_can_be_opened_again_at_once(url: str) -> None:
    database = PostgresDatabase(url)
    for name in ("ada", "bob", "eve"):
        async with database:
            await add_user(database, name)

    async with database:
        assert await names(database) == ["ada", "bob", "eve"]


async def test_several_processes_use_it_at_the_same_time(url: str) -> None:
    async with PostgresDatabase(url) as one, PostgresDatabase(url) as other:
        await add_user(one, "ada")
        await add_user(other, "bob")
        assert await names(one) == ["ada", "bob"] == await names(other)


async def test_while_it_is_copied_opening_waits(url: str) -> None:
    database = PostgresDatabase(url, lock_timeout=0.1)
    copying = PostgresDatabase(url).copy_source()
    with copying, pytest.raises(TemporarilyUnusable, match=r"^The database test_\d+ at .* is being copied\.$"):
        await database.open()

    async with database:
        await add_user(database, "ada")


async def test_while_it_is_copied_commands_are_refused_and_afterwards_it_can_be_copied_at_once(url: str) -> None:
    """What a command writes meanwhile, e.g. an API key, would be missing from the copy."""
    database = PostgresDatabase(url, lock_timeout=0.1)

    def visit() -> int:
        return database.visit(lambda connection: int(connection.execute(text("SELECT 1")).scalar_one()))

    with database.copy_source(), pytest.raises(TemporarilyUnusable, match=r" is being copied\.$"):
        await asyncio.to_thread(visit)
    async with PostgresDatabase(url):
        assert 1 == await asyncio.to_thread(visit)
    for _ in range(5):
        assert 1 == await asyncio.to_thread(visit)
        with database.copy_source():
            pass


async def test_while_it_is_open_it_cannot_be_copied(url: str) -> None:
    async with PostgresDatabase(url):
        with (
            pytest.raises(Unusable, match=r"^Another process uses the database .* Stop it first\.$"),
            PostgresDatabase(url, lock_timeout=0.1).copy_source(),
        ):
            raise AssertionError("copied")


# The clock


async def test_the_time_is_the_servers_whatever_this_hosts_clock_says(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.sql.postgres.clock.utc_now", lambda: datetime(1999, 1, 1, tzinfo=UTC))
    async with PostgresDatabase(url) as database:
        expected = await database.read(lambda c: c.execute(text("SELECT clock_timestamp()")).scalar_one())
        assert abs(expected - database.now()) < timedelta(seconds=1)


# Messages between processes


async def test_a_message_reaches_every_process_once_when_its_transaction_commits(url: str) -> None:
    def send_and_fail(connection: Connection) -> None:
        one.notifications.send(connection, "topic", "lost")
        connection.execute(text("SELECT 1 / 0"))

    async with PostgresDatabase(url) as one, PostgresDatabase(url) as other:
        received = [await subscribe(database) for database in (one, other)]
        await one.write_soon(lambda connection: one.notifications.send(connection, "topic", "hello ☀ you"))
        assert ["hello ☀ you", "hello ☀ you"] == [await messages.get() for messages in received]

        with pytest.raises(DBAPIError):
            await one.write(send_and_fail)
        await one.write_soon(lambda connection: one.notifications.send(connection, "topic", "next"))
        assert ["next", "next"] == [await messages.get() for messages in received]


async def test_after_its_connection_broke_the_subscriber_is_told_of_the_gap_and_receives_again(
    postgres: Postgres, url: str
) -> None:
    async with PostgresDatabase(url) as database:
        messages = await subscribe(database)
        await end_sessions(postgres, url)
        assert await messages.get() == "gap"
        await database.write_soon(lambda connection: database.notifications.send(connection, "topic", "hello"))
        assert await messages.get() == "hello"


async def test_what_is_no_message_is_ignored_and_delays_no_other(postgres: Postgres, url: str) -> None:
    async with PostgresDatabase(url) as database, asyncio.timeout(10):
        messages = await subscribe(database)
        payloads = "ARRAY['other ann', '', ' ', 'topic ann']"  # which arrive together
        await asyncio.to_thread(
            postgres.execute, f"SELECT pg_notify('smart_chatbot', payload) FROM unnest({payloads}) AS payload", url
        )
        assert await messages.get() == "ann"


async def subscribe(database: PostgresDatabase) -> "asyncio.Queue[str]":
    """Receive the messages of a topic. Returns when they arrive."""
    messages: asyncio.Queue[str] = asyncio.Queue()
    database.notifications.subscribe("topic", messages.put_nowait, lambda: messages.put_nowait("gap"))
    async with asyncio.timeout(10):
        assert await messages.get() == "gap"
    return messages


@pytest.mark.parametrize(("default", "expected"), [("off", "on"), ("on", "on"), ("remote_write", "remote_write")])
async def test_a_commit_is_on_disk_whatever_the_servers_default_unless_it_may_be_lost(
    postgres: Postgres, default: str, expected: str
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    name = make_url(url).database
    await asyncio.to_thread(postgres.execute, f"ALTER DATABASE {name} SET synchronous_commit = {default}")
    async with PostgresDatabase(url) as database:
        assert await database.write(lambda c: c.execute(text("SHOW synchronous_commit")).scalar_one()) == expected
        assert await database.write_soon(lambda c: c.execute(text("SHOW synchronous_commit")).scalar_one()) == "off"


async def test_a_process_that_is_paused_in_a_transaction_loses_its_locks_when_its_turns_count_as_abandoned(
    url: str,
) -> None:
    async with PostgresDatabase(url) as database:
        show = text("SHOW idle_in_transaction_session_timeout")
        for run in (database.write, database.write_soon):
            assert await run(lambda connection: connection.execute(show).scalar_one()) == "15s"


REFUSED_URLS = {
    "postgresql://user:canary@127.0.0.1:1/chat": (TemporarilyUnusable, r"chat at 127\.0\.0\.1 .*Connection refused"),
    "postgresql://user:canary@nowhere.invalid/chat": (TemporarilyUnusable, "failed to resolve host"),
    "postgresql://user:canary@127.0.0.1:1/chat?sslmod=require": (Unusable, 'invalid connection option "sslmod"'),
}


@pytest.mark.parametrize("refused", REFUSED_URLS)
async def test_a_server_that_cannot_be_reached_is_named_without_the_password(refused: str) -> None:
    kind, message = REFUSED_URLS[refused]
    with pytest.raises(kind, match=message) as raised:
        await PostgresDatabase(refused).open()

    assert type(raised.value) is kind
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": "nothing"}, 'database "nothing" does not exist; check DATABASE_URL'),
        ({"username": "nobody", "password": "canary"}, 'role "nobody" does not exist; check DATABASE_URL'),
    ],
)
async def test_a_wrong_url_is_unusable(postgres: Postgres, change: dict[str, Any], message: str) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    with pytest.raises(Unusable, match=message) as raised:
        await PostgresDatabase(make_url(url).set(**change).render_as_string(hide_password=False)).open()

    assert not isinstance(raised.value, TemporarilyUnusable)
    assert "canary" not in str(raised.value)


UNSUITABLE = {
    "CREATE TABLE users (id int)": "it holds tables of another program with the same names; check DATABASE_URL",
    "CREATE TABLE alembic_version AS SELECT CAST('9999' AS text) AS version_num": r"A newer version .*schema 9999",
    "CREATE ROLE visitor LOGIN": r"its user lacks a privilege \(permission denied for schema public\); check",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE ROLE visitor_without_schema LOGIN": "may use no schema",
}


@pytest.mark.parametrize("statements", UNSUITABLE)
async def test_an_unsuitable_database_is_unusable_and_stays_unchanged(postgres: Postgres, statements: str) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    for statement in statements.split("; "):
        await asyncio.to_thread(postgres.execute, statement, url)
    if role := re.search("visitor[a-z_]*", statements):
        url = make_url(url).set(username=role[0]).render_as_string()
    with pytest.raises(Unusable, match=UNSUITABLE[statements]) as raised:
        await PostgresDatabase(url).open()

    assert not isinstance(raised.value, TemporarilyUnusable)
    assert await asyncio.to_thread(postgres.execute, "SELECT 1 FROM pg_tables WHERE tablename = 'turns'", url) == []


async def test_a_missing_privilege_is_named_with_its_table_and_without_values(postgres: Postgres) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    await asyncio.to_thread(PostgresDatabase(url).migrate)
    await asyncio.to_thread(postgres.create_role_without, "SELECT ON api_keys", "reader", url)
    async with PostgresDatabase(make_url(url).set(username="reader").render_as_string()) as database:
        with pytest.raises(DBAPIError) as raised:
            await database.read(lambda connection: connection.execute(text("SELECT 'canary' FROM api_keys")))

    sentence = "The database cannot be used: its user lacks a privilege (permission denied for table api_keys)."
    assert database.explain(raised.value) == sentence


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_another_encoding_is_unusable(encoding: str, postgres: Postgres) -> None:
    name = encoding.lower()
    statement = f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    await asyncio.to_thread(postgres.execute, statement)
    url = make_url(await asyncio.to_thread(postgres.new_database)).set(database=name)
    with pytest.raises(Unusable, match=f"has the encoding {encoding} instead of UTF8"):
        await PostgresDatabase(url.render_as_string()).open()


def test_a_backup_is_left_to_postgresql(url: str, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="pg_dump"):
        PostgresDatabase(url).backup(tmp_path / "copy.db")


# Several processes


async def test_replies_that_two_processes_save_at_the_same_time_do_not_mix(url: str) -> None:
    async with PostgresDatabase(url) as one, PostgresDatabase(url) as other:
        histories = [HistorySQL(database) for database in (one, other)]
        turns = [Turn(TurnId(str(uuid4())), UserId(name), DEFAULT_CONVERSATION, NOW, "Hi") for name in ("ada", "bob")]
        for history, turn in zip(histories, turns, strict=True):
            await history.begin(TurnBegin(turn, timedelta(minutes=1)))
        saved = {turns[1].id: ReplyAddition(0, "for bob")}

        def save_between(connection: Connection) -> None:
            save_progress(connection, {turns[0].id: ReplyAddition(0, "for ada")}, timedelta(minutes=1), NOW)
            asyncio.run_coroutine_threadsafe(histories[1].save_progress(saved, timedelta(minutes=1)), loop).result(10)

        loop = asyncio.get_running_loop()
        await one.write(save_between)
        assert ["for ada", "for bob"] == [(await histories[0].get(turn.id, None)).reply for turn in turns]


# Connections that break


async def test_idle_connections_that_were_ended_are_replaced_without_an_error(postgres: Postgres, url: str) -> None:
    async with PostgresDatabase(url) as database:
        await add_user(database, "ada")
        await database.search(_names)
        await end_sessions(postgres, url)
        await add_user(database, "bob")
        assert await names(database) == ["ada", "bob"] == await database.search(_names)


async def test_a_transaction_that_breaks_before_its_commit_is_run_again(postgres: Postgres, url: str) -> None:
    calls = 0

    def break_once(connection: Connection) -> None:
        nonlocal calls
        calls += 1
        connection.execute(insert(users).values(id="ada", last_seq=calls))
        if calls == 1:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            postgres.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
        connection.execute(text("SELECT 1")).close()

    async with PostgresDatabase(url) as database:
        await database.write(break_once)
        assert (await names(database), calls) == (["ada"], 2)


async def test_a_transaction_that_breaks_each_time_fails_and_the_next_one_does_not(
    postgres: Postgres, url: str
) -> None:
    def break_always(connection: Connection) -> None:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        postgres.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
        connection.execute(text("SELECT 1")).close()

    async with PostgresDatabase(url) as database:
        with pytest.raises(DBAPIError) as raised:
            await database.write(break_always)
        await add_user(database, "ada")
        assert await names(database) == ["ada"]

    assert database.explain(raised.value) == "The database cannot be used: it is shutting down."


async def test_while_the_server_is_down_calls_fail_and_afterwards_they_succeed(
    own_server: Postgres,
) -> None:
    url = await asyncio.to_thread(own_server.new_database)
    async with PostgresDatabase(url) as database:
        await add_user(database, "ada")
        await asyncio.to_thread(own_server.stop)
        for call in (lambda: add_user(database, "bob"), lambda: names(database), database.check):
            with pytest.raises(DBAPIError) as raised:
                await call()
            assert "The database cannot be used: " in database.explain(raised.value)
        await asyncio.to_thread(own_server.start)
        await add_user(database, "eve")
        assert await names(database) == ["ada", "eve"]


async def test_a_server_that_hangs_fails_calls_in_time_and_is_used_again_when_it_responds(
    postgres: Postgres, url: str
) -> None:
    async with PostgresDatabase(url, response_timeout=0.5) as database:
        await add_user(database, "ada")
        await names(database)
        name = make_url(url).database
        sessions = await asyncio.to_thread(
            postgres.execute, f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'"
        )
        for (pid,) in sessions:
            os.kill(pid, signal.SIGSTOP)
        try:
            for call in (lambda: add_user(database, "bob"), lambda: names(database), database.check):
                with pytest.raises(DATABASE_ERRORS) as raised:
                    await call()
                assert database.explain(raised.value) == "The database does not respond."
        finally:
            for (pid,) in sessions:
                os.kill(pid, signal.SIGCONT)
        await add_user(database, "eve")
        assert await names(database) == ["ada", "bob", "eve"]  # the write that nobody waited for was done, too


# Batches


async def test_turns_that_begin_and_end_in_one_batch_do_not_affect_each_other(url: str) -> None:
    def turn(user: str) -> Turn:
        return Turn(TurnId(str(uuid4())), UserId(user), DEFAULT_CONVERSATION, datetime.now(UTC), f"from {user}")

    async with PostgresDatabase(url) as database:
        history = HistorySQL(database)
        first, second, third = turn("ada"), turn("ada"), turn("bob")
        for each in (first, second):
            await history.begin(TurnBegin(each, timedelta(hours=1)))
        ended = [each.completed("Hi", "stop") for each in (first, second)]
        results = await asyncio.gather(
            history.finish(TurnEnd(ended[0], remember=True)),
            history.begin(TurnBegin(first, timedelta(hours=1))),  # has begun already
            history.begin(TurnBegin(third, timedelta(hours=1))),
            history.finish(TurnEnd(third.completed("Hi", "stop"))),
            history.finish(TurnEnd(turn("eve").completed("Hi", "stop"))),  # has never begun
            add_user(database, "mia"),
            history.finish(TurnEnd(ended[1])),
            return_exceptions=True,
        )
        assert isinstance(results[1], HistoryUnavailable)
        assert [results[0], results[2], results[4], results[6]] == [ended[0], third, None, ended[1]]
        page = await history.page(UserId("ada"), None, 10, None)
        assert list(page.items) == ended
        assert (await history.get(third.id, None)).status is TurnStatus.COMPLETED
        assert (await history.counts()).pending == 1
        assert "mia" in await names(database)


async def test_a_batch_whose_connection_was_ended_is_sent_again(postgres: Postgres, url: str) -> None:
    async with PostgresDatabase(url) as database:
        history = HistorySQL(database)
        await end_sessions(postgres, url)
        turns = [
            Turn(TurnId(str(uuid4())), UserId("ada"), DEFAULT_CONVERSATION, datetime.now(UTC), f"message {number}")
            for number in range(5)
        ]
        await asyncio.gather(*(history.begin(TurnBegin(turn, timedelta(hours=1))) for turn in turns))
        assert list((await history.page(UserId("ada"), None, 10, None)).items) == turns


async def test_a_failing_write_does_not_affect_the_others_of_its_batch(url: str) -> None:
    async with PostgresDatabase(url) as database:
        await add_user(database, "ada")
        added = [add_user(database, name) for name in ("bob", "ada", "eve")]
        results = await asyncio.gather(*added, return_exceptions=True)

        assert [type(result) for result in results] == [type(None), results[1].__class__, type(None)]
        assert isinstance(results[1], DBAPIError)
        assert await names(database) == ["ada", "bob", "eve"]


async def test_a_locked_row_fails_only_the_writes_that_need_it(url: str) -> None:
    def touch(name: str) -> str:
        return f"UPDATE users SET last_seq = last_seq + 1 WHERE id = '{name}'"

    async with PostgresDatabase(url, lock_timeout=0.2) as database:
        await add_user(database, "ada")
        await add_user(database, "bob")
        with psycopg.connect(url) as other:
            other.execute(touch("ada"))
            touches = [database.write(lambda c, n=n: c.execute(text(touch(n))).close()) for n in ("ada", "bob")]  # type: ignore[misc]
            of_ada, of_bob = await asyncio.gather(*touches, return_exceptions=True)

    assert isinstance(of_ada, DBAPIError)
    assert database.explain(of_ada) == "The database cannot be used: it waited too long for a lock."
    assert of_bob is None


async def test_a_statement_that_takes_too_long_is_ended(url: str) -> None:
    async with PostgresDatabase(url, statement_timeout=0.1, search_timeout=20) as database:
        for call in (database.read, database.write):
            with pytest.raises(DBAPIError) as raised:
                await call(lambda connection: connection.execute(text("SELECT pg_sleep(30)")).close())
            assert database.explain(raised.value) == "The database cannot be used: a statement took too long."
        await database.search(lambda connection: connection.execute(text("SELECT pg_sleep(0.3)")).close())


async def add_users_slowly(database: PostgresDatabase, names: Sequence[str], others: threading.Barrier) -> None:
    """Add two users in one transaction, the second one when others have added their first."""

    def add(connection: Connection) -> None:
        connection.execute(insert(users).values(id=names[0], last_seq=1)).close()
        with suppress(threading.BrokenBarrierError):  # when it runs again
            others.wait(2)
        statement = "INSERT INTO users (id, last_seq) VALUES (:id, 1) ON CONFLICT DO NOTHING"
        connection.execute(text(statement), {"id": names[1]}).close()
        connection.execute(delete(users)).close()

    await database.write(add)


async def test_a_write_that_deadlocks_with_one_of_another_process_runs_again(url: str) -> None:
    both = threading.Barrier(2)
    # On a busy machine, the server finds the deadlock later than after the second that it waits.
    async with PostgresDatabase(url, lock_timeout=20) as one, PostgresDatabase(url, lock_timeout=20) as two:
        await asyncio.gather(add_users_slowly(one, ["a", "b"], both), add_users_slowly(two, ["b", "a"], both))

        assert [] == await names(one)


async def test_writes_of_a_batch_lock_users_in_the_same_order_in_every_process(url: str) -> None:
    order: list[str] = []

    def note(name: str) -> Statements[Sent[None]]:
        def send(_: Connection) -> Sent[None]:
            order.append(name)
            return lambda: None

        return send

    async with PostgresDatabase(url) as database:
        names = ["b1", "c1", "a1", "b2", "a2"]
        await asyncio.gather(*(database.write_turn(note(name), UserId(name[0])) for name in names))
    assert order == ["a1", "a2", "b1", "b2", "c1"]


# Errors


@pytest.mark.parametrize("raw", [False, True], ids=["through SQLAlchemy", "on the driver's cursor"])
@pytest.mark.parametrize("operation", ["read", "write", "erase"])
async def test_an_error_is_wrapped_and_quotes_no_values(url: str, operation: str, raw: bool) -> None:
    def insert_twice(connection: Connection) -> int:
        for _ in range(2):
            if raw:
                connection.connection.cursor().execute("INSERT INTO users (id, last_seq) VALUES ('canary', 1)")
            else:
                connection.execute(insert(users).values(id="canary", last_seq=1))
        return 0

    async with PostgresDatabase(url) as database:
        with pytest.raises(DBAPIError, match="duplicate key") as raised:
            await getattr(database, operation)(insert_twice)

    assert "canary" not in f"{raised.value!r} {raised.value} {raised.value.orig!r} {raised.value.__cause__!r}"
    assert database.explain(raised.value) == "The database cannot be used: PostgreSQL reports 23505 (UniqueViolation)."


def test_errors_without_a_code_are_explained_by_their_type() -> None:
    database = PostgresDatabase("postgresql://user@host/chat")

    assert database.explain(DatabaseClosed()) == "The database is not open."
    assert database.explain(RuntimeError("canary")) == "The database cannot be used: unexpected RuntimeError."


# The schema


@pytest.fixture
def connection(postgres: Postgres) -> Iterator[Connection]:
    engine = create_engine(make_url(postgres.new_database()).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def migrations(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def test_the_migrations_create_the_tables_as_declared(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")
    declared = MigrationContext.configure(
        connection,
        opts={"include_name": lambda name, kind, _: kind != "table" or name in metadata.tables},
    )

    assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == HEAD
    assert [(kind, column.name) for kind, _, _, column in compare_metadata(declared, metadata)] == [
        ("remove_column", "stems")
    ]


def test_other_tables_are_postgresqls_own_or_about_the_schema(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")
    tables = connection.execute(
        text(
            "SELECT relname, relpersistence FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
    )

    assert {name: kind for name, kind in tables if name not in metadata.tables} == {
        "alembic_version": "p",
        "conversation_leases": "p",
        "live_turns": "u",
        "live_workers": "u",
        "schema_compatibility": "p",
        "stop_requests": "u",
        "turn_events": "u",
        "turn_readers": "u",
        "unacknowledged_deletions": "u",
    }


async def test_of_many_processes_that_start_at_once_one_migrates_and_all_use_the_result(postgres: Postgres) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    databases = [PostgresDatabase(url) for _ in range(6)]
    assert await asyncio.to_thread(databases[0].is_outdated)
    await asyncio.gather(*(database.open() for database in databases))
    for number, database in enumerate(databases):
        await add_user(database, f"user {number}")
    assert len(await names(databases[0])) == 6
    assert not await asyncio.to_thread(databases[0].is_outdated)
    for database in databases:
        await database.close()


async def test_a_start_waits_for_another_process_that_migrates_longer_than_locks_are_waited_for(
    postgres: Postgres,
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    with psycopg.connect(url) as migrating:
        migrating.execute("SELECT pg_advisory_xact_lock(hashtext('smart-chatbot'), hashtext('migration'))")
        database = PostgresDatabase(url, lock_timeout=0.1, statement_timeout=0.1)
        opening = asyncio.create_task(database.open())
        assert await asyncio.wait([opening], timeout=0.5) == (set(), {opening})
        migrating.commit()
        await opening
    await database.close()


async def test_a_migration_does_not_wait_for_a_table_in_use_behind_which_everybody_would_have_to_wait(
    new_url: str,
) -> None:
    await asyncio.to_thread(downgrade_to, new_url, "0007")
    database = PostgresDatabase(new_url, lock_timeout=0.1)
    with psycopg.connect(new_url) as other:
        other.execute("LOCK TABLE alembic_version IN SHARE MODE")
        with pytest.raises(TemporarilyUnusable, match="it waited too long for a lock"):
            await database.open()
    await asyncio.to_thread(database.migrate)
    assert not await asyncio.to_thread(database.is_outdated)


@pytest.mark.parametrize("oldest", ["0008", HEAD])
async def test_a_newer_schema_that_this_version_can_work_with_is_used(
    postgres: Postgres, new_url: str, oldest: str
) -> None:
    url = new_url
    async with PostgresDatabase(url) as newer:
        await add_user(newer, "ada")
        for statement in (
            "ALTER TABLE users ADD COLUMN future text",
            "UPDATE alembic_version SET version_num = '9999'",
            f"UPDATE schema_compatibility SET oldest_version = '{oldest}'",
        ):
            await asyncio.to_thread(postgres.execute, statement, url)
        assert not await asyncio.to_thread(PostgresDatabase(url).is_outdated)
        async with PostgresDatabase(url) as this:
            await add_user(this, "bob")
            await add_user(newer, "eve")
            assert await names(this) == ["ada", "bob", "eve"]
    assert await asyncio.to_thread(postgres.execute, "SELECT version_num FROM alembic_version", url) == [("9999",)]


async def test_a_newer_schema_that_excludes_this_version_is_refused(postgres: Postgres, new_url: str) -> None:
    url = new_url
    for statement in (
        "UPDATE alembic_version SET version_num = '9999'",
        "UPDATE schema_compatibility SET oldest_version = '9999'",
    ):
        await asyncio.to_thread(postgres.execute, statement, url)
    for call in (PostgresDatabase(url).migrate, PostgresDatabase(url).is_outdated):
        with pytest.raises(Unusable, match=r"^A newer version of this service, .* made the database"):
            await asyncio.to_thread(call)


def test_each_migration_since_there_are_several_versions_says_which_is_the_oldest_that_can_work_with_it() -> None:
    scripts = {script.revision: script.module for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}

    assert OLDEST_COMPATIBLE == scripts[HEAD].oldest_compatible
    assert all(module.oldest_compatible in scripts for revision, module in scripts.items() if revision >= "0008")


def test_the_migrations_can_be_undone(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")
    command.downgrade(migrations(connection), "base")
    command.upgrade(migrations(connection), "head")

    assert compare_metadata(MigrationContext.configure(connection), metadata)


def test_the_indexes_of_running_turns_and_contexts_are_partial(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")
    found = connection.execute(text("SELECT indexname FROM pg_indexes WHERE indexdef LIKE '% WHERE %'")).scalars()

    assert sorted(found) == ["ix_live_turns_worker", "ix_turns_context", "ix_turns_running"]
