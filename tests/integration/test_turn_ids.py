"""Turns whose client has chosen the id, over HTTP."""

import asyncio
from typing import Any

import httpx2
import pytest

from application.ports.llm import LLMUnreachable
from tests.harness.chat import HANGS, HELLO, SILENT, WHOLE, eventually, history, serving, streaming, until
from tests.harness.chat_stream import ChatStream
from tests.harness.fakes import ScriptedReply
from tests.harness.servers import Service

pytestmark = pytest.mark.server

PATHS = ("/api/chat", "/api/chat/simple")
REFUSED = ScriptedReply(refusal=LLMUnreachable())
ID, OTHER = "2fb4a3c1-5d0e-4b7a-9c68-0e1f7d3a9b52", "8d1c6e0f-37a4-4c95-b2e1-6a90f5c7d843"


async def send(service: Service, path: str = "/api/chat", turn_id: str = ID, **fields: Any) -> httpx2.Response:
    headers = fields.pop("headers", {})
    return await service.client.post(path, json=HELLO | {"turn_id": turn_id} | fields, headers=headers)


async def get(service: Service, turn_id: str = ID) -> httpx2.Response:
    return await service.client.get(f"/api/chat/turns/{turn_id}")


async def is_found(service: Service, turn_id: str = ID) -> bool:
    return (await get(service, turn_id)).status_code == 200


def replayed(response: httpx2.Response) -> bool:
    return response.headers.get("Idempotency-Replayed") == "true"


@pytest.mark.parametrize("path", PATHS)
async def test_a_turn_can_be_found_followed_and_stopped_before_the_model_answers(path: str) -> None:
    async with serving(SILENT) as (service, _):
        sending = asyncio.create_task(send(service, path))
        await eventually(lambda: is_found(service))
        turn = (await get(service)).json()
        async with streaming(service, f"/api/chat/turns/{ID}/stream") as follower:
            stopped = await service.client.post(f"/api/chat/turns/{ID}/stop")
            await follower.until(b"[DONE]")
        response = await sending

        assert [ID] * 3 == [turn["id"], stopped.json()["id"], follower.turn_id]
        assert ("in_progress", "interrupted") == (turn["status"], stopped.json()["status"])
        assert ID.encode() in follower.received
        assert ID == response.headers["X-Turn-ID"]
        if path == PATHS[1]:
            assert (409, "cancelled", ID) == tuple(response.json()[name] for name in ("status", "code", "turn_id"))


@pytest.mark.parametrize("path", PATHS)
async def test_the_turn_is_known_by_this_id_everywhere(path: str) -> None:
    async with serving() as (service, _):
        response = await send(service, path)
        (listed,) = (await history(service))["history"]

        assert ID == response.headers["X-Turn-ID"] == listed["id"]
        assert listed == (await get(service)).json()
        assert (204, b"") == await _stream_after(service, "9")


async def _stream_after(service: Service, after: str) -> tuple[int, bytes]:
    response = await service.client.get(f"/api/chat/turns/{ID}/stream?after={after}")
    return response.status_code, response.content


async def test_a_repeated_stream_is_the_same_to_the_byte_and_asks_no_model() -> None:
    async with serving() as (service, llm):
        first, again = await send(service), await send(service)
        whole = await send(service, PATHS[1])

        assert first.content == again.content == WHOLE
        assert "Hello, world!" == whole.json()["response"]
        assert [False, True, True] == [replayed(response) for response in (first, again, whole)]
        assert 1 == len(llm.asked) == (await history(service))["count"]


async def test_a_repeated_request_is_let_back_into_the_running_stream() -> None:
    async with serving(HANGS) as (service, llm):
        body = {"turn_id": ID}
        async with streaming(service, json=body) as first:
            await first.until(b'"lo"')
            async with streaming(service, json=body, headers={"Last-Event-ID": "1"}) as again:
                await again.until(b'"lo"')
                assert again.events.startswith(b'id: 2\ndata: {"content": "lo"')
                assert (ID, True) == (again.turn_id, replayed(again.response))
        assert len(llm.asked) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_twenty_requests_with_one_id_at_the_same_time_ask_the_model_once(path: str) -> None:
    async with serving(ScriptedReply(pause=0.01)) as (service, llm):
        responses = await asyncio.gather(*(send(service, path) for _ in range(20)))

        assert [200] * 20 == [response.status_code for response in responses]
        assert 1 == len({response.content for response in responses})
        assert {ID} == {response.headers["X-Turn-ID"] for response in responses}
        assert 1 == len(llm.asked) == (await history(service))["count"]


