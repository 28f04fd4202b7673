"""History on SQLite: the behaviour that comes from storing it in a file."""

import asyncio
import gc
import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter, sleep
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Select, TextClause, UpdateBase, create_engine, insert, make_url, select, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import SQLAlchemyError

from adapters.history_sql import HistorySQL
from adapters.sql import (
    chosen_id_statements,
    conversation_statements,
    database_thread,
    key_statements,
    outbox_statements,
    reply_parts,
    retraction_statements,
    turn_statements,
)
from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.database import DatabaseClosed
from adapters.sql.database_thread import Job
from adapters.sql.databases import database_at
from adapters.sql.schema import HEAD, MIGRATIONS
from adapters.sql.sqlite import full_text as full_text_sqlite
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.tables import conversations, metadata, turns, users
from application.ports.history import ConversationHistory, HistoryUnavailable, ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, TurnStatus, UserId
from domain.errors import TurnDeadline, Unusable
from domain.idempotency import IdempotencyKey
from tests.bench.writes import ratio
from tests.harness.failing_database import FailingDatabase
from tests.harness.full_disk import files_limited_to
from tests.harness.postgres import Postgres
from tests.harness.sqlite_trace import traced_statements

ADA, BOB = UserId("ada"), UserId("bob")
LEASE = timedelta(seconds=15)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "chat.db"


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SQLiteDatabase]:
    async with SQLiteDatabase(f"sqlite:///{path}", **options) as database:
        yield database


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SQLiteDatabase]:
    async with opened(path) as database:
        yield database


@pytest.fixture
def history(database: SQLiteDatabase) -> HistorySQL:
    return HistorySQL(database)


@pytest.fixture
def file(path: Path) -> Path:
    """A database with a hundred turns, closed."""
    asyncio.run(used(path))
    return path


async def used(path: Path) -> None:
    """Open the database, store a hundred turns, and close it."""
    async with opened(path) as database:
        history = HistorySQL(database)
        await asyncio.gather(*(history.begin(new_turn(f"message {n} " * 20)) for n in range(100)))


def new_turn(message: str = "Hello", user_id: UserId = ADA) -> TurnBegin:
    return TurnBegin(Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message), LEASE)


