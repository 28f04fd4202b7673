"""Two services on one PostgreSQL database: one runs turns, and clients follow and stop them at the other."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.exchange import client_of
from tests.harness.forks import Fork, Forks
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import NASTY_TEXTS, ScriptedUpstream

HELLO = {"user_id": "user123", "message": "Hello?"}


class TwoServices:
    def __init__(self, upstream: ScriptedUpstream, services: list[Fork], clients: list[httpx2.AsyncClient]) -> None:
        self.upstream = upstream
        self.services = services
        self.one, self.other = clients


@pytest.fixture
async def two(forks: Forks, postgres: Postgres, tmp_path: Path) -> AsyncIterator[TwoServices]:
    url = await asyncio.to_thread(postgres.new_database)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        upstream.texts = tuple(f"{text} {number}" for number in range(10) for text in NASTY_TEXTS)
        services, clients = [], []
        for number in range(2):
            directory = tmp_path / str(number)
            directory.mkdir()
            service = await stack.enter_async_context(
                forks.service(
                    directory, OPENAI_BASE_URL=upstream.base_url, OPENAI_MODEL="tokens-90-20", DATABASE_URL=url
                )
            )
            services.append(service)
            clients.append(await stack.enter_async_context(client_of(service.url)))
        yield TwoServices(upstream, services, clients)


class Reading:
    """A client that reads a stream in the background."""

    def __init__(self, client: httpx2.AsyncClient, method: str, path: str, body: object = None) -> None:
        self.body = b""
        self.turn_id: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._read(client, method, path, body))

    async def _read(self, client: httpx2.AsyncClient, method: str, path: str, body: object) -> None:
        async with client.stream(method, path, json=body) as response:
            assert response.status_code == 200, await response.aread()
            self.turn_id.set_result(response.headers["X-Turn-ID"])
            async for data in response.aiter_raw():
                self.body += data

    async def to_end(self) -> ChatStream:
        async with asyncio.timeout(60):
            await self.task
        return ChatStream.of(self.body)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.row("C20")
async def test_a_turn_of_one_service_is_rejoined_at_the_other_after_any_event(two: TwoServices) -> None:
    sending = Reading(two.one, "POST", "/api/chat", HELLO)
    path = f"/api/chat/turns/{await sending.turn_id}/stream"
    cuts = (0, 1, 5, 40, 89, 90)
    readings = [Reading(two.other, "GET", f"{path}?after={after}") for after in cuts]
    whole = await sending.to_end()
    assert len(whole.numbers) == 92
    for after, reading in zip(cuts, readings, strict=True):
        stream = await reading.to_end()
        assert (stream.numbers, stream.data) == (whole.numbers[after:], whole.data[after:])
        replayed = await Reading(two.other, "GET", f"{path}?after={after}").to_end()
        assert (replayed.numbers, replayed.data) == (whole.numbers[after:], whole.data[after:])
    assert (await two.other.get(path, params={"after": "92"})).status_code == 204
    assert len(two.upstream.requests) == 1


async def test_a_turn_of_one_service_is_stopped_at_the_other(two: TwoServices) -> None:
    sending = Reading(two.one, "POST", "/api/chat", HELLO)
    turn_id = await sending.turn_id
    await until(lambda: b"content" in sending.body)
    stopped = (await two.other.post(f"/api/chat/turns/{turn_id}/stop")).raise_for_status().json()
    assert (stopped["status"], stopped["reason"]) == ("interrupted", "cancelled")
    assert two.upstream.open == 0
    assert (await sending.to_end()).error["code"] == "cancelled"
    assert (await two.one.get(f"/api/chat/turns/{turn_id}")).json() == stopped


async def test_a_turn_goes_on_until_its_readers_at_both_services_have_left(two: TwoServices) -> None:
    sending = Reading(two.one, "POST", "/api/chat", HELLO)
    path = f"/api/chat/turns/{await sending.turn_id}"
    following = Reading(two.other, "GET", f"{path}/stream")
    await following.turn_id
    await sending.leave()
    seen = len(following.body)
    await until(lambda: len(following.body) > seen + 500)
    assert two.upstream.open == 1
    await following.leave()
    await until(lambda: two.upstream.open == 0)
    await asyncio.sleep(0.2)
    turn = (await two.other.get(path)).json()
    assert (turn["status"], turn["reason"]) == ("interrupted", "client_disconnected")


async def test_a_history_that_is_deleted_at_one_service_is_gone_at_the_other(two: TwoServices) -> None:
    sending = Reading(two.one, "POST", "/api/chat", HELLO)
    path = f"/api/chat/turns/{await sending.turn_id}/stream"
    following = Reading(two.other, "GET", path)
    await following.turn_id
    (await two.other.delete("/api/chat/history/user123")).raise_for_status()
    assert (await sending.to_end()).error["code"] == (await following.to_end()).error["code"] == "cancelled"
    for client in (two.one, two.other):
        assert (await client.get(path)).status_code == 404
    assert two.upstream.open == 0


async def test_after_a_kill_its_streams_are_resumed_at_the_other_service_and_end_as_lost(two: TwoServices) -> None:
    sending = Reading(two.one, "POST", "/api/chat", HELLO)
    path = f"/api/chat/turns/{await sending.turn_id}"
    await asyncio.sleep(1.2)
    two.services[0].signal(signal.SIGKILL)
    await asyncio.wait([sending.task])
    seen = ChatStream.of(sending.body)
    resumed = await Reading(two.other, "GET", f"{path}/stream").to_end()
    assert seen.data[: len(resumed.deltas)] == resumed.data[: len(resumed.deltas)] != []
    assert resumed.error["code"] == "worker_lost"
    turn = (await two.other.get(path)).json()
    assert (turn["status"], turn["reason"]) == ("interrupted", "worker_lost")
