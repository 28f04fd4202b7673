"""One turn over HTTP: getting, stopping and rejoining it."""

import asyncio
from contextlib import AsyncExitStack

import anyio
import httpx2
import pytest

from tests.harness.chat import (
    HANGS,
    SILENT,
    WHOLE,
    last_turn,
    post,
    serving,
    streaming,
)
from tests.harness.fakes import ScriptedReply
from tests.harness.servers import Service

pytestmark = pytest.mark.server

UNKNOWN = "0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"
INVALID_NUMBERS = ("x", "-1", "1.0", "+1", "1e3", "٣", "²", "0x1", "9" * 10, "9" * 5000, "1,2", "1\t2", "a" * 100)


async def test_stopping_a_turn_returns_it_as_stored_and_ends_its_stream() -> None:
    async with serving(HANGS) as (service, llm), streaming(service) as stream:
        await stream.until(b'"lo"')
        response = await service.client.post(f"/api/chat/turns/{stream.turn_id}/stop")

        assert response.status_code == 200
        assert response.json() == await last_turn(service)
        ended = (response.json()["assistant_response"], response.json()["status"], response.json()["reason"])
        assert ended == ("Hello", "interrupted", "cancelled")
        await stream.until(b"[DONE]")
        assert b'"error": {"code": "cancelled"' in stream.received
        assert b'"retryable": false' in stream.received
        assert llm.open == 0


async def test_a_turn_can_be_stopped_before_its_first_delta() -> None:
    async with serving(SILENT) as (service, _), streaming(service) as stream:
        response = await service.client.post(f"/api/chat/turns/{stream.turn_id}/stop")

        ended = (response.json()["assistant_response"], response.json()["status"], response.json()["reason"])
        assert ended == ("", "interrupted", "cancelled")


async def test_stopping_is_idempotent() -> None:
    async with serving(HANGS) as (service, _), streaming(service) as stream:
        await stream.until(b'"lo"')
        path = f"/api/chat/turns/{stream.turn_id}/stop"
        together = await asyncio.gather(*[service.client.post(path) for _ in range(5)])
        later = await service.client.post(path)

        assert [response.json() for response in together] == [later.json()] * 5


async def test_stopping_a_completed_turn_leaves_it_completed() -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        response = await service.client.post(f"/api/chat/turns/{turn_id}/stop")

        assert (response.json()["status"], response.json()["assistant_response"]) == ("completed", "Hello, world!")


async def test_a_running_turn_is_returned_with_the_same_fields_as_in_the_history() -> None:
    async with serving(HANGS) as (service, _), streaming(service) as stream:
        await stream.until(b'"lo"')
        turn = (await service.client.get(f"/api/chat/turns/{stream.turn_id}")).json()

        assert (turn["status"], turn["reason"]) == ("in_progress", None)
        assert turn == await last_turn(service)


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/stop"), ("GET", "/stream")])
async def test_an_unknown_or_malformed_turn_is_not_found(method: str, path: str) -> None:
    async with serving() as (service, _):
        ids = (UNKNOWN, UNKNOWN.upper(), "nonsense", "*", "%00", "%0a", "%ff", "%F0%9F%98%80", "x" * 5000)
        responses = [await service.client.request(method, f"/api/chat/turns/{id}{path}") for id in ids]

        assert [(response.status_code, response.json()["code"]) for response in responses] == [
            (404, "turn_not_found")
        ] * 9


async def follow(service: Service, turn_id: str, after: str, how: str) -> httpx2.Response:
    path = f"/api/chat/turns/{turn_id}/stream"
    if how == "query":
        return await service.client.get(path, params={"after": after})
    return await service.client.get(path, headers=[(b"Last-Event-ID", after.encode())])


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_finished_turn_is_replayed_byte_for_byte_after_any_event(how: str) -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        responses = [await follow(service, turn_id, str(after), how) for after in range(6)]

        assert {response.headers["X-Turn-ID"] for response in responses} == {turn_id}
        assert {response.headers["Content-Type"] for response in responses} == {"text/event-stream; charset=utf-8"}
        assert [response.content for response in responses] == [
            WHOLE[WHOLE.index(b"id: %d" % n) :] for n in range(1, 7)
        ]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_resuming_after_the_last_event_of_a_finished_turn_has_no_content(how: str) -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        responses = [await follow(service, turn_id, after, how) for after in ("6", "7", "999999999")]

        assert [(response.status_code, response.content) for response in responses] == [(204, b"")] * 3


