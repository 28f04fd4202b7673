"""The database behind the SQL adapters: choosing its dialect, opening it, and the errors that it raises."""

import asyncio
import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError

from adapters.sql.database import DatabaseClosed, DatabaseLost
from adapters.sql.databases import database_at
from adapters.sql.errors import DATABASE_ERRORS
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.tables import EPOCH, memory_users, users
from application.ports.memory_outbox import SETTLE_TIME
from domain.errors import TemporarilyUnusable, Unusable
from tests.harness.locked_database import locked_by_another_process


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/chat.db"


def all_subclasses(error: type[Exception]) -> set[type[Exception]]:
    return {error}.union(*(all_subclasses(kind) for kind in error.__subclasses__()))


# Choosing a dialect


def test_the_url_chooses_the_dialect(url: str) -> None:
    assert isinstance(database_at(url), SQLiteDatabase)


@pytest.mark.parametrize("url", ["", "chat.db", "mysql://user:canary@host/chat", "nosql://host"])
def test_an_unsupported_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Unusable, match=r"e\.g\., sqlite:///chat\.db\.$") as refused:
        database_at(url)

    assert "canary" not in str(refused.value)


def test_a_dialect_is_imported_only_if_it_is_chosen() -> None:
    script = "import sys, adapters.sql.databases; print('adapters.sql.sqlite.database' in sys.modules)"
    command = [sys.executable, "-c", script]

    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "False\n"


# Opening


async def test_the_database_is_open_only_inside_its_block(url: str) -> None:
    async with database_at(url) as database:
        assert await database.read(lambda connection: connection.execute(users.select()).all()) == []

    with pytest.raises(DatabaseClosed):
        await database.read(lambda connection: connection.execute(users.select()).all())


async def test_a_closed_database_can_be_opened_again(url: str) -> None:
    database = database_at(url)
    for name in ("ada", "bob"):
        async with database:
            await database.write(lambda c, name=name: c.execute(insert(users).values(id=name, last_seq=1)).close())  # type: ignore[misc]

    async with database:
        assert await database.read(lambda c: c.execute(select(users.c.id)).scalars().all()) == ["ada", "bob"]


async def test_opening_releases_the_leases_of_dead_processes_and_migrating_does_not(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "adapters.sql.sqlite.database.RELEASE_LEASES", [text("UPDATE users SET last_seq = last_seq + 1")]
    )

    def last_seq(connection: Connection) -> object:
        return connection.execute(text("SELECT last_seq FROM users")).scalar_one()

    async with database_at(url) as database:
        await database.write(lambda c: c.execute(insert(users).values(id="ada", last_seq=1)).close())
    await asyncio.to_thread(database_at(url).migrate)
    async with database_at(url) as database:
        assert await database.read(last_seq) == 2


NOTHING, MINUTE = timedelta(0), timedelta(minutes=1)


@pytest.mark.parametrize(
    ("claimed_for", "unsettled_for", "latest"),
    [
        (5 * MINUTE, NOTHING, SETTLE_TIME),
        (5 * MINUTE, MINUTE, SETTLE_TIME),
        (5 * MINUTE, 3 * MINUTE, 3 * MINUTE),
        (MINUTE, NOTHING, MINUTE),
        (MINUTE, 3 * MINUTE, 3 * MINUTE),
        (NOTHING, MINUTE, MINUTE),
    ],
)
async def test_a_memory_write_of_a_dead_process_may_arrive_for_the_time_that_a_store_takes_to_apply_it(
    url: str, claimed_for: timedelta, unsettled_for: timedelta, latest: timedelta
) -> None:
    started = datetime.now(UTC)
    row = {"user_id": "ada", "claim_expires_at": started + claimed_for, "unsettled_until": started + unsettled_for}
    async with database_at(url) as database:
        await database.write(lambda c: c.execute(insert(memory_users).values(row)).close())
    async with database_at(url) as database:
        found = await database.read(lambda c: c.execute(memory_users.select()).one())

    delay = datetime.now(UTC) - started
    assert (found.claim, found.claim_expires_at) == (None, EPOCH)
    assert started + latest <= found.unsettled_until <= started + latest + delay


