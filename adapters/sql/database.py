"""What adapters need of a database, whichever it is."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # whoever only wants to catch DatabaseUnusable need not wait for SQLAlchemy
    from sqlalchemy import Connection

T = TypeVar("T")

Statements = Callable[["Connection"], T]
"""Statements that belong together. They may be run again after a rollback, so they touch nothing but the connection."""


class DatabaseUnusable(Exception):
    """The database can not be opened as it is; the message is one sentence for the operator."""


class DatabaseClosed(Exception):
    """The database is not open."""


class Database(Protocol):
    """A relational database with our tables.

    Every method raises `errors.DATABASE_ERRORS`, and what its statements raise; nothing is written then.
    """

    @abstractmethod
    async def read(self, statements: Statements[T]) -> T:
        """Run one query; it sees every write that has returned."""
        ...

    @abstractmethod
    async def write(self, statements: Statements[T]) -> T:
        """Run in a transaction, committed and durable on return. Happens even where the caller is cancelled."""
        ...

    @abstractmethod
    async def erase(self, statements: Statements[int]) -> int:
        """`write` of what deletes as many rows as it returns; then they are in the files no more, as far as can be."""
        ...
