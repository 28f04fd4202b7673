"""SQLite: one thread writes, another reads, a third searches, and one process owns the file."""

import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection, Executable, event, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from adapters.clock import utc_now
from adapters.daemon_threads import run_in_daemon_thread
from adapters.sql.database import Copied, Database, Statements
from adapters.sql.database_thread import require_open
from adapters.sql.full_text import FullText
from adapters.sql.schema import HEAD, bring_up_to_date, create, is_outdated, require_current
from adapters.sql.sqlite.backup import back_up
from adapters.sql.sqlite.engine import driver, make_engine, make_read_only_engine, write_transaction
from adapters.sql.sqlite.erasure import Erasure, Schedule
from adapters.sql.sqlite.errors import cannot_be_used, explain, unusable
from adapters.sql.sqlite.file import CHECK, OpenedFile, create_file, exclusive_lock, schema_version
from adapters.sql.sqlite.full_text import SQLiteFullText, create_index
from adapters.sql.sqlite.log import WriteAheadLog
from adapters.sql.sqlite.threads import Reader, Writer
from adapters.sql.tables import PROBE_WRITE, RELEASE_LEASES
from adapters.sql.turn_writes import Sent, TurnWrites
from application.ports.memory_outbox import SETTLE_TIME
from domain.conversation import UserId
from domain.errors import Unusable

T = TypeVar("T")

_STOP: Final = "stop it first"
_OTHER_VERSION: Final = (
    "if it is this service, it is of another version than this command: restart it first, or use the command of its "
    "version"
)