@contextmanager
def another_program(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


def refusal(path: Path) -> str:
    """The message of the error with which opening the database fails."""
    with pytest.raises(Unusable) as raised:
        asyncio.run(used(path))
    return str(raised.value)


def messages(path: Path) -> list[str]:
    with another_program(path) as connection:
        return [message for (message,) in connection.execute("SELECT user_message FROM turns ORDER BY user_id, seq")]


def python(script: str) -> subprocess.CompletedProcess[str]:
    """Run the script in another process."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


@asynccontextmanager
async def locked_by_another_program(path: Path) -> AsyncIterator[None]:
    with another_program(path) as other:
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        yield
        await asyncio.to_thread(other.execute, "ROLLBACK")


def integrity(path: Path) -> str:
    with another_program(path) as connection:
        ((verdict,),) = connection.execute("PRAGMA integrity_check")
        return str(verdict)


def flip(path: Path, positions: range) -> bytes:
    """Invert the bytes at these positions and return the file's new content."""
    data = bytearray(path.read_bytes())
    for position in positions:
        data[position] ^= 0xFF
    path.write_bytes(data)
    return bytes(data)


def schema(path: Path) -> list[str]:
    with another_program(path) as connection:
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return sorted(" ".join(sql.split()) for (sql,) in found)


def revise(path: Path, step: Callable[[Config, str], None], revision: str) -> None:
    """Upgrade or downgrade the schema to a revision."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        step(config, revision)
    engine.dispose()


def structure(path: Path) -> set[tuple[object, ...]]:
    """Return tables, columns, foreign keys, indexes and triggers, regardless of the order of columns."""
    queries = (
        "SELECT type, name, iif(type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL %', NULL, sql) FROM sqlite_master",
        'SELECT t.name, c.name, c.type, c."notnull", c.pk FROM sqlite_master t, pragma_table_info(t.name) c',
        'SELECT name, "from", "table", "to", on_delete FROM sqlite_master, pragma_foreign_key_list(name)',
    )
    with another_program(path) as connection:
        return {row for query in queries for row in connection.execute(query)}


def unversioned(path: Path) -> None:
    """Create a database that no migration has been run on."""
    path.parent.mkdir(exist_ok=True)
    column = "version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)"
    with another_program(path) as other:
        other.execute(f"CREATE TABLE alembic_version ({column})")


def is_undeclared(table: str) -> bool:
    """Whether the table belongs to SQLite's full-text index, or is about the schema itself."""
    return table.startswith(full_text_sqlite.INDEX) or table == "schema_compatibility"


def steps(connection: Connection, sql: str) -> list[str]:
    """Return the steps of SQLite's query plan."""
    return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?"))]


def fill(connection: Connection, user_id: UserId, count: int) -> None:
    began = {"user_id": user_id, "started_at": datetime.now(UTC)}
    outline = {"id": DEFAULT_CONVERSATION, "created_at": began["started_at"], "updated_at": began["started_at"]}
    connection.execute(insert(users).values(id=user_id, last_seq=count))
    connection.execute(insert(conversations).values(user_id=user_id, last_seq=count, turns=count, **outline))
    text = {"conversation_id": DEFAULT_CONVERSATION, "reply": "Hi", "status": "completed", "reason": None}
    rows = [{"id": f"t{n}", "seq": n, "user_message": f"message {n}"} for n in range(1, count + 1)]
    connection.execute(insert(turns), [began | text | row for row in rows])


def pragma(connection: Connection, name: str) -> object:
    return connection.execute(text(f"PRAGMA {name}")).scalar()


# Durability


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("busy_timeout", 5000),
        ("foreign_keys", 1),
        ("secure_delete", 1),
        ("temp_store", 2),
    ],
)
async def test_the_writer_is_configured_for_durability(database: SQLiteDatabase, name: str, value: object) -> None:
    assert value == await database.write(lambda connection: pragma(connection, name))


@pytest.mark.row("S5")
async def test_a_write_takes_the_write_lock_at_its_beginning(database: SQLiteDatabase, path: Path) -> None:
    def locked(_: Connection) -> str:
        with another_program(path) as other:
            other.execute("PRAGMA busy_timeout = 0")
            with pytest.raises(sqlite3.OperationalError) as raised:
                other.execute("BEGIN IMMEDIATE")
        return str(raised.value)

    assert await database.write(locked) == "database is locked"


