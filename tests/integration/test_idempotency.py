"""Requests that are repeated with the same `Idempotency-Key`, over HTTP."""

import asyncio
from typing import Any

import httpx2
import pytest

from adapters.history_in_memory import HistoryInMemory
from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.llm import LLMUnreachable
from tests.harness.chat import (
    HANGS,
    HELLO,
    SILENT,
    WHOLE,
    eventually,
    has_status,
    history,
    last_turn,
    serving,
    streaming,
    until,
)
from tests.harness.chat_stream import ChatStream
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import Service, running_service

pytestmark = pytest.mark.server

PATHS = ("/api/chat", "/api/chat/simple")
REFUSED = ScriptedReply(refusal=LLMUnreachable())


async def send(service: Service, path: str = "/api/chat", key: str = "k", **fields: Any) -> httpx2.Response:
    headers = {"Idempotency-Key": key} | fields.pop("headers", {})
    return await service.client.post(path, json=HELLO | fields, headers=headers)


def replayed(response: httpx2.Response) -> bool:
    return response.headers.get("Idempotency-Replayed") == "true"


@pytest.mark.row("C15")
async def test_a_repeated_stream_is_the_same_to_the_byte_and_asks_no_model() -> None:
    async with serving() as (service, llm):
        first, again = await send(service), await send(service)

        assert first.content == again.content == WHOLE
        assert [False, True] == [replayed(first), replayed(again)]
        assert first.headers["X-Turn-ID"] == again.headers["X-Turn-ID"]
        assert "text/event-stream; charset=utf-8" == again.headers["Content-Type"]
        assert 1 == len(llm.asked) == (await history(service))["count"]


@pytest.mark.row("C15")
async def test_a_repeated_simple_request_has_the_same_body() -> None:
    async with serving() as (service, llm):
        first, again = await send(service, "/api/chat/simple"), await send(service, "/api/chat/simple")

        assert (200, first.content) == (again.status_code, again.content)
        assert [False, True] == [replayed(first), replayed(again)]
        assert first.headers["X-Turn-ID"] == again.headers["X-Turn-ID"]
        assert 1 == len(llm.asked) == (await history(service))["count"]


@pytest.mark.row("C15")
async def test_a_key_names_one_turn_whichever_endpoint_is_asked() -> None:
    async with serving(ScriptedReply(finish_reason="length")) as (service, llm):
        streamed, whole = await send(service), await send(service, "/api/chat/simple")

        assert ChatStream.of(streamed.content).text == whole.json()["response"] == "Hello, world!"
        assert "length" == whole.json()["finish_reason"] == ChatStream.of(streamed.content).last["finish_reason"]
        assert streamed.headers["X-Turn-ID"] == whole.headers["X-Turn-ID"]
        assert len(llm.asked) == 1


async def test_a_reply_is_one_delta_once_its_events_are_no_longer_kept() -> None:
    parts = {"llm": ScriptedLLM(), "live_turns": LiveTurnsInProcess(max_retained_bytes=0)}
    async with running_service(parts) as service:
        first, again = await send(service), await send(service)

        assert ["Hello, world!"] == ChatStream.of(again.content).deltas
        assert ChatStream.of(first.content).last == ChatStream.of(again.content).last
        resumed = await send(service, headers={"Last-Event-ID": "2"})
        expired = (resumed.status_code, resumed.json()["code"], resumed.json()["history"])
        assert (410, "stream_expired", "/api/chat/history/user123?conversation_id=default") == expired


@pytest.mark.parametrize("path", PATHS)
async def test_twenty_requests_with_one_key_at_the_same_time_ask_the_model_once(path: str) -> None:
    async with serving(ScriptedReply(pause=0.01)) as (service, llm):
        responses = await asyncio.gather(*(send(service, path) for _ in range(20)))

        assert [200] * 20 == [response.status_code for response in responses]
        assert 1 == len({response.content for response in responses})
        assert 1 == len({response.headers["X-Turn-ID"] for response in responses})
        assert 19 == sum(map(replayed, responses))
        assert 1 == len(llm.asked) == (await history(service))["count"]


