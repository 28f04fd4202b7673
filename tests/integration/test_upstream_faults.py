"""Failures of the model's service: the response, the stored turn, and the resources that are released."""

import asyncio
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from domain.reply import MAX_REPLY_BYTES
from tests.harness.chat_stream import ChatStream
from tests.harness.leaks import PeakMemory, assert_no_turn_left
from tests.harness.scripted_upstream import NASTY_TEXTS, TEXTS, ScriptedUpstream
from tests.harness.servers import Service, running_service
from tests.harness.service_log import ServiceLog

pytestmark = pytest.mark.server

KEY = "sk-canary-5e1f0c"
MESSAGE = "canary in the user's message"
PROVIDER_TEXT = "secret reason"
REPLY = "".join(TEXTS)
STREAM, SIMPLE = "/api/chat", "/api/chat/simple"

both_endpoints = pytest.mark.parametrize("path", [STREAM, SIMPLE])
both_stores = pytest.mark.parametrize("store", ["sql", "in_memory"])


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[ServiceLog]:
    """The log. At the end of each test it contains no secret, no message text and no exception.

    The upstream quotes the key and the message in whatever it refuses.
    """
    log = ServiceLog(capsys)
    yield log
    assert [secret for secret in (KEY, MESSAGE, "Traceback") if secret in log.text] == []
    assert [line for line in log.lines if "exception" in line] == []


class Caller:
    """A user of the service, and the upstream that the service calls."""

    def __init__(self, service: Service, upstream: ScriptedUpstream) -> None:
        self.service = service
        self.upstream = upstream

    async def post(self, path: str, message: str = MESSAGE) -> httpx2.Response:
        response = await self.service.client.post(path, json={"user_id": "user", "message": message})
        assert "Traceback" not in response.text
        assert KEY not in response.text
        assert PROVIDER_TEXT not in response.text
        return response

    async def stream(self, message: str = MESSAGE) -> ChatStream:
        response = await self.post(STREAM, message)
        assert response.status_code == 200, response.text
        stream = ChatStream.of(response.content)
        assert list(range(1, len(stream.data) + 1)) == stream.numbers
        return stream

    async def turn(self) -> dict[str, Any]:
        """Return the newest stored turn, after checking that it is the same by id and in the history."""
        (stored,) = (await self.service.client.get("/api/chat/history/user?limit=1")).json()["history"]
        alone = (await self.service.client.get(f"/api/chat/turns/{stored['id']}")).json()
        assert stored == alone
        return dict(stored)

    async def outcome(self) -> tuple[str, str | None, str]:
        turn = await self.turn()
        return turn["status"], turn["reason"], turn["assistant_response"]


@asynccontextmanager
async def calling(
    upstream: ScriptedUpstream, model: str, tmp_path: Path, *, store: str = "in_memory", **settings: Any
) -> AsyncIterator[Caller]:
    """A service that uses `model`. At the end no turn and no call is left, and the service is ready."""
    chosen: dict[str, Any] = {
        "openai_base_url": upstream.base_url,
        "openai_api_key": KEY,
        "openai_model": model,
        "history_backend": store,
        "database_url": f"sqlite:///{tmp_path}/chat.db",
        "debug": True,
    }
    async with running_service(**{**chosen, **settings}) as service:
        yield Caller(service, upstream)
        await assert_no_turn_left(service)
        async with asyncio.timeout(5):
            await upstream.all_closed()
        assert (await service.client.get("/readyz")).status_code == 200


# Failures before the reply begins, which are problems on both endpoints.
# Columns: model (which selects the fault), status, code, Retry-After, number of calls.
EARLY_FAILURES = [
    ("closehead", 502, "upstream_disconnected", "1", 1),
    ("garbage", 502, "upstream_invalid", None, 1),
    ("html", 502, "upstream_invalid", None, 1),
    ("500", 502, "upstream_error", "1", 2),
    ("503", 502, "upstream_error", "1", 2),
    ("status-504", 504, "upstream_timeout", "1", 1),
    ("status-400", 502, "upstream_error", None, 1),
    ("status-404", 502, "upstream_error", None, 1),
    ("429-60", 503, "upstream_rate_limited", "60", 1),
    ("401", 502, "upstream_auth", None, 1),
    ("403", 502, "upstream_auth", None, 1),
    ("context-0", 413, "context_too_long", None, 2),
]
early_failures = pytest.mark.parametrize(("model", "status", "code", "retry_after", "calls"), EARLY_FAILURES)


