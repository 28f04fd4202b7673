"""Removes deleted content from the files of an SQLite database, in the background."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError

from adapters.sql.sqlite.engine import driver, write_transaction
from adapters.sql.sqlite.full_text import purge_steps
from adapters.sql.sqlite.log import InUse, WriteAheadLog, Writing
from adapters.sql.sqlite.remnants import Remnants

_CONTENT_BYTES: Final = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)

_MAX_FINISH: Final = 0.5
"""Seconds that closing the database may take longer because of an erasure."""


@dataclass(frozen=True)
class Schedule:
    """When deleted content is removed. All times are in seconds.

    A run starts when nothing has been deleted for `quiet_period`, or `max_delay` after the first deletion. Runs take up
    to the share `max_duty` of the writer thread's time: after a long one, the next may start later. A run that fails is
    repeated after `retry_interval`; as long as runs fail, a warning is logged every `warning_interval`.
    """

    quiet_period: float = 0.5
    max_delay: float = 5.0
    max_duty: float = 0.05
    retry_interval: float = 1.0
    warning_interval: float = 60.0


class Erasure:
    """Runs in short steps on the writer thread, which serves its callers between them.

    A run empties the write-ahead log, purges the full-text index if memories were deleted, rewrites the file if it is
    small enough, and empties the log again. Only the last step is certain to remove everything, but the first removes
    most, and without it the log would grow with every attempt while another program reads.

    Args:
        writer: the thread on which this runs.
        log: the database's write-ahead log.
        max_vacuum_bytes: a file with more content is not rewritten.
    """

    def __init__(
        self,
        writer: Writing,
        log: WriteAheadLog,
        *,
        max_vacuum_bytes: int,
        schedule: Schedule,
        time_to_close: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._log = log
        self._max_vacuum_bytes = max_vacuum_bytes
        self._schedule = schedule
        self._time_to_close = time_to_close
        self._clock = clock
        self._due: float | None = clock()  # an earlier process may have died before it removed what it had deleted
        self._first_request: float | None = None
        self._run: Iterator[None] | None = None
        self._earliest = 0.0
        self._spent = 0.0
        self._last_warning: float | None = None
        self._finishing = False

    def request(self) -> None:
        """Have the content of the rows that were just deleted removed."""
        now = self._clock()
        if self._first_request is None:
            self._first_request = now
        if self._run is None and self._last_warning is None:
            self._plan(now)

    def advance(self) -> float | None:
        """Do the next step if it is due. Returns the seconds until the following one, None if there is nothing to do.

        Never raises.
        """
        started = self._clock()
        if self._due is None or self._due > started:
            return None if self._due is None else self._due - started
        if self._run is None:
            self._run, self._first_request, self._spent = self._steps(), None, 0.0
        error: Exception | None = None
        try:
            next(self._run)
        except StopIteration:
            self._run = None
        except Exception as raised:  # whichever it is, the writer has to go on
            self._run, error = None, raised
            self._writer.disconnect()
        self._spent += self._clock() - started
        if self._run is None:
            self._end(error)
        return None if self._due is None else max(0.0, self._due - self._clock())

    def finish(self) -> None:
        """Remove what was deleted without waiting for the schedule, as far as there is time. Never raises.

        Does nothing if that has failed before: the reason is probably still there, and the next start tries again.
        """
        if self._due is None or self._last_warning is not None:
            return  # do not even connect
        self._finishing = True
        seconds = _MAX_FINISH if self._time_to_close is None else min(_MAX_FINISH, self._time_to_close() / 2)
        deadline = self._clock() + seconds
        while self._due is not None and self._last_warning is None and (now := self._clock()) < deadline:
            self._due = min(self._due, now)
            with suppress(Exception):  # the database cannot be opened, or was closed because the step failed
                self._interrupt_at(deadline)
            self.advance()
        with suppress(Exception):
            driver(self._writer.connection).set_progress_handler(None, 0)

    def _interrupt_at(self, deadline: float) -> None:
        """Let statements fail that run at that time. SQLite checks it every thousand instructions."""
        driver(self._writer.connection).set_progress_handler(lambda: self._clock() > deadline, 1000)

    def _end(self, error: Exception | None) -> None:
        now = self._clock()
        self._earliest = now + self._spent * (1 / self._schedule.max_duty - 1)
        if error is not None:
            self._due = max(now + self._schedule.retry_interval, self._earliest)
            self._warn(error, now)
            return
        if self._last_warning is not None:
            self._last_warning = None
            structlog.get_logger().info("deleted content has left the database's files")
        if self._first_request is None:
            self._due = None
        else:
            self._plan(now)

    def _plan(self, now: float) -> None:
        assert self._first_request is not None
        wanted = min(now + self._schedule.quiet_period, self._first_request + self._schedule.max_delay)
        self._due = max(wanted, self._earliest)

    def _warn(self, error: Exception, now: float) -> None:
        if self._last_warning is not None and now < self._last_warning + self._schedule.warning_interval:
            return
        self._last_warning = now
        cause = error.orig if isinstance(error, DBAPIError) else error
        expected = isinstance(cause, (InUse, sqlite3.Error))
        outlook = "the next start continues" if self._finishing else "retrying"
        structlog.get_logger().warning(
            f"deleted content is still in the database's files; {outlook}",
            reason=str(cause) if expected else type(cause).__name__,
            exc_info=None if expected else error,
        )

    def _steps(self) -> Iterator[None]:
        remnants = Remnants.of(self._writer.connection)
        if remnants is Remnants.NOWHERE:
            return
        self._log.empty()
        yield
        if remnants is Remnants.ANYWHERE:
            for step in purge_steps():
                more = True
                while more:
                    with self._log.short_wait() as connection, write_transaction(connection):
                        more = step(connection)
                    yield
        if self._may_vacuum():
            yield
            with self._log.short_wait() as connection:
                driver(connection).execute("VACUUM")
        yield
        self._log.empty()
        if self._first_request is None:  # otherwise, more was deleted since this run began
            with self._log.short_wait() as connection, write_transaction(connection):
                Remnants.NOWHERE.store(connection)

    def _may_vacuum(self) -> bool:
        ((size,),) = driver(self._writer.connection).execute(_CONTENT_BYTES)
        return bool(size <= self._max_vacuum_bytes)
