"""Runs the suite of ConversationHistory on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.history_in_memory import HistoryInMemory
from adapters.history_observed import ObservedHistory
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.history import ConversationHistory
from tests.contract.conversation_history import (
    ConversationHistoryContract,
    DurableHistoryContract,
    ExclusiveHistoryContract,
)
from tests.harness.postgres import open_database_in
from tests.harness.script import Observed


@pytest.mark.row("U22")
class TestHistoryInMemory(ConversationHistoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        yield HistoryInMemory()


@pytest.mark.row("S31")
@pytest.mark.row("U22")
class TestHistorySQLite(ExclusiveHistoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        async with SQLiteDatabase(f"sqlite:///{directory}/chat.db") as database:
            yield HistorySQL(database)


@pytest.mark.server
@pytest.mark.usefixtures("postgres_in_tmp_path")
class TestHistoryPostgres(DurableHistoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        async with open_database_in(directory) as database:
            yield HistorySQL(database)


class TestObservedHistory(ConversationHistoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationHistory]:
        yield ObservedHistory(HistoryInMemory(), Observed())
