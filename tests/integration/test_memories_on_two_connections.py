"""Memories on two connections of PostgreSQL: one worker stores a memory of a user while another one deletes some."""

import asyncio
from collections.abc import AsyncIterator
from threading import Event

import pytest
from sqlalchemy import Connection, text

from adapters.clock import utc_now
from adapters.memory_sql import MemorySQL
from adapters.sql.database import Statements, T
from adapters.sql.postgres.database import PostgresDatabase
from domain.conversation import UserId
from tests.harness.chat import eventually, until
from tests.harness.exchange import TIMEOUT
from tests.harness.mem0_memory import ADA
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.server


class PausingDatabase(PostgresDatabase):
    """Pauses before each commit."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.has_written, self.resume = Event(), Event()

    async def write(self, statements: Statements[T], user_id: UserId | None = None, *, patient: bool = True) -> T:
        def write_and_pause(connection: Connection) -> T:
            written = statements(connection)
            self.has_written.set()
            assert self.resume.wait(TIMEOUT)
            return written

        return await super().write(write_and_pause, user_id, patient=patient)


@pytest.fixture
async def databases(postgres: Postgres) -> AsyncIterator[tuple[PausingDatabase, PostgresDatabase]]:
    url = await asyncio.to_thread(postgres.new_database)
    limits = {"lock_timeout": TIMEOUT, "statement_timeout": TIMEOUT, "response_timeout": TIMEOUT}
    async with PausingDatabase(url) as pausing, PostgresDatabase(url, **limits) as other:
        yield pausing, other


async def count(database: PostgresDatabase, what: str) -> int:
    return await database.read(lambda connection: connection.execute(text(f"SELECT count(*) FROM {what}")).scalar_one())


@pytest.mark.parametrize("deletes_all", [True, False])
async def test_a_memory_that_is_stored_while_the_only_other_one_is_deleted_is_not_lost_from_sight(
    databases: tuple[PausingDatabase, PostgresDatabase], deletes_all: bool
) -> None:
    pausing, other = databases
    memory = MemorySQL(other, utc_now)
    first = await memory.store(ADA, "likes tea", 0.5)
    storing = asyncio.create_task(MemorySQL(pausing, utc_now).store(ADA, "likes coffee", 0.5))
    await until(pausing.has_written.is_set)
    deleting = asyncio.create_task(memory.forget_all(ADA) if deletes_all else memory.forget(ADA, first.id))

    async def waits() -> bool:
        lock = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return await count(other, lock) == 1

    await eventually(waits)
    pausing.resume.set()
    await asyncio.gather(storing, deleting)

    facts = [item.fact for item in (await memory.page(ADA, 10, None)).items]
    assert facts == ([] if deletes_all else ["likes coffee"])
    assert await count(other, "memories") == len(facts)
    assert await memory.forget_all(ADA)
    assert await count(other, "memories") == 0
