"""A history is deleted at one worker while another one, which streams it, is paused."""

import asyncio
import signal
from pathlib import Path

import httpx2
import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.cluster import running_cluster
from tests.harness.exchange import TIMEOUT
from tests.harness.forks import Forks
from tests.harness.postgres import Postgres


async def delete_history(client: httpx2.AsyncClient, user_id: str) -> None:
    """Repeat the deletion while the store refuses it: a worker that is paused in a transaction keeps its locks."""
    async with asyncio.timeout(TIMEOUT):
        while (response := await client.delete(f"/api/chat/history/{user_id}")).status_code == 503:
            await asyncio.sleep(0.1)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
async def test_a_worker_that_was_paused_during_a_deletion_delivers_nothing_of_it_afterwards(
    forks: Forks, postgres: Postgres, tmp_path: Path, event_loop: str
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    async with running_cluster(
        forks, tmp_path, workers=2, deltas=1000, pause_ms=20, DATABASE_URL=url, EVENT_LOOP=event_loop
    ) as cluster:
        paused, other = cluster.workers
        received = b""
        arrived = asyncio.Event()

        async def read(response: httpx2.Response) -> None:
            nonlocal received
            async for part in response.aiter_raw():
                received += part
                arrived.set()

        body = {"user_id": "ann", "message": "Hello?"}
        async with paused.client.stream("POST", "/api/chat", json=body) as response:
            reading = asyncio.create_task(read(response))
            await arrived.wait()
            await asyncio.sleep(1)
            paused.signal(signal.SIGSTOP)
            await asyncio.sleep(0.5)  # for what is on its way
            before = ChatStream.of(received).deltas
            await delete_history(other.client, "ann")
            paused.signal(signal.SIGCONT)
            async with asyncio.timeout(TIMEOUT):
                await reading
            remaining = await other.client.get("/api/chat/history/ann")
        stream = ChatStream.of(received)
        assert remaining.json()["count"] == 0
        # Some 300 more have arrived from the model. One may have been on its way to the client at the pause.
        assert 5 < len(before) <= len(stream.deltas) <= len(before) + 1
        assert "cancelled" == stream.error["code"]
