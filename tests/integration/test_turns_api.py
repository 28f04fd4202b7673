"""One turn over HTTP: looked at, stopped, rejoined."""

import asyncio

import anyio
import httpx2
import pytest

from domain.conversation import TurnId
from tests.harness.chat import (
    HANGS,
    SILENT,
    WHOLE,
    last_turn,
    post,
    serving,
    streaming,
    until,
)
from tests.harness.fakes import ScriptedReply
from tests.harness.servers import Service

pytestmark = pytest.mark.server

UNKNOWN = "0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d"
GARBAGE = ("x", "-1", "1.0", "+1", "1e3", "٣", "²", "0x1", "9" * 10, "9" * 5000, "1,2", "1\t2", "a" * 100)


async def test_a_stopped_turn_is_returned_as_it_ended_and_its_stream_says_so() -> None:
    async with serving(HANGS) as (service, llm), streaming(service) as stream:
        await stream.until(b'"lo"')
        answer = await service.client.post(f"/api/chat/turns/{stream.turn_id}/stop")

        assert answer.status_code == 200
        assert answer.json() == await last_turn(service)
        ended = (answer.json()["assistant_response"], answer.json()["status"], answer.json()["reason"])
        assert ended == ("Hello", "interrupted", "cancelled")
        await stream.until(b"[DONE]")
        assert b'"error": {"code": "cancelled"' in stream.received
        assert b'"retryable": false' in stream.received
        assert llm.open == 0


async def test_a_turn_can_be_stopped_before_its_first_token() -> None:
    async with serving(SILENT) as (service, _), streaming(service) as stream:
        answer = await service.client.post(f"/api/chat/turns/{stream.turn_id}/stop")

        ended = (answer.json()["assistant_response"], answer.json()["status"], answer.json()["reason"])
        assert ended == ("", "interrupted", "cancelled")


async def test_stopping_again_returns_the_same_turn() -> None:
    async with serving(HANGS) as (service, _), streaming(service) as stream:
        await stream.until(b'"lo"')
        path = f"/api/chat/turns/{stream.turn_id}/stop"
        together = await asyncio.gather(*[service.client.post(path) for _ in range(5)])
        later = await service.client.post(path)

        assert [answer.json() for answer in together] == [later.json()] * 5


async def test_stopping_a_completed_turn_leaves_it_completed() -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        answer = await service.client.post(f"/api/chat/turns/{turn_id}/stop")

        assert (answer.json()["status"], answer.json()["assistant_response"]) == ("completed", "Hello, world!")


async def test_a_running_turn_can_be_looked_at() -> None:
    async with serving(HANGS) as (service, _), streaming(service) as stream:
        await stream.until(b'"lo"')
        turn = (await service.client.get(f"/api/chat/turns/{stream.turn_id}")).json()

        assert (turn["status"], turn["reason"]) == ("in_progress", None)
        assert turn == await last_turn(service)


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/stop"), ("GET", "/stream")])
async def test_an_unknown_or_malformed_turn_is_not_found(method: str, path: str) -> None:
    async with serving() as (service, _):
        ids = (UNKNOWN, UNKNOWN.upper(), "nonsense", "*", "%00", "%0a", "%ff", "%F0%9F%98%80", "x" * 5000)
        answers = [await service.client.request(method, f"/api/chat/turns/{id}{path}") for id in ids]

        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "turn_not_found")] * 9


async def follow(service: Service, turn_id: str, after: str, how: str) -> httpx2.Response:
    path = f"/api/chat/turns/{turn_id}/stream"
    if how == "query":
        return await service.client.get(path, params={"after": after})
    return await service.client.get(path, headers=[(b"Last-Event-ID", after.encode())])


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_finished_turn_is_replayed_byte_by_byte_behind_any_event(how: str) -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        answers = [await follow(service, turn_id, str(after), how) for after in range(6)]

        assert {answer.headers["X-Turn-ID"] for answer in answers} == {turn_id}
        assert {answer.headers["Content-Type"] for answer in answers} == {"text/event-stream; charset=utf-8"}
        assert [answer.content for answer in answers] == [WHOLE[WHOLE.index(b"id: %d" % n) :] for n in range(1, 7)]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_behind_the_last_event_of_a_finished_turn_there_is_nothing(how: str) -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        answers = [await follow(service, turn_id, after, how) for after in ("6", "7", "999999999")]

        assert [(answer.status_code, answer.content) for answer in answers] == [(204, b"")] * 3


@pytest.mark.parametrize(("how", "where"), [("header", "#/header/Last-Event-ID"), ("query", "#/query/after")])
async def test_a_number_that_is_none_is_refused(how: str, where: str) -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]
        answers = {after: await follow(service, turn_id, after, how) for after in GARBAGE}

        assert {after: answer.status_code for after, answer in answers.items()} == dict.fromkeys(GARBAGE, 400)
        assert {answer.json()["code"] for answer in answers.values()} == {"invalid_request"}
        assert {one["pointer"] for answer in answers.values() for one in answer.json()["errors"]} == {where}


async def test_the_header_goes_before_the_query() -> None:
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
async def test_two_readers_get_the_same_bytes() -> None:
    reply = ScriptedReply(deltas=("a", "b") * 20, pause=0.003)
    async with serving(reply) as (service, _), streaming(service) as first:
        rejoined = await service.client.get(f"/api/chat/turns/{first.turn_id}/stream")
        await first.until(b"[DONE]")

        assert first.events == rejoined.content


async def test_without_a_number_everything_is_replayed() -> None:
    async with serving() as (service, _):
        turn_id = (await post(service)).headers["X-Turn-ID"]

        assert (await service.client.get(f"/api/chat/turns/{turn_id}/stream")).content == WHOLE


async def test_behind_what_is_yet_to_come_only_that_is_sent() -> None:
    reply = ScriptedReply(deltas=[str(number) for number in range(20)], pause=0.01)
    async with serving(reply) as (service, _), streaming(service) as first:
        await first.until(b'"0"')
        async with streaming(service, f"/api/chat/turns/{first.turn_id}/stream?after=15") as second:
            await first.until(b"[DONE]")
            await second.until(b"[DONE]")

            assert second.events == first.events[first.events.index(b"id: 16\n") :]


async def test_a_turn_outlives_its_first_reader_while_another_reads() -> None:
    async with serving(ScriptedReply(deltas=("a",) * 30, pause=0.01)) as (service, _):
        async with streaming(service) as first:
            await first.until(b'"a"')
            turn_id = first.turn_id
            rejoined = asyncio.create_task(service.client.get(f"/api/chat/turns/{turn_id}/stream"))
            await until(lambda: service.container.live_turns()._logs[TurnId(turn_id)].readers == 2)

        assert b'{"content": "", "done": true}' in (await rejoined).content
        assert (await last_turn(service))["status"] == "completed"


@pytest.mark.row("C19")
async def test_after_its_retention_a_turn_is_gone_as_a_stream_and_the_way_to_its_text_is_told() -> None:
    async with serving(arguments={"live_turns": {"retention": 0.0}}) as (service, _):
        answer = await post(service, user_id="a+b@example.com", conversation_id="work|1")
        turn_id = answer.headers["X-Turn-ID"]
        await anyio.sleep(0.01)
        answer = await service.client.get(f"/api/chat/turns/{turn_id}/stream")

        assert (answer.status_code, answer.json()["code"]) == (410, "stream_expired")
        linked = (await service.client.get(answer.json()["history"])).json()
        assert [turn["id"] for turn in linked["history"]] == [turn_id]
