"""Sending a message over a real socket: the bytes of the response, and the prompt sent to the model."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from application.ports.llm import AS_CONFIGURED, LLMDisconnected, LLMUnreachable, ReplyOptions
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


async def test_a_stream_consists_of_the_documented_bytes() -> None:
    async with serving() as (service, _):
        response = await post(service)

        assert (response.status_code, response.content) == (200, WHOLE)


async def test_the_headers_of_a_stream_prevent_buffering_and_compression() -> None:
    async with serving() as (service, _):
        headers = (await post(service)).headers

        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert headers["Cache-Control"] == "no-cache, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in headers
        assert "Content-Encoding" not in headers


async def test_the_headers_of_a_stream_contain_the_ids_of_turn_and_request() -> None:
    async with serving() as (service, _):
        headers = (await post(service)).headers

        assert re.fullmatch(UUID, headers["X-Turn-ID"])
        assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-ID"])
        assert (await last_turn(service))["id"] == headers["X-Turn-ID"]


async def test_a_client_that_knows_only_the_original_format_receives_the_reply() -> None:
    async with serving() as (service, _), service.client.stream("POST", "/api/chat", json=HELLO) as response:
        text, done = "", False
        async for line in response.aiter_lines():
            if line.startswith("data: ") and not done:
                done = line[6:] == "[DONE]"
                text += "" if done else json.loads(line[6:])["content"]

        assert (text, done) == ("Hello, world!", True)


async def test_deltas_are_delivered_unchanged() -> None:
    tricky = ("a\r\nb", "\n\n", "data: [DONE]\n\n", "\u2028", "é世👋", '"\\', "<script>")
    async with serving(ScriptedReply(deltas=tricky)) as (service, _):
        response = await post(service)
        events = [json.loads(line[6:]) for line in response.content.decode().split("\n") if line.startswith("data: {")]

        assert [event["content"] for event in events] == [*tricky, ""]
        assert (await last_turn(service))["assistant_response"] == "".join(tricky)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_finish_reason_other_than_stop_is_sent_and_stored(reason: str) -> None:
    async with serving(ScriptedReply(deltas=("Hel",), finish_reason=reason)) as (service, _):
        response = await post(service)

        assert f'data: {{"content": "", "done": true, "finish_reason": "{reason}"}}\n\n'.encode() in response.content
        turn = await last_turn(service)
        assert (turn["status"], turn["reason"]) == ("completed", reason)


async def test_a_failure_in_mid_stream_is_sent_as_the_documented_error_event() -> None:
    async with serving(ScriptedReply(deltas=("Hel",), failure=LLMDisconnected())) as (service, _):
        response = await post(service)
        turn_id = response.headers["X-Turn-ID"]

        assert (
            response.content
            == (
                'id: 1\ndata: {"content": "Hel", "done": false}\n\n'
                'id: 2\ndata: {"content": "", "done": true, "error": {"code": "upstream_disconnected", '
                '"title": "The connection to the model service broke", '
                '"detail": "The connection to the model service broke.", '
                f'"turn_id": "{turn_id}", "retryable": true}}}}\n\n'
                "id: 3\ndata: [DONE]\n\n"
            ).encode()
        )


async def test_a_failure_before_the_stream_is_a_problem_that_names_the_turn() -> None:
    async with serving(ScriptedReply(refusal=LLMUnreachable())) as (service, _):
        response = await post(service)

        assert (response.status_code, response.headers["Content-Type"]) == (502, "application/problem+json")
        assert response.json()["code"] == "upstream_unreachable"
        assert response.json()["turn_id"] == response.headers["X-Turn-ID"] == (await last_turn(service))["id"]
        assert response.headers["Retry-After"] == "1"
        assert (await last_turn(service))["status"] == "failed"


async def test_a_turn_is_stored_when_done_is_sent() -> None:
    async with serving(ScriptedReply(pause=0.01)) as (service, _), streaming(service) as stream:
        await stream.until(b'"done": true')

        assert (await last_turn(service))["status"] == "completed"


async def test_an_idle_stream_sends_keep_alive_comments() -> None:
    async with serving(HANGS, comment_interval=0.02) as (service, _), streaming(service) as stream:
        await until(lambda: stream.received.count(b": keep-alive\n") >= 3)

        assert stream.events == (
            b'id: 1\ndata: {"content": "Hel", "done": false}\n\nid: 2\ndata: {"content": "lo", "done": false}\n\n'
        )


async def test_a_busy_stream_sends_no_keep_alive_comments() -> None:
    async with serving(ScriptedReply(deltas=("a",) * 30, pause=0.005), comment_interval=10) as (service, _):
        assert b": keep-alive" not in (await post(service)).content


async def test_the_headers_are_sent_after_a_while_even_if_the_model_has_not_responded() -> None:
    class SlowLLM(ScriptedLLM):
        @asynccontextmanager
        async def reply(
            self, messages: Any, max_tokens: int | None = None, options: ReplyOptions = AS_CONFIGURED
        ) -> AsyncIterator[Any]:
            await accepting.wait()
            async with super().reply(messages, max_tokens, options) as reply:
                yield reply

    accepting = anyio.Event()
    async with (
        running_service({"llm": SlowLLM(ScriptedReply(refusal=LLMUnreachable()))}, header_hold=0.02) as service,
        streaming(service) as stream,
    ):
        assert stream.response.status_code == 200
        accepting.set()
        await stream.until(b"[DONE]")

        assert b'"error": {"code": "upstream_unreachable"' in stream.received


async def test_the_headers_are_sent_as_soon_as_the_model_accepts_the_request() -> None:
    async with serving(SILENT, header_hold=3000) as (service, _), streaming(service) as stream:
        assert stream.response.status_code == 200


async def test_a_simple_reply_has_the_documented_keys_in_order() -> None:
    async with serving() as (service, _):
        response = await post(service, "/api/chat/simple")

        assert response.status_code == 200
        assert list(response.json()) == ["user_id", "message", "response", "timestamp"]
        assert response.json() | {"timestamp": ""} == HELLO | {"response": "Hello, world!", "timestamp": ""}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", response.json()["timestamp"])
        assert response.headers["X-Turn-ID"] == (await last_turn(service))["id"]


async def test_a_finish_reason_other_than_stop_is_the_last_key_of_a_simple_reply() -> None:
    async with serving(ScriptedReply(finish_reason="length")) as (service, _):
        response = (await post(service, "/api/chat/simple")).json()

        assert list(response) == ["user_id", "message", "response", "timestamp", "finish_reason"]
        assert response["finish_reason"] == "length"


async def test_an_interrupted_simple_reply_is_a_problem_and_its_text_is_in_the_history() -> None:
    async with serving(ScriptedReply(deltas=("Hel",), failure=LLMDisconnected())) as (service, _):
        response = await post(service, "/api/chat/simple")

        assert (response.status_code, response.json()["code"]) == (502, "upstream_disconnected")
        turn = (await service.client.get(f"/api/chat/turns/{response.json()['turn_id']}")).json()
        assert (turn["assistant_response"], turn["status"]) == ("Hel", "interrupted")


async def test_a_stopped_simple_reply_is_a_conflict() -> None:
    async with serving(HANGS) as (service, _):
        sending = asyncio.create_task(post(service, "/api/chat/simple"))
        await eventually(lambda: has_turns(service))
        await service.client.post(f"/api/chat/turns/{(await last_turn(service))['id']}/stop")

        assert ((await sending).status_code, (await sending).json()["code"]) == (409, "cancelled")


async def test_the_prompt_contains_instructions_earlier_turns_and_the_message() -> None:
    async with serving(system_prompt="Answer like a pirate.") as (service, llm):
        await post(service, message="One")
        await post(service, "/api/chat/simple", message="Two")
        await post(service, message="Three")

        assert [(message.role.value, message.text) for message in llm.asked[2]] == [
            ("system", "Answer like a pirate."),
            ("user", "One"),
            ("assistant", "Hello, world!"),
            ("user", "Two"),
            ("assistant", "Hello, world!"),
            ("user", "Three"),
        ]


async def test_an_empty_system_prompt_sends_no_system_message() -> None:
    async with serving(system_prompt="") as (service, llm):
        await post(service, message="One")

        assert [(message.role.value, message.text) for message in llm.asked[0]] == [("user", "One")]


async def test_the_prompt_contains_nothing_of_other_conversations_or_users() -> None:
    async with serving() as (service, llm):
        await post(service, message="One", conversation_id="work")
        await post(service, message="Two", user_id="ben")
        await post(service, message="Three")

        assert [message.text for message in llm.asked[2]][1:] == ["Three"]
