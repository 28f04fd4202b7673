"""One turn at a time in a conversation, and turns whose readers leave."""

import asyncio

import anyio
import pytest

from tests.harness.chat import (
    HANGS,
    HELLO,
    WHOLE,
    eventually,
    has_status,
    history,
    last_turn,
    post,
    serving,
    streaming,
)
from tests.harness.fakes import ScriptedReply

pytestmark = pytest.mark.server


async def test_a_second_turn_of_a_conversation_waits_for_the_first() -> None:
    async with serving(HANGS, ScriptedReply()) as (service, llm), streaming(service) as first:
        await first.until(b'"lo"')
        second = asyncio.create_task(post(service, message="And now?"))
        await anyio.sleep(0.05)
        assert len(llm.asked) == 1

        await service.client.post(f"/api/chat/turns/{first.turn_id}/stop")

        assert (await second).content == WHOLE
        assert [each.text for each in llm.asked[1]][1:] == [HELLO["message"], "Hello", "And now?"]


async def test_a_busy_conversation_is_refused_at_once_where_that_is_asked_for() -> None:
    async with serving(HANGS) as (service, _), streaming(service):
        answer = await post(service, when_busy="reject")

        assert (answer.status_code, answer.json()["code"]) == (409, "turn_in_progress")
        assert (answer.headers["Retry-After"], answer.json()["retryable"]) == ("1", True)
        assert "turn_id" not in answer.json()
        assert (await history(service))["count"] == 1


@pytest.mark.row("X2")
async def test_four_turns_wait_and_a_fifth_is_refused_at_once() -> None:
    async with serving(HANGS, ScriptedReply()) as (service, llm), streaming(service) as first:
        waiting = [asyncio.create_task(post(service, message=str(number))) for number in range(5)]
        with anyio.fail_after(8):
            [refused], queued = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

        assert ((await refused).status_code, (await refused).json()["code"]) == (409, "turn_in_progress")
        await service.client.post(f"/api/chat/turns/{first.turn_id}/stop")
        assert [(await one).content for one in queued] == [WHOLE] * 4
        assert len(llm.asked) == 5


async def test_another_conversation_is_not_busy() -> None:
    async with serving(HANGS, ScriptedReply()) as (service, _), streaming(service):
        assert (await post(service, when_busy="reject", conversation_id="other")).content == WHOLE


async def test_a_reader_that_leaves_ends_the_turn_with_what_it_had() -> None:
    async with serving(HANGS) as (service, llm):
        async with streaming(service) as stream:
            await stream.until(b'"lo"')
        await eventually(lambda: has_status(service, "interrupted"))

        turn = await last_turn(service)
        assert (turn["assistant_response"], turn["reason"]) == ("Hello", "client_disconnected")
        assert llm.open == 0


@pytest.mark.parametrize(
    ("setting", "field"), [("continue", {}), ("cancel", {"on_disconnect": "continue"})], ids=["setting", "field"]
)
async def test_a_turn_goes_on_without_readers_where_that_is_asked_for(setting: str, field: dict[str, str]) -> None:
    reply = ScriptedReply(deltas=("a",) * 20, pause=0.01)
    async with serving(reply, on_disconnect=setting) as (service, _):
        async with streaming(service, json=field) as stream:
            await stream.until(b'"a"')
        await eventually(lambda: has_status(service, "completed"))

        assert (await last_turn(service))["assistant_response"] == "a" * 20


async def test_the_field_goes_before_the_setting() -> None:
    async with serving(HANGS, on_disconnect="continue") as (service, _):
        async with streaming(service, json={"on_disconnect": "cancel"}) as stream:
            await stream.until(b'"lo"')
        await eventually(lambda: has_status(service, "interrupted"))


async def test_a_turn_that_went_on_can_be_rejoined() -> None:
    async with serving(ScriptedReply(pause=0.02), on_disconnect="continue") as (service, _):
        async with streaming(service) as stream:
            await stream.until(b'"Hello"')
            turn_id = stream.turn_id
        answer = await service.client.get(f"/api/chat/turns/{turn_id}/stream")

        assert answer.content == WHOLE
