"""The write-ahead log of an SQLite database."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from adapters.sql.sqlite.engine import driver, set_busy_timeout


class Writing(Protocol):
    """The thread that writes. Used only on that thread."""

    @property
    def connection(self) -> Connection: ...

    def disconnect(self) -> None: ...


class InUse(Exception):
    """Another program reads or writes the database, so the write-ahead log cannot be emptied."""


class WriteAheadLog:
    """Empties the log on the writer thread. SQLite does so only at a moment at which nothing is being read.

    Args:
        busy_timeout: seconds that other writes wait for other programs.
        reader_timeout: seconds to wait for readers.
        max_bytes: size from which the log is emptied even if SQLite finds no such moment.
        max_duty: share of the writer thread's time that may be spent on it.
    """

    def __init__(
        self,
        writer: Writing,
        path: Path,
        *,
        busy_timeout: float,
        reader_timeout: float,
        max_bytes: int = 16 * 2**20,
        max_duty: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._file = f"{path}-wal"
        self._busy_timeout = busy_timeout
        self._reader_timeout = reader_timeout
        self._max_bytes = max_bytes
        self._max_duty = max_duty
        self._clock = clock
        self._earliest = 0.0

    def empty(self) -> None:
        """Move the log's content into the database, and truncate the log.

        Raises:
            InUse: it is still being read or written.
            sqlite3.Error: the database failed.
        """
        with self.short_wait() as connection:
            ((busy, _, _),) = driver(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise InUse("another program uses the database")

    def limit_size(self) -> None:
        """Empty the log if it is too large. Never raises: if that fails, it is tried again."""
        started = self._clock()
        if started < self._earliest or not self._is_too_large():
            return
        try:
            self.empty()
        except InUse:
            pass
        except Exception:  # the next write has the same problem, and reports it
            self._writer.disconnect()
        self._earliest = started + (self._clock() - started) / self._max_duty

    @contextmanager
    def short_wait(self) -> Iterator[Connection]:
        """Wait less for other programs inside the block. After an error, the connection must not be used again."""
        connection = self._writer.connection
        set_busy_timeout(connection, self._reader_timeout)
        yield connection
        set_busy_timeout(connection, self._busy_timeout)

    def _is_too_large(self) -> bool:
        try:
            return os.stat(self._file).st_size > self._max_bytes  # opening and closing it would release SQLite's locks
        except OSError:
            return False
