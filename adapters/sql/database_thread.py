"""A thread that owns a connection and runs queued statements on it, in batches. Independent of the dialect."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from adapters.daemon_threads import run_in_daemon_thread
from adapters.sql.database import DatabaseClosed, Statements
from adapters.sql.turn_writes import Sent

T = TypeVar("T")
Thread = TypeVar("Thread", bound="DatabaseThread")


class Job:
    """Statements to run, and the future of the caller that awaits their result.

    `erasing` marks statements whose deleted rows must also leave the database's files, and `patient` those that wait
    for another program's lock. `pipelined` ones return a `turn_writes.Sent` instead of their result. `user` is the id
    of the only user whose rows they lock, empty if that is not known.
    """

    __slots__ = ("erasing", "error", "future", "patient", "pipelined", "result", "settled", "statements", "user")

    def __init__(
        self,
        statements: Statements[Any],
        future: "asyncio.Future[Any]",
        *,
        erasing: bool = False,
        patient: bool = True,
        pipelined: bool = False,
        user: str = "",
    ) -> None:
        self.statements = statements
        self.future = future
        self.erasing = erasing
        self.patient = patient
        self.pipelined = pipelined
        self.user = user
        self.settled = False
        self.result: Any = None
        self.error: Exception | None = None

    def succeed(self, result: Any) -> None:
        self.result, self.settled = result, True

    def fail(self, error: Exception) -> None:
        self.error, self.settled = error, True

    def deliver(self) -> None:
        """Wake the caller, unless it was cancelled."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class DatabaseThread(ABC):
    """A thread with a connection of its own, opened when first needed and reopened after an error.

    `connection` is the first one, if the engine has opened it already. It belongs to the thread from then on.
    """

    def __init__(self, engine: Engine, name: str, connection: Connection | None = None) -> None:
        self._engine = engine
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        self._batches: SimpleQueue[Sequence[Job]] = SimpleQueue()
        self._next_batch: list[Job] = []
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._closed = False
        self._thread.start()

    async def run(self, statements: Statements[T], user: str = "", *, erasing: bool = False, patient: bool = True) -> T:
        """Run the statements on the thread and return their result. They run even if the caller is cancelled.

        Raises:
            DatabaseClosed: `close` was called before.
            SQLAlchemyError: the database failed; the driver's own errors are wrapped.
            Exception: any other error that the statements raise.
        """
        job = Job(statements, self._loop.create_future(), erasing=erasing, patient=patient, user=user)
        result: T = await self._result(job)
        return result

    async def run_pipelined(self, statements: Statements[Sent[T]], user: str = "") -> T:
        """Like `run`, for statements whose results need not be read before the next statements are sent."""
        result: T = await self._result(Job(statements, self._loop.create_future(), pipelined=True, user=user))
        return result

    async def _result(self, job: Job) -> Any:
        if self._closed:
            raise DatabaseClosed
        self._next_batch.append(job)
        if len(self._next_batch) == 1:  # batch all requests of this loop iteration: waking the thread is expensive
            self._loop.call_soon(self._queue_batch)
        try:
            return await job.future
        except self._driver_error as error:
            raise DBAPIError.instance(None, None, error, self._driver_error, hide_parameters=True) from error

    async def close(self) -> None:
        """Run all pending jobs, finish the background work, then disconnect and wait until the thread has ended."""
        if not self._closed:
            self._queue_batch()  # before setting `_closed`: the thread ends when it finds that and an empty queue
            self._closed = True
            self._batches.put([])  # wakes the thread
        await run_in_daemon_thread(self._thread.join, name="database-close")  # the writer may wait for a lock

    @abstractmethod
    def run_jobs(self, jobs: Sequence[Job]) -> None:
        """Run the jobs and settle each. An error raised here fails the jobs that are not settled yet."""
        ...

    def background_work(self) -> float | None:
        """Do a short piece of background work if it is due. Called after each batch, and when more is due.

        Returns the seconds until more is due, None if there is nothing to do before the next batch. Must not raise.
        """
        return None

    def finish_background_work(self) -> None:  # noqa: B027  # most threads have none
        """Do as much of the background work as a stop can wait for. Called before disconnecting. Must not raise."""

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def disconnect(self) -> None:
        """Drop the connection and any open transaction; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _queue_batch(self) -> None:
        batch, self._next_batch = self._next_batch, []
        if batch:
            self._batches.put(batch)

    def _main(self) -> None:
        while not (self._closed and self._batches.empty()):
            jobs = self._next_jobs(None if self._closed else self.background_work())
            if jobs:
                self._settle(jobs)
                self._loop.call_soon_threadsafe(_deliver, jobs)
        self.finish_background_work()
        self.disconnect()

    def _next_jobs(self, timeout: float | None) -> list[Job]:
        """Wait for jobs. Returns none if there are none within `timeout` seconds."""
        try:
            jobs = list(self._batches.get(timeout=timeout))
        except Empty:
            return []
        while not self._batches.empty():
            jobs += self._batches.get()
        return jobs

    def _settle(self, jobs: Sequence[Job]) -> None:
        try:
            self.run_jobs(jobs)
        except Exception as error:
            self.disconnect()
            for job in jobs:
                if not job.settled:
                    job.fail(error)


def require_open(thread: Thread | None) -> Thread:
    """Return the thread of a database that is open.

    Raises:
        DatabaseClosed: it was not opened.
    """
    if thread is None:
        raise DatabaseClosed
    return thread


def _deliver(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.deliver()
