"""The store fails, is locked, is damaged or is huge: a turn that is not stored is never reported as done."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx2
import pytest

from adapters.history_in_memory import HistoryInMemory
from adapters.history_sql import HistorySQL
from adapters.sql.sqlite.database import SQLiteDatabase
from application.ports.llm import AS_CONFIGURED, LLM, Reply, ReplyOptions
from domain.conversation import Message
from tests.harness.chat_stream import ChatStream
from tests.harness.failing_history import FailNext, GatedHistory
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.leaks import PeakMemory, assert_no_turn_left
from tests.harness.locked_database import locked_by_another_process
from tests.harness.servers import Service, clean_environment, running_service, service_process
from tests.harness.sqlite_trace import traced_statements

pytestmark = pytest.mark.server

REPLY = "Hello, world!"
STREAM, SIMPLE = "/api/chat", "/api/chat/simple"
HELLO = {"user_id": "user", "message": "Hello"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"

both_endpoints = pytest.mark.parametrize("path", [STREAM, SIMPLE])

SHORT_DELAYS: dict[str, dict[str, Any]] = {
    "generate_reply": {"store_delays": (0.0, 0.01, 0.02)},
    "turn_runner": {"save_interval": 0.05},
}


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@asynccontextmanager
async def serving(
    gate: FailNext, llm: LLM, path: Path | None = None, *, busy_timeout: float = 5.0
) -> AsyncIterator[Service]:
    """A service whose history passes the gate. It is stored in SQLite if a path is given, otherwise in memory."""
    parts: dict[str, Any] = {"llm": llm, "history": GatedHistory(HistoryInMemory(), gate)}
    if path is None:
        async with running_service(parts, SHORT_DELAYS) as service:
            yield service
    else:
        parts["database"] = database = SQLiteDatabase(url_of(path), busy_timeout=busy_timeout)
        parts["history"] = GatedHistory(HistorySQL(database), gate)
        async with running_service(parts, SHORT_DELAYS, history_backend="sql") as service:
            yield service


async def only_turn(service: Service, user: str = "user") -> dict[str, Any]:
    (turn,) = (await service.client.get(f"/api/chat/history/{user}")).json()["history"]
    return dict(turn)


async def ended_turn(service: Service) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (turn := await only_turn(service))["status"] == "in_progress":
            await asyncio.sleep(0.01)
    return turn


def reported(path: str, response: httpx2.Response) -> str:
    """Return the outcome sent to the client: `done` or an error code."""
    if path == STREAM and response.status_code == 200:
        return str(ChatStream.of(response.content).last.get("error", {}).get("code", "done"))
    return "done" if response.status_code == 200 else str(response.json()["code"])


@both_endpoints
@pytest.mark.row("S1")
async def test_a_message_that_cannot_be_stored_is_rejected_before_the_model_is_asked(path: str) -> None:
    gate, llm = FailNext(begin=1), ScriptedLLM()
    async with serving(gate, llm) as service:
        rejected = await service.client.post(path, json=HELLO)
        assert llm.asked == []
        retried = await service.client.post(path, json=HELLO)
        assert (await only_turn(service))["status"] == "completed"
    assert (rejected.status_code, rejected.json()["code"]) == (503, "history_unavailable")
    assert rejected.headers["retry-after"] == "2"
    assert "turn_id" not in rejected.json()
    assert reported(path, retried) == "done"


@both_endpoints
async def test_a_turn_whose_context_cannot_be_read_fails_before_the_model_is_asked(path: str) -> None:
    gate, llm = FailNext(latest=1), ScriptedLLM()
    async with serving(gate, llm) as service:
        rejected = await service.client.post(path, json=HELLO)
        turn = await only_turn(service)
        await assert_no_turn_left(service)
    assert (rejected.status_code, rejected.json()["code"]) == (503, "history_unavailable")
    assert rejected.json()["turn_id"] == turn["id"]
    assert (turn["status"], turn["reason"]) == ("failed", "history_unavailable")
    assert llm.asked == []


REQUESTS = {
    ("page", "GET", "/api/chat/history/user"),
    ("clear", "DELETE", "/api/chat/history/user"),
    ("conversations", "GET", "/api/chat/conversations/user"),
    ("get", "GET", f"/api/chat/turns/{UNKNOWN}"),
    ("get", "POST", f"/api/chat/turns/{UNKNOWN}/stop"),
    ("get", "GET", f"/api/chat/turns/{UNKNOWN}/stream"),
}


async def test_a_failed_read_or_deletion_is_a_503_with_retry_after() -> None:
    gate = FailNext()
    async with serving(gate, ScriptedLLM()) as service:
        for point, method, path in REQUESTS:
            gate.failures[point] = 1
            rejected = await service.client.request(method, path)
            assert (rejected.status_code, rejected.json()["code"]) == (503, "history_unavailable")
            assert rejected.headers["retry-after"] == "2"


async def test_a_store_that_does_not_respond_fails_readiness_but_not_liveness() -> None:
    async with serving(FailNext(check=2), ScriptedLLM()) as service:
        ready = await service.client.get("/readyz")
        health = await service.client.get("/api/health/detailed")
        live = await service.client.get("/livez")
        later = await service.client.get("/readyz")
    assert (ready.status_code, later.status_code, live.status_code) == (503, 200, 200)
    assert (health.json()["status"], health.json()["checks"]["history"]) == ("degraded", "unavailable")


@both_endpoints
@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.row("S2")
async def test_a_turn_whose_end_is_stored_at_a_later_attempt_succeeds(path: str, failures: int) -> None:
    async with serving(FailNext(finish=failures), ScriptedLLM()) as service:
        response = await service.client.post(path, json=HELLO)
        turn = await only_turn(service)
    assert reported(path, response) == "done"
    assert (turn["status"], turn["assistant_response"]) == ("completed", REPLY)


@both_endpoints
@pytest.mark.parametrize("failures", [3, 5])
@pytest.mark.row("S2")
async def test_a_turn_whose_end_cannot_be_stored_is_reported_as_failed_and_stored_later_as_interrupted(
    path: str, failures: int
) -> None:
    async with serving(FailNext(finish=failures), ScriptedLLM()) as service:
        response = await service.client.post(path, json=HELLO)
        await assert_no_turn_left(service)
        turn = await ended_turn(service)
    assert reported(path, response) == "history_write_failed"
    assert response.status_code == (200 if path == STREAM else 503)
    assert (turn["status"], turn["reason"]) == ("interrupted", "history_write_failed")
    assert turn["assistant_response"] == REPLY


@pytest.mark.row("S2")
async def test_a_turn_whose_end_was_never_stored_is_ended_at_the_next_start(tmp_path: Path) -> None:
    path, llm = tmp_path / "chat.db", ScriptedLLM(ScriptedReply(pause=0.1))
    async with serving(FailNext(finish=1_000_000), llm, path) as service:
        response = await service.client.post(STREAM, json=HELLO)
        assert (await only_turn(service))["status"] == "in_progress"
    async with serving(FailNext(), llm, path) as service:
        turn = await only_turn(service)
    assert reported(STREAM, response) == "history_write_failed"
    assert (turn["status"], turn["reason"]) == ("interrupted", "worker_lost")
    assert turn["assistant_response"]
    assert REPLY.startswith(turn["assistant_response"])


async def test_failing_to_save_progress_does_not_affect_the_reply() -> None:
    gate = FailNext(save_progress=1_000_000)
    async with serving(gate, ScriptedLLM(ScriptedReply(pause=0.1))) as service:
        response = await service.client.post(STREAM, json=HELLO)
        turn = await only_turn(service)
    assert gate.calls["save_progress"] > 0
    assert reported(STREAM, response) == "done"
    assert (turn["status"], turn["assistant_response"]) == ("completed", REPLY)


@pytest.mark.row("S1", "S4")
async def test_a_message_is_rejected_with_503_while_another_program_has_the_database_locked(
    tmp_path: Path,
) -> None:
    path, llm = tmp_path / "chat.db", ScriptedLLM()
    async with serving(FailNext(), llm, path, busy_timeout=0.2) as service:
        async with locked_by_another_process(path):
            rejected = [await service.client.post(endpoint, json=HELLO) for endpoint in (STREAM, SIMPLE)]
            assert (await service.client.get("/api/chat/history/user")).json()["count"] == 0
        assert llm.asked == []
        accepted = await service.client.post(SIMPLE, json=HELLO)
        assert (await only_turn(service))["status"] == "completed"
    assert [(response.status_code, response.json()["code"]) for response in rejected] == [
        (503, "history_unavailable")
    ] * 2
    assert {response.headers["retry-after"] for response in rejected} == {"1"}
    assert accepted.status_code == 200


async def test_a_message_waits_while_the_database_is_locked_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with serving(FailNext(), ScriptedLLM(), path) as service:
        async with locked_by_another_process(path):
            waiting = asyncio.create_task(service.client.post(SIMPLE, json=HELLO))
            done, _ = await asyncio.wait([waiting], timeout=0.5)
            assert not done
        assert (await waiting).status_code == 200


def _verb(statement: str) -> str:
    return statement.split(None, 1)[0].upper()


@pytest.mark.row("S5")
async def test_every_transaction_takes_the_write_lock_at_its_beginning(tmp_path: Path) -> None:
    with traced_statements() as statements:
        async with serving(FailNext(), ScriptedLLM(ScriptedReply(pause=0.05)), tmp_path / "chat.db") as service:
            users = [{"user_id": f"user{number % 4}", "message": "Hello"} for number in range(8)]
            await asyncio.gather(*(service.client.post(SIMPLE, json=fields) for fields in users))
            await service.client.delete("/api/chat/history/user0")
    begins = {statement for statement in statements if _verb(statement) in ("BEGIN", "SAVEPOINT")}
    assert begins == {"BEGIN IMMEDIATE"}
    assert _writes_outside_of_transactions(statements) == []


def _writes_outside_of_transactions(statements: Sequence[str]) -> list[str]:
    """Return writes outside of transactions. There is one writer, so the trace shows its transactions one by one."""
    inside, found = False, []
    for statement in statements:
        verb = _verb(statement)
        inside = (inside or verb == "BEGIN") and verb not in ("COMMIT", "ROLLBACK")
        if verb in ("INSERT", "UPDATE", "DELETE") and not inside:
            found.append(statement)
    return found


class SynchronizedLLM(ScriptedLLM):
    """Withholds all replies until `end` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.end = anyio.Event()

    @asynccontextmanager
    async def reply(
        self, messages: Sequence[Message], max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
    ) -> AsyncIterator[Reply]:
        async with super().reply(messages, max_tokens, options) as reply:
            await self.end.wait()
            yield reply


