"""Runs the state machine of ConversationHistory on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings

from adapters.history_in_memory import HistoryInMemory
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.history import ConversationHistory
from tests.contract.conversation_history_state import DurableHistoryMachine, HistoryMachine
from tests.harness.postgres import URL_FILE, Postgres, open_database_in


class InMemory(HistoryMachine):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        yield HistoryInMemory()


class SQLite(DurableHistoryMachine):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        async with SQLiteDatabase(f"sqlite:///{directory}/chat.db") as database:
            yield HistorySQL(database)


class PostgreSQL(DurableHistoryMachine):
    server: ClassVar[Postgres]

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        if not (directory / URL_FILE).exists():
            self.server.store_url_in(directory)
        async with open_database_in(directory) as database:
            yield HistorySQL(database)


@pytest.fixture
def server_for_the_machine(postgres: Postgres) -> None:
    PostgreSQL.server = postgres


TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(max_examples=60, stateful_step_count=40)
TestSQLite = SQLite.TestCase
TestSQLite.settings = settings(max_examples=40, stateful_step_count=40)
TestPostgreSQL = pytest.mark.server(pytest.mark.usefixtures("server_for_the_machine")(PostgreSQL.TestCase))
TestPostgreSQL.settings = settings(max_examples=15, stateful_step_count=30)
