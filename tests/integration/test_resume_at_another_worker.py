"""Streams of turns that another worker runs or has run, over HTTP: resumed from any event, by the right user only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import product

import httpx2
import pytest

from adapters.sql.live_turns import statements
from adapters.sql.postgres.database import PostgresDatabase
from domain.principal import Principal
from tests.harness.chat_stream import ChatStream
from tests.harness.credentials import ADMIN, ANN, BEN, KnownCredentials, authentication, bearer
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.postgres import Postgres
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

GARBAGE = ("x", "-1", "1.5", "0x1", "1e3", "99999999999999999999")
RUNNING = ScriptedReply(deltas=("Hello", ", ", "world", "!"), hangs=True)


@dataclass
class Worker:
    """A service, and the model that it asks."""

    service: Service
    llm: ScriptedLLM

    async def post(self, principal: Principal = ANN, **headers: str) -> httpx2.Response:
        body = {"user_id": principal.id, "message": "Hello?", "on_disconnect": "continue"}
        return await self.service.client.post("/api/chat", json=body, headers=bearer(principal) | headers)

    async def begin(self) -> str:
        """Begin a turn that sends four deltas and then hangs, without waiting for its end."""
        self.llm.scripts = (RUNNING,)
        body = {"message": "Hello?", "on_disconnect": "continue"}
        stream = self.service.client.stream("POST", "/api/chat", json=body, headers=bearer(ANN))
        async with stream as response:
            received = b""
            async for data in response.aiter_raw():
                received += data
                if b'"!"' in received:
                    break
        return str(response.headers["X-Turn-ID"])

    async def resume(
        self, turn_id: str, after: str = "", principal: Principal = ANN, *, in_header: bool = False
    ) -> httpx2.Response:
        headers = {"Last-Event-ID": after} if in_header else {}
        params = {"after": after} if after and not in_header else {}
        path = f"/api/chat/turns/{turn_id}/stream"
        return await self.service.client.get(path, params=params, headers=bearer(principal) | headers)


@pytest.fixture
async def workers(postgres: Postgres) -> AsyncIterator[tuple[Worker, Worker]]:
    url = await asyncio.to_thread(postgres.new_database)
    async with AsyncExitStack() as stack:
        workers = []
        for _ in range(2):
            llm = ScriptedLLM()
            parts = {"llm": llm, "authenticate": KnownCredentials()}
            settings = {"history_backend": "sql", "database_url": url, **authentication()}
            workers.append(Worker(await stack.enter_async_context(running_service(parts, **settings)), llm))
        yield workers[0], workers[1]


@pytest.mark.row("C18")
@pytest.mark.parametrize("in_header", [True, False])
async def test_an_ended_turn_is_resumed_after_any_event_and_has_nothing_after_the_last(
    workers: tuple[Worker, Worker], in_header: bool
) -> None:
    one, other = workers
    posted = await one.post()
    turn_id, whole = posted.headers["X-Turn-ID"], ChatStream.of(posted.content)
    assert (await other.resume(turn_id)).content == posted.content
    for after in range(len(whole.data)):
        resumed = await other.resume(turn_id, str(after), in_header=in_header)
        stream = ChatStream.of(resumed.content)
        assert (200, whole.numbers[after:], whole.data[after:]) == (resumed.status_code, stream.numbers, stream.data)
    for after in (len(whole.data), len(whole.data) + 1, 10_000):
        resumed = await other.resume(turn_id, str(after), in_header=in_header)
        assert (204, b"") == (resumed.status_code, resumed.content)
    assert (1, 0) == (len(one.llm.asked), len(other.llm.asked))


@pytest.mark.row("C18")
@pytest.mark.parametrize(("seen", "rest"), [(5, [6]), (6, [])])
async def test_a_client_that_has_just_seen_the_end_is_not_sent_it_again(
    workers: tuple[Worker, Worker], seen: int, rest: list[int]
) -> None:
    """Another worker gets to know the log's end a quarter of a second later."""
    one, other = workers
    one.llm.scripts = (ScriptedReply(pause=0.15),)
    posted = await one.post()
    resumed = await other.resume(posted.headers["X-Turn-ID"], str(seen))
    assert (200 if rest else 204, rest) == (resumed.status_code, ChatStream.of(resumed.content).numbers)


@pytest.mark.row("C18")
async def test_a_running_turn_is_resumed_after_the_number_of_another_turn(workers: tuple[Worker, Worker]) -> None:
    """A number is a position: in another turn it skips as many events, and never withholds the end."""
    one, other = workers
    longer = ChatStream.of((await one.post()).content).numbers[-1]
    turn_id = await one.begin()
    resuming = [asyncio.create_task(other.resume(turn_id, str(after))) for after in (2, longer + 50)]
    await asyncio.sleep(0.5)
    stopped = await other.service.client.post(f"/api/chat/turns/{turn_id}/stop", headers=bearer(ANN))
    assert 200 == stopped.status_code
    after_two, ahead = [ChatStream.of((await task).content) for task in resuming]
    assert (["world", "!"], [3, 4, 5, 6]) == (after_two.deltas, after_two.numbers)
    assert ([], "cancelled") == (ahead.deltas, ahead.error["code"])


@pytest.mark.row("C18")
async def test_a_number_that_is_none_is_rejected(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    turn_id = (await one.post()).headers["X-Turn-ID"]
    for garbage, in_header in product(GARBAGE, (True, False)):
        rejected = await other.resume(turn_id, garbage, in_header=in_header)
        assert (400, "invalid_request") == (rejected.status_code, rejected.json()["code"])


@pytest.mark.row("C18")
async def test_the_turn_of_another_user_is_not_found_whether_it_runs_or_has_ended(
    workers: tuple[Worker, Worker],
) -> None:
    one, other = workers
    ended, running = (await one.post()).headers["X-Turn-ID"], await one.begin()
    unknown = "00000000-0000-4000-8000-000000000000"
    answers = []
    for turn_id in (ended, running, unknown):
        for after in ("", "2", "100"):
            refused = await other.resume(turn_id, after, BEN)
            problem = refused.json()
            answers.append((refused.status_code, {name: problem[name] for name in ("code", "title", "status")}))
    assert [answers[0]] * 9 == answers
    assert (404, "turn_not_found") == (answers[0][0], answers[0][1]["code"])
    assert 200 == (await other.resume(ended, "", ADMIN)).status_code
    stopped = await one.service.client.post(f"/api/chat/turns/{running}/stop", headers=bearer(ANN))
    assert ("cancelled", "Hello, world!") == (stopped.json()["reason"], stopped.json()["assistant_response"])


@pytest.mark.row("C19")
async def test_a_stream_past_its_retention_is_gone_at_another_worker_and_links_to_the_history(
    workers: tuple[Worker, Worker], postgres: Postgres
) -> None:
    one, other = workers
    turn_id = (await one.post()).headers["X-Turn-ID"]
    assert 200 == (await other.resume(turn_id)).status_code
    database = one.service.container.database()
    assert isinstance(database, PostgresDatabase)
    retention = timedelta(minutes=10)
    later = partial(statements.purge, now=database.now() + retention, retention=retention)
    await database.write_soon(later)
    gone = await other.resume(turn_id, "1")
    assert (410, "stream_expired") == (gone.status_code, gone.json()["code"])
    linked = await other.service.client.get(gone.json()["history"], headers=bearer(ANN))
    assert [(turn_id, "Hello, world!")] == [(t["id"], t["assistant_response"]) for t in linked.json()["history"]]