async def test_turns_that_end_at_the_same_time_share_commits(tmp_path: Path) -> None:
    llm = SynchronizedLLM()
    with traced_statements() as statements:
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
    """Store a user with `TURNS` turns, the newest of which are the longest."""
    SQLiteDatabase(url_of(path)).migrate()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO users (id, last_seq) VALUES ('user', ?)", [TURNS])
        connection.execute(
            "INSERT INTO conversations (user_id, id, created_at, updated_at, last_seq, turns)"
            " VALUES ('user', 'default', 0, ?, ?, ?)",
            [TURNS] * 3,
        )
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
            " INSERT INTO turns (id, user_id, conversation_id, seq, started_at, user_message, reply, status)"
            " SELECT printf('00000000-0000-4000-8000-%012d', n), 'user', 'default', n, n * 1000000,"
            " 'question ' || n, substr('answer ' || n || hex(zeroblob(1000)), 1, iif(n > 99000, 2000, 20)),"
            " 'completed' FROM numbers",
            [TURNS],
        )


async def test_a_huge_history_is_read_in_pages_and_only_its_newest_turns_become_context(tmp_path: Path) -> None:
    path, llm = tmp_path / "chat.db", ScriptedLLM()
    await asyncio.to_thread(_seed, path)
    async with serving(FailNext(), llm, path) as service, PeakMemory() as memory:
        pages = [await service.client.get("/api/chat/history/user?limit=200")]
        for _ in range(4):
            older = {"limit": "200", "cursor": pages[-1].json()["next_cursor"]}
            pages.append(await service.client.get("/api/chat/history/user", params=older))
        too_large = await service.client.get("/api/chat/history/user?limit=201")
        reply = await service.client.post(SIMPLE, json=HELLO)
    numbers = [int(turn["user_message"].split()[1]) for page in reversed(pages) for turn in page.json()["history"]]
    assert numbers == list(range(TURNS - 999, TURNS + 1))
    assert max(len(page.content) for page in pages) < 1_000_000
    assert too_large.status_code == 422
    assert reply.status_code == 200
    latest = [message.text for message in llm.asked[0][1:-1] if message.text.startswith("question")]
    assert latest == [f"question {number}" for number in range(TURNS - len(latest) + 1, TURNS + 1)]
    assert 1 <= len(latest) <= 50
    assert memory.growth < 40_000_000


