"""Runs the suite of MemoryOutbox on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.history_in_memory import HistoryInMemory
from adapters.history_observed import ObservedHistory
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from tests.contract.memory_outbox import DurableMemoryOutboxContract, MemoryOutboxContract, OutboxStore
from tests.harness.postgres import open_database_in
from tests.harness.script import Observed


class TestMemoryOutboxInMemory(MemoryOutboxContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[OutboxStore]:
        yield HistoryInMemory()


@pytest.mark.row("M2")
class TestMemoryOutboxSQLite(DurableMemoryOutboxContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[OutboxStore]:
        async with SQLiteDatabase(f"sqlite:///{directory}/chat.db") as database:
            yield HistorySQL(database)


@pytest.mark.server
@pytest.mark.usefixtures("postgres_in_tmp_path")
class TestMemoryOutboxPostgres(DurableMemoryOutboxContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[OutboxStore]:
        async with open_database_in(directory) as database:
            yield HistorySQL(database)


class TestObservedOutbox(MemoryOutboxContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[OutboxStore]:
        yield ObservedHistory(HistoryInMemory(), Observed())
