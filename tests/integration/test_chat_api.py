"""Sending a message over a real socket: the documented bytes, and what the model gets to see."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from application.ports.llm import LLMDisconnected, LLMUnreachable
from tests.harness.chat import (
    HANGS,
    HELLO,
    SILENT,
    WHOLE,
    eventually,
    has_turns,
    last_turn,
    post,
    serving,
    streaming,
    until,
)
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import running_service

pytestmark = pytest.mark.server

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


async def test_a_stream_is_the_documented_bytes_with_numbers() -> None:
    async with serving() as (service, _):
        answer = await post(service)

        assert (answer.status_code, answer.content) == (200, WHOLE)


async def test_a_stream_has_the_headers_that_keep_it_flowing() -> None:
    async with serving() as (service, _):
        headers = (await post(service)).headers

        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in headers
        assert "Content-Encoding" not in headers


async def test_a_stream_names_its_turn_and_its_request() -> None:
    async with serving() as (service, _):
        headers = (await post(service)).headers

        assert re.fullmatch(UUID, headers["X-Turn-ID"])
        assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-ID"])
        assert (await last_turn(service))["id"] == headers["X-Turn-ID"]


async def test_a_client_that_reads_only_what_is_documented_gets_the_reply() -> None:
    async with serving() as (service, _), service.client.stream("POST", "/api/chat", json=HELLO) as response:
        text, done = "", False
        async for line in response.aiter_lines():
            if line.startswith("data: ") and not done:
                done = line[6:] == "[DONE]"
                text += "" if done else json.loads(line[6:])["content"]

        assert (text, done) == ("Hello, world!", True)


async def test_text_comes_as_it_was_generated() -> None:
    nasty = ("a\r\nb", "\n\n", "data: [DONE]\n\n", "\u2028", "é世👋", '"\\', "<script>")
    async with serving(ScriptedReply(deltas=nasty)) as (service, _):
        answer = await post(service)
        events = [json.loads(line[6:]) for line in answer.content.decode().split("\n") if line.startswith("data: {")]

        assert [event["content"] for event in events] == [*nasty, ""]
        assert (await last_turn(service))["assistant_response"] == "".join(nasty)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_another_finish_reason_than_stop_is_told_and_kept(reason: str) -> None:
    async with serving(ScriptedReply(deltas=("Hel",), finish_reason=reason)) as (service, _):
        answer = await post(service)

        assert f'data: {{"content": "", "done": true, "finish_reason": "{reason}"}}\n\n'.encode() in answer.content
        turn = await last_turn(service)
        assert (turn["status"], turn["reason"]) == ("completed", reason)


async def test_a_failure_in_mid_stream_ends_it_with_an_error_in_the_documented_shape() -> None:
    async with serving(ScriptedReply(deltas=("Hel",), failure=LLMDisconnected())) as (service, _):
        answer = await post(service)
        turn_id = answer.headers["X-Turn-ID"]

        assert (
            answer.content
            == (
                'id: 1\ndata: {"content": "Hel", "done": false}\n\n'
                'id: 2\ndata: {"content": "", "done": true, "error": {"code": "upstream_disconnected", '
                '"title": "The connection to the model service broke", '
                '"detail": "The connection to the model service broke.", '
                f'"turn_id": "{turn_id}", "retryable": true}}}}\n\n'
                "id: 3\ndata: [DONE]\n\n"
            ).encode()
        )


async def test_a_refusal_before_the_stream_is_a_plain_problem_that_names_the_turn() -> None:
    async with serving(ScriptedReply(refusal=LLMUnreachable())) as (service, _):
        answer = await post(service)

        assert (answer.status_code, answer.headers["Content-Type"]) == (502, "application/problem+json")
        assert answer.json()["code"] == "upstream_unreachable"
        assert answer.json()["turn_id"] == answer.headers["X-Turn-ID"] == (await last_turn(service))["id"]
        assert answer.headers["Retry-After"] == "1"
        assert (await last_turn(service))["status"] == "failed"


async def test_done_means_that_the_turn_is_stored() -> None:
    async with serving(ScriptedReply(pause=0.01)) as (service, _), streaming(service) as stream:
        await stream.until(b'"done": true')

        assert (await last_turn(service))["status"] == "completed"


async def test_a_silent_stream_carries_comments() -> None:
    async with serving(HANGS, comment_interval=0.02) as (service, _), streaming(service) as stream:
        await until(lambda: stream.received.count(b": keep-alive\n") >= 3)

        assert stream.events == (
            b'id: 1\ndata: {"content": "Hel", "done": false}\n\nid: 2\ndata: {"content": "lo", "done": false}\n\n'
        )


async def test_a_stream_without_silence_carries_no_comments() -> None:
    async with serving(ScriptedReply(deltas=("a",) * 30, pause=0.005), comment_interval=10) as (service, _):
        assert b": keep-alive" not in (await post(service)).content


async def test_the_headers_leave_after_a_while_although_the_model_has_not_answered() -> None:
    class Slow(ScriptedLLM):
        @asynccontextmanager
        async def reply(self, messages: Any) -> AsyncIterator[Any]:
            await answering.wait()
            async with super().reply(messages) as reply:
                yield reply

    answering = anyio.Event()
    async with (
        running_service({"llm": Slow(ScriptedReply(refusal=LLMUnreachable()))}, header_hold=0.02) as service,
        streaming(service) as stream,
    ):
        assert stream.response.status_code == 200
        answering.set()
        await stream.until(b"[DONE]")

        assert b'"error": {"code": "upstream_unreachable"' in stream.received


async def test_the_headers_leave_when_the_model_answers_although_it_says_nothing_yet() -> None:
    async with serving(SILENT, header_hold=3000) as (service, _), streaming(service) as stream:
        assert stream.response.status_code == 200


async def test_a_simple_reply_has_the_documented_keys_in_their_order() -> None:
    async with serving() as (service, _):
        answer = await post(service, "/api/chat/simple")

        assert answer.status_code == 200
        assert list(answer.json()) == ["user_id", "message", "response", "timestamp"]
        assert answer.json() | {"timestamp": ""} == HELLO | {"response": "Hello, world!", "timestamp": ""}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer.json()["timestamp"])
        assert answer.headers["X-Turn-ID"] == (await last_turn(service))["id"]


async def test_a_simple_reply_tells_another_finish_reason_than_stop_last() -> None:
    async with serving(ScriptedReply(finish_reason="length")) as (service, _):
        answer = (await post(service, "/api/chat/simple")).json()

        assert list(answer) == ["user_id", "message", "response", "timestamp", "finish_reason"]
        assert answer["finish_reason"] == "length"


async def test_a_simple_reply_that_was_cut_is_no_success_and_its_text_is_in_the_history() -> None:
    async with serving(ScriptedReply(deltas=("Hel",), failure=LLMDisconnected())) as (service, _):
        answer = await post(service, "/api/chat/simple")

        assert (answer.status_code, answer.json()["code"]) == (502, "upstream_disconnected")
        turn = (await service.client.get(f"/api/chat/turns/{answer.json()['turn_id']}")).json()
        assert (turn["assistant_response"], turn["status"]) == ("Hel", "interrupted")


async def test_a_simple_reply_that_was_stopped_is_a_conflict() -> None:
    async with serving(HANGS) as (service, _):
        asking = asyncio.create_task(post(service, "/api/chat/simple"))
        await eventually(lambda: has_turns(service))
        await service.client.post(f"/api/chat/turns/{(await last_turn(service))['id']}/stop")

        assert ((await asking).status_code, (await asking).json()["code"]) == (409, "cancelled")


async def test_the_model_sees_the_instructions_the_earlier_turns_and_the_message() -> None:
    async with serving(system_prompt="Answer like a pirate.") as (service, llm):
        await post(service, message="One")
        await post(service, "/api/chat/simple", message="Two")
        await post(service, message="Three")

        assert [(each.role.value, each.text) for each in llm.asked[2]] == [
            ("system", "Answer like a pirate."),
            ("user", "One"),
            ("assistant", "Hello, world!"),
            ("user", "Two"),
            ("assistant", "Hello, world!"),
            ("user", "Three"),
        ]


async def test_the_model_sees_nothing_of_other_conversations_and_other_users() -> None:
    async with serving() as (service, llm):
        await post(service, message="One", conversation_id="work")
        await post(service, message="Two", user_id="ben")
        await post(service, message="Three")

        assert [each.text for each in llm.asked[2]][1:] == ["Three"]
