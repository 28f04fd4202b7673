"""The threads that read PostgreSQL, and the one that writes. All writes go through the one writer."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection

from adapters.sql.database_thread import DatabaseThread, Job
from adapters.sql.postgres.engine import driver, is_broken, unlock
from adapters.sql.postgres.errors import is_deadlock, remove_values

_MAX_DEADLOCKS: Final = 3
"""How often a job runs again. Each time, the server has waited for its `deadlock_timeout`, usually a second."""


class Reader(DatabaseThread):
    """Runs each query outside a transaction, so that it sees everything committed before it began."""

    def run_jobs(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._run(job)

    def _run(self, job: Job) -> None:
        reused = self._connection is not None
        try:
            job.succeed(job.statements(self.connection))
        except Exception as error:
            remove_values(error)
            broken = self._connection is not None and is_broken(self._connection)
            self.disconnect()
            if reused and broken:  # it broke while it was idle, e.g. because the server was restarted
                self._run(job)
            else:
                job.fail(error)


class Writer(DatabaseThread):
    """Commits each batch in one transaction (group commit). Its sessions hold the lock on the database."""

    def run_jobs(self, jobs: Sequence[Job]) -> None:
        jobs = _in_lock_order(jobs)
        if not self._commit(jobs):
            for job in jobs:
                self._commit([job])

    def _commit(self, jobs: Sequence[Job], deadlocks: int = 0) -> bool:
        """Run the jobs in one transaction. Returns False if one of several failed and all were rolled back.

        A batch locks rows in the order of its jobs, so it may still deadlock with one of another process. A single job
        that was rolled back because of that runs again. Raises if there is no connection: running the jobs one by one
        would not help.
        """
        reused, committing = self._connection is not None, False
        connection = self.connection
        transaction = connection.begin()
        try:
            results = _results(connection, jobs)
            committing = True
            transaction.commit()
        except Exception as error:
            remove_values(error)
            broken = is_broken(connection)
            if broken:
                self.disconnect()
            else:
                transaction.rollback()
            if broken and reused and not committing:  # nothing was written, and a new connection may work
                return self._commit(jobs)
            if len(jobs) > 1:
                if broken:
                    raise
                return False
            if is_deadlock(error) and deadlocks < _MAX_DEADLOCKS:
                return self._commit(jobs, deadlocks + 1)
            jobs[0].fail(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                job.succeed(result)
        return True

    def finish_background_work(self) -> None:
        if self._connection is not None:
            unlock(self._connection)


def _in_lock_order(jobs: Sequence[Job]) -> Sequence[Job]:
    """Sort the jobs by user as far as this is known, so that batches of several processes lock users in one order.

    Jobs of the same user, and those before and after a job whose user is not known, keep their order.
    """
    ordered: list[Job] = []
    for _, group in groupby(jobs, key=lambda job: bool(job.user)):
        ordered += sorted(group, key=lambda job: job.user)  # which keeps the order of those without
    return ordered


def _results(connection: Connection, jobs: Sequence[Job]) -> Sequence[Any]:
    """Run the jobs in order. Neighbours that are pipelined share the round trip to the server."""
    results: list[Any] = []
    for pipelined, group in groupby(jobs, key=lambda job: job.pipelined):
        if pipelined:
            with driver(connection).pipeline():
                sent = [job.statements(connection) for job in group]
            results += [result() for result in sent]
        else:
            results += [job.statements(connection) for job in group]
    return results