INVALID_IDS = ["\0", "a\0b", "a" * 12_000, "a" * 129, "", " ", "*", "a b", "a/b", "é", "a\n", "../a", "%00"]


@pytest.mark.row("S18")
async def test_invalid_ids_and_messages_are_rejected_before_the_store_is_called() -> None:
    gate, llm = FailNext(), ScriptedLLM()
    bodies = [
        *({"user_id": invalid, "message": "Hello"} for invalid in [*INVALID_IDS, "\ud800"]),
        *({"user_id": "user", "message": "Hello", "conversation_id": invalid} for invalid in [*INVALID_IDS, "\udfff"]),
        *({"user_id": "user", "message": invalid} for invalid in ["\0", "a\0b", "a\ud800", "\udfff", "", " \n"]),
    ]
    json_type = {"Content-Type": "application/json"}
    async with serving(gate, llm) as service:
        await service.client.get("/readyz")
        before = gate.calls.copy()
        responses = [
            await service.client.post(path, content=json.dumps(body), headers=json_type)
            for path in (STREAM, SIMPLE)
            for body in bodies
        ]
        assert gate.calls == before
    assert {(response.status_code, response.json()["code"]) for response in responses} == {(422, "invalid_request")}
    assert [response.text for response in responses if "aaaa" in response.text or "\\u0000" in response.text] == []
    assert llm.asked == []