@pytest.mark.parametrize(("how", "pointer"), [("header", "#/header/Last-Event-ID"), ("query", "#/query/after")])
async def test_an_invalid_event_number_is_rejected(how: str, pointer: str) -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        responses = {after: await follow(service, turn_id, after, how) for after in INVALID_NUMBERS}

        assert {after: response.status_code for after, response in responses.items()} == dict.fromkeys(
            INVALID_NUMBERS, 400
        )
        assert {response.json()["code"] for response in responses.values()} == {"invalid_request"}
        assert {error["pointer"] for response in responses.values() for error in response.json()["errors"]} == {pointer}


async def test_an_invalid_event_number_in_the_query_is_rejected_although_the_header_takes_precedence() -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        path = f"/api/chat/turns/{turn_id}/stream?after=x"
        response = await service.client.get(path, headers={"Last-Event-ID": "1"})
        assert (400, "#/query/after") == (response.status_code, response.json()["errors"][0]["pointer"])


async def test_the_header_takes_precedence_over_the_query() -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        path = f"/api/chat/turns/{turn_id}/stream?after=1"

        assert (await service.client.get(path, headers={"Last-Event-ID": "5"})).content == b"id: 6\ndata: [DONE]\n\n"


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_running_turn_is_replayed_and_followed_to_its_end(after: int) -> None:
    async with serving(HANGS) as (service, _), streaming(service) as first:
        await first.until(b'"lo"')
        async with streaming(service, f"/api/chat/turns/{first.turn_id}/stream?after={after}") as second:
            await service.client.post(f"/api/chat/turns/{first.turn_id}/stop")
            await first.until(b"[DONE]")
            await second.until(b"[DONE]")

            assert second.events == first.events[first.events.index(b"id: %d" % (after + 1)) :]


@pytest.mark.row("C20")
async def test_two_readers_receive_the_same_bytes() -> None:
    reply = ScriptedReply(deltas=("a", "b") * 20, pause=0.003)
    async with serving(reply) as (service, _), streaming(service) as first:
        rejoined = await service.client.get(f"/api/chat/turns/{first.turn_id}/stream")
        await first.until(b"[DONE]")

        assert first.events == rejoined.content


async def test_all_events_are_replayed_without_an_event_number() -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]

        assert (await service.client.get(f"/api/chat/turns/{turn_id}/stream")).content == WHOLE


async def test_events_up_to_a_future_event_number_are_skipped() -> None:
    reply = ScriptedReply(deltas=[str(number) for number in range(20)], pause=0.01)
    async with serving(reply) as (service, _), streaming(service) as first:
        await first.until(b'"0"')
        async with streaming(service, f"/api/chat/turns/{first.turn_id}/stream?after=15") as second:
            await first.until(b"[DONE]")
            await second.until(b"[DONE]")

            assert second.events == first.events[first.events.index(b"id: 16\n") :]


@pytest.mark.parametrize("after", [3, 4, 5, 999])
async def test_a_running_turn_that_ends_before_a_future_event_number_is_followed_to_its_end(after: int) -> None:
    async with serving(HANGS) as (service, _), streaming(service) as first:
        await first.until(b'"lo"')
        async with streaming(service, f"/api/chat/turns/{first.turn_id}/stream?after={after}") as second:
            await service.client.post(f"/api/chat/turns/{first.turn_id}/stop")
            await first.until(b"[DONE]")
            await second.until(b"[DONE]")

            assert second.events == first.events[first.events.index(b"id: 3\n") :]


async def test_a_turn_continues_while_one_of_its_readers_is_connected() -> None:
    reply = ScriptedReply(deltas=("a",) * 30, pause=0.01)
    async with serving(reply) as (service, _), AsyncExitStack() as first_stream:
        first = await first_stream.enter_async_context(streaming(service))
        await first.until(b'"a"')
        async with streaming(service, f"/api/chat/turns/{first.turn_id}/stream") as second:
            await second.until(b'"a"')
            await first_stream.aclose()
            await second.until(b"[DONE]")

        assert b'{"content": "", "done": true}' in second.received
        assert (await last_turn(service))["status"] == "completed"


@pytest.mark.row("C19")
async def test_a_stream_past_its_retention_is_gone_and_links_to_the_history() -> None:
    async with serving(arguments={"live_turns": {"retention": 0.0}}) as (service, _):
        response = await post(service, user_id="a+b@example.com", conversation_id="work|1")
        turn_id = response.headers["X-Turn-ID"]
        await anyio.sleep(0.01)
        response = await service.client.get(f"/api/chat/turns/{turn_id}/stream")

        assert (response.status_code, response.json()["code"]) == (410, "stream_expired")
        linked = (await service.client.get(response.json()["history"])).json()
        assert [turn["id"] for turn in linked["history"]] == [turn_id]
