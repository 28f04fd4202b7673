"""Connections to PostgreSQL."""

import logging
from contextlib import suppress
from typing import Any, Final, cast

import psycopg
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

_CONNECTION: Final = {
    "application_name": "smart-chatbot",
    "client_encoding": "utf8",  # else texts from a database without an encoding (SQL_ASCII) would be bytes
    "connect_timeout": "5",  # seconds, as are the next two
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",  # milliseconds
}
"""Parameters of a connection that its URL does not set. A host that has vanished is noticed within 20 seconds."""

_SET_UP: Final = (
    # The server, too, has to notice when this host has vanished: an open session would keep its locks. So would that of
    # a process that was paused in a transaction. It ends when the leases of its turns have expired.
    "SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false), set_config('lock_timeout', %s, false),"
    " set_config('statement_timeout', %s, false), set_config('idle_in_transaction_session_timeout', '15s', false),"
    " set_config('synchronous_commit', CASE WHEN NOT %s THEN 'off' WHEN current_setting('synchronous_commit') = 'off'"
    " THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
)


# Psycopg warns of each connection that breaks. The error that it raises says the same, once.
logging.getLogger("psycopg").setLevel(logging.ERROR)


def make_engine(
    url: URL, *, statement_timeout: float, lock_timeout: float, autocommit: bool = False, synchronous: bool = True
) -> Engine:
    """Return an engine whose connections are set up. Times are in seconds.

    A statement fails if it takes longer than `statement_timeout`, or waits longer than `lock_timeout` for a lock.
    With `autocommit`, each statement sees everything committed before it. If `synchronous`, a commit is on disk when it
    returns, even if the server's default is not to wait; otherwise it does not wait, even if that is the default.
    """
    engine = create_engine(
        url.update_query_dict({key: value for key, value in _CONNECTION.items() if key not in url.query}),
        poolclass=NullPool,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
    )
    values = [f"{round(lock_timeout * 1000)}ms", f"{round(statement_timeout * 1000)}ms", synchronous]

    def set_up(connection: "psycopg.Connection[Any]", _: object) -> None:
        with unfinished(connection):
            connection.execute(_SET_UP, values)

    event.listen(engine, "connect", set_up)
    return engine


class unfinished:
    """A new connection while it is being set up, outside any transaction. It is closed if that fails."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection
        self._autocommit = connection.autocommit

    def __enter__(self) -> None:
        self._connection.autocommit = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._connection.autocommit = self._autocommit
        else:
            self._connection.close()


def url_of(url: str) -> URL:
    """Return the URL with the driver that is used, whichever it names."""
    return make_url(url).set(drivername="postgresql+psycopg")


def driver(connection: Connection) -> "psycopg.Connection[Any]":
    """Return psycopg's connection."""
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def is_broken(connection: Connection) -> bool:
    """Whether the connection was lost, so that nothing more can be done on it."""
    return connection.invalidated or connection.closed or driver(connection).closed


def unlock(connection: Connection) -> None:
    """Release a session's locks, because the server ends it some time after its connection was closed."""
    if not is_broken(connection):
        with suppress(SQLAlchemyError):
            connection.exec_driver_sql("SELECT pg_advisory_unlock_all()").close()
