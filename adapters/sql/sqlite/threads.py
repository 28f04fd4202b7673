"""The threads that read an SQLite file, and the one that writes. All writes go through the one writer."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Engine

from adapters.sql.database import DatabaseLost
from adapters.sql.database_thread import DatabaseThread, Job
from adapters.sql.sqlite.engine import BEGIN, driver, set_busy_timeout
from adapters.sql.sqlite.erasure import Erasure
from adapters.sql.sqlite.file import OpenedFile
from adapters.sql.sqlite.log import WriteAheadLog
from adapters.sql.sqlite.remnants import mark_rows_deleted


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
    """Commits each batch in one transaction (group commit), and removes deleted content in the background.

    `new_log` and `new_erasure` make the objects that do so on this thread. `busy_timeout` is how many seconds a write
    waits for other programs, unless all jobs of a batch are impatient.

    If `file` or its log was removed or replaced, nothing is written: it would be lost with the connection.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        file: OpenedFile,
        new_log: Callable[["Writer"], WriteAheadLog],
        new_erasure: Callable[["Writer", WriteAheadLog], Erasure],
        *,
        busy_timeout: float,
    ) -> None:
        self._busy_timeout = busy_timeout
        self._file = file
        self._log = new_log(self)
        self._erasure = new_erasure(self, self._log)
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
            self._erasure.request()

    @property
    def connection(self) -> Connection:
        connection = super().connection
        self._file.hold_log()  # setting up the connection has opened it
        return connection

    def disconnect(self) -> None:
        self._file.release_log()
        super().disconnect()

    def background_work(self) -> float | None:
        self._log.limit_size()
        return self._erasure.advance()

    def finish_background_work(self) -> None:
        self._erasure.finish()

    def _commit(self, jobs: Sequence[Job]) -> bool:
        """Run the jobs in one transaction. Returns False if one of several failed and all were rolled back.

        Raises if no transaction can be started: running the jobs one by one would not help.
        """
        connection = self.connection
        transaction = connection.begin()
        driver(connection).execute(BEGIN)
        try:
            results = [job.statements(connection) for job in jobs]
            if any(job.erasing and result for job, result in zip(jobs, results, strict=True)):
                mark_rows_deleted(connection)
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
