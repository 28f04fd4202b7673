"""Two workers on one PostgreSQL: one is paused, killed, or the database stops while a turn runs."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.exchange import TIMEOUT, Exchange, client_of, follow
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.servers import ServiceProcess, service_process

HELLO: dict[str, str] = {"user_id": "user123", "message": "Hello?", "on_disconnect": "continue"}

LEASE = 15.0
"""Seconds."""

MAX_UNSAVED_SECONDS, MAX_UNSHARED_SECONDS = 2.0, 1.25
"""Text is saved once a second, and shared 250 ms after it has arrived; the rest is for the commit."""


@dataclass
class Workers:
    first: ServiceProcess
    second: ServiceProcess
    client: httpx2.AsyncClient
    other: httpx2.AsyncClient
    server: Postgres

    async def start_turn(self) -> str:
        """Start a turn at the first worker, of which text is saved, and return its id."""
        async with self.client.stream("POST", "/api/chat", json=HELLO) as response:
            turn_id = str(response.headers["X-Turn-ID"])
        await eventually(lambda: self.has_text(turn_id))
        return turn_id

    async def turn(self, turn_id: str) -> Any:
        return (await self.other.get(f"/api/chat/turns/{turn_id}")).json()

    async def has_text(self, turn_id: str) -> bool:
        return bool((await self.turn(turn_id))["assistant_response"])

    async def has_ended(self, turn_id: str) -> bool:
        return (await self.turn(turn_id))["status"] in ("completed", "interrupted", "failed")


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not await condition():
            await asyncio.sleep(0.1)


@pytest.fixture
async def workers(own_server: Postgres, tmp_path: Path) -> AsyncIterator[Workers]:
    url = await asyncio.to_thread(own_server.new_database)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        settings: Any = {"OPENAI_BASE_URL": upstream.base_url, "DATABASE_URL": url, "DATA_DIR": str(tmp_path / "data")}
        first = await stack.enter_async_context(
            service_process(directory=tmp_path, OPENAI_MODEL="tokens-125-200", **settings)
        )
        other = await stack.enter_async_context(service_process(directory=tmp_path, **settings))
        client = await stack.enter_async_context(client_of(first.url))
        yield Workers(first, other, client, await stack.enter_async_context(client_of(other.url)), own_server)


@pytest.mark.row("S23")
async def test_the_turn_of_a_paused_worker_is_ended_and_not_overwritten(workers: Workers) -> None:
    turn_id = await workers.start_turn()
    workers.first.signal(signal.SIGSTOP)
    await eventually(lambda: workers.has_ended(turn_id))
    ended = await workers.turn(turn_id)
    after = await workers.other.post("/api/chat/simple", json=HELLO | {"when_busy": "reject"})
    workers.first.signal(signal.SIGCONT)

    async def fenced() -> bool:
        return any("fenced" in line and turn_id in line for line in workers.first.output)

    await eventually(fenced)
    [line] = [json.loads(line) for line in workers.first.output if "fenced" in line]
    assert ("interrupted", "worker_lost") == (ended["status"], ended["reason"])
    assert after.status_code == 200
    assert line["level"] == "warning"
    assert ended == await workers.turn(turn_id)
    health = (await workers.client.get("/api/health/detailed")).json()
    assert health["running_turns"] == 0


@pytest.mark.row("P2")
async def test_the_turn_of_a_killed_worker_is_ended_by_another_one_and_keeps_its_text(workers: Workers) -> None:
    exchange = Exchange(HELLO["user_id"], HELLO["message"])
    following = asyncio.create_task(follow(workers.client, exchange))
    await asyncio.sleep(4)
    exchange.killed_at = asyncio.get_running_loop().time()
    workers.first.signal(signal.SIGKILL)
    with pytest.raises(httpx2.TransportError):
        await following
    await eventually(lambda: workers.has_ended(exchange.turn_id))

    turn = await workers.turn(exchange.turn_id)
    text = turn["assistant_response"]
    assert ("interrupted", "worker_lost", HELLO["message"]) == (turn["status"], turn["reason"], turn["user_message"])
    assert text.startswith(exchange.text_until(exchange.killed_at - MAX_UNSAVED_SECONDS))
    assert len(text) >= len("Hello, world!")  # four deltas, one every 200 ms
    assert any("abandoned turns ended" in line for line in workers.second.output)
    resumed = ChatStream.of((await workers.other.get(f"/api/chat/turns/{exchange.turn_id}/stream")).content)
    assert resumed.text.startswith(exchange.text_until(exchange.killed_at - MAX_UNSHARED_SECONDS))
    assert "worker_lost" == resumed.error["code"]


async def test_an_outage_of_the_database_that_is_shorter_than_the_lease_ends_no_turn(workers: Workers) -> None:
    turn_id = await workers.start_turn()
    await asyncio.to_thread(workers.server.stop)
    await asyncio.sleep(LEASE - 3)
    await asyncio.to_thread(workers.server.start)
    await eventually(lambda: workers.has_ended(turn_id))

    turn = await workers.turn(turn_id)
    assert ("completed", None) == (turn["status"], turn["reason"])
