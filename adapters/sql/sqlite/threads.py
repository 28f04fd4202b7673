"""The reader thread and the writer thread of an SQLite file. All writes go through the one writer."""

from collections.abc import Sequence

from sqlalchemy import Engine

from adapters.sql.database import DatabaseLost
from adapters.sql.database_thread import DatabaseThread, Job
from adapters.sql.sqlite.engine import BEGIN, driver, set_busy_timeout
from adapters.sql.sqlite.file import OpenedFile


class Reader(DatabaseThread):
    """Runs each query outside a transaction, so that it sees everything committed before it began."""

    def run_jobs(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                job.succeed(job.statements(self.connection))
            except DatabaseLost as lost:  # the connection still reads the file that was opened
                job.fail(lost)
            except Exception as error:
                self.disconnect()
                job.fail(error)


class Writer(DatabaseThread):
    """Commits each batch in one transaction (group commit). See `SQLiteDatabase` for the parameters.

    If `file` was removed or replaced, nothing is written: it would be lost with the connection.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        file: OpenedFile,
        *,
        busy_timeout: float,
        checkpoint_timeout: float,
        max_vacuum_bytes: int,
    ) -> None:
        self._file = file
        self._busy_timeout = busy_timeout
        self._checkpoint_timeout = checkpoint_timeout
        self._max_vacuum_bytes = max_vacuum_bytes
        self._log_dirty = True  # a process that died may have left erased content in the write-ahead log
        super().__init__(engine, name)

    def run_jobs(self, jobs: Sequence[Job]) -> None:
        try:
            self._file.check()
        except DatabaseLost as lost:  # keep the connection, in case the file comes back
            for job in jobs:
                job.fail(lost)
            return
        impatient = not any(job.patient for job in jobs)
        if impatient:
            set_busy_timeout(self.connection, 0)
        if not self._commit(jobs):
            for job in jobs:
                self._commit([job])
        if impatient:
            set_busy_timeout(self.connection, self._busy_timeout)
        if any(job.erasing and job.result for job in jobs):
            self._log_dirty = True
            self._vacuum()
            self._truncate_log(self._checkpoint_timeout)
        elif self._log_dirty:
            self._truncate_log(0)

    def _commit(self, jobs: Sequence[Job]) -> bool:
        """Run the jobs in one transaction. Returns False if one of several failed and all were rolled back.

        Raises if no transaction can be started: running the jobs one by one would not help.
        """
        connection = self.connection
        transaction = connection.begin()
        driver(connection).execute(BEGIN)
        try:
            results = [job.statements(connection) for job in jobs]
            transaction.commit()
        except Exception as error:
            self.disconnect()
            if len(jobs) > 1:
                return False
            jobs[0].fail(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                job.succeed(result)
        return True

    def _vacuum(self) -> None:
        sqlite = driver(self.connection)
        ((pages, size),) = sqlite.execute("SELECT * FROM pragma_page_count, pragma_page_size")
        if pages * size <= self._max_vacuum_bytes:
            sqlite.execute("VACUUM")

    def _truncate_log(self, timeout: float) -> None:
        """Move the write-ahead log into the database and empty it, waiting `timeout` seconds for other readers."""
        set_busy_timeout(self.connection, timeout)
        ((busy, _, _),) = driver(self.connection).execute("PRAGMA wal_checkpoint(TRUNCATE)")
        set_busy_timeout(self.connection, self._busy_timeout)
        self._log_dirty = bool(busy)
