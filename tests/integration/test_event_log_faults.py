"""The event log of a turn fails: clients receive `live_turns_unavailable` instead of hanging, and no text is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.live_turns import Batch, End, EventLog, LiveTurnsUnavailable, Reader, Stop
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, Interruption
from tests.harness.chat import HANGS, HELLO, last_turn, post, streaming
from tests.harness.chat_stream import ChatStream
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.leaks import assert_no_turn_left
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

REPLY = "Hello, world!"
STREAM, SIMPLE = "/api/chat", "/api/chat/simple"
HANG_TIMEOUT = 10
"""Seconds after which a request counts as hanging."""

both_endpoints = pytest.mark.parametrize("path", [STREAM, SIMPLE], ids=["stream", "simple"])
both_errors = pytest.mark.parametrize(
    "error", [LiveTurnsUnavailable(), RuntimeError("a bug in the adapter")], ids=["unavailable", "bug"]
)


class FailingLiveTurns(LiveTurnsInProcess):
    """Raises `error` from `method`, which belongs to the port, to a log or to a reader, from its n-th call on."""

    def __init__(self, method: str, error: Exception | None = None, *, first_call: int = 1) -> None:
        super().__init__()
        self._method = method
        self._error = error or LiveTurnsUnavailable()
        self._successes = first_call - 1

    def recover(self) -> None:
        """Succeed from now on."""
        self._method = ""

    def _check(self, method: str) -> None:
        if method != self._method:
            return
        if not self._successes:
            raise self._error
        self._successes -= 1

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        self._check("open")
        return FailingLog(await super().open(turn, stop, stop_when_left=stop_when_left), self._check)

    async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
        self._check("join")
        return FailingReader(await super().join(turn_id, owner, after), self._check)

    async def stop(
        self,
        turn_id: TurnId,
        owner: UserId | None,
        interruption: Interruption = Cancelled(),  # noqa: B008
    ) -> None:
        self._check("stop")
        await super().stop(turn_id, owner, interruption)

    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        self._check("discard")
        await super().discard(user_id, conversation_id)


class FailingLog(EventLog):
    def __init__(self, log: EventLog, check: Callable[[str], None]) -> None:
        self._log = log
        self._check = check

    def accept(self) -> None:
        self._check("accept")
        self._log.accept()

    def append(self, deltas: Sequence[str]) -> None:
        self._check("append")
        self._log.append(deltas)

    async def close(self, end: End) -> None:
        self._check("close")
        await self._log.close(end)

    def abandon(self) -> None:
        self._log.abandon()


class FailingReader(Reader):
    def __init__(self, reader: Reader, check: Callable[[str], None]) -> None:
        self._reader = reader
        self._check = check

    async def next(self, wait: float) -> Batch | None:
        self._check("next")
        return await self._reader.next(wait)

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._reader.__aexit__(*exc_info)


@asynccontextmanager
async def serving(live_turns: FailingLiveTurns, *scripts: ScriptedReply) -> AsyncIterator[tuple[Service, ScriptedLLM]]:
    """A service with these event logs. No turn, lease or reader is left at the end."""
    llm = ScriptedLLM(*scripts)
    async with running_service({"llm": llm, "live_turns": live_turns}) as service:
        yield service, llm
        await assert_no_turn_left(service)


async def within_timeout(response: Awaitable[httpx2.Response]) -> httpx2.Response:
    async with asyncio.timeout(HANG_TIMEOUT):
        return await response


async def ended_turn(service: Service) -> dict[str, Any]:
    """Return the stored turn, once no turn is running."""
    await assert_no_turn_left(service)
    turn: dict[str, Any] = await last_turn(service)
    return turn


def assert_unavailable(response: httpx2.Response) -> None:
    assert (response.status_code, response.headers["Content-Type"]) == (503, "application/problem+json")
    assert (response.json()["code"], response.json()["retryable"]) == ("live_turns_unavailable", True)
    assert response.headers["Retry-After"] == "1"


# Writing fails


@both_errors
@pytest.mark.parametrize(("method", "received"), [("append", ""), ("close", REPLY)])
async def test_a_stream_whose_log_fails_ends_with_an_error_event(method: str, received: str, error: Exception) -> None:
    async with serving(FailingLiveTurns(method, error)) as (service, _):
        response = await within_timeout(post(service))
        turn = await ended_turn(service)

    stream = ChatStream.of(response.content)
    assert (response.status_code, stream.text) == (200, received)
    assert (stream.error["code"], stream.error["retryable"]) == ("live_turns_unavailable", True)
    assert stream.error["turn_id"] == response.headers["X-Turn-ID"] == turn["id"]
    assert stream.numbers == list(range(1, len(stream.data) + 1))


async def test_deltas_recorded_before_the_log_fails_are_delivered() -> None:
    async with serving(FailingLiveTurns("append", first_call=3), ScriptedReply(pause=0.01)) as (service, _):
        response = await within_timeout(post(service))

    stream = ChatStream.of(response.content)
    assert stream.deltas == ["Hello", ", "]
    assert stream.error["code"] == "live_turns_unavailable"


@both_errors
@pytest.mark.parametrize("method", ["accept", "append", "close"])
async def test_a_simple_reply_whose_log_fails_is_a_problem_that_names_the_turn(method: str, error: Exception) -> None:
    async with serving(FailingLiveTurns(method, error)) as (service, _):
        response = await within_timeout(post(service, SIMPLE))
        turn = await ended_turn(service)

    assert_unavailable(response)
    assert response.json()["turn_id"] == response.headers["X-Turn-ID"] == turn["id"]


async def test_a_stream_whose_acceptance_cannot_be_recorded_is_a_problem() -> None:
    async with serving(FailingLiveTurns("accept")) as (service, _):
        response = await within_timeout(post(service))
        turn = await ended_turn(service)

    assert_unavailable(response)
    assert response.headers["X-Turn-ID"] == turn["id"]


@both_endpoints
@both_errors
@pytest.mark.parametrize("method", ["accept", "append", "close"])
async def test_a_turn_whose_log_fails_is_completed_in_the_history(path: str, method: str, error: Exception) -> None:
    async with serving(FailingLiveTurns(method, error), ScriptedReply(pause=0.01)) as (service, _):
        await within_timeout(post(service, path))
        turn = await ended_turn(service)

    assert (turn["status"], turn["reason"], turn["assistant_response"]) == ("completed", None, REPLY)


async def test_a_turn_whose_log_has_failed_is_not_stopped_when_its_client_leaves() -> None:
    async with serving(FailingLiveTurns("append"), ScriptedReply(pause=0.05)) as (service, _):
        async with streaming(service) as stream:
            await stream.until(b"[DONE]")
        turn = await ended_turn(service)

    assert (turn["status"], turn["assistant_response"]) == ("completed", REPLY)


async def test_a_reader_that_rejoins_a_failed_log_receives_the_same_end() -> None:
    async with serving(FailingLiveTurns("close")) as (service, _):
        posted = await within_timeout(post(service))
        rejoined = await within_timeout(service.client.get(f"/api/chat/turns/{posted.headers['X-Turn-ID']}/stream"))

    assert rejoined.content == posted.content


@both_endpoints
@pytest.mark.parametrize("method", ["open", "join", "accept", "append", "close"])
async def test_a_conversation_is_free_after_its_log_failed(path: str, method: str) -> None:
    async with serving(FailingLiveTurns(method)) as (service, _):
        for _ in range(3):
            response = await within_timeout(post(service, path, when_busy="reject"))
            await assert_no_turn_left(service)

            assert response.status_code in (200, 503)


# Opening or joining a log fails


@both_endpoints
@pytest.mark.parametrize("method", ["open", "join"])
async def test_a_turn_that_cannot_be_followed_is_a_problem_that_names_the_turn(path: str, method: str) -> None:
    async with serving(FailingLiveTurns(method)) as (service, _):
        response = await within_timeout(post(service, path))
        turn = await ended_turn(service)

    assert_unavailable(response)
    assert response.json()["turn_id"] == response.headers["X-Turn-ID"] == turn["id"]


@both_endpoints
@pytest.mark.parametrize("method", ["open", "join"])
async def test_a_turn_that_cannot_be_followed_is_stored_as_failed_and_the_model_is_not_asked(
    path: str, method: str
) -> None:
    async with serving(FailingLiveTurns(method)) as (service, llm):
        await within_timeout(post(service, path))
        turn = await ended_turn(service)

    assert (turn["status"], turn["reason"]) == ("failed", "live_turns_unavailable")
    assert (turn["user_message"], turn["assistant_response"]) == (HELLO["message"], "")
    assert llm.asked == []


@both_endpoints
@pytest.mark.parametrize("method", ["open", "join"])
async def test_a_bug_while_opening_or_joining_a_log_is_an_internal_error(path: str, method: str) -> None:
    async with serving(FailingLiveTurns(method, RuntimeError("a bug in the adapter"))) as (service, _):
        response = await within_timeout(post(service, path))
        turn = await ended_turn(service)

    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.headers["X-Turn-ID"] == turn["id"]
    assert (turn["status"], turn["reason"]) == ("failed", "internal_error")
    assert "a bug" not in response.text


# Reading fails


async def test_a_stream_whose_log_cannot_be_read_any_more_ends_with_an_error_event() -> None:
    async with serving(FailingLiveTurns("next", first_call=3), ScriptedReply(pause=0.02)) as (service, _):
        response = await within_timeout(post(service, on_disconnect="continue"))
        turn = await ended_turn(service)

    stream = ChatStream.of(response.content)
    assert stream.error["code"] == "live_turns_unavailable"
    assert stream.numbers == list(range(1, len(stream.data) + 1))
    assert REPLY.startswith(stream.text)
    assert (turn["status"], turn["assistant_response"]) == ("completed", REPLY)


# Requests that concern an earlier turn


@pytest.mark.parametrize(
    ("method", "verb", "path"),
    [("join", "GET", "/api/chat/turns/{id}/stream"), ("stop", "POST", "/api/chat/turns/{id}/stop")],
    ids=["rejoin", "stop"],
)
async def test_a_turn_can_be_rejoined_and_stopped_once_its_log_is_available_again(
    method: str, verb: str, path: str
) -> None:
    live_turns = FailingLiveTurns(method, first_call=2 if method == "join" else 1)
    async with serving(live_turns, HANGS) as (service, _), streaming(service) as stream:
        await stream.until(b'"lo"')
        rejected = await within_timeout(service.client.request(verb, path.format(id=stream.turn_id)))
        running = await last_turn(service)
        live_turns.recover()
        stopped = await within_timeout(service.client.post(f"/api/chat/turns/{stream.turn_id}/stop"))
        rejoined = await within_timeout(service.client.get(f"/api/chat/turns/{stream.turn_id}/stream"))
        await stream.until(b"[DONE]")

        assert_unavailable(rejected)
        assert running["status"] == "in_progress"
        assert (stopped.json()["status"], stopped.json()["reason"]) == ("interrupted", "cancelled")
        assert rejoined.content == stream.events


async def test_a_deletion_whose_event_logs_remain_is_unavailable_and_can_be_repeated() -> None:
    live_turns = FailingLiveTurns("discard")
    async with serving(live_turns) as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        rejected = await within_timeout(service.client.delete("/api/chat/history/user123"))
        live_turns.recover()
        repeated = await within_timeout(service.client.delete("/api/chat/history/user123"))
        stream = await service.client.get(f"/api/chat/turns/{turn_id}/stream")

    assert_unavailable(rejected)
    assert repeated.status_code == 200
    assert stream.status_code == 404
