"""SQLite: one thread writes, one reads, one process has the file."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError

from adapters.sql.database import Database, DatabaseClosed, DatabaseUnusable, Statements
from adapters.sql.errors import DATABASE_ERRORS
from adapters.sql.schema import HEAD, create, upgrade
from adapters.sql.sqlite.engine import BEGIN, driver, make_engine
from adapters.sql.sqlite.file import inspect, locked, make
from adapters.sql.sqlite.threads import Reader, Writer

T = TypeVar("T")


class SQLiteDatabase(Database):
    """A database in a file, for one process.

    What writers have queued while a commit was under way is committed together: they share one sync of the disk.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = ExitStack()
        self._reader: Reader | None = None
        self._writer: Writer | None = None

    async def open(self) -> None:
        """Lock the file, make or migrate the schema where needed, and start.

        Raises:
            DatabaseUnusable: and the file is as it was.
        """
        engine = await asyncio.to_thread(self._prepare)
        self._writer = Writer(engine, "sqlite-writer")
        self._reader = Reader(engine, "sqlite-reader")

    async def close(self) -> None:
        """Finish the writes that were asked for, and let go of the file."""
        if self._reader is not None:
            await self._reader.close()
        if self._writer is not None:  # the last to leave, so that SQLite empties and removes the log
            await self._writer.close()
        self._stack.close()

    async def read(self, statements: Statements[T]) -> T:
        if self._reader is None:
            raise DatabaseClosed
        return await self._reader.run(statements)

    async def write(self, statements: Statements[T]) -> T:
        if self._writer is None:
            raise DatabaseClosed
        return await self._writer.run(statements)

    async def erase(self, statements: Statements[int]) -> int:
        if self._writer is None:
            raise DatabaseClosed
        return await self._writer.run(statements, erasing=True)

    def _prepare(self) -> Engine:
        path = _path(self._url)
        with ExitStack() as stack:
            stack.enter_context(locked(path))
            _bring_up_to_date(path)
            self._stack = stack.pop_all()
        return make_engine(path)


def migrate(url: str) -> None:
    """Bring the schema of the database at `url` up to date, all or nothing.

    Raises:
        DatabaseUnusable: and the file is as it was.
    """
    path = _path(url)
    with locked(path):
        _bring_up_to_date(path)


def _path(url: str) -> Path:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseUnusable("The database's address is not one; an example is sqlite:///chat.db.") from error
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise DatabaseUnusable("The database's address names no SQLite file; an example is sqlite:///chat.db.")
    return Path(str(parsed.database)).absolute()


def _bring_up_to_date(path: Path) -> None:
    version = inspect(path)
    make(path)
    if version == HEAD:
        return
    try:
        with make_engine(path).connect() as connection, connection.begin():
            driver(connection).execute(BEGIN)
            if version is None:
                create(connection)
            elif not upgrade(connection, version):
                raise DatabaseUnusable(f"A newer version of this service made the database {path} (schema {version}).")
    except DATABASE_ERRORS as error:
        raise DatabaseUnusable(f"The schema of the database {path} can not be made: {error}.") from error
