"""A thread that owns a connection and runs on it whatever has gathered."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from adapters.sql.database import DatabaseClosed, Statements

T = TypeVar("T")


class Job:
    """Statements, and whoever waits for them. `erasing` wants what they delete out of the files."""

    __slots__ = ("erasing", "error", "future", "result", "settled", "statements")

    def __init__(self, statements: Statements[Any], future: "asyncio.Future[Any]", erasing: bool) -> None:
        self.statements = statements
        self.future = future
        self.erasing = erasing
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


class Worker(ABC):
    """A thread with a connection of its own, made at need and again after an error."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._inbox: SimpleQueue[Sequence[Job]] = SimpleQueue()
        self._asked: list[Job] = []
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._closed = False
        self._thread.start()

    async def run(self, statements: Statements[T], *, erasing: bool = False) -> T:
        if self._closed:
            raise DatabaseClosed
        job = Job(statements, self._loop.create_future(), erasing)
        self._asked.append(job)
        if len(self._asked) == 1:  # what else is asked for in this round of the loop goes along: a thread wakes dearly
            self._loop.call_soon(self._hand_over)
        result: T = await job.future
        return result

    async def close(self) -> None:
        """Finish what was given, then disconnect."""
        if not self._closed:
            self._hand_over()  # before the thread may find that it has been given everything
            self._closed = True
            self._inbox.put([])  # wakes it
        await asyncio.to_thread(self._thread.join)

    @abstractmethod
    def serve(self, jobs: Sequence[Job]) -> None:
        """Run the jobs and settle each. What is raised becomes the error of those that are not settled."""
        ...

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def disconnect(self) -> None:
        """Drop the connection with whatever is open on it; the next use makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _hand_over(self) -> None:
        asked, self._asked = self._asked, []
        if asked:
            self._inbox.put(asked)

    def _main(self) -> None:
        while not (self._closed and self._inbox.empty()):
            jobs = list(self._inbox.get())
            while not self._inbox.empty():
                jobs += self._inbox.get()
            if jobs:
                self._settle(jobs)
                self._loop.call_soon_threadsafe(_deliver, jobs)
        self.disconnect()

    def _settle(self, jobs: Sequence[Job]) -> None:
        try:
            self.serve(jobs)
        except Exception as error:
            self.disconnect()
            for job in jobs:
                if not job.settled:
                    job.fail(error)


def _deliver(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.deliver()
