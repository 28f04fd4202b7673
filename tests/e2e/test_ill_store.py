"""The disk is full, the database is locked, or its file is gone, while the service runs or when it starts."""

import asyncio
import json
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.exchange import client_of
from tests.harness.full_disk import Disk, disk
from tests.harness.locked_database import locked_by_another_process
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ServiceProcess, service_process

HELLO = {"user_id": "user123", "message": "Hello?"}
STOP_TIMEOUT = 5
"""Seconds within which a service without running turns must exit: the default of SHUTDOWN_GRACE and 2 more."""

FAILING, RECOVERED = "history unavailable", "history available again"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@asynccontextmanager
async def serving(
    directory: Path, upstream: ScriptedUpstream, **options: Any
) -> AsyncIterator[tuple[ServiceProcess, httpx2.AsyncClient]]:
    """Start the service with its database in `directory`."""
    environment = {"OPENAI_BASE_URL": upstream.base_url, "DATA_DIR": str(directory), "MEMORY_BACKEND": "none"}
    async with (
        service_process(directory=directory.parent, **{**environment, **options}) as service,
        client_of(service.url) as client,
    ):
        yield service, client


async def migrated(directory: Path, upstream: ScriptedUpstream) -> Path:
    """Create a database by starting and stopping the service, and return its path."""
    async with serving(directory, upstream) as (service, client):
        assert (await client.post("/api/chat/simple", json=HELLO)).status_code == 200
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0
    return directory / "chat.db"


