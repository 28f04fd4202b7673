"""OpenAI's format at two workers on one database: what one has begun, the other repeats, retracts and stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.harness.chat import eventually
from tests.harness.cluster import Cluster, Worker, running_cluster
from tests.harness.completions import PATH, Answer, complete, messages
from tests.harness.exchange import TIMEOUT
from tests.harness.forks import Forks
from tests.harness.postgres import Postgres

RETRY = "X-Stainless-Retry-Count"
LONG = "echo-200-50"
"""A model that takes ten seconds."""


async def history(worker: Worker, chat: str) -> list[dict[str, Any]]:
    response = await worker.client.get(f"/api/chat/history/openai-api?conversation_id={chat}")
    turns: list[dict[str, Any]] = response.json()["history"]
    return turns


async def begin(worker: Worker, chat: str, *texts: str, **fields: Any) -> "asyncio.Task[Answer]":
    """Send messages, and return when their turn has begun."""
    known = len(await history(worker, chat))
    sending = asyncio.create_task(complete(worker, messages(*texts), chat, **fields))

    async def has_begun() -> bool:
        return len(await history(worker, chat)) > known

    await eventually(has_begun)
    return sending


async def test_a_turn_that_one_worker_has_begun_is_repeated_retracted_and_stopped_at_another(
    forks: Forks, postgres: Postgres, tmp_path: Path
) -> None:
    """One test, because starting the workers takes most of the time."""
    url = await asyncio.to_thread(postgres.new_database)
    async with running_cluster(
        forks, tmp_path, workers=2, deltas=10, pause_ms=50, DATABASE_URL=url, V1_MODELS=LONG
    ) as cluster:
        await is_let_back_in_at_another_worker(cluster)
        await is_retracted_at_another_worker_when_it_has_ended(cluster)
        await is_stopped_at_another_worker(cluster)
        await is_stopped_when_both_a_library_and_its_repetition_at_another_worker_have_left(cluster)


async def is_let_back_in_at_another_worker(cluster: Cluster) -> None:
    first, other = cluster.workers
    sending = await begin(first, "repeated", "Q1", stream=False, headers={RETRY: "0"})
    sending.cancel()
    await asyncio.wait([sending])
    answer = await complete(other, messages("Q1"), "repeated", stream=False, headers={RETRY: "1"})
    resent, key = messages("Q1", "A", "Q2"), {"Idempotency-Key": "k"}
    keyed = [await complete(worker, resent, "repeated", headers=key) for worker in (first, other)]

    assert ("true", cluster.reply_of("Q1")) == (answer.response.headers["Idempotency-Replayed"], answer.text)
    assert [(None, cluster.reply_of("Q2")), ("true", cluster.reply_of("Q2"))] == [
        (one.response.headers.get("Idempotency-Replayed"), one.text) for one in keyed
    ]
    assert 2 == len(cluster.upstream.requests)
    assert ["Q1", "Q2"] == [turn["user_message"] for turn in await history(first, "repeated")]


async def is_retracted_at_another_worker_when_it_has_ended(cluster: Cluster) -> None:
    first, other = cluster.workers
    await complete(first, messages("Q1"), "edited")
    sending = await begin(first, "edited", "Q1", "A", "Q2")
    edited = await complete(other, messages("Q1", "A", "Q3"), "edited")
    before = await sending

    assert cluster.reply_of("Q2") == before.text
    for worker in cluster.workers:
        turns = await history(worker, "edited")
        assert [("Q1", cluster.reply_of("Q1")), ("Q3", cluster.reply_of("Q3"))] == [
            (turn["user_message"], turn["assistant_response"]) for turn in turns
        ]
        assert edited.turn_id == turns[-1]["id"]
        retracted = await worker.client.get(f"/api/chat/turns/{before.turn_id}")
        assert "completed" == retracted.json()["status"]


async def is_stopped_at_another_worker(cluster: Cluster) -> None:
    first, other = cluster.workers
    sending = await begin(first, "stopped", "Q1", model=LONG)
    (turn,) = await history(other, "stopped")
    stopped = (await other.client.post(f"/api/chat/turns/{turn['id']}/stop")).json()
    answer = await sending

    assert (turn["id"], "cancelled", stopped["assistant_response"]) == (answer.turn_id, answer.code, answer.text)


async def is_stopped_when_both_a_library_and_its_repetition_at_another_worker_have_left(cluster: Cluster) -> None:
    first, other = cluster.workers
    sent = {"model": LONG, "messages": [{"role": "user", "content": "Q1"}], "stream": True}

    async def follow(worker: Worker, count: str, leaves: AsyncExitStack) -> AsyncIterator[str]:
        headers = {"X-Conversation-Id": "left", RETRY: count}
        response = await leaves.enter_async_context(worker.client.stream("POST", PATH, json=sent, headers=headers))
        lines = response.aiter_lines()
        await anext(lines)
        return lines

    async with AsyncExitStack() as library:
        lines = await follow(first, "0", library)
        async with AsyncExitStack() as repetition:
            await follow(other, "1", repetition)
        async with asyncio.timeout(TIMEOUT):
            for _ in range(2 * 50):  # 50 events, each with an empty line: for two and a half seconds
                assert "error" not in await anext(lines)

    async def is_stopped() -> bool:
        (turn,) = await history(other, "left")
        return bool(turn["status"] == "interrupted")

    await eventually(is_stopped)