async def test_a_turn_survives_the_death_of_the_process(path: Path) -> None:
    script = f"""
import asyncio, os
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from tests.integration.test_history_sqlite import new_turn

async def main():
    database = SQLiteDatabase("sqlite:///{path}")
    await database.open()
    await HistorySQL(database).begin(new_turn("Are you there?"))
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
    assert (await asyncio.to_thread(python, script)).returncode == -9
    async with opened(path) as database:
        history = HistorySQL(database)
        assert await history.finish_abandoned() == 1
        (turn,) = (await history.page(ADA, None, 10, None)).items
    assert (turn.user_message, turn.status) == ("Are you there?", TurnStatus.FAILED)


async def test_turns_are_kept_after_reopening(path: Path) -> None:
    begin = new_turn()
    async with opened(path) as database:
        await HistorySQL(database).begin(begin)
    async with opened(path) as database:
        assert begin.turn == await HistorySQL(database).get(begin.turn.id, ADA)


async def test_closing_finishes_pending_writes(path: Path) -> None:
    async with opened(path) as database:
        pending = [asyncio.ensure_future(HistorySQL(database).begin(new_turn(str(n)))) for n in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*pending)
    assert sorted(map(str, range(50))) == sorted(await asyncio.to_thread(messages, path))


async def test_closing_leaves_only_the_database_and_its_lock_file(path: Path) -> None:
    await used(path)
    assert await asyncio.to_thread(lambda: sorted(os.listdir(path.parent))) == ["chat.db", "chat.db.lock"]


async def test_every_operation_fails_if_the_database_is_not_open(path: Path) -> None:
    never_opened = HistorySQL(SQLiteDatabase(f"sqlite:///{path}"))
    async with opened(path) as database:
        closed = HistorySQL(database)
    for history in (never_opened, closed):
        for call in (history.check(), history.begin(new_turn()), history.clear(ADA, None)):
            with pytest.raises(HistoryUnavailable) as raised:
                await call
            assert isinstance(raised.value.__cause__, DatabaseClosed)


# Batching


async def test_writes_queued_during_a_commit_are_committed_together(database: SQLiteDatabase) -> None:
    commits: set[int] = set()

    def note_transaction(connection: Connection) -> None:
        commits.add(id(connection.get_transaction()))

    await asyncio.gather(*(database.write(note_transaction) for _ in range(100)))
    assert len(commits) < 20


async def test_requests_of_one_loop_iteration_wake_a_thread_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    class Inbox(SimpleQueue[Sequence[Job]]):
        def put(self, jobs: Sequence[Job], block: bool = True, timeout: float | None = None) -> None:
            batches.append(len(jobs))
            super().put(jobs)

    monkeypatch.setattr(database_thread, "SimpleQueue", Inbox)
    async with opened(path) as database:
        await asyncio.gather(*(database.read(lambda connection: connection.execute(users.select())) for _ in "abc"))
        assert batches == [3]


async def test_closing_runs_a_request_that_is_not_queued_yet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowInbox(SimpleQueue[Sequence[Job]]):
        def put(self, jobs: Sequence[Job], block: bool = True, timeout: float | None = None) -> None:
            until = perf_counter() + 0.3 * len(jobs)
            while perf_counter() < until:  # meanwhile the thread may find its queue empty
                pass
            super().put(jobs)

    monkeypatch.setattr(database_thread, "SimpleQueue", SlowInbox)
    async with opened(path) as database:
        first = asyncio.ensure_future(database.read(lambda _: sleep(0.02)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the first read is now queued
        last = asyncio.ensure_future(database.read(lambda _: "done"))
        await asyncio.sleep(0)  # the last read is requested, but not queued
    async with asyncio.timeout(5):
        assert "done" == await last
    await first


async def test_a_failing_write_does_not_affect_others_in_its_batch(history: HistorySQL, path: Path) -> None:
    twice = new_turn("twice")
    calls = [history.begin(t) for t in (new_turn("a"), twice, new_turn("b"), twice, new_turn("c"))]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [Turn, Turn, Turn, HistoryUnavailable, Turn] == [type(outcome) for outcome in outcomes]
    assert await asyncio.to_thread(messages, path) == ["a", "twice", "b", "c"]


async def test_a_bug_in_a_write_is_raised_unchanged_and_nothing_is_written(
    database: SQLiteDatabase, history: HistorySQL
) -> None:
    def write_and_fail(connection: Connection) -> None:
        connection.execute(insert(users).values(id="half", last_seq=1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(write_and_fail)
    await history.begin(new_turn("next"))
    assert await database.read(lambda connection: connection.execute(select(users.c.id)).scalars().all()) == ["ada"]


async def test_a_write_whose_caller_is_cancelled_still_happens_and_logs_nothing(
    history: HistorySQL, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    twice = new_turn("twice")
    await history.begin(twice)
    for turn in (new_turn("cancelled"), twice):
        call = asyncio.ensure_future(history.begin(turn))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await history.begin(new_turn("last"))
    gc.collect()
    assert await asyncio.to_thread(messages, path) == ["twice", "cancelled", "last"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# Other programs that use the file


async def test_a_write_waits_for_another_program_that_has_the_file_locked(history: HistorySQL, path: Path) -> None:
    async with locked_by_another_program(path):
        write = asyncio.ensure_future(history.begin(new_turn("Hello")))
        await asyncio.sleep(0.5)
        assert not write.done()
    await write
    assert await asyncio.to_thread(messages, path) == ["Hello"]


async def test_reads_do_not_wait_for_a_program_that_has_the_file_locked(history: HistorySQL, path: Path) -> None:
    await history.begin(new_turn("before"))
    async with locked_by_another_program(path):
        page = await history.page(ADA, None, 10, None)
    assert [turn.user_message for turn in page.items] == ["before"]


@pytest.mark.row("S4")
async def test_writes_fail_if_the_file_stays_locked_and_succeed_again_afterwards(path: Path) -> None:
    turns = [new_turn(str(n)) for n in range(3)]
    async with opened(path, busy_timeout=0.2) as database:
        history = HistorySQL(database)
        async with locked_by_another_program(path):
            outcomes = await asyncio.gather(*map(history.begin, turns), return_exceptions=True)
        await history.begin(new_turn("after"))
    assert {type(outcome) for outcome in outcomes} == {HistoryUnavailable}
    assert {outcome.retry_after for outcome in outcomes if isinstance(outcome, HistoryUnavailable)} == {1.0}
    assert await asyncio.to_thread(messages, path) == ["after"]


# Disks that fail


@pytest.mark.row("S8")
async def test_a_full_disk_fails_writes_but_not_reads_until_there_is_room_again(
    history: HistorySQL, path: Path
) -> None:
    await history.begin(new_turn("before"))
    with files_limited_to(200_000):
        with pytest.raises(HistoryUnavailable):
            await history.begin(new_turn("too much " * 100_000))
        page = await history.page(ADA, None, 10, None)
    await history.begin(new_turn("after"))
    assert [turn.user_message for turn in page.items] == ["before"]
    assert await asyncio.to_thread(messages, path) == ["before", "after"]
    assert await asyncio.to_thread(integrity, path) == "ok"


# One process owns the file


async def test_a_second_database_on_the_file_is_refused(database: SQLiteDatabase, path: Path) -> None:
    expected = (
        f"Another process uses the database {path}; stop it, or set another DATA_DIR. "
        "An SQLite file serves one process; several can share PostgreSQL (DATABASE_URL)."
    )
    with pytest.raises(Unusable, match="^" + re.escape(expected) + "$"):
        await SQLiteDatabase(f"sqlite:///{path}").open()


async def test_another_process_is_refused(database: SQLiteDatabase, path: Path) -> None:
    script = f"from adapters.sql.databases import database_at; database_at('sqlite:///{path}').migrate()"
    other = await asyncio.to_thread(python, script)
    assert "Another process uses the database" in other.stderr


async def test_the_lock_ends_with_the_database_that_held_it(path: Path) -> None:
    await used(path)
    await used(path)
    assert len(await asyncio.to_thread(messages, path)) == 200


def test_a_failed_opening_releases_the_lock(file: Path) -> None:
    with another_program(file) as other:
        other.execute("UPDATE alembic_version SET version_num = 'unknown'")
        other.execute("ALTER TABLE schema_compatibility RENAME TO hidden")
    assert "newer" in refusal(file)
    with another_program(file) as other:
        other.execute("UPDATE alembic_version SET version_num = ?", (HEAD,))
    asyncio.run(used(file))


def test_a_newer_schema_that_this_version_can_work_with_is_used(file: Path) -> None:
    with another_program(file) as other:
        other.execute("ALTER TABLE turns ADD COLUMN future TEXT")
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    SQLiteDatabase(f"sqlite:///{file}").migrate()
    asyncio.run(used(file))
    with another_program(file) as other:
        assert other.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_the_files_are_readable_only_by_their_owner(path: Path) -> None:
    async def modes() -> dict[str, int]:
        async with opened(path) as database:
            await HistorySQL(database).begin(new_turn())
            return await asyncio.to_thread(
                lambda: {p.name: stat.S_IMODE(p.stat().st_mode) for p in (path.parent, *path.parent.iterdir())}
            )

    private = {"chat.db": 0o600, "chat.db-shm": 0o600, "chat.db-wal": 0o600, "chat.db.lock": 0o600}
    assert {"data": 0o700} | private == asyncio.run(modes())


# Unusable files


def test_a_file_that_is_not_a_database_is_refused_and_left_unchanged(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("Dear diary, " * 1000)
    before = path.read_bytes()
    expected = f"The file {path} is not an SQLite database, or its header is damaged; check DATA_DIR or DATABASE_URL."
    assert expected == refusal(path)
    assert before == path.read_bytes()


@pytest.mark.parametrize("offset", [0, 5, 15, 20, 100], ids=["magic", "magic end", "magic nul", "sizes", "first page"])
def test_a_file_with_a_damaged_header_is_refused_and_left_unchanged(file: Path, offset: int) -> None:
    damaged = flip(file, range(offset, offset + 4))
    assert str(file) in refusal(file)
    assert damaged == file.read_bytes()


@pytest.mark.parametrize("page", [2, 5, 9])
@pytest.mark.row("S9")
def test_a_file_with_a_damaged_page_is_refused_and_left_unchanged(file: Path, page: int) -> None:
    damaged = flip(file, range(4096 * (page - 1), 4096 * (page - 1) + 64))
    assert refusal(file) == f"The database {file} is damaged: restore it from a backup, or move it away."
    assert damaged == file.read_bytes()


def test_a_truncated_file_is_refused_and_left_unchanged(file: Path) -> None:
    cut = file.read_bytes()[: 4096 * 5]
    file.write_bytes(cut)
    assert "damaged" in refusal(file) or "malformed" in refusal(file)
    assert cut == file.read_bytes()


def test_damage_found_while_reading_makes_the_history_unavailable(file: Path) -> None:
    size = file.stat().st_size

    async def damage_and_read() -> None:
        async with opened(file) as database:
            await asyncio.to_thread(flip, file, range(4096, size))
            await HistorySQL(database).page(ADA, None, 100, None)

    with pytest.raises(HistoryUnavailable):
        asyncio.run(damage_and_read())


def test_only_files_up_to_a_size_are_checked_for_damage_at_opening(file: Path) -> None:
    flip(file, range(4096 * 4, 4096 * 4 + 64))

    async def open_unchecked() -> None:
        async with opened(file, max_check_bytes=4096):
            pass

    assert "is damaged" in refusal(file)
    asyncio.run(open_unchecked())


def test_a_log_without_its_database_is_refused_and_left_unchanged(path: Path) -> None:
    path.parent.mkdir()
    log = Path(f"{path}-wal")
    log.write_bytes(b"turns that were committed")
    expected = f"The database {path} is missing, but its log chat.db-wal is there; restore the database file."
    assert expected == refusal(path)
    assert log.read_bytes() == b"turns that were committed"
    assert not path.exists()


def test_the_database_of_another_program_is_refused_and_left_unchanged(path: Path) -> None:
    path.parent.mkdir()
    with another_program(path) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    assert refusal(path) == f"The file {path} is the database of another program; check DATA_DIR or DATABASE_URL."
    assert before == path.read_bytes()


def test_a_newer_schema_that_excludes_this_version_is_refused_and_left_unchanged(file: Path) -> None:
    with another_program(file) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        other.execute("UPDATE schema_compatibility SET oldest_version = '9999'")
    assert refusal(file) == (
        f"A newer version of this service, or another program, made the database {file} (schema 9999): "
        "use that version, restore a backup, or check DATABASE_URL."
    )
    assert len(messages(file)) == 100


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    expected = f"The folder {tmp_path}/data cannot hold a database: File exists; check DATA_DIR or DATABASE_URL."
    assert refusal(tmp_path / "data" / "chat.db") == expected


def test_a_lock_file_that_cannot_be_opened_is_named(path: Path) -> None:
    Path(f"{path}.lock").mkdir(parents=True)
    expected = f"The file {path}.lock cannot be opened: Is a directory; check DATA_DIR or DATABASE_URL."
    assert refusal(path) == expected


def test_a_folder_instead_of_the_file_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    assert refusal(path) == f"The database {path} is a directory; check DATA_DIR or DATABASE_URL."


@pytest.mark.parametrize("url", ["", "chat.db", "sqlite://", "sqlite:///:memory:"])
async def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(Unusable, match=r"e\.g\., sqlite:///chat\.db"):
        await database_at(url).open()


# The schema


def test_a_migrated_schema_equals_a_new_one(file: Path, tmp_path: Path) -> None:
    unversioned(tmp_path / "migrated.db")
    SQLiteDatabase(f"sqlite:///{tmp_path}/migrated.db").migrate()
    assert structure(file) == structure(tmp_path / "migrated.db")


def test_the_schema_matches_the_tables(tmp_path: Path) -> None:
    SQLiteDatabase(f"sqlite:///{tmp_path}/migrated.db").migrate()
    engine = create_engine(f"sqlite:///{tmp_path}/migrated.db")
    with engine.connect() as connection:
        opts = {
            "compare_type": True,
            "include_name": lambda name, kind, _: not (kind == "table" and is_undeclared(name)),
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=opts), metadata) == []
    engine.dispose()


def test_the_head_is_the_latest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD


def test_opening_migrates_an_older_schema(path: Path) -> None:
    unversioned(path)
    asyncio.run(used(path))
    assert len(messages(path)) == 100


def test_text_saved_by_an_earlier_version_is_kept_when_its_turn_is_ended(path: Path) -> None:
    path.parent.mkdir()
    revise(path, command.upgrade, "0005")
    with another_program(path) as other:
        other.execute("INSERT INTO users VALUES ('ada', 1, 0)")
        other.execute("INSERT INTO conversations VALUES ('ada', 'default', 0, 0, 1, 1)")
        other.execute(
            "INSERT INTO turns (id, user_id, conversation_id, seq, started_at, user_message, reply, status)"
            " VALUES ('t', 'ada', 'default', 1, 0, 'Hello', 'Hi, th', 'in_progress')"
        )

    async def end_abandoned() -> Turn:
        async with opened(path) as database:
            assert await HistorySQL(database).finish_abandoned() == 1
            return await HistorySQL(database).get(TurnId("t"), ADA)

    turn = asyncio.run(end_abandoned())
    assert ("Hi, th", TurnStatus.INTERRUPTED) == (turn.reply, turn.status)


def test_a_downgrade_keeps_replies_that_were_saved_in_parts(path: Path) -> None:
    async def complete() -> None:
        begin = new_turn()
        async with opened(path) as database:
            history = HistorySQL(database)
            await history.begin(begin)
            await history.save_progress({begin.turn.id: ReplyAddition(0, "Hi")}, LEASE)
            await history.save_progress({begin.turn.id: ReplyAddition(2, ", th")}, LEASE)
            await history.finish(TurnEnd(begin.turn.completed("Hi, there", "stop")))

    asyncio.run(complete())
    revise(path, command.downgrade, "0005")
    with another_program(path) as other:
        assert [("Hi, there",)] == other.execute("SELECT reply FROM turns").fetchall()


def test_migrating_again_changes_nothing(file: Path) -> None:
    before = schema(file)
    SQLiteDatabase(f"sqlite:///{file}").migrate()
    assert before == schema(file)
    assert len(messages(file)) == 100


def test_a_failing_migration_leaves_the_file_unchanged(path: Path) -> None:
    unversioned(path)
    with another_program(path) as other:
        other.execute("CREATE TABLE turns (conflicting INTEGER)")
    before = schema(path)
    with pytest.raises(Unusable):
        SQLiteDatabase(f"sqlite:///{path}").migrate()
    assert before == schema(path)


@pytest.mark.parametrize("state", ["new", "current"])
def test_alembic_is_not_imported_if_there_is_nothing_to_migrate(path: Path, state: str) -> None:
    opening = f"""