@early_failures
@pytest.mark.row("U5", "U7", "U19")
async def test_a_failure_before_the_reply_is_a_problem_and_stored_as_failed(
    upstream: ScriptedUpstream, tmp_path: Path, model: str, status: int, code: str, retry_after: str | None, calls: int
) -> None:
    async with calling(upstream, model, tmp_path) as caller:
        for path in (STREAM, SIMPLE):
            async with asyncio.timeout(20):  # a long Retry-After of the model's service is not waited for
                response = await caller.post(path)
            turn = await caller.turn()
            assert (turn["status"], turn["reason"], turn["assistant_response"]) == ("failed", code, "")
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers.get("retry-after") == retry_after
            assert response.headers["x-turn-id"] == turn["id"]
            assert (response.status_code, response.json()) == (
                status,
                {
                    "type": f"urn:problem-type:smart-chatbot:{code}",
                    "title": response.json()["title"],
                    "status": status,
                    "detail": response.json()["detail"],
                    "code": code,
                    "retryable": retry_after is not None,
                    "request_id": response.headers["x-request-id"],
                    "turn_id": turn["id"],
                },
            )
    assert len(upstream.requests) == 2 * calls


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections. It stays bound, so that no other process gets it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def full_port() -> Iterator[int]:
    """A port whose backlog is full, so that new connections are neither accepted nor refused."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


@pytest.mark.parametrize(("unreachable", "path"), [(closed_port, STREAM), (closed_port, SIMPLE), (full_port, STREAM)])
@pytest.mark.row("U1")
async def test_a_service_that_cannot_be_connected_to_is_unreachable_after_two_attempts(
    upstream: ScriptedUpstream, tmp_path: Path, log: ServiceLog, unreachable: Any, path: str
) -> None:
    with unreachable() as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with calling(upstream, "any", tmp_path, openai_base_url=url, upstream_connect_timeout=0.3) as caller:
            response = await caller.post(path)
            outcome = await caller.outcome()
    assert (response.status_code, response.json()["code"]) == (502, "upstream_unreachable")
    assert response.headers["retry-after"] == "1"
    assert outcome == ("failed", "upstream_unreachable", "")
    (line,) = log.events("turn failed")
    assert (line["level"], line["attempts"]) == ("warning", 2)
    assert line["cause"] == ("refused" if unreachable is closed_port else "connect timeout")


async def test_a_service_that_resets_the_tls_handshake_is_unreachable(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with calling(upstream, "any", tmp_path, openai_base_url=url) as caller:
            response = await caller.post(STREAM)
            outcome = await caller.outcome()
    assert (response.status_code, response.json()["code"]) == (502, "upstream_unreachable")
    assert outcome == ("failed", "upstream_unreachable", "")


async def test_the_log_tells_why_a_tls_connection_failed(
    upstream: ScriptedUpstream, tmp_path: Path, log: ServiceLog
) -> None:
    async def answer_in_plain_text(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with await asyncio.start_server(answer_in_plain_text, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with calling(upstream, "any", tmp_path, openai_base_url=url) as caller:
            response = await caller.post(STREAM)
    assert "http or https" in response.json()["detail"]
    (line,) = log.events("turn failed")
    assert (line["reason"], line["cause"]) == ("upstream_unreachable", "tls")
    assert line["cause_detail"]


async def test_the_log_tells_why_the_service_refused(
    upstream: ScriptedUpstream, tmp_path: Path, log: ServiceLog
) -> None:
    async with calling(upstream, "status-418", tmp_path) as caller:
        response = await caller.post(SIMPLE)
    (line,) = log.events("turn failed")
    assert line["http_status"] == 418
    assert line["host"] == f"127.0.0.1:{upstream.port}"
    assert line["provider_type"] == "invalid_request_error"
    assert line["provider_message"].startswith(PROVIDER_TEXT)
    assert line["detail"] == response.json()["detail"]
    assert line["request"]["max_tokens"] == 1000


@both_endpoints
@pytest.mark.row("U3")
async def test_a_service_that_never_responds_is_a_timeout_after_one_call(
    upstream: ScriptedUpstream, tmp_path: Path, path: str
) -> None:
    async with calling(upstream, "hanghead", tmp_path, upstream_first_byte_timeout=0.4) as caller:
        response = await caller.post(path)
        outcome = await caller.outcome()
    assert (response.status_code, response.json()["code"]) == (504, "upstream_timeout")
    assert outcome == ("failed", "upstream_timeout", "")
    assert len(upstream.requests) == 1


@pytest.mark.row("U3")
async def test_a_failure_after_the_header_hold_is_an_error_event(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with calling(upstream, "hanghead", tmp_path, upstream_first_byte_timeout=0.6, header_hold=0.1) as caller:
        stream = await caller.stream()
        outcome = await caller.outcome()
    assert (stream.deltas, stream.error["code"]) == ([], "upstream_timeout")
    assert outcome == ("failed", "upstream_timeout", "")


@both_endpoints
@pytest.mark.row("U23")
async def test_a_redirect_is_not_followed(
    upstream: ScriptedUpstream, tmp_path: Path, log: ServiceLog, path: str
) -> None:
    async with (
        ScriptedUpstream() as target,
        calling(upstream, f"redirect-{target.port}", tmp_path) as caller,
    ):
        response = await caller.post(path)
        outcome = await caller.outcome()
        assert target.connections == 0
    assert (response.status_code, response.json()["code"]) == (502, "upstream_error")
    assert outcome == ("failed", "upstream_error", "")
    assert len(upstream.requests) == 1
    (line,) = log.events("turn failed")
    assert (line["level"], line["security"]) == ("error", True)
    assert line["redirect"] == f"http://127.0.0.1:{target.port}/v1/chat/completions"


@pytest.mark.parametrize(("model", "path"), [("500-1", STREAM), ("503-1", SIMPLE), ("429-1", STREAM)])
@pytest.mark.row("U5")
async def test_a_temporary_failure_is_retried_without_the_client_noticing(
    upstream: ScriptedUpstream, tmp_path: Path, model: str, path: str
) -> None:
    async with calling(upstream, model, tmp_path) as caller:
        response = await caller.post(path)
        outcome = await caller.outcome()
    assert response.status_code == 200
    assert outcome == ("completed", None, REPLY)
    assert len(upstream.requests) == 2


async def test_a_rejected_key_degrades_health_and_is_logged_as_an_error_once_a_minute(
    upstream: ScriptedUpstream, tmp_path: Path, log: ServiceLog
) -> None:
    async with calling(upstream, "401", tmp_path) as caller:
        for _ in range(3):
            await caller.post(SIMPLE)
        health = await caller.service.client.get("/api/health/detailed")
    assert (
        health.status_code,
        health.json()["status"],
        health.json()["checks"]["llm"],
    ) == (200, "degraded", "upstream_auth")
    assert [line["level"] for line in log.events("turn failed")] == ["error", "warning", "warning"]


async def test_a_prompt_that_is_too_long_is_sent_again_without_its_oldest_turns(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with calling(upstream, "context-2000", tmp_path, context_tokens=1000, system_prompt="Be brief.") as caller:
        for number in range(5):
            await caller.post(SIMPLE, "abcde"[number] * 400)
        upstream.requests.clear()
        stream = await caller.stream("last " * 80)
        outcome = await caller.outcome()
    long, short = (request.body["messages"] for request in upstream.requests)
    assert stream.text == REPLY
    assert outcome == ("completed", None, REPLY)
    assert len(long) > len(short) > 2
    assert [long[0], *long[len(long) - len(short) + 1 :]] == short


# Failures within the reply: the text received so far is kept, and the last event reports the error.
# Columns: model (which selects the fault), number of deltas, code, status of a simple reply, settings.
IDLE = {"upstream_idle_timeout": 0.4}
INTERRUPTIONS = [
    *((f"rst-{count}", count, "upstream_disconnected", 502, {}) for count in (0, 1, 2, 4, 9)),
    *((f"fin-{count}", count, "upstream_disconnected", 502, {}) for count in (0, 1, 4)),
    *((f"hang-{count}", count, "upstream_idle", 504, IDLE) for count in (0, 3)),
    *((f"err-{count}", count, "upstream_error", 502, {}) for count in (0, 3)),
    *((f"named-err-{count}", count, "upstream_error", 502, {}) for count in (0, 3)),
    *((f"badjson-{count}", count, "upstream_invalid", 502, {}) for count in (0, 3)),
    ("badshape-3", 3, "upstream_invalid", 502, {}),
    ("nodone-bare", 4, "upstream_truncated", 502, {}),
    ("bigline-0", 0, "output_limit", 502, {}),
    ("bigline-3", 3, "output_limit", 502, {}),
]
interruptions = pytest.mark.parametrize(
    ("model", "count", "code", "status", "settings"), INTERRUPTIONS, ids=[row[0] for row in INTERRUPTIONS]
)


def first_deltas(count: int) -> list[str]:
    return [TEXTS[index % len(TEXTS)] for index in range(count)]


def stored_interruption(code: str, text: str) -> tuple[str, str, str]:
    return ("interrupted" if text else "failed", code, text)


@interruptions
@pytest.mark.row("U12", "U13", "U15", "U18", "U19")
async def test_an_interrupted_reply_is_reported_as_an_error_and_its_text_is_stored(
    upstream: ScriptedUpstream, tmp_path: Path, model: str, count: int, code: str, status: int, settings: dict[str, Any]
) -> None:
    stored = stored_interruption(code, "".join(first_deltas(count)))
    async with calling(upstream, model, tmp_path, **settings) as caller:
        stream = await caller.stream()
        turn = await caller.turn()
        assert (turn["status"], turn["reason"], turn["assistant_response"]) == stored
        simple = await caller.post(SIMPLE)
        assert await caller.outcome() == stored
    assert stream.deltas == first_deltas(count)
    assert list(stream.last) == ["content", "done", "error"]
    assert (stream.last["content"], stream.last["done"]) == ("", True)
    assert list(stream.error) == ["code", "title", "detail", "turn_id", "retryable"]
    assert (stream.error["code"], stream.error["turn_id"]) == (code, turn["id"])
    assert (simple.status_code, simple.json()["code"]) == (status, code)
    assert len(upstream.requests) == 2


@pytest.mark.row("U16")
async def test_an_endless_slow_reply_ends_at_the_deadline(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with calling(upstream, "slow-50", tmp_path, turn_timeout=0.8) as caller:
        stream = await caller.stream()
        outcome = await caller.outcome()
        simple = await caller.post(SIMPLE)
    assert stream.deltas
    assert stream.error["code"] == "turn_deadline"
    assert ("interrupted", "turn_deadline", stream.text) == outcome
    assert (simple.status_code, simple.json()["code"]) == (504, "turn_deadline")


@pytest.mark.row("U15")
async def test_keep_alive_comments_are_sent_while_the_model_is_idle(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with calling(upstream, "hang-2", tmp_path, upstream_idle_timeout=0.9, comment_interval=0.1) as caller:
        response = await caller.post(STREAM)
    assert b": keep-alive\n" in response.content
    assert ChatStream.of(response.content).error["code"] == "upstream_idle"


# Complete replies with unusual ends. Columns: model (which selects the end), text, finish reason.
COMPLETIONS = [
    ("len", REPLY, "length"),
    ("content_filter", REPLY, "content_filter"),
    ("empty", "", None),
    ("nodone", REPLY, "unknown"),
    ("afterdone", REPLY, None),
    ("afterfinish", REPLY, None),
    ("finishonly", REPLY, None),
    ("nousage", REPLY, None),
    ("twousage", REPLY, None),
]


@pytest.mark.parametrize(("model", "text", "reason"), COMPLETIONS)
@pytest.mark.row("U10", "U11", "U14b", "U17", "U21", "U25")
async def test_a_reply_with_a_finish_reason_is_complete(
    upstream: ScriptedUpstream, tmp_path: Path, model: str, text: str, reason: str | None
) -> None:
    async with calling(upstream, model, tmp_path) as caller:
        async with asyncio.timeout(10):  # even if the model's service keeps the connection open
            stream = await caller.stream()
        outcome = await caller.outcome()
        simple = await caller.post(SIMPLE)
    expected: dict[str, Any] = {"content": "", "done": True} | ({"finish_reason": reason} if reason else {})
    assert (text, expected) == (stream.text, stream.last)
    assert ("completed", reason, text) == outcome
    assert (200, text, reason) == (
        simple.status_code,
        simple.json()["response"],
        simple.json().get("finish_reason"),
    )


@pytest.mark.row("U21")
async def test_an_empty_reply_is_omitted_from_the_next_prompt(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with calling(upstream, "empty", tmp_path, system_prompt="Be brief.") as caller:
        await caller.post(SIMPLE, "first")
        await caller.post(SIMPLE, "second")
    expected = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "second"}]
    assert expected == upstream.requests[-1].body["messages"]


@pytest.mark.row("U25")
@pytest.mark.parametrize(
    ("model", "tokens", "estimated"), [("nousage", 5, True), ("twousage", 4, None), ("any", 4, None)]
)
async def test_usage_is_logged_as_reported_or_as_an_estimate(
    upstream: ScriptedUpstream, tmp_path: Path, log: ServiceLog, model: str, tokens: int, estimated: bool | None
) -> None:
    async with calling(upstream, model, tmp_path) as caller:
        await caller.post(SIMPLE)
    [line] = log.events("turn completed")
    assert (tokens, estimated) == (line["completion_tokens"], line.get("usage_estimated"))


@pytest.mark.parametrize("model", ["bigline-2", "endless"])
@pytest.mark.row("U20")
async def test_endless_output_is_interrupted_and_takes_little_memory(
    upstream: ScriptedUpstream, tmp_path: Path, model: str
) -> None:
    upstream.texts = ("x" * 99,)
    async with calling(upstream, model, tmp_path) as caller:
        async with PeakMemory() as memory:
            stream = await caller.stream()
        outcome = await caller.outcome()
    assert stream.error["code"] == "output_limit"
    assert outcome == ("interrupted", "output_limit", stream.text)
    assert memory.growth < 40_000_000


@pytest.mark.row("U20")
async def test_an_endless_reply_is_kept_up_to_the_size_limit(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.texts = ("é" * 99,)
    async with calling(upstream, "endless", tmp_path) as caller:
        stream = await caller.stream()
    assert stream.deltas == list(upstream.texts) * (MAX_REPLY_BYTES // 198)


def sanitized(text: str) -> str:
    """Replace NUL and lone surrogates, which cannot be stored, as the service does."""
    paired = json.loads(json.dumps(text))
    return "".join("\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in paired)


def random_texts(count: int) -> tuple[str, ...]:
    chance = random.Random(20)
    alphabet = 'a \0\t\n\r\x0b\x1b\x7f\x85\xa0\xad"\\:{}é한\u200d\u2028\u2029\ufeff\ufffe\uffff\ud800\udfff🙂\U0010ffff'
    return tuple("".join(chance.choices(alphabet, k=chance.randint(1, 8))) for _ in range(count))


@both_stores
@pytest.mark.parametrize("texts", [NASTY_TEXTS, random_texts(500)], ids=["known", "random"])
@pytest.mark.row("U22")
async def test_unusual_text_is_identical_in_stream_turn_and_history(
    upstream: ScriptedUpstream, tmp_path: Path, store: str, texts: tuple[str, ...]
) -> None:
    upstream.nasty_texts = texts
    async with calling(upstream, "unicode", tmp_path, store=store) as caller:
        stream = await caller.stream()
        outcome = await caller.outcome()
        simple = await caller.post(SIMPLE)
    expected = [sanitized(text) for text in texts]
    assert expected == stream.deltas
    assert ("completed", None, "".join(expected)) == outcome
    assert "".join(expected) == simple.json()["response"]


@both_stores
@pytest.mark.row("U22")
async def test_an_unusual_message_reaches_model_and_history_unchanged(
    upstream: ScriptedUpstream, tmp_path: Path, store: str
) -> None:
    message = "".join(text for text in random_texts(300)).replace("\0", "")
    message = "".join(char for char in message if not "\ud800" <= char <= "\udfff")
    async with calling(upstream, "any", tmp_path, store=store) as caller:
        simple = await caller.post(SIMPLE, message)
        turn = await caller.turn()
    assert message == simple.json()["message"] == turn["user_message"]
    assert message == upstream.requests[0].body["messages"][-1]["content"]


async def test_the_last_events_of_an_interrupted_stream_have_the_documented_bytes(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    async with calling(upstream, "rst-1", tmp_path) as caller:
        response = await caller.post(STREAM)
    last = json.dumps(ChatStream.of(response.content).last, ensure_ascii=False)
    assert response.text.endswith(f"id: 2\ndata: {last}\n\nid: 3\ndata: [DONE]\n\n")
