"""A worker is killed while it runs a turn. Another one answers when the request is repeated with its key."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.cluster import Worker
from tests.harness.exchange import TIMEOUT
from tests.harness.forks import Forks
from tests.harness.postgres import Postgres
from tests.harness.scripted_upstream import ScriptedUpstream

PATHS = ("/api/chat", "/api/chat/simple")
LEASE = 1.0
"""Seconds."""


class Killed(NamedTuple):
    """A worker that was killed, another one, and the model."""

    other: Worker
    upstream: ScriptedUpstream

    async def repeat(self, path: str) -> httpx2.Response:
        return await send(self.other, path)

    async def history(self) -> Any:
        return (await self.other.client.get("/api/chat/history/user123")).json()


async def send(worker: Worker, path: str) -> httpx2.Response:
    body, headers = {"user_id": "user123", "message": "Hello?"}, {"Idempotency-Key": "k"}
    return await worker.client.post(path, json=body, headers=headers)


@pytest.fixture
async def killed(
    request: pytest.FixtureRequest, forks: Forks, postgres: Postgres, tmp_path: Path
) -> AsyncIterator[Killed]:
    """The model of the killed worker was the test's parameter. That of the other one replies."""
    url = await asyncio.to_thread(postgres.new_database)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        workers = []
        for model in (request.param, "reply"):
            worker = Worker(model, forks, tmp_path / model, LEASE, TIMEOUT)
            stack.push_async_callback(worker.stop)
            await worker.start(
                OPENAI_BASE_URL=upstream.base_url, OPENAI_MODEL=model, MEMORY_BACKEND="none", DATABASE_URL=url
            )
            workers.append(worker)
        first, other = workers
        sending = asyncio.create_task(send(first, "/api/chat"))
        async with asyncio.timeout(TIMEOUT):
            while not upstream.requests:
                await asyncio.sleep(0.02)
            if request.param == "hang-2":  # its text is stored once a second
                while not (await Killed(other, upstream).history())["history"][0]["assistant_response"]:
                    await asyncio.sleep(0.1)
        await asyncio.sleep(0.4)  # until others can follow the turn
        first.signal(signal.SIGKILL)
        with suppress(httpx2.TransportError):
            await sending
        yield Killed(other, upstream)


@pytest.mark.row("C17")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("killed", ["hanghead", "hang"], indirect=True)
async def test_a_repeated_request_runs_again_if_its_worker_died_before_any_text(killed: Killed, path: str) -> None:
    response = await killed.repeat(path)

    assert (200, None) == (response.status_code, response.headers.get("Idempotency-Replayed"))
    text = response.json()["response"] if path.endswith("simple") else ChatStream.of(response.content).text
    history = await killed.history()
    assert ["Hello, world!"] == [turn["assistant_response"] for turn in history["history"]] == [text]
    assert len(killed.upstream.requests) == 2


@pytest.mark.row("C17")
@pytest.mark.parametrize("killed", ["hang-2"], indirect=True)
async def test_a_repeated_request_gets_the_text_that_was_stored_before_its_worker_died(killed: Killed) -> None:
    for _ in range(2):
        stream = ChatStream.of((await killed.repeat("/api/chat")).content)
        assert ("Hello, ", "worker_lost") == ("".join(stream.deltas), stream.last["error"]["code"])
    failed = await killed.repeat("/api/chat/simple")
    assert "worker_lost" == failed.json()["code"]
    history = await killed.history()
    assert [("interrupted", "Hello, ")] == [(turn["status"], turn["assistant_response"]) for turn in history["history"]]
    assert len(killed.upstream.requests) == 1