class SQLiteDatabase(Database):
    """A database in a file, e.g. `sqlite:///chat.db`, for one process.

    Writes that are queued during a commit are committed together afterwards, so that they share one disk sync.

    Args:
        url: SQLAlchemy URL with the file's path.
        full_text: by default FTS5 with its own defaults.
        busy_timeout: seconds that a write waits for another program that has locked the file.
        open_timeout: seconds that opening waits for it. Shorter, because opening is repeated and a stop must not wait.
        reader_timeout: seconds to wait for readers of the write-ahead log in order to empty it. Writes wait as long.
        max_log_bytes: size from which the write-ahead log is emptied. SQLite usually reuses it before, but not while it
            is constantly being read.
        max_vacuum_bytes: up to this amount of content, an erasure rewrites the file. Writes wait for it, 10 ms per
            megabyte. SQLite overwrites deleted content, but not the copies left in unused parts of pages by
            rows that it moved. In a larger file those copies stay until SQLite reuses their space or the operator runs
            VACUUM.
        erasure_schedule: when deleted content is removed.
        time_to_close: returns how many seconds closing may take; by default as long as necessary. An erasure that is
            due is done in half of that time, at most half a second, or else at the next start.
        max_check_bytes: up to this size the file is checked for damage at each start, at 1 ms per megabyte. In a larger
            file, damage is found when it is read, and that operation fails.
    """

    def __init__(
        self,
        url: str,
        *,
        full_text: FullText | None = None,
        busy_timeout: float = 5.0,
        open_timeout: float = 1.0,
        reader_timeout: float = 0.25,
        max_log_bytes: int = 16 * 2**20,
        max_vacuum_bytes: int = 32 * 2**20,
        erasure_schedule: Schedule | None = None,
        time_to_close: Callable[[], float] | None = None,
        max_check_bytes: int = 64 * 2**20,
    ) -> None:
        self.full_text = full_text or SQLiteFullText()
        self.turn_writes = TurnWrites()
        self._url = url
        self._busy_timeout = busy_timeout
        self._open_timeout = open_timeout
        self._reader_timeout = reader_timeout
        self._max_log_bytes = max_log_bytes
        self._max_vacuum_bytes = max_vacuum_bytes
        self._erasure_schedule = erasure_schedule or Schedule()
        self._time_to_close = time_to_close
        self._max_check_bytes = max_check_bytes
        self._lock = ExitStack()
        self._file: OpenedFile | None = None
        self._reader: Reader | None = None
        self._searcher: Reader | None = None
        self._writer: Writer | None = None

    async def open(self) -> None:
        self._file = file = await run_in_daemon_thread(self._lock_and_prepare, name="sqlite-open")
        engine = make_engine(file.path, self._busy_timeout)
        event.listen(engine, "do_connect", lambda *_: file.check())  # do not create or open another file
        self._writer = Writer(
            engine, "sqlite-writer", file, self._new_log, self._new_erasure, busy_timeout=self._busy_timeout
        )
        self._reader = Reader(engine, "sqlite-reader")
        self._searcher = Reader(engine, "sqlite-searcher")

    async def close(self) -> None:
        for reader in (self._searcher, self._reader):
            if reader is not None:
                await reader.close()
        if self._writer is not None:  # last: SQLite empties and removes the log with its last connection
            await self._writer.close()
        self._lock.close()

    def migrate(self) -> None:
        path = _path(self._url)
        with exclusive_lock(path):
            self._prepare(path, self._busy_timeout)

    def is_outdated(self) -> bool:
        path = _path(self._url)
        version = schema_version(path, self._max_check_bytes)
        if version is None:
            return True
        with self._errors_named(), make_read_only_engine(path).connect() as connection:
            return is_outdated(connection, version, self.name)

    async def check(self) -> None:
        await self.read_shared(lambda connection: connection.execute(text("SELECT 1")).close())

    def explain(self, error: Exception) -> str:
        return explain(error)

    def backup(self, file: Path) -> Copied:
        return back_up(_path(self._url), file)

    def visit(self, statements: Statements[T]) -> T:
        path = _path(self._url)
        if schema_version(path, max_check_bytes=0) != HEAD:
            with exclusive_lock(path, _OTHER_VERSION):
                self._prepare(path, self._busy_timeout)
        with (
            self._errors_named(),
            make_engine(path, self._busy_timeout).connect() as connection,
            write_transaction(connection),
        ):
            return statements(connection)

    @property
    def name(self) -> str:
        return str(_path(self._url))

    def unusable(self, error: Exception) -> Unusable:
        return cannot_be_used(_path(self._url), error)

    @contextmanager
    def copy_source(self) -> Iterator[Connection]:
        path = _path(self._url)
        if not path.exists():  # the lock would create its folder
            require_current(None, self.name)
        with exclusive_lock(path, _STOP), self._errors_named():
            require_current(schema_version(path, max_check_bytes=sys.maxsize), self.name)
            with make_read_only_engine(path).connect() as connection, connection.begin():
                driver(connection).execute("BEGIN")
                yield connection

    @contextmanager
    def copy_target(self) -> Iterator[Connection]:
        path = _path(self._url)
        with exclusive_lock(path, _STOP), self._errors_named():
            version = schema_version(path, self._max_check_bytes)
            create_file(path)
            with make_engine(path, self._open_timeout).connect() as connection, write_transaction(connection):
                _bring_up_to_date(connection, path, version)
                yield connection

    async def read(self, statements: Statements[T]) -> T:
        return await require_open(self._reader).run(statements)

    async def read_shared(self, statements: Statements[T]) -> T:
        file = self._file

        def read(connection: Connection) -> T:
            assert file is not None
            file.check()
            return statements(connection)

        return await self.read(read)

    async def search(self, statements: Statements[T]) -> T:
        return await require_open(self._searcher).run(statements)

    async def write(self, statements: Statements[T], user_id: UserId | None = None, *, patient: bool = True) -> T:
        return await require_open(self._writer).run(statements, patient=patient)

    async def write_turn(self, statements: Statements[Sent[T]], user_id: UserId) -> T:
        return await self.write(lambda connection: statements(connection)())

    async def erase(self, statements: Statements[int], user_id: UserId | None = None) -> int:
        return await require_open(self._writer).run(statements, erasing=True)

    def _new_log(self, writer: Writer) -> WriteAheadLog:
        path, busy, readers = _path(self._url), self._busy_timeout, self._reader_timeout
        return WriteAheadLog(writer, path, busy_timeout=busy, reader_timeout=readers, max_bytes=self._max_log_bytes)

    def _new_erasure(self, writer: Writer, log: WriteAheadLog) -> Erasure:
        return Erasure(
            writer,
            log,
            max_vacuum_bytes=self._max_vacuum_bytes,
            schedule=self._erasure_schedule,
            time_to_close=self._time_to_close,
        )

    def _lock_and_prepare(self) -> OpenedFile:
        path = _path(self._url)
        with ExitStack() as stack:
            stack.enter_context(exclusive_lock(path))
            # The lock is ours, so any lease belongs to a dead process. The probe fails if the disk is full.
            values = {"settled_at": utc_now() + SETTLE_TIME}
            self._prepare(path, self._open_timeout, (*RELEASE_LEASES, *PROBE_WRITE), values)
            file = stack.enter_context(OpenedFile(path))
            self._lock = stack.pop_all()
        return file

    def _prepare(
        self,
        path: Path,
        busy_timeout: float,
        statements: Sequence[Executable] = (),
        values: Mapping[str, object] | None = None,
    ) -> None:
        """Check the file, bring its schema up to date and run the statements, all in one transaction."""
        version = schema_version(path, self._max_check_bytes)
        create_file(path)
        if version == HEAD and not statements:
            return
        engine = make_engine(path, busy_timeout)
        try:
            with engine.connect() as connection, write_transaction(connection):
                _bring_up_to_date(connection, path, version)
                for statement in statements:
                    connection.execute(statement, values)
        except (SQLAlchemyError, sqlite3.Error) as error:
            reason = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
            sentence = f"The schema of the database {path} cannot be brought up to date: {reason}; {CHECK}."
            raise unusable(path, error, sentence) from error

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self.unusable(error) from error


def _bring_up_to_date(connection: Connection, path: Path, version: str | None) -> None:
    if version is None:
        create(connection, create_index)
    else:
        bring_up_to_date(connection, version, str(path))


def _path(url: str) -> Path:
    file = make_url(url).database
    if file in (None, "", ":memory:"):
        raise Unusable("The database URL names no file; a valid one is, e.g., sqlite:///chat.db.")
    return Path(str(file)).absolute()
