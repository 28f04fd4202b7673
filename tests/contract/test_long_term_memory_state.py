"""Runs the state machine of LongTermMemory on the memory in a database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hypothesis import settings

from adapters.memory_sql import MemorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.memory import LongTermMemory
from tests.contract.long_term_memory_state import DurableMemoryMachine


class SQLite(DurableMemoryMachine):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        async with SQLiteDatabase(f"sqlite:///{directory}/chat.db") as database:
            yield MemorySQL(database, self.now)


TestSQLite = SQLite.TestCase
TestSQLite.settings = settings(max_examples=40, stateful_step_count=40)
