"""A turn is committed before its last event is sent, as seen by a client and by another program."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.harness.fakes import ScriptedLLM
from tests.harness.gated_llm import GatedLLM
from tests.harness.servers import running_service

LOCK_SECONDS = 0.5
"""Long enough for a premature last event to arrive."""


async def test_the_last_event_waits_for_the_commit(tmp_path: Path) -> None:
    reply_may_end = asyncio.Event()
    async with (
        running_service({"llm": _llm(reply_may_end)}, history_backend="sql", data_dir=tmp_path) as service,
        _events(service.client) as events,
        _other_program(tmp_path) as other,
    ):
        deltas = [await anext(events) for _ in range(4)]
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")  # blocks all other commits
        reply_may_end.set()
        end = asyncio.ensure_future(anext(events))
        early, _ = await asyncio.wait([end], timeout=LOCK_SECONDS)
        await asyncio.to_thread(other.execute, "ROLLBACK")
        last = await end
    assert [event["content"] for event in deltas] == ["Hello", ", ", "world", "!"]
    assert early == set()
    assert last == {"content": "", "done": True}


async def test_another_program_can_read_the_whole_turn_as_soon_as_the_client_receives_the_last_event(
    tmp_path: Path,
) -> None:
    async with (
        running_service({"llm": ScriptedLLM()}, history_backend="sql", data_dir=tmp_path) as service,
        _other_program(tmp_path) as other,
        _events(service.client) as events,
    ):
        while not (await anext(events))["done"]:
            pass
        found = await asyncio.to_thread(_turns, other)
    assert found == [("Hello?", "Hello, world!", "completed")]


async def test_another_program_can_read_the_message_before_the_model_is_called(tmp_path: Path) -> None:
    found: list[Any] = []

    async def look(step: str) -> None:
        if step == "reply":
            found.extend(await asyncio.to_thread(_turns, other))

    llm = GatedLLM(ScriptedLLM(), look)
    async with (
        running_service({"llm": llm}, history_backend="sql", data_dir=tmp_path) as service,
        _other_program(tmp_path) as other,
    ):
        await service.client.post("/api/chat/simple", json={"user_id": "user123", "message": "Hello?"})
    assert found == [("Hello?", "", "in_progress")]


def _llm(reply_may_end: asyncio.Event) -> GatedLLM:
    async def wait(step: str) -> None:
        if step == "texts done":
            await reply_may_end.wait()

    return GatedLLM(ScriptedLLM(), wait)


@asynccontextmanager
async def _events(client: httpx2.AsyncClient) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Yield the events of one reply while they arrive."""
    async with client.stream("POST", "/api/chat", json={"user_id": "user123", "message": "Hello?"}) as response:
        yield _decoded(response)


async def _decoded(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


@asynccontextmanager
async def _other_program(directory: Path) -> AsyncIterator[sqlite3.Connection]:
    """Open a connection that shares only the file with the service."""
    connection = await asyncio.to_thread(
        sqlite3.connect, directory / "chat.db", isolation_level=None, check_same_thread=False
    )
    try:
        yield connection
    finally:
        await asyncio.to_thread(connection.close)


def _turns(connection: sqlite3.Connection) -> list[Any]:
    return connection.execute("SELECT user_message, reply, status FROM turns").fetchall()
