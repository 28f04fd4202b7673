"""PostgreSQL, shared by any number of processes. In each, one thread writes, another reads, a third searches."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from adapters.daemon_threads import run_in_daemon_thread
from adapters.sql.database import Copied, DatabaseLost, DatabaseSilent, SharedDatabase, Statements
from adapters.sql.database_thread import require_open
from adapters.sql.postgres.clock import PostgresClock
from adapters.sql.postgres.engine import is_broken, make_engine, unfinished, unlock, url_of
from adapters.sql.postgres.errors import CHECK, explain, named, unusable
from adapters.sql.postgres.full_text import PostgresFullText
from adapters.sql.postgres.notifications import PostgresNotifications
from adapters.sql.postgres.threads import Reader, Writer
from adapters.sql.postgres.turn_writes import PostgresTurnWrites
from adapters.sql.schema import HEAD, bring_up_to_date, is_outdated, require_current
from adapters.sql.tables import PROBE_WRITE
from adapters.sql.turn_writes import Sent
from domain.conversation import UserId
from domain.errors import TemporarilyUnusable, Unusable

T = TypeVar("T")

_SHARED_LOCK: Final = "SELECT pg_advisory_lock_shared(hashtext('smart-chatbot'), hashtext('process'))"
_EXCLUSIVE_LOCK: Final = "SELECT pg_advisory_lock(hashtext('smart-chatbot'), hashtext('process'))"
"""Advisory locks belong to a session of one database, and end with it. Copying excludes the service's processes."""

_ONE_AT_A_TIME: Final = (
    text("SET LOCAL statement_timeout = 0"),  # a migration takes its time
    text("SELECT set_config('chat.lock_timeout', current_setting('lock_timeout'), true)"),
    text("SET LOCAL lock_timeout = 0"),
    text("SELECT pg_advisory_xact_lock(hashtext('smart-chatbot'), hashtext('migration'))"),
    # A table's lock is not waited for: everybody else would have to wait behind it.
    text("SELECT set_config('lock_timeout', current_setting('chat.lock_timeout'), true)"),
)
"""Waits for another process that is migrating."""

_READ_ONE_MOMENT: Final = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_TAKE_TIME: Final = (
    text("SET LOCAL statement_timeout = 0"),
    text("SET LOCAL idle_in_transaction_session_timeout = 0"),  # it waits while the other database works
)
_ADVANCE_NUMBERS: Final = (
    text(
        "SELECT setval(pg_get_serial_sequence('memory_owners', 'number'), max(number)) FROM memory_owners"
        " HAVING count(*) > 0"
    ),
    text("SELECT setval('reply_numbers', max(reply_number)) FROM reply_parts HAVING count(*) > 0"),
)
"""Rows with a number of their own leave the sequence behind, so that it would generate one of theirs."""