@pytest.mark.parametrize("path", PATHS)
async def test_the_turn_goes_on_if_its_client_leaves(path: str) -> None:
    async with serving(ScriptedReply(pause=0.05)) as (service, llm):
        leaving = asyncio.create_task(send(service, path))
        await until(lambda: llm.open)
        leaving.cancel()
        await asyncio.wait([leaving])
        again = await send(service, PATHS[1])

        assert (200, "Hello, world!") == (again.status_code, again.json()["response"])
        assert len(llm.asked) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_failed_request_runs_again_under_the_same_id(path: str) -> None:
    async with serving(REFUSED, REFUSED, ScriptedReply()) as (service, llm):
        failed = [await send(service, path) for _ in range(2)]
        seen = (await get(service)).json()
        again = await send(service, path)
        followed = await service.client.get(f"/api/chat/turns/{ID}/stream")

        assert [(502, ID)] * 2 == [(response.status_code, response.json()["turn_id"]) for response in failed]
        assert (ID, "failed") == (seen["id"], seen["status"])
        assert (200, ID, False) == (again.status_code, again.headers["X-Turn-ID"], replayed(again))
        assert "Hello, world!" == ChatStream.of(followed.content).text
        assert [(ID, "completed")] == [(turn["id"], turn["status"]) for turn in (await history(service))["history"]]
        assert len(llm.asked) == 3


@pytest.mark.parametrize("path", PATHS)
async def test_an_id_cannot_be_used_for_another_message(path: str) -> None:
    async with serving() as (service, llm):
        named_by_service = (await service.client.post(path, json=HELLO)).headers["X-Turn-ID"]
        await send(service, path)
        others: list[dict[str, Any]] = [
            {"message": "Else"},
            {"conversation_id": "other"},
            {"memory": False},
            {"turn_id": named_by_service},
        ]
        for other in others:
            response = await send(service, path, **other)
            assert (422, "idempotency_key_reused") == (response.status_code, response.json()["code"])
        assert 2 == len(llm.asked) == (await history(service))["count"]


@pytest.mark.parametrize("path", PATHS)
async def test_with_a_key_both_have_to_be_repeated(path: str) -> None:
    async with serving() as (service, llm):

        async def send_both(turn_id: str | None, key: str | None) -> httpx2.Response:
            headers = {} if key is None else {"Idempotency-Key": key}
            return await send(service, path, headers=headers, **({} if turn_id is None else {"turn_id": turn_id}))

        first, again = await send_both(ID, "k"), await send_both(ID, "k")
        others = [await send_both(*both) for both in ((OTHER, "k"), (ID, "other"), (ID, None))]
        others.append(await service.client.post(path, json=HELLO, headers={"Idempotency-Key": "k"}))

        assert [(200, ID)] * 2 == [(one.status_code, one.headers["X-Turn-ID"]) for one in (first, again)]
        assert [False, True] == [replayed(first), replayed(again)]
        assert [422] * 4 == [response.status_code for response in others]
        assert {"idempotency_key_reused"} == {response.json()["code"] for response in others}
        assert 1 == len(llm.asked) == (await history(service))["count"]


async def test_users_can_choose_the_same_id() -> None:
    async with serving() as (service, llm):
        for user in ("ann", "ben", "ann"):
            response = await send(service, user_id=user)
            assert (200, ID) == (response.status_code, response.headers["X-Turn-ID"])
        assert [[ID], [ID]] == [
            [turn["id"] for turn in (await history(service, user=user))["history"]] for user in ("ann", "ben")
        ]
        assert len(llm.asked) == 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "turn_id", [ID.upper(), ID.replace("-", ""), f"{{{ID}}}", ID + "\n", ID[:-1], "", "x", 1, "../" + ID]
)
async def test_anything_but_a_lower_case_uuid_is_rejected(path: str, turn_id: Any) -> None:
    async with serving() as (service, llm):
        response = await send(service, path, turn_id)

        assert (422, "invalid_request") == (response.status_code, response.json()["code"])
        assert ["#/turn_id"] == [error["pointer"] for error in response.json()["errors"]]
        assert 0 == len(llm.asked) == (await history(service))["count"]


async def test_after_a_deletion_the_id_can_be_used_again() -> None:
    async with serving() as (service, llm):
        await send(service)
        await service.client.delete("/api/chat/history/user123")
        assert not await is_found(service)
        again = await send(service, message="Else")

        assert (200, ID, False) == (again.status_code, again.headers["X-Turn-ID"], replayed(again))
        assert (2, 1) == (len(llm.asked), (await history(service))["count"])


async def test_without_an_id_the_service_names_the_turn() -> None:
    async with serving() as (service, _):
        response = await service.client.post(PATHS[0], json=HELLO | {"turn_id": None})

        assert 36 == len(response.headers["X-Turn-ID"])
        assert not replayed(response)
