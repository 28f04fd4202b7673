"""A history on PostgreSQL whose connections are used up, or break while the server commits."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from adapters.clock import utc_now
from adapters.history_sql import HistorySQL
from adapters.sql.postgres.database import PostgresDatabase
from application.ports.history import HistoryUnavailable, ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import DEFAULT_CONVERSATION, Turn, TurnId, UserId
from domain.errors import TurnNotFound
from tests.harness.exchange import history
from tests.harness.fakes import ScriptedLLM
from tests.harness.gated_llm import GatedLLM
from tests.harness.postgres import Postgres
from tests.harness.postgres_proxy import PostgresProxy
from tests.harness.servers import running_service

pytestmark = pytest.mark.server

ADA = UserId("ada")
MINUTE = timedelta(minutes=1)
HELLO = {"user_id": ADA, "message": "Hello?"}
MAX_SESSIONS = 5
"""Of one process: for turns, for their events, for reading, for searching, for messages."""


def new_turn() -> Turn:
    return Turn(TurnId(str(uuid4())), ADA, DEFAULT_CONVERSATION, utc_now(), "Hello")


@pytest.fixture
async def proxy(postgres: Postgres) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy(await asyncio.to_thread(postgres.new_database)) as proxy:
        yield proxy


@pytest.mark.row("S15")
async def test_an_end_whose_commit_was_cut_can_be_stored_again_and_is_stored_once(proxy: PostgresProxy) -> None:
    async with PostgresDatabase(proxy.url) as database:
        store, turn = HistorySQL(database), new_turn()
        await store.begin(TurnBegin(turn, MINUTE))
        end = TurnEnd(turn.completed("Hi", "stop"), remember=True)
        proxy.commits_to_cut = 1
        with pytest.raises(HistoryUnavailable):
            await store.finish(end)
        assert end.turn == await store.finish(end)
        assert [end.turn] == list((await store.page(ADA, None, 10, None)).items)
        assert (await store.counts()).pending == 1


@pytest.mark.row("S15")
async def test_a_turn_whose_begin_was_cut_is_ended_as_abandoned(proxy: PostgresProxy) -> None:
    async with PostgresDatabase(proxy.url) as database:
        store, turn = HistorySQL(database), new_turn()
        proxy.commits_to_cut = 1
        with pytest.raises(HistoryUnavailable):
            await store.begin(TurnBegin(turn, MINUTE))
        later = HistorySQL(database, lambda: utc_now() + 2 * MINUTE)
        assert await later.finish_abandoned() == 1
        assert (await store.get(turn.id, ADA)).reason == "worker_lost"


@pytest.mark.row("S15")
async def test_progress_whose_commit_was_cut_is_saved_once(proxy: PostgresProxy) -> None:
    async with PostgresDatabase(proxy.url) as database:
        store, turn = HistorySQL(database), new_turn()
        await store.begin(TurnBegin(turn, MINUTE))
        proxy.commits_to_cut = 1
        with pytest.raises(HistoryUnavailable):
            await store.save_progress({turn.id: ReplyAddition(0, "Hi")}, MINUTE)
        await store.save_progress({turn.id: ReplyAddition(0, "Hi, there")}, MINUTE)
        assert (await store.get(turn.id, ADA)).reply == "Hi, there"


@pytest.mark.row("S15")
async def test_a_deletion_whose_commit_was_cut_is_done_once(proxy: PostgresProxy) -> None:
    async with PostgresDatabase(proxy.url) as database:
        store, turn = HistorySQL(database), new_turn()
        await store.begin(TurnBegin(turn, MINUTE))
        proxy.commits_to_cut = 1
        with pytest.raises(HistoryUnavailable):
            await store.clear(ADA, None)
        assert await store.clear(ADA, None) == 0
        with pytest.raises(TurnNotFound):
            await store.get(turn.id, ADA)


@pytest.mark.row("S15")
async def test_a_client_whose_reply_was_stored_by_a_commit_that_was_cut_is_told_so(proxy: PostgresProxy) -> None:
    async def gate(step: str) -> None:
        if step == "texts done":
            proxy.commits_to_cut = 1

    llm = GatedLLM(ScriptedLLM(), gate)
    async with running_service({"upstream": llm}, history_backend="sql", database_url=proxy.url) as service:
        assert (await service.client.post("/api/chat/simple", json=HELLO)).status_code == 200
        assert proxy.commits_cut == 1
        (turn,) = await history(service.client, ADA)
        assert turn["status"] == "completed"


# Sessions


@pytest.mark.row("S13")
async def test_running_turns_occupy_no_session(postgres: Postgres) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    sessions = f"SELECT state FROM pg_stat_activity WHERE datname = '{make_url(url).database}' AND state IS NOT NULL"
    open_gate = asyncio.Event()

    async def gate(step: str) -> None:
        if step == "texts":
            await open_gate.wait()

    llm = GatedLLM(ScriptedLLM(), gate)
    async with running_service({"upstream": llm}, history_backend="sql", database_url=url) as service:
        turns = [
            asyncio.create_task(service.client.post("/api/chat/simple", json=HELLO | {"user_id": f"user{number}"}))
            for number in range(50)
        ]
        async with asyncio.timeout(20):
            while len(service.container.turn_runner()) < 50:
                await asyncio.sleep(0.01)
            while (states := await asyncio.to_thread(postgres.execute, sessions)) != [("idle",)] * len(states):
                await asyncio.sleep(0.01)  # a turn is just being saved
        assert len(states) <= MAX_SESSIONS
        open_gate.set()
        assert [200] * 50 == [(await turn).status_code for turn in turns]


@pytest.mark.row("S13")
async def test_without_a_free_session_turns_are_refused_at_once_and_accepted_when_there_is_one(
    postgres: Postgres,
) -> None:
    url = await asyncio.to_thread(postgres.new_database)
    name = make_url(url).database
    await asyncio.to_thread(postgres.execute, f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 10")
    await asyncio.to_thread(postgres.execute, f"ALTER DATABASE {name} OWNER TO {name}")
    limited = make_url(url).set(username=name).render_as_string()
    async with running_service(history_backend="sql", database_url=limited) as service:
        await asyncio.to_thread(postgres.execute, f"ALTER ROLE {name} CONNECTION LIMIT 0")
        end_sessions = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{name}'"
        await asyncio.to_thread(postgres.execute, end_sessions)
        async with asyncio.timeout(2):
            refused = await service.client.post("/api/chat", json=HELLO)
        assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
        health = (await service.client.get("/api/health/detailed")).json()
        assert "too many connections for role" in health["checks"]["history_detail"]
        await asyncio.to_thread(postgres.execute, f"ALTER ROLE {name} CONNECTION LIMIT 10")
        async with asyncio.timeout(20):
            while (await service.client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.05)