def logged(service: ServiceProcess, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in service.output if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def ready(client: httpx2.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def until_ready(client: httpx2.AsyncClient, expected: bool = True) -> None:
    async with asyncio.timeout(30):
        while await ready(client) != expected:
            await asyncio.sleep(0.02)


async def reason(client: httpx2.AsyncClient) -> str:
    """Return why turns cannot be stored, from the detailed health check."""
    health = (await client.get("/api/health/detailed")).json()
    assert (health["status"], health["checks"]["history"]) == ("degraded", "unavailable")
    return str(health["checks"]["history_detail"])


async def assert_rejected(client: httpx2.AsyncClient) -> None:
    rejected = await client.post("/api/chat", json=HELLO)
    assert (rejected.status_code, rejected.json()["code"]) == (503, "history_unavailable")
    assert int(rejected.headers["Retry-After"]) > 0


async def assert_serves(client: httpx2.AsyncClient, turns: int) -> None:
    assert (await client.post("/api/chat/simple", json=HELLO)).status_code == 200
    assert (await client.get("/api/chat/history/user123")).json()["count"] == turns


# While the service runs


@pytest.mark.row("S7", "S25")
async def test_a_full_disk_fails_readiness_until_there_is_space(small_disk: Disk, upstream: ScriptedUpstream) -> None:
    async with serving(small_disk.directory, upstream) as (service, client):
        await assert_serves(client, 1)
        small_disk.fill(service.process.pid)
        await assert_rejected(client)
        assert not await ready(client)
        assert await reason(client) in (
            "The database cannot be used: its disk is full.",
            "The database cannot be used: its disk reports an I/O error.",
        )
        assert (await client.get("/api/chat/history/user123")).json()["count"] == 1
        await asyncio.sleep(3)  # longer than the interval of the probes
        assert not await ready(client)
        asked = len(upstream.requests)
        small_disk.free(service.process.pid)
        await until_ready(client)
        assert len(upstream.requests) == asked
        await assert_serves(client, 2)
        assert [line["level"] for line in logged(service, FAILING)] == ["warning"]
        assert [line["level"] for line in logged(service, RECOVERED)] == ["info"]


@pytest.mark.row("S25")
async def test_a_locked_database_fails_readiness_until_it_is_unlocked(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with serving(tmp_path / "data", upstream) as (service, client):
        await assert_serves(client, 1)
        async with locked_by_another_process(tmp_path / "data" / "chat.db"):
            await assert_rejected(client)
            assert not await ready(client)
            assert await reason(client) == "The database cannot be used: another program has locked it."
            assert (await client.get("/api/chat/history/user123")).json()["count"] == 1
        await until_ready(client)
        await assert_serves(client, 2)
        assert [line["level"] for line in logged(service, FAILING)] == ["warning"]
        assert [line["level"] for line in logged(service, RECOVERED)] == ["info"]


def remove(path: Path) -> None:
    for file in path.parent.glob("chat.db*"):
        file.unlink()


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").replace(path)


@pytest.mark.parametrize("change", [remove, replace])
@pytest.mark.row("S30")
async def test_a_database_that_was_removed_or_replaced_is_detected_without_traffic(
    change: Callable[[Path], None], tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    path = tmp_path / "data" / "chat.db"
    async with serving(tmp_path / "data", upstream) as (service, client):
        await assert_serves(client, 1)
        change(path)
        await until(lambda: bool(logged(service, FAILING)))
        assert not await ready(client)
        await assert_rejected(client)
        sentence = (
            f"The database file {path} was removed or replaced: put it back, or stop the service, move chat.db-wal and "
            "chat.db-shm away, and start it again."
        )
        assert await reason(client) == sentence
        await asyncio.sleep(3)  # longer than the interval of the probes
        assert [(line["level"], line["detail"]) for line in logged(service, FAILING)] == [("error", sentence)]
        assert path.exists() == (change is replace)
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0
    assert len(upstream.requests) == 1


@pytest.mark.row("S30")
async def test_a_request_detects_at_once_that_the_database_was_removed(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with serving(tmp_path / "data", upstream) as (_, client):
        await assert_serves(client, 1)
        remove(tmp_path / "data" / "chat.db")
        await assert_rejected(client)
        assert not await ready(client)


@pytest.mark.row("S30")
async def test_a_database_that_comes_back_is_used_again(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    path, away = tmp_path / "data" / "chat.db", tmp_path / "away.db"
    async with serving(tmp_path / "data", upstream) as (service, client):
        await assert_serves(client, 1)
        path.rename(away)
        await until_ready(client, expected=False)
        away.rename(path)
        await until_ready(client)
        await assert_serves(client, 2)
        service.signal(signal.SIGTERM)
        assert await service.wait() == 0
    async with serving(tmp_path / "data", upstream) as (_, client):
        await assert_serves(client, 3)


# When the service starts


async def assert_waits(service: ServiceProcess, client: httpx2.AsyncClient, upstream: ScriptedUpstream) -> None:
    """Check that the service is alive, not ready, and says why."""
    asked = len(upstream.requests)
    assert (await client.get("/livez")).status_code == 200
    assert not await ready(client)
    await assert_rejected(client)
    assert (await client.get("/api/chat/history/user123")).status_code == 503
    assert len(upstream.requests) == asked
    (warning,) = logged(service, FAILING)
    assert (warning["level"], warning["detail"]) == ("warning", await reason(client))
    assert logged(service, "started") == []


async def assert_starts(service: ServiceProcess, client: httpx2.AsyncClient) -> None:
    await until_ready(client)
    await until(lambda: bool(logged(service, "started")))
    assert len(logged(service, RECOVERED)) == 1
    assert "Traceback" not in "".join(service.output)


@pytest.mark.row("P14", "S26")
async def test_a_service_waits_for_a_locked_database_and_then_starts(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    path = await migrated(tmp_path / "data", upstream)
    with closing(sqlite3.connect(path)) as connection:  # as if the service had been killed during the turn
        connection.execute("UPDATE turns SET status = 'in_progress', lease_expires_at = 9000000000000000")
        connection.commit()
    async with AsyncExitStack() as stack:
        async with locked_by_another_process(path):
            service, client = await stack.enter_async_context(serving(tmp_path / "data", upstream))
            await assert_waits(service, client, upstream)
            assert "another program has locked it" in await reason(client)
        await assert_starts(service, client)
        (turn,) = (await client.get("/api/chat/history/user123")).json()["history"]
        assert (turn["status"], turn["reason"]) == ("interrupted", "worker_lost")
        await assert_serves(client, 2)


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "existing"])
@pytest.mark.row("P14", "S26")
async def test_a_service_waits_for_space_on_the_disk_and_then_starts(
    is_new: bool, small_disk: Disk, upstream: ScriptedUpstream
) -> None:
    if not is_new:
        await migrated(small_disk.directory, upstream)
    small_disk.fill()
    async with serving(small_disk.directory, upstream, command=small_disk.serve) as (service, client):
        await assert_waits(service, client, upstream)
        small_disk.free(service.process.pid)
        await assert_starts(service, client)
        await assert_serves(client, 1 if is_new else 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.row("S26")
async def test_a_service_that_waits_for_its_database_can_be_stopped(
    number: signal.Signals, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    path = await migrated(tmp_path / "data", upstream)
    async with locked_by_another_process(path), serving(tmp_path / "data", upstream) as (service, client):
        await assert_waits(service, client, upstream)
        service.signal(number)
        assert await asyncio.wait_for(service.wait(), STOP_TIMEOUT) == 0
        assert "Traceback" not in "".join(service.output)


@pytest.mark.row("S26")
async def test_a_service_that_waits_exits_if_its_database_turns_out_to_be_unusable(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    path = await migrated(tmp_path / "data", upstream)
    async with locked_by_another_process(path), serving(tmp_path / "data", upstream) as (service, client):
        await assert_waits(service, client, upstream)
        path.with_name("diary").write_text("Dear diary, " * 100)
        path.with_name("diary").replace(path)
        assert await service.wait() == 3
        await until(lambda: service.process.stdout is not None and service.process.stdout.at_eof())
    sentence = f"The file {path} is not an SQLite database, or its header is damaged; check DATA_DIR or DATABASE_URL."
    assert f"{sentence}\n" in service.output
    assert [line["level"] for line in logged(service, "cannot start")] == ["error"]
    assert "Traceback" not in "".join(service.output)