@pytest.mark.row("S18")
async def test_invalid_ids_in_paths_are_rejected_before_the_store_is_called() -> None:
    gate = FailNext()
    ids = [quote(invalid, safe="") for invalid in INVALID_IDS if invalid] + ["%ED%A0%80", "%FF", "a%2Fb"]
    targets = [
        (method, f"/api/chat/{listing}/{id}")
        for method, listing in (("GET", "history"), ("DELETE", "history"), ("GET", "conversations"))
        for id in ids
    ]
    async with serving(gate, ScriptedLLM()) as service:
        before = gate.calls.copy()
        statuses = {target: (await service.client.request(*target)).status_code for target in targets}
        assert gate.calls == before
    # With a slash in it, this is the path of a conversation, which can only be renamed.
    other = {target for target in targets if "/conversations/" in target[1] and "%2F" in target[1]}
    assert {statuses[target] for target in other} <= {404, 405}
    assert {statuses[target] for target in targets if target not in other} <= {404, 422}


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/stop"), ("GET", "/stream")])
async def test_malformed_turn_ids_are_not_found_without_a_call_of_the_store(method: str, path: str) -> None:
    """PostgreSQL cannot be asked for some of them: it was 503, and cost the readers their connection."""
    gate = FailNext()
    ids = [*(quote(invalid, safe="") for invalid in INVALID_IDS if invalid and "/" not in invalid), "%FF"]
    async with serving(gate, ScriptedLLM()) as service:
        before = gate.calls.copy()
        responses = [await service.client.request(method, f"/api/chat/turns/{id}{path}") for id in ids]
        assert gate.calls == before
    assert {(response.status_code, response.json()["code"]) for response in responses} == {(404, "turn_not_found")}


def _start_and_fail(directory: Path) -> subprocess.CompletedProcess[str]:
    """Start a service that exits, because it cannot use its database."""
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
def test_a_damaged_database_is_refused_with_one_sentence_and_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    intact = _filled_database(path)
    half = len(intact) // 2
    damaged = intact[:half] + b"\x55" * 6000 + intact[half + 6000 :]
    path.write_bytes(damaged)
    failed = _start_and_fail(tmp_path)
    assert failed.returncode == 3, failed.stdout
    assert f"The database {path} is damaged" in failed.stdout
    assert "Traceback" not in failed.stdout
    assert failed.stdout.count("\n") <= 2
    assert path.read_bytes() == damaged


@pytest.mark.row("S11")
async def test_a_second_service_on_the_same_file_refuses_to_start_and_says_why(tmp_path: Path) -> None:
    url = url_of(tmp_path / "chat.db")
    async with service_process(directory=tmp_path, OPENAI_API_KEY="sk-canary", DATABASE_URL=url) as first:
        second = await asyncio.to_thread(_start_and_fail, tmp_path)
        async with httpx2.AsyncClient(base_url=first.url) as client:
            ready = await client.get("/readyz")
    assert second.returncode == 3, second.stdout
    assert "PostgreSQL" in second.stdout
    assert "Traceback" not in second.stdout
    assert ready.status_code == 200
