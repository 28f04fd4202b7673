"""The store fails, is locked, is damaged or is huge: nobody is told that a turn is done which is not stored."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx2
import pytest
from sqlalchemy import Engine, event

from adapters.history_in_memory import HistoryInMemory
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.llm import LLM, Reply
from domain.conversation import Message
from tests.harness.chat_stream import ChatStream
from tests.harness.failing_history import FailNext, GatedHistory
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.leaks import PeakMemory, assert_no_turn_left
from tests.harness.servers import Service, clean_environment, running_service, service_process

pytestmark = pytest.mark.server

WHOLE = "Hello, world!"
STREAM, SIMPLE = "/api/chat", "/api/chat/simple"
HELLO = {"user_id": "user", "message": "Hello"}

both_endpoints = pytest.mark.parametrize("path", [STREAM, SIMPLE])


QUICK: dict[str, dict[str, Any]] = {
    "generate_reply": {"store_delays": (0.0, 0.01, 0.02)},
    "turn_runner": {"save_interval": 0.05},
}


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@asynccontextmanager
async def serving(
    gate: FailNext, llm: LLM, path: Path | None = None, *, busy_timeout: float = 5.0
) -> AsyncIterator[Service]:
    """A service whose history passes the gate: a SQL one if a path is given, else one in memory."""
    parts: dict[str, Any] = {"llm": llm, "history": GatedHistory(HistoryInMemory(), gate)}
    if path is None:
        async with running_service(parts, QUICK) as service:
            yield service
    else:
        parts["database"] = database = SQLiteDatabase(url_of(path), busy_timeout=busy_timeout)
        parts["history"] = GatedHistory(HistorySQL(database), gate)
        async with running_service(parts, QUICK, history_backend="sql") as service:
            yield service


async def turn_of(service: Service, user: str = "user") -> dict[str, Any]:
    (turn,) = (await service.client.get(f"/api/chat/history/{user}")).json()["history"]
    return dict(turn)


async def ended_turn(service: Service) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (turn := await turn_of(service))["status"] == "in_progress":
            await asyncio.sleep(0.01)
    return turn


def told(path: str, response: httpx2.Response) -> str:
    """What the client was told: `done`, or the code of what went wrong."""
    if path == STREAM and response.status_code == 200:
        return str(ChatStream.of(response.content).last.get("error", {}).get("code", "done"))
    return "done" if response.status_code == 200 else str(response.json()["code"])


@both_endpoints
@pytest.mark.row("S1")
async def test_a_message_that_can_not_be_stored_is_refused_before_the_model_is_asked(path: str) -> None:
    gate, llm = FailNext(begin=1), ScriptedLLM()
    async with serving(gate, llm) as service:
        refused = await service.client.post(path, json=HELLO)
        assert llm.asked == []
        again = await service.client.post(path, json=HELLO)
        assert (await turn_of(service))["status"] == "completed"
    assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
    assert refused.headers["retry-after"] == "2"
    assert "turn_id" not in refused.json()
    assert told(path, again) == "done"


@both_endpoints
async def test_a_context_that_can_not_be_read_fails_the_turn_before_the_model_is_asked(path: str) -> None:
    gate, llm = FailNext(latest=1), ScriptedLLM()
    async with serving(gate, llm) as service:
        refused = await service.client.post(path, json=HELLO)
        turn = await turn_of(service)
        await assert_no_turn_left(service)
    assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
    assert refused.json()["turn_id"] == turn["id"]
    assert (turn["status"], turn["reason"]) == ("failed", "history_unavailable")
    assert llm.asked == []


READS_AND_DELETIONS = {
    ("page", "GET", "/api/chat/history/user"),
    ("clear", "DELETE", "/api/chat/history/user"),
    ("conversations", "GET", "/api/chat/conversations/user"),
    ("get", "GET", "/api/chat/turns/any"),
    ("get", "POST", "/api/chat/turns/any/stop"),
    ("get", "GET", "/api/chat/turns/any/stream"),
}


async def test_what_can_not_be_read_or_deleted_now_is_a_503_with_a_time_to_come_back() -> None:
    gate = FailNext()
    async with serving(gate, ScriptedLLM()) as service:
        for point, method, path in READS_AND_DELETIONS:
            gate.failures[point] = 1
            refused = await service.client.request(method, path)
            assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
            assert refused.headers["retry-after"] == "2"


async def test_a_store_that_does_not_answer_ends_readiness_but_not_life() -> None:
    async with serving(FailNext(check=2), ScriptedLLM()) as service:
        ready = await service.client.get("/readyz")
        health = await service.client.get("/api/health/detailed")
        alive = await service.client.get("/livez")
        later = await service.client.get("/readyz")
    assert (ready.status_code, later.status_code, alive.status_code) == (503, 200, 200)
    assert (health.json()["status"], health.json()["checks"]["history"]) == ("degraded", "unavailable")


@both_endpoints
@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.row("S2")
async def test_an_end_that_can_be_stored_in_the_end_is_a_success(path: str, failures: int) -> None:
    async with serving(FailNext(finish=failures), ScriptedLLM()) as service:
        response = await service.client.post(path, json=HELLO)
        turn = await turn_of(service)
    assert told(path, response) == "done"
    assert (turn["status"], turn["assistant_response"]) == ("completed", WHOLE)


@both_endpoints
@pytest.mark.parametrize("failures", [3, 5])
@pytest.mark.row("S2")
async def test_an_end_that_can_not_be_stored_is_never_told_as_success_and_stored_later_as_a_cut(
    path: str, failures: int
) -> None:
    async with serving(FailNext(finish=failures), ScriptedLLM()) as service:
        response = await service.client.post(path, json=HELLO)
        await assert_no_turn_left(service)
        turn = await ended_turn(service)
    assert told(path, response) == "history_write_failed"
    assert response.status_code == (200 if path == STREAM else 503)
    assert (turn["status"], turn["reason"]) == ("interrupted", "history_write_failed")
    assert turn["assistant_response"] == WHOLE


@pytest.mark.row("S2")
async def test_an_end_that_was_never_stored_is_found_at_the_next_start(tmp_path: Path) -> None:
    path, llm = tmp_path / "chat.db", ScriptedLLM(ScriptedReply(pause=0.1))
    async with serving(FailNext(finish=1_000_000), llm, path) as service:
        response = await service.client.post(STREAM, json=HELLO)
        assert (await turn_of(service))["status"] == "in_progress"
    async with serving(FailNext(), llm, path) as service:
        turn = await turn_of(service)
    assert told(STREAM, response) == "history_write_failed"
    assert (turn["status"], turn["reason"]) == ("interrupted", "worker_lost")
    assert turn["assistant_response"]
    assert WHOLE.startswith(turn["assistant_response"])


async def test_text_that_can_not_be_saved_on_the_way_does_not_disturb_the_reply() -> None:
    gate = FailNext(save_progress=1_000_000)
    async with serving(gate, ScriptedLLM(ScriptedReply(pause=0.1))) as service:
        response = await service.client.post(STREAM, json=HELLO)
        turn = await turn_of(service)
    assert gate.calls["save_progress"] > 0
    assert told(STREAM, response) == "done"
    assert (turn["status"], turn["assistant_response"]) == ("completed", WHOLE)


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def held_by_another_process(path: Path) -> AsyncIterator[None]:
    """Another program has the database locked."""
    pipe = asyncio.subprocess.PIPE
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD, str(path), stdin=pipe, stdout=pipe)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert await holder.stdout.readline() == b"locked\n"
        yield
    finally:
        holder.stdin.close()
        await holder.wait()


@pytest.mark.row("S1", "S4")
async def test_a_database_that_another_program_holds_is_a_503_and_the_model_is_not_asked(
    tmp_path: Path,
) -> None:
    path, llm = tmp_path / "chat.db", ScriptedLLM()
    async with serving(FailNext(), llm, path, busy_timeout=0.2) as service:
        async with held_by_another_process(path):
            refused = [await service.client.post(endpoint, json=HELLO) for endpoint in (STREAM, SIMPLE)]
            assert (await service.client.get("/api/chat/history/user")).json()["count"] == 0
        assert llm.asked == []
        served = await service.client.post(SIMPLE, json=HELLO)
        assert (await turn_of(service))["status"] == "completed"
    assert [(one.status_code, one.json()["code"]) for one in refused] == [(503, "history_unavailable")] * 2
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    assert served.status_code == 200


async def test_a_database_that_is_held_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with serving(FailNext(), ScriptedLLM(), path) as service:
        async with held_by_another_process(path):
            waiting = asyncio.create_task(service.client.post(SIMPLE, json=HELLO))
            done, _ = await asyncio.wait([waiting], timeout=0.5)
            assert not done
        assert (await waiting).status_code == 200


@contextmanager
def traced() -> Iterator[list[str]]:
    """The statements of every connection that is made to SQLite from now on, as SQLite runs them."""
    statements: list[str] = []

    def trace(connection: sqlite3.Connection, _: object) -> None:
        connection.set_trace_callback(statements.append)

    event.listen(Engine, "connect", trace)
    try:
        yield statements
    finally:
        event.remove(Engine, "connect", trace)


def _verb(statement: str) -> str:
    return statement.split(None, 1)[0].upper()


@pytest.mark.row("S5")
async def test_no_transaction_asks_for_the_right_to_write_later_than_at_its_beginning(tmp_path: Path) -> None:
    with traced() as statements:
        async with serving(FailNext(), ScriptedLLM(ScriptedReply(pause=0.05)), tmp_path / "chat.db") as service:
            users = [{"user_id": f"user{number % 4}", "message": "Hello"} for number in range(8)]
            await asyncio.gather(*(service.client.post(SIMPLE, json=fields) for fields in users))
            await service.client.delete("/api/chat/history/user0")
    begins = {statement for statement in statements if _verb(statement) in ("BEGIN", "SAVEPOINT")}
    assert begins == {"BEGIN IMMEDIATE"}
    assert _writes_outside_of_transactions(statements) == []


def _writes_outside_of_transactions(statements: Sequence[str]) -> list[str]:
    """The only writer runs one transaction after the other, so that the trace tells where each begins and ends."""
    inside, found = False, []
    for statement in statements:
        verb = _verb(statement)
        inside = (inside or verb == "BEGIN") and verb not in ("COMMIT", "ROLLBACK")
        if verb in ("INSERT", "UPDATE", "DELETE") and not inside:
            found.append(statement)
    return found


class Together(ScriptedLLM):
    """All replies end at the same moment."""

    def __init__(self) -> None:
        super().__init__()
        self.end = anyio.Event()

    @asynccontextmanager
    async def reply(self, messages: Sequence[Message]) -> AsyncIterator[Reply]:
        async with super().reply(messages) as reply:
            await self.end.wait()
            yield reply


async def test_turns_that_end_at_once_share_their_commits(tmp_path: Path) -> None:
    llm = Together()
    with traced() as statements:
        async with serving(FailNext(), llm, tmp_path / "chat.db") as service:
            users = [{"user_id": f"user{number}", "message": "Hello"} for number in range(40)]
            replies = [asyncio.create_task(service.client.post(SIMPLE, json=fields)) for fields in users]
            async with asyncio.timeout(20):
                while llm.open < 40:
                    await asyncio.sleep(0.01)
            before = statements.count("COMMIT")
            llm.end.set()
            assert {reply.status_code for reply in await asyncio.gather(*replies)} == {200}
            commits = statements.count("COMMIT") - before
    assert commits <= 10


TURNS = 100_000


def _seed(path: Path) -> None:
    """A user with very many turns, the latest of them the longest."""
    SQLiteDatabase(url_of(path)).migrate()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO users (id, last_seq) VALUES ('user', ?)", [TURNS])
        connection.execute("INSERT INTO conversations VALUES ('user', 'default', 0, ?, ?, ?)", [TURNS] * 3)
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
            " INSERT INTO turns (id, user_id, conversation_id, seq, started_at, user_message, reply, status)"
            " SELECT printf('00000000-0000-4000-8000-%012d', n), 'user', 'default', n, n * 1000000,"
            " 'question ' || n, substr('answer ' || n || hex(zeroblob(1000)), 1, iif(n > 99000, 2000, 20)),"
            " 'completed' FROM numbers",
            [TURNS],
        )


async def test_a_huge_history_is_read_in_pages_and_only_its_end_becomes_context(tmp_path: Path) -> None:
    path, llm = tmp_path / "chat.db", ScriptedLLM()
    await asyncio.to_thread(_seed, path)
    async with serving(FailNext(), llm, path) as service, PeakMemory() as memory:
        pages = [await service.client.get("/api/chat/history/user?limit=200")]
        for _ in range(4):
            older = {"limit": "200", "cursor": pages[-1].json()["next_cursor"]}
            pages.append(await service.client.get("/api/chat/history/user", params=older))
        too_many = await service.client.get("/api/chat/history/user?limit=201")
        reply = await service.client.post(SIMPLE, json=HELLO)
    numbers = [int(turn["user_message"].split()[1]) for page in reversed(pages) for turn in page.json()["history"]]
    assert numbers == list(range(TURNS - 999, TURNS + 1))
    assert max(len(page.content) for page in pages) < 1_000_000
    assert too_many.status_code == 422
    assert reply.status_code == 200
    latest = [message.text for message in llm.asked[0][1:-1] if message.text.startswith("question")]
    assert latest == [f"question {number}" for number in range(TURNS - len(latest) + 1, TURNS + 1)]
    assert 1 <= len(latest) <= 50
    assert memory.growth < 40_000_000


BAD_IDS = ["\0", "a\0b", "a" * 12_000, "a" * 129, "", " ", "*", "a b", "a/b", "é", "a\n", "../a", "%00"]


@pytest.mark.row("S18")
async def test_an_id_or_a_message_that_no_store_takes_is_refused_before_the_store() -> None:
    gate, llm = FailNext(), ScriptedLLM()
    bodies = [
        *({"user_id": bad, "message": "Hello"} for bad in [*BAD_IDS, "\ud800"]),
        *({"user_id": "user", "message": "Hello", "conversation_id": bad} for bad in [*BAD_IDS, "\udfff"]),
        *({"user_id": "user", "message": bad} for bad in ["\0", "a\0b", "a\ud800", "\udfff", "", " \n"]),
    ]
    json_type = {"Content-Type": "application/json"}
    async with serving(gate, llm) as service:
        await service.client.get("/readyz")
        before = gate.calls.copy()
        answers = [
            await service.client.post(path, content=json.dumps(body), headers=json_type)
            for path in (STREAM, SIMPLE)
            for body in bodies
        ]
        assert gate.calls == before
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(422, "invalid_request")}
    assert [answer.text for answer in answers if "aaaa" in answer.text or "\\u0000" in answer.text] == []
    assert llm.asked == []


@pytest.mark.row("S18")
async def test_an_id_in_a_path_that_no_store_takes_is_refused_before_the_store() -> None:
    gate = FailNext()
    paths = [quote(bad, safe="") for bad in BAD_IDS if bad] + ["%ED%A0%80", "%FF", "a%2Fb"]
    async with serving(gate, ScriptedLLM()) as service:
        before = gate.calls.copy()
        answers = [
            await service.client.request(method, f"/api/chat/{listing}/{path}")
            for method, listing in (("GET", "history"), ("DELETE", "history"), ("GET", "conversations"))
            for path in paths
        ]
        assert gate.calls == before
    assert {answer.status_code for answer in answers} <= {404, 422}


def _serve(directory: Path) -> subprocess.CompletedProcess[str]:
    """A service that is to refuse to start."""
    return subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", "serve"],
        cwd=directory,
        env=clean_environment(PORT="0", OPENAI_API_KEY="sk-canary", DATABASE_URL=url_of(directory / "chat.db")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def _filled_database(path: Path) -> bytes:
    SQLiteDatabase(url_of(path)).migrate()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO users (id, last_seq) VALUES (?, 0)", ([f"user{number}"] for number in range(500))
        )
    return path.read_bytes()


@pytest.mark.row("S9")
def test_a_damaged_database_is_refused_in_a_sentence_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    whole = _filled_database(path)
    half = len(whole) // 2
    damaged = whole[:half] + b"\x55" * 6000 + whole[half + 6000 :]
    path.write_bytes(damaged)
    refused = _serve(tmp_path)
    assert refused.returncode == 3, refused.stdout
    assert f"The database {path} is damaged" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert refused.stdout.count("\n") <= 2
    assert path.read_bytes() == damaged


@pytest.mark.row("S11")
async def test_a_second_service_on_the_same_file_refuses_to_start_and_says_what_would_do(tmp_path: Path) -> None:
    url = url_of(tmp_path / "chat.db")
    async with service_process(directory=tmp_path, OPENAI_API_KEY="sk-canary", DATABASE_URL=url) as first:
        second = await asyncio.to_thread(_serve, tmp_path)
        async with httpx2.AsyncClient(base_url=first.url) as client:
            ready = await client.get("/readyz")
    assert second.returncode == 3, second.stdout
    assert "PostgreSQL" in second.stdout
    assert "Traceback" not in second.stdout
    assert ready.status_code == 200
