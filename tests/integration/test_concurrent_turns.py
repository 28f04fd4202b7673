"""One turn at a time per conversation, and turns whose clients disconnect."""

import asyncio
from contextlib import AsyncExitStack

import anyio
import pytest

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from application.ports.conversation_leases import ConversationLeases, Lease
from domain.conversation import ConversationId, TurnId, UserId
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
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.raw_client import RawClient
from tests.harness.servers import running_service

pytestmark = pytest.mark.server


async def test_a_second_turn_of_a_conversation_waits_for_the_first() -> None:
    async with serving(HANGS, ScriptedReply()) as (service, llm), streaming(service) as first:
        await first.until(b'"lo"')
        second = asyncio.create_task(post(service, message="And now?"))
        await anyio.sleep(0.05)
        assert len(llm.asked) == 1

        await service.client.post(f"/api/chat/turns/{first.turn_id}/stop")

        assert (await second).content == WHOLE
        assert [message.text for message in llm.asked[1]][1:] == [HELLO["message"], "Hello", "And now?"]


async def test_a_turn_of_a_busy_conversation_is_rejected_immediately_on_request() -> None:
    async with serving(HANGS) as (service, _), streaming(service):
        response = await post(service, when_busy="reject")

        assert (response.status_code, response.json()["code"]) == (409, "turn_in_progress")
        assert (response.headers["Retry-After"], response.json()["retryable"]) == ("1", True)
        assert "turn_id" not in response.json()
        assert (await history(service))["count"] == 1


@pytest.mark.row("X2")
async def test_four_turns_wait_and_a_fifth_is_rejected_immediately() -> None:
    async with serving(HANGS, ScriptedReply()) as (service, llm), streaming(service) as first:
        waiting = [asyncio.create_task(post(service, message=str(number))) for number in range(5)]
        with anyio.fail_after(8):
            [rejected], queued = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

        assert ((await rejected).status_code, (await rejected).json()["code"]) == (409, "turn_in_progress")
        await service.client.post(f"/api/chat/turns/{first.turn_id}/stop")
        assert [(await task).content for task in queued] == [WHOLE] * 4
        assert len(llm.asked) == 5


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/simple"])
async def test_a_message_that_interrupts_ends_the_running_turn_as_superseded(path: str) -> None:
    async with serving(HANGS, ScriptedReply()) as (service, _), streaming(service) as first:
        await first.until(b'"lo"')
        response = await post(service, path, message="And now?", when_busy="interrupt")
        await first.until(b"[DONE]")
        turns = (await history(service))["history"]

        assert response.status_code == 200
        assert b'"code": "superseded"' in first.events
        assert b'"retryable": false' in first.events
        assert [("Hello", "superseded"), ("Hello, world!", None)] == [
            (turn["assistant_response"], turn["reason"]) for turn in turns
        ]


async def test_a_whole_reply_that_is_superseded_is_a_conflict() -> None:
    async with serving(HANGS, ScriptedReply()) as (service, llm):
        first = asyncio.create_task(post(service, "/api/chat/simple"))
        await eventually(lambda: is_asked(llm))
        await post(service, when_busy="interrupt")

        assert (409, "superseded") == ((await first).status_code, (await first).json()["code"])


async def is_asked(llm: ScriptedLLM) -> bool:
    return llm.open == 1


async def test_a_turn_of_another_conversation_does_not_wait() -> None:
    async with serving(HANGS, ScriptedReply()) as (service, _), streaming(service):
        assert (await post(service, when_busy="reject", conversation_id="other")).content == WHOLE


async def test_a_client_that_disconnects_interrupts_the_turn_and_the_text_so_far_is_stored() -> None:
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
async def test_a_turn_continues_without_its_client_if_requested(setting: str, field: dict[str, str]) -> None:
    reply = ScriptedReply(deltas=("a",) * 20, pause=0.01)
    async with serving(reply, on_disconnect=setting) as (service, _):
        async with streaming(service, json=field) as stream:
            await stream.until(b'"a"')
        await eventually(lambda: has_status(service, "completed"))

        assert (await last_turn(service))["assistant_response"] == "a" * 20


async def test_the_request_field_overrides_the_setting() -> None:
    async with serving(HANGS, on_disconnect="continue") as (service, _):
        async with streaming(service, json={"on_disconnect": "cancel"}) as stream:
            await stream.until(b'"lo"')
        await eventually(lambda: has_status(service, "interrupted"))


async def test_a_turn_that_continued_can_be_rejoined() -> None:
    async with serving(ScriptedReply(pause=0.02), on_disconnect="continue") as (service, _):
        async with streaming(service) as stream:
            await stream.until(b'"Hello"')
            turn_id = stream.turn_id
        response = await service.client.get(f"/api/chat/turns/{turn_id}/stream")

        assert response.content == WHOLE


# The next turn after `done: true`


class SlowLeases(ConversationLeasesInProcess):
    """Releasing a lease takes a while, as in a database."""

    async def acquire(
        self,
        turn_id: TurnId,
        user_id: UserId,
        conversation_id: ConversationId,
        *,
        wait: float,
        first: bool = False,
        tentative: bool = False,
    ) -> Lease:
        return SlowLease(await super().acquire(turn_id, user_id, conversation_id, wait=wait, first=first))


class SlowLease(Lease):
    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    async def release(self, *, turn_ended: bool = False) -> None:
        await anyio.sleep(0.02)
        await self._lease.release(turn_ended=turn_ended)


@pytest.mark.parametrize("leases", [ConversationLeasesInProcess, SlowLeases], ids=["in process", "slow"])
async def test_the_next_turn_is_never_rejected_as_busy_after_done(leases: type[ConversationLeases]) -> None:
    body = HELLO | {"when_busy": "reject"}
    async with running_service({"llm": ScriptedLLM(), "leases": leases()}) as service, AsyncExitStack() as stack:
        # Connected in advance, so that nothing delays a request after the event that precedes it.
        clients = [await stack.enter_async_context(RawClient(service.url)) for _ in range(50)]
        for client in clients:
            client.post("/api/chat", body)
            assert await client.head() == 200
            while b'"done": true' not in client.body:
                assert await client.chunk()