async def test_many_keys_of_one_user_each_run_once() -> None:
    async with serving() as (service, llm):
        # Conversations of their own, because a conversation queues at most four turns.
        keys = [f"key-{n}" for n in range(100)] * 3
        responses = await asyncio.gather(*(send(service, PATHS[1], key, conversation_id=key) for key in keys))

        assert {200} == {response.status_code for response in responses}
        assert 100 == len(llm.asked) == (await history(service, "?limit=200"))["count"]


async def test_a_retry_is_let_back_into_a_running_stream_from_its_first_event() -> None:
    async with serving(HANGS) as (service, llm):
        key = {"Idempotency-Key": "k"}
        async with streaming(service, headers=key) as first, streaming(service, headers=key) as again:
            await first.until(b'"lo"')
            await again.until(b'"lo"')
            await service.client.post(f"/api/chat/turns/{first.turn_id}/stop")
            await first.until(b"[DONE]")
            await again.until(b"[DONE]")

            assert first.events == again.events
            assert replayed(again.response)
        assert len(llm.asked) == 1


async def test_a_retry_is_let_back_into_a_running_stream_after_its_last_event() -> None:
    async with serving(HANGS) as (service, _):
        key = {"Idempotency-Key": "k"}
        async with streaming(service, headers=key) as first:
            await first.until(b'"lo"')
            async with streaming(service, headers=key | {"Last-Event-ID": "1"}) as again:
                await again.until(b'"lo"')

                assert again.events.startswith(b'id: 2\ndata: {"content": "lo"')


async def test_the_end_is_sent_again_to_a_client_that_has_seen_every_event() -> None:
    async with serving() as (service, _):
        await send(service)
        for seen in ("4", "5", "6"):
            resumed = await send(service, headers={"Last-Event-ID": seen})
            assert (200, True) == (resumed.status_code, replayed(resumed))
            assert ['{"content": "", "done": true}', "[DONE]"] == ChatStream.of(resumed.content).data


@pytest.mark.parametrize("path", PATHS)
async def test_the_last_event_id_is_ignored_without_a_key_and_by_the_whole_reply(path: str) -> None:
    async with serving() as (service, _):
        for headers in ({"Last-Event-ID": "x"}, {"Last-Event-ID": "x", "Idempotency-Key": "k"}):
            response = await service.client.post(path, json=HELLO, headers=headers)
            expected = 400 if path == PATHS[0] and "Idempotency-Key" in headers else 200
            assert expected == response.status_code


async def test_a_simple_retry_waits_for_the_end_of_the_running_turn() -> None:
    async with (
        serving(ScriptedReply(pause=0.05)) as (service, llm),
        streaming(service, headers={"Idempotency-Key": "k"}) as first,
    ):
        again = await send(service, PATHS[1])

        assert (200, "Hello, world!", True) == (again.status_code, again.json()["response"], replayed(again))
        assert first.turn_id == again.headers["X-Turn-ID"]
        assert len(llm.asked) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_turn_with_a_key_goes_on_if_its_client_leaves(path: str) -> None:
    async with serving(ScriptedReply(pause=0.05)) as (service, llm):
        leaving = asyncio.create_task(send(service, path))
        await until(lambda: llm.open)
        leaving.cancel()
        await asyncio.wait([leaving])
        again = await send(service, PATHS[1])

        assert (200, "Hello, world!") == (again.status_code, again.json()["response"])
        assert len(llm.asked) == 1


async def test_a_client_can_ask_for_a_turn_with_a_key_to_end_with_its_connection() -> None:
    async with serving(HANGS) as (service, _):
        headers, cancel = {"Idempotency-Key": "k"}, {"on_disconnect": "cancel"}
        async with streaming(service, headers=headers, json=cancel) as stream:
            await stream.until(b'"lo"')
        await eventually(lambda: has_status(service, "interrupted"))
        again = ChatStream.of((await send(service)).content)

        assert ("Hello", "client_disconnected") == (again.text, again.error["code"])


