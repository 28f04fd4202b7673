"""Connections to a SQLite file."""

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

BUSY_TIMEOUT: Final = 5000
"""Milliseconds that a commit waits for other programs that have the file locked."""

BEGIN: Final = "BEGIN IMMEDIATE"
"""Have the right to write from the start: a transaction that asks for it later is refused without waiting."""

PRAGMAS: Final = (
    "journal_mode = WAL",  # readers and the writer do not wait for each other
    "synchronous = FULL",  # a commit is on the disk when it returns
    f"busy_timeout = {BUSY_TIMEOUT}",
    "foreign_keys = ON",
    "secure_delete = ON",  # what is deleted is overwritten
    "temp_store = MEMORY",  # no texts in files that we do not know of
)


def make_engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, hide_parameters=True)

    def set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver opens no transactions of its own
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", set_up)
    return engine


def driver(connection: Connection) -> Any:
    """What SQLAlchemy has no words for, or many."""
    return connection.connection.driver_connection
