"""The record, in an SQLite database itself, of deleted content that is still in its files."""

from enum import IntEnum

from sqlalchemy import Connection

from adapters.sql.sqlite.engine import driver


class Remnants(IntEnum):
    """Where deleted content may be left. Stored as the database's `user_version`, in the transaction that deletes."""

    ANYWHERE = 0
    """Also in the full-text index. The value in databases of earlier versions, in which it is not known."""
    NOWHERE = 1
    IN_PAGES = 2
    """In the write-ahead log, and in unused parts of pages."""

    @classmethod
    def of(cls, connection: Connection) -> "Remnants":
        ((value,),) = driver(connection).execute("PRAGMA user_version")
        return cls(value)

    @classmethod
    def _missing_(cls, value: object) -> "Remnants":
        return cls.ANYWHERE

    def store(self, connection: Connection) -> None:
        """Store the value, as part of the current transaction."""
        driver(connection).execute(f"PRAGMA user_version = {self.value}")


def mark_rows_deleted(connection: Connection) -> None:
    """Record, in the transaction that deletes rows, that their content has to leave the files."""
    if Remnants.of(connection) is Remnants.NOWHERE:
        Remnants.IN_PAGES.store(connection)