@pytest.mark.parametrize("path", PATHS)
async def test_a_stopped_turn_is_reported_again(path: str) -> None:
    async with serving(SILENT) as (service, llm):
        first = asyncio.create_task(send(service, path))
        await until(lambda: llm.open)
        turn_id = (await last_turn(service))["id"]
        await service.client.post(f"/api/chat/turns/{turn_id}/stop")
        first_response, again = await first, await send(service, path)

        assert (first_response.status_code, True) == (again.status_code, replayed(again))
        assert turn_id == again.headers["X-Turn-ID"]
        if path == PATHS[1]:
            assert {"request_id"} == {
                name for name, value in again.json().items() if first_response.json()[name] != value
            }
        else:
            assert first_response.content == again.content
        assert len(llm.asked) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_failed_request_runs_again_in_place_of_the_failed_turn(path: str) -> None:
    async with serving(REFUSED, ScriptedReply()) as (service, llm):
        failed = await send(service, path)
        again = await send(service, path)

        assert [502, 200] == [failed.status_code, again.status_code]
        assert failed.json()["turn_id"] != again.headers["X-Turn-ID"]
        assert not replayed(again)
        turns = (await history(service))["history"]
        assert [(again.headers["X-Turn-ID"], "completed")] == [(turn["id"], turn["status"]) for turn in turns]
        assert len(llm.asked) == 2


@pytest.mark.row("C16")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("state", ["running", "completed", "failed"])
async def test_a_key_cannot_be_used_for_another_message(path: str, state: str) -> None:
    scripts = {"running": (HANGS,), "completed": (), "failed": (REFUSED,)}[state]
    async with serving(*scripts) as (service, llm), streaming(service, headers={"Idempotency-Key": "k"}):
        if state != "running":
            await eventually(lambda: has_status(service, state))
        asked, before = len(llm.asked), await history(service)
        for other in ({"message": "Else"}, {"conversation_id": "other"}, {"memory": False}):
            response = await send(service, path, **other)
            problem = response.json()
            assert (422, "idempotency_key_reused", False) == (
                response.status_code,
                problem["code"],
                problem["retryable"],
            )
            assert "application/problem+json" == response.headers["Content-Type"]
        assert (asked, before["count"]) == (len(llm.asked), (await history(service))["count"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["", '"', "a b", "x" * 256, '"abc";a=1'])
async def test_an_invalid_key_is_rejected_and_nothing_is_stored(path: str, key: str) -> None:
    async with serving() as (service, llm):
        response = await send(service, path, key)

        assert (400, "invalid_idempotency_key") == (response.status_code, response.json()["code"])
        assert 0 == len(llm.asked) == (await history(service))["count"]


async def test_a_quoted_key_is_the_same_as_a_bare_one() -> None:
    async with serving() as (service, _):
        bare, quoted = await send(service, key="abc"), await send(service, key='"abc"')

        assert (bare.content, True) == (quoted.content, replayed(quoted))


async def test_after_a_deletion_the_key_begins_a_new_turn() -> None:
    async with serving() as (service, llm):
        first = await send(service)
        await service.client.delete("/api/chat/history/user123")
        again = await send(service)

        assert first.headers["X-Turn-ID"] != again.headers["X-Turn-ID"]
        assert not replayed(again)
        assert (2, 1) == (len(llm.asked), (await history(service))["count"])


async def test_the_key_does_not_appear_in_responses() -> None:
    async with serving() as (service, _):
        responses = [await send(service, key="my-secret-key") for _ in range(2)]
        responses.append(await send(service, key="my-secret-key", message="Else"))

        assert not any("my-secret-key" in response.text + str(response.headers) for response in responses)


async def test_requests_without_a_key_do_not_look_for_one() -> None:
    class Unsearchable(HistoryInMemory):
        async def find(self, key: object) -> Any:
            raise AssertionError("nothing to look for")

    async with running_service({"llm": ScriptedLLM(), "store": Unsearchable()}) as service:
        responses = [await service.client.post(path, json=HELLO) for path in PATHS]

        assert [200, 200] == [response.status_code for response in responses]
        assert not any(map(replayed, responses))