import asyncio, sys
from adapters.sql.sqlite.database import SQLiteDatabase

async def main():
    async with SQLiteDatabase("sqlite:///{path}"):
        pass

asyncio.run(main())
print("alembic" in sys.modules)
"""
    outcomes = {"new": python(opening).stdout, "current": python(opening).stdout}
    assert outcomes[state] == "False\n"


def test_a_path_with_special_characters_is_taken_literally(tmp_path: Path) -> None:
    path = tmp_path / "50% of #1" / "chat 'a' ü.db"
    asyncio.run(used(path))
    assert len(messages(path)) == 100


async def test_at_most_three_bytes_are_written_per_byte_of_a_running_reply() -> None:
    assert await ratio(4_000, replies=50, seconds=30) < 3


# Query plans and size


async def test_a_turn_without_a_key_runs_no_statement_for_keys(path: Path) -> None:
    with traced_statements() as statements:
        async with opened(path) as database:
            history, turn = HistorySQL(database), new_turn()
            del statements[:]
            await history.begin(turn)
            await history.finish(TurnEnd(turn.turn.completed("Hi", "stop")))
            ran = list(statements)
    assert any(statement.startswith("INSERT INTO turns") for statement in ran)
    assert not any("idempotency_keys" in statement for statement in ran)


async def test_a_retracted_turn_names_the_one_that_has_its_place_also_if_that_had_to_run_again(
    database: SQLiteDatabase, history: HistorySQL
) -> None:
    first, failed, again = new_turn(), new_turn(), new_turn()
    await history.begin(first)
    for begin in (failed, again):
        await history.begin(replace(begin, key=IdempotencyKey("name", ""), retracts_from=first.turn.id))
        names = await database.read(lambda connection: connection.execute(select(turns.c.retracted_by)).scalars().all())
        assert {None, begin.turn.id} == set(names)
        await history.finish(TurnEnd(begin.turn.ended_by(TurnDeadline())))


async def test_a_page_selects_few_turns_at_once(path: Path) -> None:
    """PostgreSQL would send all of them, although a page ends before their text exceeds a megabyte."""
    with traced_statements() as statements:
        async with opened(path) as database:
            await database.write(lambda connection: fill(connection, ADA, 120))
            del statements[:]
            page = await HistorySQL(database).page(ADA, None, 100, None)
            ran = list(statements)
    limits = [int(found[1]) for statement in ran if (found := re.search(r"LIMIT (\d+)", statement))]
    assert (100, 101, 51) == (len(page.items), sum(limits), max(limits))


async def test_a_statement_does_not_run_without_one_of_its_values(database: SQLiteDatabase) -> None:
    with pytest.raises(KeyError, match="conversation"):
        await database.read(lambda connection: turn_statements.LATEST.execute_raw(connection, {"user": ADA, "rows": 1}))


async def test_contexts_and_pages_of_a_long_history_use_an_index(database: SQLiteDatabase) -> None:
    queries = [
        turn_statements.LATEST.statement,
        turn_statements.PAGE,
        turn_statements.CONVERSATION_PAGE,
        conversation_statements.PAGE,
    ]
    keyed = (key_statements.FIND, key_statements.REMOVE_EXPIRED, chosen_id_statements.FIND)
    for query in (*queries, turn_statements._FINISH_ABANDONED, *keyed):
        sql = str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True}))
        plan = await database.read(lambda connection, sql=sql: steps(connection, sql))  # type: ignore[misc]
        searches = [step for step in plan if step.startswith(("SEARCH", "SCAN")) and step != "SCAN part"]
        assert [step for step in searches if not re.search("USING INDEX|^SEARCH .* USING COVERING INDEX", step)] == []
        assert [step for step in plan if "TEMP B-TREE" in step] == []


async def test_a_hundred_thousand_turns_can_be_read_and_deleted(database: SQLiteDatabase, history: HistorySQL) -> None:
    await database.write(lambda connection: fill(connection, ADA, 100_000))
    newest = await history.page(ADA, None, 200, None)
    assert [turn.user_message for turn in newest.items] == [f"message {n}" for n in range(99_801, 100_001)]
    assert len(await history.latest(ADA, DEFAULT_CONVERSATION, 50)) == 50
    assert await history.clear(ADA, None) == 100_000
    assert (await history.page(ADA, None, 200, None)).items == []


# Errors


def all_subclasses(error: type[Exception]) -> set[type[Exception]]:
    return {error}.union(*(all_subclasses(kind) for kind in error.__subclasses__()))


CALLS: list[Callable[[HistorySQL], Awaitable[object]]] = [
    lambda history: history.begin(new_turn()),
    lambda history: history.find(IdempotencyKey("name", "fingerprint")),
    lambda history: history.save_progress({TurnId("t"): ReplyAddition(0, "Hi")}, LEASE),
    lambda history: history.finish(TurnEnd(new_turn().turn)),
    lambda history: history.finish_abandoned(),
    lambda history: history.get(TurnId("t"), ADA),
    lambda history: history.latest(ADA, DEFAULT_CONVERSATION, 10),
    lambda history: history.messages(ADA, DEFAULT_CONVERSATION, 10),
    lambda history: history.page(ADA, None, 10, None),
    lambda history: history.conversations(ADA, 10, None),
    lambda history: history.set_title(ADA, DEFAULT_CONVERSATION, "Title"),
    lambda history: history.clear(ADA, None),
    lambda history: history.check(),
    lambda history: history.probe_write(),
]


@pytest.mark.parametrize("kind", sorted(all_subclasses(SQLAlchemyError) | {DatabaseClosed}, key=lambda kind: str(kind)))
async def test_every_database_error_is_mapped_to_an_error_of_the_port(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    for call in CALLS:
        with pytest.raises(HistoryUnavailable) as raised:
            await call(HistorySQL(FailingDatabase(error)))
        assert raised.value.__cause__ is error


def test_the_error_mapping_is_tested_for_every_method_of_the_port() -> None:
    assert len(ConversationHistory.__abstractmethods__) == len(CALLS)


async def test_an_error_does_not_quote_messages(history: HistorySQL) -> None:
    turn = new_turn("my secret")
    await history.begin(turn)
    with pytest.raises(HistoryUnavailable) as raised:
        await history.begin(turn)
    assert "my secret" not in f"{raised.value!r} {raised.value.__cause__!r} {raised.value.__cause__}"


# PostgreSQL


@pytest.mark.server
def test_the_statements_of_every_turn_run_on_postgresql(postgres: Postgres) -> None:
    engine = create_engine(make_url(postgres.new_database()).set(drivername="postgresql+psycopg"))
    begin, now = new_turn("Hello"), datetime.now(UTC)
    wanted = {"user": ADA, "conversation": DEFAULT_CONVERSATION, "rows": 5}
    with engine.begin() as connection:
        metadata.create_all(connection)
        turn_statements.begin(connection, begin, now)
        completed = begin.turn.completed("Hi", "stop")
        assert completed == turn_statements.finish(connection, TurnEnd(completed, remember=True), now)
        assert [("Hello", "Hi")] == list(turn_statements.LATEST.execute_raw(connection, wanted))
        long = new_turn("Tell me")
        turn_statements.begin(connection, long, now)
        for addition in (ReplyAddition(0, "Once"), ReplyAddition(4, " up"), ReplyAddition(4, " upon")):
            turn_statements.save_progress(connection, {long.turn.id: addition}, LEASE, now)
        assert replace(long.turn, reply="Once upon") == turn_statements.get(connection, long.turn.id, None)
        told = long.turn.completed("Once upon a time", "stop")
        assert told == turn_statements.finish(connection, TurnEnd(told), now)
        assert told == turn_statements.get(connection, long.turn.id, None)
        assert 2 == turn_statements.clear(connection, ADA, None)
        assert [] == connection.execute(text("SELECT text FROM reply_parts")).all()
    engine.dispose()


def test_every_statement_compiles_for_postgresql() -> None:
    kinds = (Select, TextClause, UpdateBase, PrecompiledStatement)
    modules = (
        turn_statements,
        reply_parts,
        outbox_statements,
        key_statements,
        chosen_id_statements,
        conversation_statements,
        retraction_statements,
    )
    values = [value for module in modules for value in vars(module).values()]
    statements = [value for value in values if isinstance(value, kinds)]
    assert len(statements) > 10
    for statement in statements:
        assert str(statement.compile(dialect=make_url("postgresql://").get_dialect()()))
