"""Notifications between workers, as a role of the database that may do nothing but connect hears and sends them."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url

from adapters.sql.lease_statements import digest_of
from adapters.sql.live_turns import deletion_statements
from adapters.sql.live_turns.deletions import Deletions
from adapters.sql.live_turns.own_turns import OwnTurns
from domain.conversation import TurnId
from tests.contract.live_turns import LONG
from tests.harness.chat import HANGS, HELLO, WHOLE, eventually, history, post, streaming, until
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.postgres import Postgres
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

USER, CONVERSATION = "user-canary", "conversation-canary"
MESSAGE = {"user_id": USER, "conversation_id": CONVERSATION}
PAYLOAD = re.compile(r"live_turns (discard|asked|(asked|flushed) [0-9a-f]{32})|leases [0-9a-f]{64}")


class Database:
    """A database of two services, as its administrator sees it."""

    def __init__(self, postgres: Postgres, url: str) -> None:
        self.url = url
        self._postgres = postgres

    async def column(self, query: str) -> list[Any]:
        return [value for (value,) in await asyncio.to_thread(self._postgres.execute, query, self.url)]

    async def channels(self) -> set[str]:
        """Return the channels that the services listen to. Waits until they do."""
        query = (
            "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^LISTEN '"
            " AND state = 'idle'"
        )

        async def both_listen() -> bool:
            return len(await self.column(query)) == 2

        await eventually(both_listen)
        return {statement.removeprefix("LISTEN ") for statement in await self.column(query)}


@pytest.fixture
async def database(postgres: Postgres) -> Database:
    return Database(postgres, await asyncio.to_thread(postgres.new_database))


@asynccontextmanager
async def serving(database: Database, model: GatedLLM | ScriptedLLM) -> AsyncIterator[tuple[Service, Service]]:
    """Start two services with one model."""
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(
                running_service({"llm": model}, history_backend="sql", database_url=database.url)
            )
            for _ in range(2)
        ]
        yield services[0], services[1]


@dataclass
class Stranger:
    """A session of a role that may do nothing but connect. It listens to everything that the services listen to."""

    session: "psycopg.AsyncConnection[Any]"
    channels: set[str]
    heard: list[str] = field(default_factory=list)

    async def listen(self) -> None:
        """Listen for ever."""
        async for notification in self.session.notifies():
            self.heard.append(notification.payload)


@asynccontextmanager
async def stranger(postgres: Postgres, database: Database) -> AsyncIterator[Stranger]:
    channels = await database.channels()
    name = f"stranger_{uuid4().hex}"
    await asyncio.to_thread(postgres.execute, f"CREATE ROLE {name} LOGIN")
    url = make_url(database.url).set(username=name).render_as_string(hide_password=False)
    try:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as session:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await session.execute("SELECT FROM turns")
            for channel in channels:
                await session.execute(f"LISTEN {channel}")
            yield Stranger(session, channels)
    finally:
        await asyncio.to_thread(postgres.execute, f"DROP ROLE {name}")


async def rejoin(service: Service, turn_id: str) -> bytes:
    return (await service.client.get(f"/api/chat/turns/{turn_id}/stream")).content


async def test_a_role_that_can_only_connect_hears_no_id_of_a_user_a_conversation_or_a_turn(
    postgres: Postgres, database: Database
) -> None:
    llm = ScriptedLLM(HANGS, ScriptedReply(), HANGS, ScriptedReply(), HANGS)
    ids = {USER, CONVERSATION}
    async with serving(database, llm) as (one, other), stranger(postgres, database) as listening:
        hearing = asyncio.create_task(listening.listen())
        async with streaming(one, json=MESSAGE) as stopped:
            await stopped.until(b'"lo"')
            waiting = asyncio.create_task(post(other, **MESSAGE))
            async with streaming(other, f"/api/chat/turns/{stopped.turn_id}/stream") as elsewhere:
                await elsewhere.until(b'"lo"')
            await until_waiting(database, 1)
            assert 200 == (await other.client.post(f"/api/chat/turns/{stopped.turn_id}/stop")).status_code
            assert WHOLE == (await waiting).content
        async with streaming(one, json=MESSAGE) as interrupted:
            await interrupted.until(b'"lo"')
            assert WHOLE == (await post(other, **MESSAGE, when_busy="interrupt")).content
            await interrupted.until(b"superseded")
        async with streaming(one, json=MESSAGE) as deleted:
            await deleted.until(b'"lo"')
            ids |= set(await database.column("SELECT id FROM turns"))
            assert 200 == (await other.client.delete(f"/api/chat/history/{USER}")).status_code
            await deleted.until(b"cancelled")

        # All kinds of messages were heard, which come in order.
        await until(lambda: "live_turns discard" in listening.heard)
        assert {"asked", "flushed", "discard"} == verbs(listening.heard, "live_turns")
        assert verbs(listening.heard, "leases")
        hearing.cancel()
    assert [] == [payload for payload in listening.heard if not PAYLOAD.fullmatch(payload)]
    assert len(ids) == 2 + 5
    assert [] == [payload for payload in listening.heard if any(id in payload for id in ids)]


def verbs(payloads: Iterable[str], topic: str) -> set[str]:
    """Return the second words of the messages about a topic."""
    return {words[1] for words in (payload.split(" ") for payload in payloads) if words[0] == topic}


async def until_waiting(database: Database, count: int) -> None:
    async def are_waiting() -> bool:
        query = "SELECT json_array_length(waiting::json) FROM conversation_leases WHERE waiting <> ''"
        return await database.column(query) == [count]

    await eventually(are_waiting)


def forged(turn_ids: Iterable[str], workers: Iterable[str]) -> Iterable[str]:
    """Yield messages of all kinds, of this version and of 0.1.0, with ids that a listener cannot know but guess."""
    for turn_id in turn_ids:
        yield from (f"live_turns stop {turn_id} {code}" for code in ("cancelled", "client_disconnected", "superseded"))
        yield from (f"live_turns {verb} {turn_id}" for verb in ("stop", "entered", "left", "flushed", "asked"))
        yield f"leases {digest_of(TurnId(turn_id))}"
    for worker in workers:
        yield from (f"live_turns {verb} {worker}" for verb in ("flushed", "asked", "stop", "discard"))
    for user in (USER, "unknown"):
        yield from (f"live_turns discard {user} {conversation}" for conversation in (CONVERSATION, "default", ""))
        yield f"leases {user} {CONVERSATION}"
    yield from ("live_turns discard", "live_turns asked", "live_turns", "leases", "live_turns stop", "\u00fc", " ", "")


async def test_forged_notifications_stop_no_turn_and_discard_nothing(postgres: Postgres, database: Database) -> None:
    go_on = asyncio.Event()

    async def gate(step: str) -> None:
        if step == "texts done" and len(llm.asked) > 1:
            await go_on.wait()

    llm = ScriptedLLM(ScriptedReply())
    async with serving(database, GatedLLM(llm, gate)) as (one, other), stranger(postgres, database) as forger:
        ended = (await post(one, **MESSAGE)).headers["X-Turn-ID"]
        async with (
            streaming(one, json=MESSAGE) as here,
            streaming(other, f"/api/chat/turns/{here.turn_id}/stream") as there,
        ):
            for stream in (here, there):
                await stream.until(b'"!"')
            waiting = asyncio.create_task(post(other, **MESSAGE))
            await until_waiting(database, 1)
            turn_ids = [*await database.column("SELECT id FROM turns"), "00000000-0000-4000-8000-000000000000"]
            turn_ids += await database.column("SELECT waiting::json -> 0 ->> 0 FROM conversation_leases")
            workers = [*await database.column("SELECT worker FROM live_workers"), uuid4().hex]
            assert (4, 3) == (len(turn_ids), len(workers))
            for channel in forger.channels:
                for payload in forged(turn_ids, workers):
                    await forger.session.execute("SELECT pg_notify(%s, %s)", [channel, payload])
            # What is sent afterwards arrives afterwards: the worker of the turn is told of another reader.
            async with streaming(other, f"/api/chat/turns/{here.turn_id}/stream") as again:
                await again.until(b'"!"')
            assert not waiting.done()

            go_on.set()
            for stream in (here, there):
                await stream.until(b"[DONE]")
                assert WHOLE == stream.events
            assert WHOLE == (await waiting).content
        assert [WHOLE] * 2 == [await rejoin(service, ended) for service in (one, other)]
        turns = (await history(one, user=USER))["history"]
    assert [("completed", "Hello, world!")] * 3 == [(turn["status"], turn["assistant_response"]) for turn in turns]


@pytest.mark.parametrize("action", ["stop", "stop without a header", "delete"])
async def test_a_worker_acts_as_soon_as_it_is_notified(
    database: Database, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Without waiting for the next time at which it looks by itself, which is set to be too late for this test."""
    for defaults, name in (
        (OwnTurns.__init__.__kwdefaults__, "poll_interval"),
        (Deletions.__init__.__kwdefaults__, "interval"),
    ):
        assert defaults is not None
        monkeypatch.setitem(defaults, name, 10 * LONG)
    monkeypatch.setattr(deletion_statements, "ALIVE", timedelta(seconds=20 * LONG))
    async with serving(database, ScriptedLLM(HANGS)) as (one, other), streaming(one) as stream:
        await database.channels()
        await stream.until(b'"lo"')

        async def has_header() -> bool:
            return await database.column("SELECT accepted FROM live_turns") == [True]

        await eventually(has_header)
        if action == "delete":
            acted = await other.client.delete(f"/api/chat/history/{HELLO['user_id']}")
        else:
            if action == "stop without a header":  # as after a crash of the server
                await database.column("DELETE FROM live_turns RETURNING 1")
            acted = await other.client.post(f"/api/chat/turns/{stream.turn_id}/stop")
        assert 200 == acted.status_code
        await stream.until(b'"cancelled"')
