"""Runs the suite of LongTermMemory on every adapter, the wrapper and the fake."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.clock import utc_now
from adapters.memory_guarded import GuardedMemory
from adapters.memory_in_memory import MemoryInMemory
from adapters.memory_mem0_platform import MemoryMem0Platform
from adapters.memory_sql import MemorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.memory import LongTermMemory
from tests.contract.long_term_memory import DurableMemoryContract, LongTermMemoryContract, RecallByWordsContract
from tests.harness.fakes import LearningMemory
from tests.harness.mem0_platform import KEY, Lag, Mem0Platform
from tests.harness.memory_upstream import MemoryUpstream, memory_upstream_in_thread, open_mem0
from tests.harness.postgres import Postgres, open_database_in
from tests.harness.script import Observed


@pytest.fixture(scope="module")
def upstream() -> Iterator[MemoryUpstream]:
    with memory_upstream_in_thread() as upstream:
        yield upstream


class TestMemoryInMemory(RecallByWordsContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        yield MemoryInMemory(lambda: datetime.now(UTC))


class TestLearningMemory(LongTermMemoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        yield LearningMemory()


class TestGuardedMemory(LongTermMemoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        yield GuardedMemory(LearningMemory(), Observed(), recall_timeout=60)


class TestMemorySQLite(RecallByWordsContract, DurableMemoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        async with SQLiteDatabase(f"sqlite:///{directory}/chat.db") as database:
            yield MemorySQL(database, lambda: datetime.now(UTC))


@pytest.mark.server
@pytest.mark.usefixtures("postgres_in_tmp_path")
class TestMemoryPostgres(RecallByWordsContract, DurableMemoryContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        async with open_database_in(directory) as database:
            yield MemorySQL(database, lambda: datetime.now(UTC))


@pytest.mark.row("M3")
@pytest.mark.server
class TestMemoryMem0Qdrant(DurableMemoryContract):
    @pytest.fixture(autouse=True)
    def models(self, upstream: MemoryUpstream) -> None:
        self.upstream = upstream

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        async with open_mem0(directory, self.upstream) as memory:
            yield memory


@pytest.mark.server
class TestMemoryMem0Pgvector(DurableMemoryContract):
    @pytest.fixture(autouse=True)
    def servers(self, upstream: MemoryUpstream, postgres: Postgres) -> None:
        self.upstream, self.url = upstream, postgres.new_database()

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        async with open_mem0(directory, self.upstream, store_url=self.url) as memory:
            yield memory


@pytest.mark.server
class TestMemoryMem0Platform(LongTermMemoryContract):
    lag = Lag()

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LongTermMemory]:
        async with (
            Mem0Platform(self.lag) as platform,
            MemoryMem0Platform(
                api_key=KEY, host=platform.host, data_dir=directory, now=utc_now, settle_timeout=5, forget_interval=0.05
            ) as memory,
        ):
            yield memory


class TestMemoryMem0PlatformWithLag(TestMemoryMem0Platform):
    lag = Lag(add=0.004, index=0.004, delete=0.02, search=0.01)
