"""The rows of turns in the database file: an end stored by another process, and the usage of a turn."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from application.ports.llm import LLMDisconnected, LLMUnreachable
from tests.harness.chat import HANGS, last_turn, post, serving, streaming
from tests.harness.chat_stream import ChatStream
from tests.harness.fakes import USAGE, ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.leaks import assert_no_turn_left
from tests.harness.servers import running_service

pytestmark = pytest.mark.server

STREAM, SIMPLE = "/api/chat", "/api/chat/simple"

both_endpoints = pytest.mark.parametrize("path", [STREAM, SIMPLE], ids=["stream", "simple"])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def on_sqlite(database: Path) -> dict[str, Any]:
    return {"history_backend": "sql", "database_url": f"sqlite:///{database}"}


def execute(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement in a connection of its own, as another process would."""
    with closing(sqlite3.connect(database, timeout=5)) as connection, connection:
        return connection.execute(sql).fetchall()


# A turn that another process ends

WORKER_LOST = "UPDATE turns SET status = 'interrupted', reason = 'worker_lost', reply = 'Hel' WHERE reason IS NULL"
COMPLETED = "UPDATE turns SET status = 'completed', reason = 'length', reply = 'Hel' WHERE reason IS NULL"


async def end_elsewhere(database: Path, path: str, update: str) -> tuple[httpx2.Response, dict[str, Any]]:
    """Send a message and run `update` after the first delta; return the response and the turn as stored.

    The rest of the reply takes longer than `save_interval`, so that its text is saved, too, before its end is.
    """
    held, resume = anyio.Event(), anyio.Event()

    async def hold(point: str) -> None:
        if point == "texts" and not held.is_set():
            held.set()
            await resume.wait()

    llm = GatedLLM(ScriptedLLM(ScriptedReply(pause=0.05)), hold)
    quick = {"turn_runner": {"save_interval": 0.01}}
    async with running_service({"llm": llm}, quick, **on_sqlite(database)) as service, asyncio.timeout(20):
        sending = asyncio.create_task(post(service, path))
        await held.wait()
        await asyncio.to_thread(execute, database, update)
        resume.set()
        response = await sending
        await assert_no_turn_left(service)
        return response, await last_turn(service)


async def test_a_stream_ends_with_the_end_that_another_process_stored(database: Path) -> None:
    response, turn = await end_elsewhere(database, STREAM, WORKER_LOST)

    stream = ChatStream.of(response.content)
    # The process stops generating when it finds out: then, or when it stores the end itself.
    assert stream.text.startswith("Hel")
    assert "Hello, world!".startswith(stream.text)
    assert (stream.error["code"], stream.error["turn_id"]) == ("worker_lost", turn["id"])


async def test_a_simple_reply_is_the_end_that_another_process_stored(database: Path) -> None:
    response, turn = await end_elsewhere(database, SIMPLE, WORKER_LOST)

    assert (response.status_code, response.json()["code"]) == (500, "worker_lost")
    assert response.json()["turn_id"] == response.headers["X-Turn-ID"] == turn["id"]


@both_endpoints
@pytest.mark.row("S23")
async def test_an_end_that_another_process_stored_is_not_overwritten(database: Path, path: str) -> None:
    _, turn = await end_elsewhere(database, path, WORKER_LOST)

    assert (turn["status"], turn["reason"], turn["assistant_response"]) == ("interrupted", "worker_lost", "Hel")


async def test_a_stream_ends_as_completed_if_another_process_completed_the_turn(database: Path) -> None:
    response, _ = await end_elsewhere(database, STREAM, COMPLETED)

    assert ChatStream.of(response.content).last == {"content": "", "done": True, "finish_reason": "length"}


# Usage


async def usage(database: Path) -> tuple[Any, ...]:
    """Return the usage columns of the only turn."""
    query = "SELECT prompt_tokens, completion_tokens, usage_estimated FROM turns"
    (row,) = await asyncio.to_thread(execute, database, query)
    return row


@both_endpoints
async def test_usage_is_stored_as_reported(database: Path, path: str) -> None:
    async with serving(ScriptedReply(), **on_sqlite(database)) as (service, _):
        await post(service, path)

        assert await usage(database) == (USAGE.prompt_tokens, USAGE.completion_tokens, False)


@both_endpoints
async def test_usage_that_is_not_reported_is_stored_as_an_estimate(database: Path, path: str) -> None:
    async with serving(ScriptedReply(usage=None), **on_sqlite(database)) as (service, _):
        await post(service, path)
        prompt_tokens, completion_tokens, estimated = await usage(database)

    assert estimated
    assert prompt_tokens > completion_tokens > 0


async def test_usage_of_a_stopped_turn_is_stored_as_an_estimate(database: Path) -> None:
    async with serving(HANGS, **on_sqlite(database)) as (service, _), streaming(service) as stream:
        await stream.until(b'"lo"')
        await service.client.post(f"/api/chat/turns/{stream.turn_id}/stop")
        prompt_tokens, completion_tokens, estimated = await usage(database)

    assert estimated
    assert prompt_tokens > completion_tokens > 0


async def test_usage_of_a_reply_that_breaks_is_stored_as_an_estimate(database: Path) -> None:
    broken = ScriptedReply(deltas=("Hel",), failure=LLMDisconnected())
    async with serving(broken, **on_sqlite(database)) as (service, _):
        await post(service)
        prompt_tokens, completion_tokens, estimated = await usage(database)

    assert estimated
    assert prompt_tokens > completion_tokens > 0


async def test_a_turn_that_the_model_never_accepted_has_no_usage(database: Path) -> None:
    async with serving(ScriptedReply(refusal=LLMUnreachable()), **on_sqlite(database)) as (service, _):
        await post(service)

        assert await usage(database) == (None, None, None)
