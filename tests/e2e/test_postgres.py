"""The service on PostgreSQL, whose server stops and starts, and a second service on the same database."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.harness.exchange import client_of
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ServiceProcess, service_process

HELLO = {"user_id": "user123", "message": "Hello?"}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@asynccontextmanager
async def serving(
    url: str, directory: Path, upstream: ScriptedUpstream
) -> AsyncIterator[tuple[ServiceProcess, httpx2.AsyncClient]]:
    data = str(directory / "data")
    async with (
        service_process(
            directory=directory, OPENAI_BASE_URL=upstream.base_url, DATABASE_URL=url, DATA_DIR=data
        ) as service,
        client_of(service.url) as client,
    ):
        yield service, client


async def until_ready(client: httpx2.AsyncClient, expected: bool = True) -> None:
    async with asyncio.timeout(30):
        while ((await client.get("/readyz")).status_code == 200) != expected:
            await asyncio.sleep(0.05)


async def assert_serves(client: httpx2.AsyncClient, turns: int) -> None:
    assert (await client.post("/api/chat/simple", json=HELLO)).status_code == 200
    assert (await client.get("/api/chat/history/user123")).json()["count"] == turns


async def assert_rejected(client: httpx2.AsyncClient) -> None:
    rejected = await client.post("/api/chat", json=HELLO)
    assert (rejected.status_code, rejected.json()["code"]) == (503, "history_unavailable")
    assert int(rejected.headers["Retry-After"]) > 0


def levels(service: ServiceProcess) -> set[str]:
    return {json.loads(line)["level"] for line in service.output if line.startswith("{")}


async def test_while_the_server_is_down_turns_are_rejected_and_nothing_is_lost(
    own_server: Postgres, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    url = await asyncio.to_thread(own_server.new_database)
    async with serving(url, tmp_path, upstream) as (service, client):
        await assert_serves(client, 1)
        await asyncio.to_thread(own_server.stop)
        await assert_rejected(client)
        await until_ready(client, False)
        health = (await client.get("/api/health/detailed")).json()
        assert health["checks"]["history_detail"].startswith("The database cannot be used: ")
        asked = len(upstream.requests)
        await asyncio.to_thread(own_server.start)
        await until_ready(client)
        assert len(upstream.requests) == asked
        await assert_serves(client, 2)
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0
        assert "error" not in levels(service)
        assert "Traceback" not in "".join(service.output)


@pytest.mark.row("P14")
async def test_a_service_that_starts_before_its_server_waits_for_it(
    own_server: Postgres, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    url = await asyncio.to_thread(own_server.new_database)
    await asyncio.to_thread(own_server.stop)
    async with serving(url, tmp_path, upstream) as (service, client):
        await until_ready(client, False)
        await assert_rejected(client)
        await asyncio.to_thread(own_server.start)
        await until_ready(client)
        await assert_serves(client, 1)
        assert "Traceback" not in "".join(service.output)


async def test_a_stop_does_not_wait_for_a_server_that_is_down(
    own_server: Postgres, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    url = await asyncio.to_thread(own_server.new_database)
    async with serving(url, tmp_path, upstream) as (service, client):
        await assert_serves(client, 1)
        await asyncio.to_thread(own_server.stop)
        service.signal(signal.SIGTERM)
        async with asyncio.timeout(5):  # SHUTDOWN_GRACE and 2 more
            await service.wait()


@pytest.mark.row("P1")
async def test_a_second_service_serves_the_same_turns_and_goes_on_when_the_first_is_killed(
    postgres: Postgres, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    async with (
        serving(url, tmp_path, upstream) as (first, client),
        serving(url, tmp_path, upstream) as (_, other),
    ):
        await assert_serves(client, 1)
        await assert_serves(other, 2)
        stored = (await client.get("/api/chat/history/user123")).json()
        first.signal(signal.SIGKILL)
        await first.wait()
        with pytest.raises(httpx2.TransportError):
            await client.get("/api/chat/history/user123")
        assert stored == (await other.get("/api/chat/history/user123")).json()
        await assert_serves(other, 3)
