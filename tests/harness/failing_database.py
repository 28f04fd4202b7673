"""A database that raises a given error from every method."""

from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy import Connection

from adapters.sql.database import Copied, Database, Statements, T
from adapters.sql.full_text import FullText
from adapters.sql.sqlite.full_text import SQLiteFullText
from adapters.sql.turn_writes import Sent, TurnWrites
from domain.conversation import UserId
from domain.errors import Unusable


class FailingDatabase(Database):
    full_text: FullText = SQLiteFullText()
    turn_writes = TurnWrites()

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def open(self) -> None:
        raise self.error

    async def close(self) -> None:
        raise self.error

    def migrate(self) -> None:
        raise self.error

    def is_outdated(self) -> bool:
        raise self.error

    async def check(self) -> None:
        raise self.error

    def explain(self, error: Exception) -> str:
        return f"The database failed: {type(error).__qualname__}."

    def backup(self, file: Path) -> Copied:
        raise self.error

    def visit(self, statements: Statements[T]) -> T:
        raise self.error

    @property
    def name(self) -> str:
        return "that fails"

    def unusable(self, error: Exception) -> Unusable:
        return Unusable(self.explain(error))

    def copy_source(self) -> AbstractContextManager[Connection]:
        raise self.error

    def copy_target(self) -> AbstractContextManager[Connection]:
        raise self.error

    async def read(self, statements: Statements[T]) -> T:
        raise self.error

    async def read_shared(self, statements: Statements[T]) -> T:
        raise self.error

    async def search(self, statements: Statements[T]) -> T:
        raise self.error

    async def write(self, statements: Statements[T], user_id: UserId | None = None, *, patient: bool = True) -> T:
        raise self.error

    async def write_turn(self, statements: Statements[Sent[T]], user_id: UserId) -> T:
        raise self.error

    async def erase(self, statements: Statements[int], user_id: UserId | None = None) -> int:
        raise self.error
