"""Runs the state machine of ConversationHistory on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hypothesis import settings

from adapters.history_in_memory import HistoryInMemory
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.history import ConversationHistory
from tests.contract.conversation_history_state import DurableHistoryMachine, HistoryMachine


class InMemory(HistoryMachine):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        yield HistoryInMemory()


class SQLite(DurableHistoryMachine):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        database = SQLiteDatabase(f"sqlite:///{directory}/chat.db")
        await database.open()
        try:
            yield HistorySQL(database)
        finally:
            await database.close()


TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSQLite = SQLite.TestCase
TestSQLite.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
