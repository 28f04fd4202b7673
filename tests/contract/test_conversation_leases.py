"""Runs the suite of ConversationLeases on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from adapters.conversation_leases_sql import ConversationLeasesSQL
from adapters.sql.postgres.database import PostgresDatabase
from application.ports.conversation_leases import ConversationLeases
from tests.contract.conversation_leases import ConversationLeasesContract
from tests.harness.postgres import open_database_in


@pytest.mark.row("X2")
class TestConversationLeasesInProcess(ConversationLeasesContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationLeases]:
        yield ConversationLeasesInProcess()


@pytest.mark.server
@pytest.mark.usefixtures("postgres_in_tmp_path")
class TestConversationLeasesPostgres(ConversationLeasesContract):
    database: PostgresDatabase

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationLeases]:
        async with open_database_in(directory) as self.database:
            yield ConversationLeasesSQL(self.database)

    async def settle(self, leases: ConversationLeases) -> None:
        for _ in range(4):  # jobs are done in order; one may be followed by a second
            await super().settle(leases)
            await self.database.write(lambda connection: connection.execute(text("SELECT")).close())
