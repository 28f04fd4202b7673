"""The database that the SQL adapters use, independent of its dialect."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeVar

from sqlalchemy import Connection

from adapters.sql.full_text import FullText
from adapters.sql.turn_writes import Sent, TurnWrites
from domain.conversation import UserId
from domain.errors import Unusable

T = TypeVar("T")

Statements = Callable[[Connection], T]
"""A function that runs statements on a connection. It may be called again after a rollback, so it must have no other
side effects."""


class DatabaseClosed(Exception):
    """The database is not open."""


class DatabaseLost(Exception):
    """The database is no longer the one that was opened; the message is one sentence for the operator."""


class DatabaseSilent(Exception):
    """The database has not responded in time. What it was asked to do may still be done."""


class Copied(NamedTuple):
    """What a backup contains: the number of turns, and the size of the file in bytes."""

    turns: int
    size: int


class Database(Protocol):
    """A relational database with the tables of `tables.py`. `async with database:` opens and closes it.

    `check`, `read`, `search`, `write` and `erase` raise `errors.DATABASE_ERRORS`, and let errors of the statements
    themselves pass. In either case nothing has been written, except perhaps after `DatabaseSilent` and if a connection
    breaks during a commit.
    """

    full_text: FullText
    """Full-text search in this database's dialect."""

    turn_writes: TurnWrites
    """The statements of `write_turn` in this database's dialect."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def open(self) -> None:
        """Create or migrate the schema if necessary, then start accepting statements.

        Raises:
            TemporarilyUnusable: the database cannot be used now, e.g. because the disk is full.
            Unusable: the database cannot be used; it has not been changed.
        """
        ...

    @abstractmethod
    async def close(self) -> None:
        """Finish all pending writes, then disconnect. Does nothing if the database is not open."""
        ...

    @abstractmethod
    def migrate(self) -> None:
        """Create or migrate the schema, all or nothing, without opening the database. Blocks.

        Raises:
            Unusable: the database cannot be used; it has not been changed.
        """
        ...

    @abstractmethod
    def is_outdated(self) -> bool:
        """Return whether `migrate` would change the schema. Changes nothing. Blocks.

        Raises:
            Unusable: the database cannot be used.
        """
        ...

    @abstractmethod
    async def check(self) -> None:
        """Return if the database responds and is still the one that was opened."""
        ...

    @abstractmethod
    def explain(self, error: Exception) -> str:
        """Return why the database raised `error`, as a sentence for the operator without values of statements."""
        ...

    @abstractmethod
    def backup(self, file: Path) -> Copied:
        """Copy the database, as it was at one moment, to a new file. Other processes may be using it. Blocks.

        Raises:
            Unusable: the database cannot be copied, or not to this file; there is no new file.
        """
        ...

    @abstractmethod
    def visit(self, statements: Statements[T]) -> T:
        """Run the statements in one transaction, without opening the database, which other processes may use. Blocks.

        The schema is created or migrated before, if necessary.

        Raises:
            Unusable: the database cannot be used. Nothing was written, unless the connection broke during the commit.
        """
        ...

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call the database in messages: its place, without credentials."""
        ...

    @abstractmethod
    def unusable(self, error: Exception) -> Unusable:
        """Return the error for the operator if copying fails because this database raised `error`."""
        ...

    @abstractmethod
    def copy_source(self) -> AbstractContextManager[Connection]:
        """Lock the database, which is not open, and provide a connection that reads it as of one moment. Blocks.

        Its schema has to be the current one. Nothing in it is changed.

        Raises:
            Unusable: the database cannot be used, e.g. because another process uses it.
        """
        ...

    @abstractmethod
    def copy_target(self) -> AbstractContextManager[Connection]:
        """Lock the database, which is not open, and provide a connection to fill it. Blocks.

        Everything in the block is one transaction, which begins with the creation or migration of the schema, and is
        durable on exit. It is rolled back if the block raises.

        Raises:
            Unusable: the database cannot be used, e.g. because another process uses it. It has not been changed, unless
                the message says that this is not known.
        """
        ...

    @abstractmethod
    async def read(self, statements: Statements[T]) -> T:
        """Run one query. It sees every write that has returned."""
        ...

    @abstractmethod
    async def read_shared(self, statements: Statements[T]) -> T:
        """Like `read`, for what other programs change: they would not change a file that was removed or replaced.

        Raises:
            DatabaseLost: the database is no longer the one that was opened, which `read` goes on reading.
        """
        ...

    @abstractmethod
    async def search(self, statements: Statements[T]) -> T:
        """Like `read`, for a query that may take long. It delays other searches, but no reads."""
        ...

    @abstractmethod
    async def write(self, statements: Statements[T], user_id: UserId | None = None, *, patient: bool = True) -> T:
        """Run the statements in one transaction, which is durable on return. Runs even if the caller is cancelled.

        `user_id` is the only user whose rows they lock, None if there may be several. Unless `patient`, do not wait for
        another program's lock: writes that are requested meanwhile would wait, too.
        """
        ...

    @abstractmethod
    async def write_turn(self, statements: Statements[Sent[T]], user_id: UserId) -> T:
        """Like `write`, for statements of `turn_writes` about a turn of this user."""
        ...

    @abstractmethod
    async def erase(self, statements: Statements[int], user_id: UserId | None = None) -> int:
        """Like `write`, for statements that return how many rows they delete.

        The rows are gone for every reader when it returns. Their content is removed from the database's files soon
        afterwards, as far as the dialect can, even if the process dies in between.
        """
        ...


class Notifications(Protocol):
    """Short messages between the processes that share a database.

    Any role that can connect to the database can read and send them. So they contain nothing that must not be known,
    and a receiver only looks into the tables.
    """

    @abstractmethod
    def subscribe(self, topic: str, on_message: Callable[[str], None], on_gap: Callable[[], None]) -> None:
        """Call `on_message` with the text of each message about `topic`, including this process's own.

        `on_gap` is called once messages can arrive, and whenever some may have been lost because the connection was
        renewed. Both are called on the event loop, must not block, and must not raise, whatever the text. A topic has
        one subscriber.
        """
        ...

    @abstractmethod
    def send(self, connection: Connection, topic: str, message: str) -> None:
        """Send a message when the transaction commits. Topic and message together have at most 7,900 bytes."""
        ...


class SharedDatabase(Database, Protocol):
    """A database that several processes of the service use at the same time, on any number of hosts."""

    notifications: Notifications

    @abstractmethod
    def now(self) -> datetime:
        """Return the time of the database's clock, which is the same for all processes. Does not ask the database.

        It is counted from the last comparison of the two clocks, so changes of this host's time have no effect on it.
        """
        ...

    @abstractmethod
    def is_clock_steady(self) -> bool:
        """Whether times that other processes have stored can be compared with it: it was not set recently."""
        ...

    @abstractmethod
    async def write_soon(self, statements: Statements[T]) -> T:
        """Like `write`, for data that may be lost if the server crashes.

        It has a connection of its own, so that it neither waits for the writes of turns nor delays them.
        """
        ...

    @abstractmethod
    async def send_soon(self, statements: Statements[Sent[T]]) -> T:
        """Like `write_soon`, for statements whose results need not be read before the next ones are sent."""
        ...
