"""What happens to leases when the clock of PostgreSQL's host is set."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from adapters.conversation_leases_sql import ConversationLeasesSQL
from adapters.history_sql import HistorySQL
from adapters.sql.postgres.database import PostgresDatabase
from application.ports.history import ReplyAddition, TurnBegin
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, TurnStatus, UserId
from tests.harness.postgres import Postgres

pytestmark = pytest.mark.server

ADA = UserId("ada")
LEASE, HOUR = timedelta(seconds=15), timedelta(hours=1)
SETTLE_TIME = 0.5


class Worker:
    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self.history = HistorySQL(database, database.now, database.is_clock_steady)
        self.leases = ConversationLeasesSQL(database)

    async def begin(self) -> Turn:
        turn = Turn(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, self.database.now(), "Hello")
        return await self.history.begin(TurnBegin(turn, LEASE))

    async def renew(self, turn: Turn) -> None:
        await self.history.save_progress({turn.id: ReplyAddition(0, "")}, LEASE)


@pytest.fixture
def url(postgres: Postgres) -> str:
    """A database in whose sessions `clock_timestamp` is a function that a test can change."""
    url = postgres.new_database()
    PostgresDatabase(url).migrate()
    set_clock(postgres, url, timedelta(0))
    return make_url(url).update_query_dict({"options": "-csearch_path=public,pg_catalog"}).render_as_string()


def set_clock(postgres: Postgres, url: str, shift: timedelta) -> None:
    postgres.execute(
        "CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        f" RETURN pg_catalog.clock_timestamp() + interval '{shift.total_seconds()} seconds'",
        url,
    )


@pytest.fixture
async def workers(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Worker]]:
    monkeypatch.setattr("adapters.sql.postgres.clock.SETTLE_TIME", SETTLE_TIME)
    async with AsyncExitStack() as stack:
        yield [Worker(await stack.enter_async_context(PostgresDatabase(url))) for _ in range(2)]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_turn_whose_worker_lives_is_not_ended_when_the_clock_is_set(
    postgres: Postgres, url: str, workers: list[Worker], jump: timedelta
) -> None:
    one, other = workers
    turn = await one.begin()
    await asyncio.to_thread(set_clock, postgres, url, jump)
    await other.database.check()
    assert abs(one.database.now() + jump - other.database.now()) < timedelta(seconds=5)
    assert await other.history.finish_abandoned() == 0
    await one.database.check()
    await one.renew(turn)
    await asyncio.sleep(SETTLE_TIME)
    assert await other.history.finish_abandoned() == 0
    assert TurnStatus.IN_PROGRESS is (await one.history.get(turn.id, ADA)).status


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_turn_whose_worker_dies_after_the_clock_was_set_is_ended_in_time(
    postgres: Postgres, url: str, workers: list[Worker], jump: timedelta
) -> None:
    one, other = workers
    turn = await one.begin()
    await asyncio.to_thread(set_clock, postgres, url, jump)
    for worker in workers:
        await worker.database.check()
    await one.renew(turn)
    await asyncio.sleep(SETTLE_TIME)
    later = HistorySQL(other.database, lambda: other.database.now() + LEASE)
    assert await later.finish_abandoned() == 1


async def test_a_lease_of_a_turn_that_never_began_does_not_last_longer_when_the_clock_is_set_back(
    postgres: Postgres, url: str, workers: list[Worker]
) -> None:
    one, other = workers
    await one.leases.acquire(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, wait=0)
    await asyncio.to_thread(set_clock, postgres, url, -HOUR)
    await other.database.check()
    await other.leases.acquire(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, wait=0)