async def test_a_failing_release_refuses_the_database_and_unlocks_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with database_at(url):
        pass
    with monkeypatch.context() as patch:
        patch.setattr("adapters.sql.sqlite.database.RELEASE_LEASES", [text("UPDATE no_such_table SET holder = NULL")])
        with pytest.raises(Unusable, match="no_such_table"):
            await database_at(url).open()

    async with database_at(url):
        pass


# A file that is removed or replaced


async def add_user(database: SQLiteDatabase, name: str) -> None:
    await database.write(lambda connection: connection.execute(insert(users).values(id=name, last_seq=1)).close())


async def names(database: SQLiteDatabase) -> list[str]:
    return await database.read(lambda connection: list(connection.execute(select(users.c.id)).scalars()))


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    """Replace the file by a copy, as a restored backup does."""
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def removed_or_replaced(path: Path) -> str:
    return (
        f"The database file {path} was removed or replaced: put it back, or stop the service, move chat.db-wal and "
        "chat.db-shm away, and start it again."
    )


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [remove, replace, replace_by_a_directory])
async def test_a_file_that_was_removed_or_replaced_is_detected_before_anything_is_written(
    url: str, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "chat.db"
    async with SQLiteDatabase(url) as database:
        await add_user(database, "ada")
        await database.check()
        await asyncio.to_thread(change, path)
        content = path.read_bytes() if path.is_file() else b""
        for call in (
            database.check,
            lambda: database.read_shared(lambda _: None),
            lambda: add_user(database, "bob"),
            lambda: database.erase(lambda _: 0),
        ):
            with pytest.raises(DatabaseLost) as lost:
                await call()
        assert (path.read_bytes() if path.is_file() else b"") == content
        assert await names(database) == ["ada"]

    assert str(lost.value) == removed_or_replaced(path)
    assert database.explain(lost.value) == str(lost.value)


async def test_a_database_that_cannot_be_opened_is_reported_with_the_reason(url: str, tmp_path: Path) -> None:
    async with SQLiteDatabase(url) as database:
        await add_user(database, "ada")
    (tmp_path / "chat.db-wal").mkdir()  # in the place of the log, which reading needs, too

    with pytest.raises(Unusable) as raised:
        await SQLiteDatabase(url).open()

    assert str(raised.value) == f"The database {tmp_path}/chat.db cannot be used: its file cannot be opened."


async def test_a_connection_is_not_opened_again_on_another_file(url: str, tmp_path: Path) -> None:
    def fail(_: Connection) -> None:
        raise sqlite3.OperationalError("broken")

    async with SQLiteDatabase(url) as database:
        await database.check()
        with pytest.raises(DBAPIError):
            await database.read(fail)  # which closes the connection
        await asyncio.to_thread(remove, tmp_path / "chat.db")
        with pytest.raises(DatabaseLost):
            await names(database)

    assert not (tmp_path / "chat.db").exists()


async def test_a_file_that_comes_back_is_used_again(url: str, tmp_path: Path) -> None:
    path, away = tmp_path / "chat.db", tmp_path / "away.db"
    async with SQLiteDatabase(url) as database:
        await add_user(database, "ada")
        path.rename(away)
        with pytest.raises(DatabaseLost):
            await add_user(database, "bob")
        away.rename(path)
        await database.check()
        await add_user(database, "eve")

    async with SQLiteDatabase(url) as database:
        assert await names(database) == ["ada", "eve"]


@pytest.mark.parametrize("change", [remove, replace])
async def test_a_log_that_was_removed_or_replaced_is_detected_and_its_content_is_saved_on_closing(
    url: str, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    def fail(_: Connection) -> None:
        raise sqlite3.OperationalError("broken")

    log = tmp_path / "chat.db-wal"
    async with SQLiteDatabase(url) as database:
        await add_user(database, "ada")
        with pytest.raises(DBAPIError):
            await database.search(fail)  # which opens a connection and closes it again
        await database.check()  # which opens one and keeps it
        await asyncio.to_thread(change, log)
        for call in (database.check, lambda: add_user(database, "bob"), lambda: database.erase(lambda _: 0)):
            with pytest.raises(DatabaseLost) as lost:
                await call()
        with pytest.raises(DatabaseLost):
            await database.search(fail)  # it opens no other connection, which would create another log
        assert await names(database) == ["ada"]

    assert str(lost.value).startswith(f"The database's log {log} was removed or replaced; stop the service")
    async with SQLiteDatabase(url) as database:
        assert await names(database) == ["ada"]


async def test_a_log_that_sqlite_removes_and_creates_again_is_not_missed(url: str) -> None:
    def fail(_: Connection) -> None:
        raise sqlite3.OperationalError("broken")

    async with SQLiteDatabase(url) as database:
        for name in ("ada", "bob", "eve"):
            await add_user(database, name)
            for call in (database.read, database.search, database.write):
                with pytest.raises(DBAPIError):
                    await call(fail)  # which closes the connection, and the log with the last one
            await database.check()
        assert await names(database) == ["ada", "bob", "eve"]


async def test_an_impatient_write_does_not_wait_for_another_programs_lock_and_a_later_one_does(
    url: str, tmp_path: Path
) -> None:
    async with SQLiteDatabase(url, busy_timeout=60) as database:
        await database.write(lambda connection: None, patient=False)
        async with locked_by_another_process(tmp_path / "chat.db"):
            with pytest.raises(DBAPIError, match="locked"):
                await asyncio.wait_for(database.write(lambda connection: None, patient=False), 30)
            waiting = asyncio.create_task(add_user(database, "ada"))
            assert await asyncio.wait([waiting], timeout=0.2) == (set(), {waiting})
        await waiting
        await database.write(lambda connection: None, patient=False)
        async with locked_by_another_process(tmp_path / "chat.db"):
            waiting = asyncio.create_task(add_user(database, "bob"))
            assert await asyncio.wait([waiting], timeout=0.2) == (set(), {waiting})
        await waiting


# Reasons for failures


def unusable_with(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("canary")
    error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_CANARY"
    return error


EXPLANATIONS = {
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_IOERR_SHMSIZE: "its disk is full",
    sqlite3.SQLITE_BUSY: "another program has locked it",
    sqlite3.SQLITE_BUSY_SNAPSHOT: "another program has locked it",
    sqlite3.SQLITE_IOERR_WRITE: "its disk reports an I/O error",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_MISUSE: "SQLITE_CANARY",
}


@pytest.mark.parametrize("code", EXPLANATIONS)
async def test_an_error_is_explained_in_a_sentence(url: str, code: int) -> None:
    def fail(_: Connection) -> None:
        raise unusable_with(code)

    async with SQLiteDatabase(url) as database:
        with pytest.raises(DBAPIError) as raised:
            await database.write(fail)

    assert database.explain(raised.value) == f"The database cannot be used: {EXPLANATIONS[code]}."


def test_errors_without_a_code_are_explained_by_their_type(url: str) -> None:
    database = SQLiteDatabase(url)

    assert database.explain(DatabaseClosed()) == "The database is not open."
    assert database.explain(RuntimeError("canary")) == "The database cannot be used: unexpected RuntimeError."


async def test_a_database_that_another_program_has_locked_is_temporarily_unusable(url: str, tmp_path: Path) -> None:
    database = SQLiteDatabase(url, open_timeout=0.01)
    await asyncio.to_thread(database.migrate)
    async with locked_by_another_process(tmp_path / "chat.db"):
        with pytest.raises(TemporarilyUnusable, match=r"chat\.db cannot be used: another program has locked it\.$"):
            await database.open()

    async with database:
        await add_user(database, "ada")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
async def test_a_file_that_cannot_be_created_for_a_passing_reason_is_temporarily_unusable(
    url: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("adapters.sql.sqlite.file.os.open", fail)
        with pytest.raises(TemporarilyUnusable, match=os.strerror(number)):
            await SQLiteDatabase(url).open()

    async with SQLiteDatabase(url):
        pass


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
async def test_a_file_that_cannot_be_created_for_a_lasting_reason_is_unusable(
    url: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("adapters.sql.sqlite.file.os.open", fail)
    with pytest.raises(Unusable, match=os.strerror(number)) as unusable:
        await SQLiteDatabase(url).open()

    assert not isinstance(unusable.value, TemporarilyUnusable)


# Errors


@pytest.mark.parametrize("kind", sorted(all_subclasses(sqlite3.Error), key=str))
@pytest.mark.parametrize("operation", ["read", "write", "erase"])
async def test_errors_of_the_driver_are_wrapped(url: str, operation: str, kind: type[sqlite3.Error]) -> None:
    def fail(_: Connection) -> int:
        raise kind("broken")

    async with database_at(url) as database:
        with pytest.raises(DATABASE_ERRORS, match="broken") as raised:
            await getattr(database, operation)(fail)

    assert isinstance(raised.value, DBAPIError)
    assert isinstance(raised.value.__cause__, kind)


async def test_a_wrapped_error_does_not_quote_values(url: str) -> None:
    def insert_twice(connection: Connection) -> None:
        for _ in range(2):
            connection.connection.cursor().execute("INSERT INTO users (id, last_seq) VALUES ('canary', 1)")

    async with database_at(url) as database:
        with pytest.raises(DBAPIError, match="UNIQUE") as raised:
            await database.write(insert_twice)

    assert "canary" not in f"{raised.value!r} {raised.value}"


# Visits


_AS_OF_0008 = text("UPDATE alembic_version SET version_num = '0008'")


async def visit(url: str, name: str) -> None:
    """Add a user as a command does that runs beside a service."""
    database = SQLiteDatabase(url, busy_timeout=0.1)
    await asyncio.to_thread(
        database.visit, lambda connection: connection.execute(insert(users).values(id=name, last_seq=0)).close()
    )


async def test_a_visit_creates_the_database(url: str) -> None:
    await visit(url, "ada")

    async with SQLiteDatabase(url) as database:
        assert await names(database) == ["ada"]


async def test_a_visit_is_visible_to_the_process_that_has_the_database_open(url: str) -> None:
    async with SQLiteDatabase(url) as database:
        await add_user(database, "ada")
        await visit(url, "bob")
        assert await names(database) == ["ada", "bob"]
        await add_user(database, "eve")
    async with SQLiteDatabase(url) as database:
        assert await names(database) == ["ada", "bob", "eve"]


async def test_a_visit_that_fails_writes_nothing(url: str) -> None:
    await visit(url, "ada")

    with pytest.raises(Unusable):
        await visit(url, "ada")

    async with SQLiteDatabase(url) as database:
        assert await names(database) == ["ada"]


async def test_a_visit_does_not_migrate_the_database_of_a_running_service(url: str) -> None:
    async with SQLiteDatabase(url) as database:
        await database.write(lambda connection: connection.execute(_AS_OF_0008).close())

        with pytest.raises(Unusable, match=r"^Another process uses the database .*of another version"):
            await visit(url, "bob")


async def test_a_visit_to_a_locked_database_is_refused_after_a_while(url: str, tmp_path: Path) -> None:
    await visit(url, "ada")
    async with locked_by_another_process(tmp_path / "chat.db"):
        with pytest.raises(Unusable, match="locked"):
            await visit(url, "bob")
