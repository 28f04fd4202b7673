"""The service is killed with SIGKILL and started again on the same data."""

import asyncio
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.exchange import Exchange, client_of, follow, history
from tests.harness.forks import Fork, Forks
from tests.harness.postgres import Postgres
from tests.harness.remnants import remnants
from tests.harness.scripted_upstream import ScriptedUpstream

USERS = [f"user{number}" for number in range(6)]
DELTAS = tuple(f"word{number} " for number in range(1000))
"""Deltas that all differ, so that a lost, duplicated or misplaced one is detected."""

CYCLES = 20
LONG_CYCLES = (4, 9, 14)
"""Cycles in which no reply ends before the kill."""
LONG_CYCLE_SECONDS = 2.6
MAX_UNSAVED_SECONDS = 2.0
"""Text is saved once a second; the other second allows for a busy machine."""


async def test_kills_lose_no_acknowledged_turn_and_duplicate_none(forks: Forks, tmp_path: Path) -> None:
    await _kill_and_check(forks, tmp_path, CYCLES)
    assert await asyncio.to_thread(_integrity, tmp_path) == "ok"


async def test_kills_lose_and_duplicate_no_turn_on_postgresql(forks: Forks, tmp_path: Path, postgres: Postgres) -> None:
    """Turns end with their leases, since other workers might be running them, so these are short."""
    url = await asyncio.to_thread(postgres.new_database)
    await _kill_and_check(forks, tmp_path, CYCLES // 2, "tests.harness.apps.short_lease_service", "1", DATABASE_URL=url)


async def _kill_and_check(forks: Forks, tmp_path: Path, cycles: int, *module: str, **environment: str) -> None:
    chance, sent = random.Random(20), list[Exchange]()
    async with ScriptedUpstream() as upstream:
        environment["OPENAI_BASE_URL"] = upstream.base_url
        upstream.texts = DELTAS
        for cycle in range(cycles):
            long = cycle in LONG_CYCLES
            # In short cycles the model is silent for a third of the time, so that some kills precede the first delta.
            model = "tokens-1000-5" if long else "tokens-20-5-50"
            async with forks.service(tmp_path, *module, OPENAI_MODEL=model, **environment) as service:
                await _check_histories(service, sent)
                seconds = LONG_CYCLE_SECONDS if long else chance.uniform(0, 0.5)
                sent += await _chat_until_killed(service, f"cycle {cycle}", seconds)
        async with forks.service(tmp_path, *module, **environment) as service:
            await _check_histories(service, sent)
    # All three outcomes occurred.
    assert any(exchange.acknowledged for exchange in sent)
    assert any(exchange.deltas and not exchange.last for exchange in sent)
    assert any(not exchange.deltas for exchange in sent)


async def test_a_kill_before_the_commit_leaves_an_unacknowledged_interrupted_turn(forks: Forks, tmp_path: Path) -> None:
    exchange, turns, _ = await _die(forks, tmp_path, "before_finish", "tokens-4-400")  # saved once
    assert exchange.last is None
    assert [(exchange.turn_id, "interrupted", "worker_lost")] == _ends(turns)
    assert "Hello, world!".startswith(turns[0]["assistant_response"])


@pytest.mark.row("P3")
async def test_a_kill_between_commit_and_acknowledgement_leaves_one_completed_turn(
    forks: Forks, tmp_path: Path
) -> None:
    exchange, turns, _ = await _die(forks, tmp_path, "after_finish")
    assert exchange.last is None
    assert [(exchange.turn_id, "completed", None)] == _ends(turns)
    assert turns[0]["assistant_response"] == "Hello, world!"


@pytest.mark.row("P4")
async def test_a_kill_before_the_call_to_the_model_leaves_a_failed_turn_with_the_message(
    forks: Forks, tmp_path: Path
) -> None:
    exchange, turns, calls = await _die(forks, tmp_path, "after_begin")
    assert calls == 0
    assert [(turn["user_message"], turn["assistant_response"], turn["status"], turn["reason"]) for turn in turns] == [
        ("Hello?", "", "failed", "worker_lost")
    ]
    assert exchange.turn_id == ""


@pytest.mark.row("C17")
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/simple"])
async def test_a_request_repeated_after_a_kill_between_commit_and_acknowledgement_gets_the_stored_turn(
    forks: Forks, tmp_path: Path, postgres: Postgres, database: str, path: str
) -> None:
    url = await asyncio.to_thread(postgres.new_database) if database == "PostgreSQL" else ""
    response, turns, calls = await _die_and_repeat(forks, tmp_path, "after_finish", path=path, DATABASE_URL=url)
    assert calls == 1
    assert [(response.headers["X-Turn-ID"], "completed", None)] == _ends(turns)
    assert (200, "true") == (response.status_code, response.headers["Idempotency-Replayed"])
    if path == "/api/chat":
        stream = ChatStream.of(response.content)
        assert ("Hello, world!", {"content": "", "done": True}) == (stream.text, stream.last)
    else:
        assert response.json()["response"] == "Hello, world!"


@pytest.mark.row("C17")
async def test_a_request_repeated_after_a_kill_in_mid_stream_gets_the_text_that_was_saved(
    forks: Forks, tmp_path: Path
) -> None:
    response, turns, calls = await _die_and_repeat(forks, tmp_path, "before_finish", OPENAI_MODEL="tokens-4-400")
    stream = ChatStream.of(response.content)
    assert calls == 1
    assert [(response.headers["X-Turn-ID"], "interrupted", "worker_lost")] == _ends(turns)
    assert (turns[0]["assistant_response"], "worker_lost") == (stream.text, stream.error["code"])
    assert response.headers["Idempotency-Replayed"] == "true"


@pytest.mark.row("C17")
async def test_a_request_repeated_after_a_kill_before_the_call_to_the_model_runs_again(
    forks: Forks, tmp_path: Path
) -> None:
    response, turns, calls = await _die_and_repeat(forks, tmp_path, "after_begin")
    assert calls == 1
    assert [(response.headers["X-Turn-ID"], "completed", None)] == _ends(turns)
    assert ChatStream.of(response.content).text == "Hello, world!"
    assert "Idempotency-Replayed" not in response.headers


async def _chat_until_killed(service: Fork, name: str, seconds: float) -> Sequence[Exchange]:
    """Let each user send one message after another, and kill the service `seconds` after all have received text.

    Returns the exchanges as seen by the clients.
    """
    loop, sent = asyncio.get_running_loop(), list[Exchange]()

    async def chat(user_id: str) -> None:
        with suppress(httpx2.TransportError):
            for number in range(1000):
                sent.append(Exchange(user_id, f"{name}, {user_id}, message {number}"))
                await follow(client, sent[-1])

    async with client_of(service.url) as client, asyncio.TaskGroup() as group:
        for user_id in USERS:
            group.create_task(chat(user_id))
        while {exchange.user_id for exchange in sent if exchange.deltas} != set(USERS):
            await asyncio.sleep(0.005)
        await asyncio.sleep(seconds)
        killed_at = loop.time()
        service.signal(signal.SIGKILL)
        await service.wait()
    for exchange in sent:
        exchange.killed_at = killed_at
    return sent


async def _check_histories(service: Fork, sent: Sequence[Exchange]) -> None:
    async with client_of(service.url) as client:
        for user_id in USERS:
            turns = await history(client, user_id)
            async with asyncio.timeout(20):
                while any(turn["status"] == "in_progress" for turn in turns):
                    await asyncio.sleep(0.05)
                    turns = await history(client, user_id)
            _check(turns, [exchange for exchange in sent if exchange.user_id == user_id])


def _check(turns: Sequence[dict[str, Any]], sent: Sequence[Exchange]) -> None:
    messages = [turn["user_message"] for turn in turns]
    assert dict.fromkeys(messages, 1) == Counter(messages), "a turn is stored twice"
    assert [exchange.message for exchange in sent if exchange.message in messages] == messages, "turns are out of order"
    stored = {turn["id"]: turn for turn in turns}
    for exchange in sent:
        if exchange.turn_id:
            _check_turn(stored[exchange.turn_id], exchange)
    for turn in turns:
        assert turn["status"] in ("completed", "interrupted", "failed")
        assert "".join(DELTAS).startswith(turn["assistant_response"])


def _check_turn(turn: dict[str, Any], exchange: Exchange) -> None:
    reply = turn["assistant_response"]
    assert exchange.message == turn["user_message"]
    if exchange.acknowledged:
        assert (exchange.text, "completed") == (reply, turn["status"])
    elif turn["status"] == "completed":
        assert reply.startswith(exchange.text)
    else:
        assert ("interrupted" if reply else "failed", "worker_lost") == (turn["status"], turn["reason"])
        assert reply.startswith(exchange.text_until(exchange.killed_at - MAX_UNSAVED_SECONDS))


def _integrity(directory: Path) -> str:
    # Only at the end, because opening the file runs part of the recovery that the service should do itself.
    with closing(sqlite3.connect(directory / "data" / "chat.db")) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@pytest.mark.row("S28")
async def test_content_deleted_right_before_a_kill_is_erased_after_the_restart(forks: Forks, tmp_path: Path) -> None:
    file = tmp_path / "data" / "chat.db"
    async with ScriptedUpstream() as upstream:
        async with forks.service(tmp_path, OPENAI_BASE_URL=upstream.base_url) as service:
            async with client_of(service.url) as client:
                for message in ("canary one", "canary two"):
                    body = {"user_id": "canary", "message": message}
                    assert (await client.post("/api/chat/simple", json=body)).status_code == 200
                assert (await client.delete("/api/chat/history/canary")).json()["deleted"] == 2
                service.signal(signal.SIGKILL)
            await service.wait()
        async with forks.service(tmp_path, OPENAI_BASE_URL=upstream.base_url), asyncio.timeout(20):
            while await asyncio.to_thread(remnants, file, ["canary"]):
                await asyncio.sleep(0.05)


async def _die(
    forks: Forks, directory: Path, point: str, model: str = "tokens-4-0"
) -> tuple[Exchange, list[dict[str, Any]], int]:
    """Run one turn of a service that dies at `point`, then restart the service.

    Returns the exchange as seen by the client, the stored turns, and the number of calls to the model.
    """
    exchange = Exchange("user123", "Hello?")
    async with ScriptedUpstream() as upstream:
        environment = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": model}
        async with forks.service(directory, "tests.harness.apps.dying_service", point, **environment) as service:
            async with client_of(service.url) as client:
                with suppress(httpx2.TransportError):
                    await follow(client, exchange)
            assert await service.wait() == -signal.SIGKILL
        async with (
            forks.service(directory, **environment) as service,
            client_of(service.url) as client,
        ):
            return exchange, await history(client, "user123"), len(upstream.requests)


async def _die_and_repeat(
    forks: Forks, directory: Path, point: str, *, path: str = "/api/chat", **environment: str
) -> tuple[httpx2.Response, list[dict[str, Any]], int]:
    """Send a message with a key to a service that dies at `point`, restart the service, and send it again.

    Returns the response, the stored turns, and the number of calls to the model.
    """
    message = {"user_id": "user123", "message": "Hello?"}
    headers = {"Idempotency-Key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}
    async with ScriptedUpstream() as upstream:
        environment = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_MODEL": "tokens-4-0"} | environment
        async with forks.service(directory, "tests.harness.apps.dying_service", point, **environment) as service:
            async with client_of(service.url) as client:
                with suppress(httpx2.TransportError):
                    await client.post(path, json=message, headers=headers)
            assert await service.wait() == -signal.SIGKILL
        async with forks.service(directory, **environment) as service, client_of(service.url) as client:
            response = await client.post(path, json=message, headers=headers)
            return response, await history(client, "user123"), len(upstream.requests)


def _ends(turns: Sequence[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    return [(turn["id"], turn["status"], turn["reason"]) for turn in turns]
