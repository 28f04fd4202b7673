"""Messages between the processes that share a PostgreSQL database, by LISTEN and NOTIFY."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, NamedTuple

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from adapters.daemon_threads import run_in_daemon_thread
from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.database import Notifications
from adapters.sql.postgres.engine import driver
from domain.retry import RetryPolicy

CHANNEL: Final = "smart_chatbot"
"""A channel belongs to one database (https://www.postgresql.org/docs/current/sql-notify.html)."""

_SEND: Final = PrecompiledStatement(text(f"SELECT pg_notify('{CHANNEL}', :payload)"))
_RECONNECT: Final = RetryPolicy(first_delay=timedelta(seconds=0.2), max_delay=timedelta(seconds=5))


class _Subscriber(NamedTuple):
    on_message: Callable[[str], None]
    on_gap: Callable[[], None]


class PostgresNotifications(Notifications):
    """Receives on a connection of its own, which the event loop watches. It is renewed when it breaks."""

    def __init__(self) -> None:
        self._subscribers: dict[str, _Subscriber] = {}
        self._task: asyncio.Task[None] | None = None
        self._listening = False

    def subscribe(self, topic: str, on_message: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        self._subscribers[topic] = _Subscriber(on_message, on_gap)
        if self._listening:
            on_gap()

    def send(self, connection: Connection, topic: str, message: str) -> None:
        _SEND.execute_raw(connection, {"payload": f"{topic} {message}"}).close()

    def open(self, engine: Engine) -> None:
        """Receive from now on. The connection is made in the background."""
        self._task = asyncio.create_task(self._receive_forever(engine))

    async def close(self) -> None:
        """Disconnect. Does nothing if it is not open."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _receive_forever(self, engine: Engine) -> None:
        failures = 0
        while True:
            connection: Connection | None = None
            try:
                connection = await _connect(engine)
                failures, self._listening = 0, True
                self._report_gap()
                await self._receive(driver(connection))
            except (SQLAlchemyError, psycopg.Error, OSError):  # the store's own calls report what is wrong with it
                failures += 1
            finally:
                self._listening = False
                if connection is not None:
                    connection.invalidate()
                    connection.close()
            await asyncio.sleep(_RECONNECT.delay(failures).total_seconds())

    async def _receive(self, connection: "psycopg.Connection[Any]") -> None:
        """Deliver messages until the connection breaks."""
        loop, socket = asyncio.get_running_loop(), connection.fileno()
        broken: asyncio.Future[None] = loop.create_future()

        def receive() -> None:
            try:
                connection.pgconn.consume_input()
            except psycopg.Error as error:
                loop.remove_reader(socket)  # it would be readable for ever
                if not broken.done():
                    broken.set_exception(error)
            while message := connection.pgconn.notifies():
                self._deliver(message.extra)

        loop.add_reader(socket, receive)
        try:
            receive()  # what has arrived with the response to LISTEN
            await broken
        finally:
            loop.remove_reader(socket)

    def _deliver(self, payload: bytes) -> None:
        topic, _, message = payload.decode(errors="replace").partition(" ")
        if (subscriber := self._subscribers.get(topic)) is not None:
            subscriber.on_message(message)

    def _report_gap(self) -> None:
        for subscriber in self._subscribers.values():
            subscriber.on_gap()


async def _connect(engine: Engine) -> Connection:
    """Return a connection that listens. It is closed if the caller is cancelled meanwhile."""

    def connect() -> Connection:
        connection = engine.connect()
        connection.exec_driver_sql(f"LISTEN {CHANNEL}").close()
        if abandoned:
            connection.close()
        return connection

    abandoned: list[bool] = []
    try:
        return await run_in_daemon_thread(connect, name="postgres-listen")
    except asyncio.CancelledError:
        abandoned.append(True)
        raise
