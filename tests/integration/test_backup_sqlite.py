"""Backups of an SQLite database that is in use: complete, consistent, without deleted content."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from adapters.clock import utc_now
from adapters.history_sql import HistorySQL
from adapters.memory_sql import MemorySQL
from adapters.sql.databases import database_at
from adapters.sql.schema import MIGRATIONS
from adapters.sql.sqlite.backup import STEP
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.sqlite.erasure import Schedule
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import Unusable
from tests.harness.full_disk import files_limited_to
from tests.harness.remnants import remnants, remnants_after_erasure
from tests.integration.test_erasure import read_by_another_process
from tests.integration.test_history_sqlite import LEASE, flip, new_turn, schema, unversioned, used

ANN, CANARY = UserId("ann"), UserId("canary")


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "chat.db"


@pytest.fixture
def file(path: Path) -> Path:
    """A database with a hundred turns, closed."""
    asyncio.run(used(path))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups" / "chat backup?.db"


async def complete(history: HistorySQL, user_id: UserId, message: str = "Hello", reply: str = "Hi") -> None:
    turn = Turn(TurnId(str(uuid4())), user_id, DEFAULT_CONVERSATION, datetime.now(UTC), message)
    await history.begin(TurnBegin(turn, LEASE))
    await history.finish(TurnEnd(turn.completed(reply, "stop")))


async def store_ten_megabytes(path: Path) -> None:
    async with SQLiteDatabase(url(path)) as database:
        history = HistorySQL(database)
        await asyncio.gather(*(history.begin(new_turn("x" * 10_000)) for _ in range(1_000)))


def rows(database: Path, query: str) -> Sequence[Any]:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def refusal(source: Path, target: Path) -> str:
    with pytest.raises(Unusable) as refused:
        database_at(url(source)).backup(target)
    return str(refused.value)


async def test_a_backup_of_an_open_database_contains_what_is_only_in_the_log(path: Path, target: Path) -> None:
    async with SQLiteDatabase(url(path)) as database:
        history = HistorySQL(database)
        for number in range(19):
            await complete(history, ANN, f"message {number}")
        copied = await asyncio.to_thread(database_at(url(path)).backup, target)

    assert copied == (19, target.stat().st_size)
    assert rows(target, "SELECT user_message FROM turns ORDER BY seq") == [(f"message {n}",) for n in range(19)]


async def test_a_backup_can_be_opened_in_place_of_the_database(path: Path, target: Path, tmp_path: Path) -> None:
    async with SQLiteDatabase(url(path)) as database:
        await complete(HistorySQL(database), ANN, "kept")
        await MemorySQL(database, utc_now).store(ANN, "My dog is called Bello.", 0.5)
        await asyncio.to_thread(database_at(url(path)).backup, target)
    restored = tmp_path / "restored.db"
    target.rename(restored)

    assert schema(restored) == schema(path)
    async with SQLiteDatabase(url(restored)) as database:
        await complete(HistorySQL(database), ANN, "new")
        page = await HistorySQL(database).page(ANN, None, 10, None)
        recalled = await MemorySQL(database, utc_now).recall(ANN, "dog", 10)
    assert [turn.user_message for turn in page.items] == ["kept", "new"]
    assert [one.memory.fact for one in recalled] == ["My dog is called Bello."]


async def test_a_backup_contains_nothing_that_was_deleted(path: Path, target: Path) -> None:
    async with SQLiteDatabase(url(path), max_vacuum_bytes=0) as database, read_by_another_process(path):
        history, memory = HistorySQL(database), MemorySQL(database, utc_now)
        await memory.store(CANARY, "canary", 0.5)
        for number in range(60):
            await complete(history, CANARY if number % 3 else ANN, *["canary " * 300 if number % 3 else "other"] * 2)
        await history.clear(CANARY, None)
        await memory.forget_all(CANARY)
        assert await asyncio.to_thread(remnants, path, ["canary"])
        await asyncio.to_thread(database_at(url(path)).backup, target)

    assert b"canary" not in target.read_bytes()
    assert rows(target, "SELECT count(*) FROM turns") == [(20,)]


async def test_a_backup_contains_no_words_of_a_memory_that_was_just_deleted(
    path: Path, target: Path, tmp_path: Path
) -> None:
    never = Schedule(quiet_period=3600, max_delay=3600)
    async with SQLiteDatabase(url(path), erasure_schedule=never) as database:
        memory = MemorySQL(database, utc_now)
        assert await remnants_after_erasure(database, path, ["zanzibar"]) == []  # of the run at the start
        facts = [f"My dog is called Bello{number}." for number in range(6)]
        stored = [await memory.store(ANN, fact, 0.5) for fact in (*facts[:3], "zanzibar", *facts[3:])]
        deleted = stored.pop(3)
        await memory.forget(ANN, deleted.id)
        assert await asyncio.to_thread(remnants, path, ["zanzibar"])
        await asyncio.to_thread(database_at(url(path)).backup, target)
    restored = tmp_path / "restored.db"
    target.rename(restored)

    assert b"zanzibar" not in restored.read_bytes()
    assert schema(restored) == schema(path)
    async with SQLiteDatabase(url(restored)) as database:
        recalled = await MemorySQL(database, utc_now).recall(ANN, "dog", 20)
        await MemorySQL(database, utc_now).forget(ANN, stored[0].id)
        left = await MemorySQL(database, utc_now).recall(ANN, "dog", 20)
    assert {one.memory.id for one in recalled} == {one.id for one in stored}
    assert {one.memory.id for one in left} == {one.id for one in stored[1:]}


async def test_turns_are_stored_while_a_backup_is_made(path: Path, target: Path) -> None:
    async with SQLiteDatabase(url(path)) as database:
        history = HistorySQL(database)
        await asyncio.gather(*(history.begin(new_turn("x" * 20_000)) for _ in range(4_000)))
        before = await asyncio.to_thread(rows, path, "SELECT id FROM turns")
        backup = asyncio.create_task(asyncio.to_thread(database_at(url(path)).backup, target))
        while not list(target.parent.iterdir()):
            await asyncio.sleep(0)
        stored = 0
        while not backup.done():
            await complete(history, ANN)
            stored += 1
        copied = await backup

    assert stored > 1
    assert len(before) <= copied.turns <= len(before) + stored
    assert set(rows(target, "SELECT id FROM turns")) >= set(before)


async def test_a_backup_is_written_to_disk_in_steps(path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, sync = [0], os.fdatasync

    def recorded(file: int) -> None:
        sizes.append(os.fstat(file).st_size)
        sync(file)

    await store_ten_megabytes(path)
    monkeypatch.setattr(os, "fdatasync", recorded)
    await asyncio.to_thread(database_at(url(path)).backup, target)
    steps = [after - before for before, after in pairwise([*sizes, target.stat().st_size])]

    assert len(steps) > 3
    assert max(steps) <= 4 * STEP


async def test_the_log_can_be_emptied_after_a_backup(path: Path, target: Path) -> None:
    async with SQLiteDatabase(url(path)) as database:
        history = HistorySQL(database)
        await complete(history, CANARY, "canary")
        await asyncio.to_thread(database_at(url(path)).backup, target)
        await history.clear(CANARY, None)

        assert await remnants_after_erasure(database, path, ["canary"]) == []


def test_a_database_of_the_first_schema_can_be_backed_up_before_an_upgrade(path: Path, target: Path) -> None:
    unversioned(path)
    engine = create_engine(url(path))
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0001")
    engine.dispose()
    database_at(url(path)).backup(target)

    assert rows(target, "SELECT version_num FROM alembic_version") == [("0001",)]
    target.replace(path)
    database_at(url(path)).migrate()


def test_a_backup_is_readable_only_by_its_owner_and_leaves_no_other_file(file: Path, target: Path) -> None:
    database_at(url(file)).backup(target)

    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(target.parent.iterdir()) == [target]


def test_a_backup_on_a_file_system_without_links(file: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    database_at(url(file)).backup(target)

    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_a_backup_overwrites_nothing(kind: str, file: Path, target: Path) -> None:
    match kind:
        case "file":
            target.write_text("precious")
        case "directory":
            target.mkdir()
        case "dangling link":
            target.symlink_to("elsewhere")

    assert refusal(file, target) == f"The file {target} exists, and a backup overwrites nothing; choose another name."
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_appears_during_a_backup_is_not_overwritten(
    file: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.sql.sqlite.backup._copy", lambda *_: target.write_text("precious"))
    monkeypatch.setattr("adapters.sql.sqlite.backup._verify", lambda *_: None)

    assert "exists" in refusal(file, target)
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


def test_a_directory_that_does_not_exist_is_reported(file: Path, target: Path) -> None:
    missing = target.parent / "missing" / "chat.db"

    assert refusal(file, missing) == f"The backup {missing} cannot be written: No such file or directory."


def test_a_full_disk_leaves_no_file(file: Path, target: Path) -> None:
    with files_limited_to(40_000):
        sentence = refusal(file, target)

    assert sentence.startswith(f"The database {file} cannot be copied to {target.parent}: ")
    assert list(target.parent.iterdir()) == []


async def test_a_disk_that_fails_during_a_step_is_reported(
    path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    await store_ten_megabytes(path)
    monkeypatch.setattr(os, "fdatasync", fail)

    assert (
        await asyncio.to_thread(refusal, path, target) == f"The backup {target} cannot be written: Input/output error."
    )
    assert list(target.parent.iterdir()) == []


def test_a_missing_database_is_reported_and_not_created(path: Path, target: Path) -> None:
    assert refusal(path, target) == f"There is no database {path}; check DATA_DIR or DATABASE_URL."
    assert not path.exists()
    assert list(target.parent.iterdir()) == []


def test_the_database_of_another_program_is_not_copied(path: Path, target: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (id)")

    assert "is the database of another program" in refusal(path, target)


def flip_root(path: Path, name: str) -> None:
    """Damage the first page of a table or an index."""
    [(page,)] = rows(path, f"SELECT rootpage FROM sqlite_master WHERE name = '{name}'")
    flip(path, range((page - 1) * 4096, page * 4096))


@pytest.mark.parametrize("name", ["turns", "users", "ix_turns_context"])
def test_a_damaged_table_or_index_is_reported(name: str, file: Path, target: Path) -> None:
    flip_root(file, name)

    assert refusal(file, target).startswith(f"The database {file} is damaged and cannot be copied: ")
    assert list(target.parent.iterdir()) == []


def test_turns_that_do_not_add_up_are_reported(file: Path, target: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM turns WHERE seq = (SELECT max(seq) FROM turns)")

    assert refusal(file, target) == f"The copy of the database {file} is inconsistent, so the database may be damaged."
    assert list(target.parent.iterdir()) == []


def test_a_database_that_was_never_migrated_is_reported(path: Path, target: Path) -> None:
    unversioned(path)

    assert "cannot be verified" in refusal(path, target)