class PostgresDatabase(SharedDatabase):
    """A database of a PostgreSQL server, e.g. `postgresql://user:password@host/database`.

    Writes that are queued during a commit are committed together afterwards, so that they share round trips and one
    disk sync.

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
        self.notifications = PostgresNotifications()
        self._clock = PostgresClock()
        self._url = url_of(url)
        self._lock_timeout = lock_timeout
        self._statement_timeout = statement_timeout
        self._search_timeout = search_timeout
        self._response_timeout = response_timeout
        self._reader: Reader | None = None
        self._searcher: Reader | None = None
        self._writer: Writer | None = None
        self._soon_writer: Writer | None = None

    async def open(self) -> None:
        engine = self._shared_engine()
        connection = await run_in_daemon_thread(lambda: self._connect_and_prepare(engine), name="postgres-open")
        reading = self._engine(self._statement_timeout, autocommit=True)
        self._writer = Writer(engine, "postgres-writer", connection)
        self._soon_writer = Writer(self._engine(self._statement_timeout, synchronous=False), "postgres-soon-writer")
        self._reader = Reader(reading, "postgres-reader")
        self._searcher = Reader(self._engine(self._search_timeout, autocommit=True), "postgres-searcher")
        self.notifications.open(reading)

    async def close(self) -> None:
        await self.notifications.close()
        for thread in (self._soon_writer, self._writer, self._searcher, self._reader):
            if thread is not None:
                await thread.close()

    def now(self) -> datetime:
        return self._clock.now()

    def is_clock_steady(self) -> bool:
        return self._clock.is_steady

    def migrate(self) -> None:
        self._connect_and_prepare(self._engine(self._statement_timeout)).close()

    def is_outdated(self) -> bool:
        try:
            with self._engine(self._statement_timeout).connect() as connection:
                return is_outdated(connection, _version(connection) or "", self.name)
        except (SQLAlchemyError, psycopg.Error) as error:
            raise unusable(self._url, error) from error

    async def check(self) -> None:
        await self.read(self._clock.compare)

    def explain(self, error: Exception) -> str:
        return explain(error)

    def backup(self, file: Path) -> Copied:
        raise Unusable(f"This copies SQLite files only. Back up the database {self.name} with pg_dump.")

    def visit(self, statements: Statements[T]) -> T:
        with self._connect_and_prepare(self._shared_engine()) as connection:
            try:
                with connection.begin():
                    return statements(connection)
            except (SQLAlchemyError, psycopg.Error) as error:
                raise unusable(self._url, error) from error
            finally:
                unlock(connection)

    @property
    def name(self) -> str:
        return named(self._url)

    def unusable(self, error: Exception) -> Unusable:
        return unusable(self._url, error, advice="")

    @contextmanager
    def copy_source(self) -> Iterator[Connection]:
        with self._locked_session() as connection, connection.begin():
            for statement in (_READ_ONE_MOMENT, *_TAKE_TIME):
                connection.execute(statement)
            require_current(_version(connection), self.name)
            yield connection

    @contextmanager
    def copy_target(self) -> Iterator[Connection]:
        with self._locked_session() as connection:
            committing = False
            try:
                with connection.begin():
                    self._prepare(connection)
                    for statement in _TAKE_TIME:
                        connection.execute(statement)
                    yield connection
                    for statement in _ADVANCE_NUMBERS:
                        connection.execute(statement)
                    committing = True
            except SQLAlchemyError as error:
                if committing and is_broken(connection):
                    raise Unusable(
                        f"The connection to the database {self.name} broke during the commit, so it is not known "
                        "whether everything was copied or nothing: run the command again, which refuses if it was."
                    ) from error
                raise

    async def read(self, statements: Statements[T]) -> T:
        return await self._response(require_open(self._reader).run(statements))

    async def read_shared(self, statements: Statements[T]) -> T:
        return await self.read(statements)

    async def search(self, statements: Statements[T]) -> T:
        return await self._response(require_open(self._searcher).run(statements))

    async def write(self, statements: Statements[T], user_id: UserId | None = None, *, patient: bool = True) -> T:
        return await self._response(require_open(self._writer).run(statements, user_id or "", patient=patient))

    async def write_turn(self, statements: Statements[Sent[T]], user_id: UserId) -> T:
        return await self._response(require_open(self._writer).run_pipelined(statements, user_id))

    async def write_soon(self, statements: Statements[T]) -> T:
        return await self._response(require_open(self._soon_writer).run(statements))

    async def send_soon(self, statements: Statements[Sent[T]]) -> T:
        return await self._response(require_open(self._soon_writer).run_pipelined(statements))

    async def erase(self, statements: Statements[int], user_id: UserId | None = None) -> int:
        """Like `write`. The content of the rows leaves the files with PostgreSQL's next vacuum."""
        return await self.write(statements, user_id)

    async def _response(self, response: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._response_timeout):
                return await response
        except TimeoutError:
            raise DatabaseSilent from None

    def _engine(self, statement_timeout: float, *, autocommit: bool = False, synchronous: bool = True) -> Engine:
        return make_engine(
            self._url,
            statement_timeout=statement_timeout,
            lock_timeout=self._lock_timeout,
            autocommit=autocommit,
            synchronous=synchronous,
        )

    def _shared_engine(self) -> Engine:
        """Return an engine whose connections exclude copying."""
        return self._engine_with_lock(_SHARED_LOCK, f"The database {self.name} is being copied.")

    def _engine_with_lock(self, statement: LiteralString, otherwise: str) -> Engine:
        """Return an engine each of whose connections takes a lock. `otherwise` says what it means if that is held."""
        engine = self._engine(self._statement_timeout)

        def lock(connection: "psycopg.Connection[Any]", _: object) -> None:
            with unfinished(connection):
                try:
                    connection.execute(statement)
                except psycopg.errors.LockNotAvailable:
                    raise DatabaseLost(otherwise) from None

        event.listen(engine, "connect", lock)
        return engine

    @contextmanager
    def _locked_session(self) -> Iterator[Connection]:
        """Provide a connection that locks the database, and raise Unusable for all errors of the database."""
        try:
            used = f"Another process uses the database {self.name}."
            with self._engine_with_lock(_EXCLUSIVE_LOCK, used).connect() as connection:
                try:
                    yield connection
                finally:
                    unlock(connection)
        except DatabaseLost as error:
            raise Unusable(f"{error} Stop it first.") from None
        except (SQLAlchemyError, psycopg.Error) as error:
            raise self.unusable(error) from error

    def _connect_and_prepare(self, engine: Engine) -> Connection:
        """Return a connection, after bringing the schema up to date and finding that writes are possible."""
        connection: Connection | None = None
        try:
            connection = engine.connect()
            with connection.begin():
                self._prepare(connection)
                for statement in PROBE_WRITE:
                    connection.execute(statement)
                self._clock.compare(connection)
            return connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, DatabaseLost):
                raise TemporarilyUnusable(str(error)) from None
            if isinstance(error, (SQLAlchemyError, psycopg.Error)):
                raise unusable(self._url, error) from error
            raise

    def _prepare(self, connection: Connection) -> None:
        encoding = connection.execute(text("SELECT current_setting('server_encoding')")).scalar_one()
        if encoding != "UTF8":
            raise Unusable(f"The database {self.name} has the encoding {encoding} instead of UTF8; {CHECK}.")
        if _version(connection) == HEAD:
            return
        for statement in _ONE_AT_A_TIME:
            connection.execute(statement)
        bring_up_to_date(connection, _version(connection) or "", self.name)  # unless another process just has


def _version(connection: Connection) -> str | None:
    """Return the schema's version, None if there are no tables of ours."""
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
