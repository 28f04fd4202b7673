"""Two workers on one database. The clock of one worker's host is set while it runs, which changes nothing for users."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest

from adapters.clock import utc_now
from tests.harness.chat import eventually
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.postgres import Postgres
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

HELLO = {"user_id": "ann", "message": "Hello?"}


class Clock:
    """The clock of a host."""

    def __init__(self) -> None:
        self.shift = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.shift


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def workers(
    postgres: Postgres, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Service, Service]]:
    """Two services. The clock of the first one's host is `clock`."""
    url = await asyncio.to_thread(postgres.new_database)
    settings: dict[str, Any] = {"history_backend": "sql", "database_url": url}
    monkeypatch.setattr("adapters.sql.postgres.clock.utc_now", clock)
    async with AsyncExitStack() as stack:
        services = []
        for now in (clock, utc_now):
            parts = {"llm": ScriptedLLM(ScriptedReply(), ScriptedReply(hangs=True)), "now": now}
            services.append(await stack.enter_async_context(running_service(parts, **settings)))
        yield services[0], services[1]


async def send(service: Service, key: str, **fields: Any) -> httpx2.Response:
    headers = {"Idempotency-Key": key}
    return await service.client.post("/api/chat/simple", json=HELLO | fields, headers=headers)


async def turns(service: Service) -> list[dict[str, Any]]:
    response = await service.client.get("/api/chat/history/ann")
    return list(response.json()["history"])


@pytest.mark.row("P11")
@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
@pytest.mark.parametrize("running", [0, 1])
async def test_leases_keys_and_order_do_not_depend_on_the_clock_of_a_worker(
    workers: tuple[Service, Service], clock: Clock, jump: timedelta, running: int
) -> None:
    first, second = workers[running], workers[1 - running]
    before = await send(first, "before")
    sending = asyncio.create_task(first.client.post("/api/chat/simple", json=HELLO))  # its model hangs
    await eventually(lambda: _runs(second))
    clock.shift = jump

    for worker in workers:
        assert 0 == await worker.container.history().finish_abandoned()
        refused = await send(worker, "refused", when_busy="reject")
        assert (409, "turn_in_progress") == (refused.status_code, refused.json()["code"])
        repeated = await send(worker, "before")
        assert ("true", before.json()) == (repeated.headers["Idempotency-Replayed"], repeated.json())
    [_, turn] = await turns(second)
    stopped = await second.client.post(f"/api/chat/turns/{turn['id']}/stop")
    assert "cancelled" == stopped.json()["reason"]
    await sending

    after = await send(second, "after")
    assert 200 == after.status_code
    for worker in workers:
        assert "true" == (await send(worker, "after")).headers["Idempotency-Replayed"]
        assert [before.headers["X-Turn-ID"], turn["id"], after.headers["X-Turn-ID"]] == [
            stored["id"] for stored in await turns(worker)
        ]


async def _runs(service: Service) -> bool:
    return [turn["status"] for turn in await turns(service)] == ["completed", "in_progress"]
