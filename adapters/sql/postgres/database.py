"""PostgreSQL: one thread writes, another reads, a third searches, and one process at a time uses the database."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from adapters.clock import utc_now
from adapters.daemon_threads import run_in_daemon_thread
from adapters.sql.database import Copied, Database, DatabaseClosed, DatabaseLost, DatabaseSilent, Statements
from adapters.sql.postgres.engine import make_engine, unfinished, url_of
from adapters.sql.postgres.errors import CHECK, explain, named, unusable
from adapters.sql.postgres.full_text import PostgresFullText
from adapters.sql.postgres.threads import Reader, Writer
from adapters.sql.postgres.turn_writes import PostgresTurnWrites
from adapters.sql.schema import HEAD, upgrade
from adapters.sql.tables import PROBE_WRITE, RELEASE_LEASES
from adapters.sql.turn_writes import Sent
from application.ports.memory_outbox import SETTLE_TIME
from domain.errors import TemporarilyUnusable, Unusable

T = TypeVar("T")

_LOCK: Final = "SELECT pg_advisory_lock(hashtext('smart-chatbot'), hashtext('process'))"
"""An advisory lock belongs to a session of one database, and ends with it."""


class PostgresDatabase(Database):
    """A database of a PostgreSQL server, e.g. `postgresql://user:password@host/database`, for one process at a time.

    Writes that are queued during a commit are committed together afterwards, so that they share round trips and one
    disk sync. While another process uses the database, opening it fails for a passing reason, so that the service
    waits as a standby.

    Args:
        url: SQLAlchemy URL; parameters of libpq, e.g. `sslmode`, may follow after `?`.
        lock_timeout: seconds that a statement waits for a lock.
        statement_timeout: seconds that a statement of a turn may take.
        search_timeout: seconds that a search in memories may take.
        response_timeout: seconds that a caller waits for the server, including the statements of others before its own.
            The server enforces the limits above, but not while it hangs itself.
    """

    def __init__(
        self,
        url: str,
        *,
        lock_timeout: float = 2.0,
        statement_timeout: float = 5.0,
        search_timeout: float = 8.0,
        response_timeout: float = 10.0,
    ) -> None:
        self.full_text = PostgresFullText()
        self.turn_writes = PostgresTurnWrites()
        self._url = url_of(url)
        self._lock_timeout = lock_timeout
        self._statement_timeout = statement_timeout
        self._search_timeout = search_timeout
        self._response_timeout = response_timeout
        self._reader: Reader | None = None
        self._searcher: Reader | None = None
        self._writer: Writer | None = None

    async def open(self) -> None:
        engine = self._engine_with_lock()
        connection = await run_in_daemon_thread(lambda: self._connect_and_prepare(engine), name="postgres-open")
        self._writer = Writer(engine, "postgres-writer", connection)
        self._reader = Reader(self._engine(self._statement_timeout, autocommit=True), "postgres-reader")
        self._searcher = Reader(self._engine(self._search_timeout, autocommit=True), "postgres-searcher")

    async def close(self) -> None:
        for thread in (self._writer, self._searcher, self._reader):
            if thread is not None:
                await thread.close()

    def migrate(self) -> None:
        connection = self._connect_and_prepare(self._engine_with_lock(), opening=False)
        connection.close()

    async def check(self) -> None:
        await self.read(lambda connection: connection.execute(text("SELECT 1")).close())

    def explain(self, error: Exception) -> str:
        return explain(error)

    def backup(self, file: Path) -> Copied:
        raise Unusable(f"This copies SQLite files only. Back up the database {named(self._url)} with pg_dump.")

    async def read(self, statements: Statements[T]) -> T:
        if self._reader is None:
            raise DatabaseClosed
        return await self._response(self._reader.run(statements))

    async def search(self, statements: Statements[T]) -> T:
        if self._searcher is None:
            raise DatabaseClosed
        return await self._response(self._searcher.run(statements))

    async def write(self, statements: Statements[T], *, patient: bool = True) -> T:
        if self._writer is None:
            raise DatabaseClosed
        return await self._response(self._writer.run(statements, patient=patient))

    async def write_turn(self, statements: Statements[Sent[T]]) -> T:
        if self._writer is None:
            raise DatabaseClosed
        return await self._response(self._writer.run_pipelined(statements))

    async def erase(self, statements: Statements[int]) -> int:
        """Like `write`. The content of the rows leaves the files with PostgreSQL's next vacuum."""
        return await self.write(statements)

    async def _response(self, response: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._response_timeout):
                return await response
        except TimeoutError:
            raise DatabaseSilent from None

    def _engine(self, statement_timeout: float, *, autocommit: bool = False) -> Engine:
        return make_engine(
            self._url, statement_timeout=statement_timeout, lock_timeout=self._lock_timeout, autocommit=autocommit
        )

    def _engine_with_lock(self) -> Engine:
        """Return an engine whose connections lock the database against other processes. They exclude each other."""
        engine = self._engine(self._statement_timeout)

        def lock(connection: "psycopg.Connection[Any]", _: object) -> None:
            with unfinished(connection):
                try:
                    connection.execute(_LOCK)
                except psycopg.errors.LockNotAvailable:
                    raise DatabaseLost(f"Another process uses the database {named(self._url)}.") from None

        event.listen(engine, "connect", lock)
        return engine

    def _connect_and_prepare(self, engine: Engine, *, opening: bool = True) -> Connection:
        """Return a connection, after bringing the schema up to date and, if `opening`, releasing the leases."""
        connection: Connection | None = None
        try:
            connection = engine.connect()
            with connection.begin():
                self._prepare(connection)
                if opening:  # the lock is ours, so any lease belongs to a dead process
                    for statement in (*RELEASE_LEASES, *PROBE_WRITE):
                        connection.execute(statement, {"settled_at": utc_now() + SETTLE_TIME})
            return connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, DatabaseLost) and opening:
                raise TemporarilyUnusable(f"{error} This one is its standby.") from None
            if isinstance(error, DatabaseLost):
                raise Unusable(f"{error} Stop it first.") from None
            if isinstance(error, (SQLAlchemyError, psycopg.Error)):
                raise unusable(self._url, error) from error
            raise

    def _prepare(self, connection: Connection) -> None:
        encoding = connection.execute(text("SELECT current_setting('server_encoding')")).scalar_one()
        if encoding != "UTF8":
            raise Unusable(f"The database {named(self._url)} has the encoding {encoding} instead of UTF8; {CHECK}.")
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # a migration takes its time
        known = connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one()
        version = known and connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
        if version != HEAD and not upgrade(connection, version or ""):
            raise Unusable(f"A newer version of this service made the database {named(self._url)} (schema {version}).")
