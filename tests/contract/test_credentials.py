"""Runs the suite of APIKeys on every adapter, on an open database and as commands use it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.credentials_sql import APIKeysSQL
from adapters.sql.sqlite.database import SQLiteDatabase
from adapters.sql.visitor import Visitor
from application.ports.credentials import APIKeys
from tests.contract.credentials import APIKeysContract, DurableAPIKeysContract
from tests.harness.api_keys_in_memory import APIKeysInMemory
from tests.harness.postgres import open_database_in


class TestAPIKeysInMemory(APIKeysContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[APIKeys]:
        yield APIKeysInMemory()


class TestAPIKeysSQLite(DurableAPIKeysContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[APIKeys]:
        async with SQLiteDatabase(f"sqlite:///{directory}/chat.db") as database:
            yield APIKeysSQL(database)


class TestAPIKeysOfVisitors(DurableAPIKeysContract):
    """Like `smart-chatbot keys`, beside an open database or without one."""

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[APIKeys]:
        yield APIKeysSQL(Visitor(SQLiteDatabase(f"sqlite:///{directory}/chat.db")))


@pytest.mark.server
@pytest.mark.usefixtures("postgres_in_tmp_path")
class TestAPIKeysPostgres(DurableAPIKeysContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[APIKeys]:
        async with open_database_in(directory) as database:
            yield APIKeysSQL(database)


@pytest.mark.server
@pytest.mark.usefixtures("postgres_in_tmp_path")
class TestAPIKeysOfVisitorsToPostgres(DurableAPIKeysContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[APIKeys]:
        async with open_database_in(directory) as database:
            yield APIKeysSQL(Visitor(database))
