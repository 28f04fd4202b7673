"""Visitor: access to a database that a service may have open."""

from adapters.daemon_threads import run_in_daemon_thread
from adapters.sql.database import Database, Statements, T


class Visitor:
    """Reads and writes as `Database` does, each time on a connection of its own: for commands, which need few.

    These methods raise `Unusable` instead of the errors of an open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def explain(self, error: Exception) -> str:
        return self._database.explain(error)

    async def read(self, statements: Statements[T]) -> T:
        return await self.write(statements)

    async def read_shared(self, statements: Statements[T]) -> T:
        return await self.write(statements)

    async def write(self, statements: Statements[T]) -> T:
        return await run_in_daemon_thread(lambda: self._database.visit(statements), name="database-visit")
