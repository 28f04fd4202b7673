"""The database behind the SQL adapters: choosing its dialect, opening it, and the errors that it raises."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError

from adapters.sql.database import DatabaseClosed
from adapters.sql.databases import database_at
from adapters.sql.errors import DATABASE_ERRORS
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.tables import users
from domain.errors import Unusable


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/chat.db"


def all_subclasses(error: type[Exception]) -> set[type[Exception]]:
    return {error}.union(*(all_subclasses(kind) for kind in error.__subclasses__()))


# Choosing a dialect


def test_the_url_chooses_the_dialect(url: str) -> None:
    assert isinstance(database_at(url), SQLiteDatabase)


@pytest.mark.parametrize("url", ["", "chat.db", "postgresql://user:canary@host/chat", "nosql://host"])
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
    monkeypatch.setattr("adapters.sql.sqlite.database.RELEASE_LEASES", ["UPDATE users SET last_seq = last_seq + 1"])

    def last_seq(connection: Connection) -> object:
        return connection.execute(text("SELECT last_seq FROM users")).scalar_one()

    async with database_at(url) as database:
        await database.write(lambda c: c.execute(insert(users).values(id="ada", last_seq=1)).close())
    await asyncio.to_thread(database_at(url).migrate)
    async with database_at(url) as database:
        assert await database.read(last_seq) == 2


async def test_a_failing_release_refuses_the_database_and_unlocks_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with database_at(url):
        pass
    with monkeypatch.context() as patch:
        patch.setattr("adapters.sql.sqlite.database.RELEASE_LEASES", ["UPDATE no_such_table SET holder = NULL"])
        with pytest.raises(Unusable, match="no_such_table"):
            await database_at(url).open()

    async with database_at(url):
        pass


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
