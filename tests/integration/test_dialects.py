"""Responses of real model services: the reply or the error, what is stored, and what the operator finds in the log.

Each entry of `dialects.json` is a response that some service sent, byte for byte, with the outcome that it must have.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.chat_stream import ChatStream
from tests.harness.raw_server import Call, RawServer
from tests.harness.servers import running_service
from tests.harness.service_log import ServiceLog

pytestmark = pytest.mark.server

DIALECTS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "dialects.json").read_text("utf-8"))

EVENTS = b'data: {"choices":[{"index":0,"delta":{"content":"Seeded"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
SEED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)


class Dialect:
    """A model service that answers as one entry says. `calls` counts the requests that it answered so."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.calls = 0
        self.seeding = False
        self._refused = entry.get("refuses_while", {})
        self._refusal = entry.get("refusal", {})
        self._answer = entry["answer"]

    async def __call__(self, call: Call) -> None:
        closes = False
        while not closes:
            head = await call.head()
            length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
            request = json.loads(await call.reader.readexactly(int(length)))
            if self.seeding:
                await call.send(SEED)
                continue
            self.calls += 1
            response = self._refusal if self._refuses(request) else self._answer
            await call.send(bytes_of(response))
            closes = response.get("closes", False)

    def _refuses(self, request: dict[str, Any]) -> bool:
        messages = request["messages"]
        match self._refused:
            case {"parameter": names, **limit}:
                sent = [request[name] for name in names if name in request]
                return any("above" not in limit or bool(value > limit["above"]) for value in sent)
            case {"first_role": role}:
                return bool(messages[0]["role"] == role)
            case {"more_messages_than": count}:
                return bool(len(messages) > count)
        return False


def bytes_of(response: dict[str, str]) -> bytes:
    return base64.b64decode(response["base64"]) if "base64" in response else response["text"].encode()


@dataclass(frozen=True)
class Outcome:
    """What a user, the history and the operator see of a turn."""

    text: str
    end: dict[str, Any]
    """The last event of the stream, or the problem."""
    retry_after: float
    """Seconds; NaN if the header is missing."""
    turn: dict[str, Any]
    http: int
    """Status of `/api/chat/simple`."""
    calls: int
    """Requests to the model during the streamed turn."""
    log: str


async def outcome_of(entry: dict[str, Any], log: ServiceLog, **settings: Any) -> Outcome:
    """Run a turn on each endpoint, against a service that has learned nothing yet."""
    dialect = Dialect(entry)
    async with RawServer(dialect) as server, running_service(openai_base_url=base_url(server), **settings) as service:

        async def post(path: str) -> httpx2.Response:
            return await service.client.post(path, json={"user_id": "user", "message": "Hello"})

        if "more_messages_than" in entry.get("refuses_while", {}):
            dialect.seeding = True
            for _ in range(3):
                await post("/api/chat/simple")
            dialect.seeding = False
        earlier = len(log.lines)
        streamed = await post("/api/chat")
        lines, calls = log.lines[earlier:], dialect.calls
        (turn,) = (await service.client.get("/api/chat/history/user?limit=1")).json()["history"]
        simple = await post("/api/chat/simple")
    stream = None if streamed.is_error else ChatStream.of(streamed.content)
    return Outcome(
        text=stream.text if stream else "",
        end=stream.last if stream else {"error": streamed.json()},
        retry_after=float(streamed.headers.get("retry-after", "nan")),
        turn=turn,
        http=simple.status_code,
        calls=calls,
        log="".join(words_of(line) for line in lines if line["event"] != "request"),
    )


def base_url(server: RawServer) -> str:
    return f"http://127.0.0.1:{server.port}/v1"


def words_of(line: dict[str, Any]) -> str:
    """Return a line without its ids and numbers of ours, which may contain the digits of a status by chance."""
    ours = {"timestamp", "turn_id", "request_id", "user", "seconds", "first_delta_seconds"}
    return json.dumps({name: value for name, value in line.items() if name not in ours})


def mismatches(outcome: Outcome, expect: dict[str, Any]) -> dict[str, Any]:
    """Return the expectations that the outcome does not meet."""

    def meets(name: str, expected: Any) -> bool:
        error, stored = outcome.end.get("error", {}), outcome.turn
        match name:
            case "text":
                return bool(outcome.text == stored["assistant_response"] == expected)
            case "text_starts":
                return bool(outcome.text == stored["assistant_response"] and outcome.text.startswith(expected))
            case "status":
                return bool(stored["status"] == expected)
            case "finish_reason":
                return bool(stored["reason"] == outcome.end.get("finish_reason") == expected)
            case "code":
                return bool(stored["reason"] == error.get("code") == expected)
            case "http":
                return bool(outcome.http == expected)
            case "retryable":
                return error.get("retryable") is expected
            case "retry_after":
                return bool(expected[0] <= outcome.retry_after <= expected[1])
            case "calls":
                return bool(outcome.calls <= expected)
            case "log":
                return all(word in outcome.log for word in expected)
        raise NotImplementedError(name)

    return {name: expected for name, expected in expect.items() if not meets(name, expected)}


@pytest.mark.row("U26")
@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry["name"]) for entry in DIALECTS])
async def test_a_response_has_the_outcome_that_its_entry_expects(
    entry: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = await outcome_of(entry, ServiceLog(capsys))
    assert mismatches(outcome, entry["expect"]) == {}, outcome


def test_the_file_holds_entries_of_distinct_names() -> None:
    names = {entry["name"] for entry in DIALECTS}
    assert len(names) == len(DIALECTS) == 87


@pytest.mark.parametrize(
    ("name", "reasoning", "text"),
    [
        ("reasoning", "drop", "Hello"),
        ("reasoning", "keep", "hmlet meHello"),
        ("think", "drop", "Hello"),
        ("think", "keep", "<think>hm</think>Hello"),
    ],
)
async def test_reasoning_is_dropped_or_kept_as_configured(
    name: str, reasoning: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (entry,) = (entry for entry in DIALECTS if entry["name"] == name)
    outcome = await outcome_of(entry, ServiceLog(capsys), reasoning=reasoning)
    assert (outcome.text, outcome.turn["assistant_response"]) == (text, text)


async def test_a_reply_that_is_only_reasoning_is_logged_as_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = (entry for entry in DIALECTS if entry["name"] == "gpt5-empty")
    log = ServiceLog(capsys)
    await outcome_of(entry, log)
    assert [(line["level"], line["notes"]) for line in log.events("turn completed")] == [
        ("warning", ["only reasoning"])
    ] * 2
