"""Connections to an SQLite file."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

BEGIN: Final = "BEGIN IMMEDIATE"
"""Acquires the write lock at once: SQLite rejects, without waiting, a transaction that asks for it later."""

_PRAGMAS: Final = (
    "journal_mode = WAL",  # readers and the writer do not block each other
    "synchronous = FULL",  # a commit is on disk when it returns
    "foreign_keys = ON",
    "secure_delete = ON",  # deleted content is overwritten
    "temp_store = MEMORY",  # no content in temporary files
)


def make_engine(path: Path, busy_timeout: float) -> Engine:
    """Return an engine whose connections are set up for durability and wait `busy_timeout` seconds for a lock."""
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, hide_parameters=True)
    pragmas = (_busy_timeout(busy_timeout), *_PRAGMAS)

    def set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None  # keep the driver from opening transactions
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", set_up)
    return engine


def make_read_only_engine(path: Path) -> Engine:
    """Return an engine whose connections cannot change the file."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)

    return create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)


def driver(connection: Connection) -> Any:
    """The `sqlite3.Connection`, for statements that SQLAlchemy cannot express or makes slow."""
    return connection.connection.driver_connection


@contextmanager
def write_transaction(connection: Connection) -> Iterator[None]:
    """Run the block in a transaction that holds the write lock from its beginning."""
    with connection.begin():
        driver(connection).execute(BEGIN)
        yield


def set_busy_timeout(connection: Connection, seconds: float) -> None:
    """Wait at most so long for locks of other programs, from the next statement on."""
    driver(connection).execute(f"PRAGMA {_busy_timeout(seconds)}")


def _busy_timeout(seconds: float) -> str:
    return f"busy_timeout = {round(seconds * 1000)}"
