"""The two threads that work on a SQLite file: everything that is written goes through one of them."""

from collections.abc import Sequence
from typing import Final

from adapters.sql.sqlite.engine import BEGIN, BUSY_TIMEOUT, driver
from adapters.sql.worker import Job, Worker

CHECKPOINT_PATIENCE: Final = 250
"""Milliseconds that the writer waits for other programs' readers, so that an erased text leaves the log at once."""

VACUUM_BYTES: Final = 16 * 2**20
"""Up to this size the file is rewritten after an erasure, which takes 10 ms a megabyte.

SQLite overwrites what it deletes, but not the copies that it left in the unused part of a page when it moved a row to
another. In larger files such remnants stay until SQLite uses their place, or the operator runs VACUUM.
"""


class Reader(Worker):
    """Its connection is in no transaction: each query sees what is committed when it begins."""

    def serve(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                job.succeed(job.statements(self.connection))
            except Exception as error:
                self.disconnect()
                job.fail(error)


class Writer(Worker):
    _leftovers = True
    """Erased text may still be in the log; at the start, that of a process that died before it came to that."""

    def serve(self, jobs: Sequence[Job]) -> None:
        if not self._commit(jobs):
            for job in jobs:
                self._commit([job])
        if any(job.erasing and job.result for job in jobs):
            self._leftovers = True
            self._clean_pages()
            self._empty_log(CHECKPOINT_PATIENCE)
        elif self._leftovers:
            self._empty_log(0)

    def _commit(self, jobs: Sequence[Job]) -> bool:
        """Run the jobs in one transaction. False where it is not known which of them spoilt it for the others.

        Raises where no transaction can be had: then it is no use to try them one by one.
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

    def _clean_pages(self) -> None:
        sqlite = driver(self.connection)
        ((pages, size),) = sqlite.execute("SELECT * FROM pragma_page_count, pragma_page_size")
        if pages * size <= VACUUM_BYTES:
            sqlite.execute("VACUUM")

    def _empty_log(self, patience: int) -> None:
        sqlite = driver(self.connection)
        sqlite.execute(f"PRAGMA busy_timeout = {patience}")
        ((busy, _, _),) = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sqlite.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        self._leftovers = bool(busy)
