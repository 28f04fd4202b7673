"""Conversations of clients of OpenAI's API: what is stored, retracted and sent to the model, by the rules of ADR 44."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx2
import pytest

from adapters.history_in_memory import HistoryInMemory
from application.ports.llm import LLMContentRefused, LLMDisconnected, LLMFailed
from domain.conversation import ConversationId, Message, TurnId, UserId
from domain.resent import SentMessage
from tests.harness.chat import SILENT, eventually, serving, streaming, until
from tests.harness.completions import PATH, answer_of, complete, messages
from tests.harness.credentials import ADMIN, TENANT, KnownCredentials, authentication, bearer
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.servers import Service, running_service, service_in_process

WEBUI = {"v1_open_webui": True}
SYSTEM = "You are a helpful assistant."
RETRY = "X-Stainless-Retry-Count"


@asynccontextmanager
async def talking(*scripts: ScriptedReply, **settings: Any) -> AsyncIterator[tuple[Service, ScriptedLLM]]:
    """Run the service with a model that answers `A1`, `A2` …, or as scripted."""
    llm = ScriptedLLM(*(scripts or (ScriptedReply(deltas=("A", str(number))) for number in range(1, 20))))
    settings = {"system_prompt": SYSTEM} | settings
    async with service_in_process({"llm": llm}, **settings) as service:
        yield service, llm


async def stored(service: Service, chat: str, user: str = "openai-api") -> list[tuple[str, str]]:
    response = await service.client.get(f"/api/chat/history/{user}?conversation_id={chat}")
    return [(turn["user_message"], turn["assistant_response"]) for turn in response.json()["history"]]


async def count_of_turns(service: Service, user: str = "openai-api") -> int:
    count: int = (await service.client.get(f"/api/chat/history/{user}")).json()["count"]
    return count


def asked(prompt: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role.value, message.text) for message in prompt]


def webui(chat: str = "chat-1", user: str = "ann", task: str = "") -> dict[str, str]:
    """Return the headers of Open WebUI."""
    return {"X-OpenWebUI-Chat-Id": chat, "X-OpenWebUI-User-Id": user, "X-Task": task}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_is_stored_turn_by_turn(stream: bool) -> None:
    async with talking() as (service, llm):
        first = await complete(service, messages("Q1"), "trees", stream=stream)
        second = await complete(service, messages("Q1", "A1", "Q2"), "trees", stream=stream)

        assert [("A1", "stop"), ("A2", "stop")] == [(one.text, one.finish_reason) for one in (first, second)]
        assert ["trees", "trees"] == [one.response.headers["X-Conversation-Id"] for one in (first, second)]
        assert [("Q1", "A1"), ("Q2", "A2")] == await stored(service, "trees")
        expected = [("system", SYSTEM), ("user", "Q1"), ("assistant", "A1"), ("user", "Q2")]
        assert expected == asked(llm.asked[1])
        turn = await service.client.get(f"/api/chat/turns/{second.turn_id}")
        assert "Q2" == turn.json()["user_message"]


async def test_another_reply_takes_the_place_of_the_one_before() -> None:
    async with talking() as (service, llm):
        await complete(service, messages("Q1"), "trees")
        before = await complete(service, messages("Q1", "A1", "Q2"), "trees")
        await complete(service, messages("Q1", "A1", "Q2"), "trees")

        assert [("Q1", "A1"), ("Q2", "A3")] == await stored(service, "trees")
        assert asked(llm.asked[1]) == asked(llm.asked[2])
        retracted = await service.client.get(f"/api/chat/turns/{before.turn_id}")
        assert "A2" == retracted.json()["assistant_response"]


async def test_another_reply_to_the_first_message_of_a_client_that_shows_everything() -> None:
    async with talking(**WEBUI) as (service, llm):
        await complete(service, messages("Q1"), headers=webui())
        await complete(service, messages("Q1"), headers=webui())

        assert [("Q1", "A2")] == await stored(service, "chat-1", "ann")
        assert [("system", SYSTEM), ("user", "Q1")] == asked(llm.asked[1])


async def test_a_client_that_sends_a_header_for_its_tasks_shows_everything() -> None:
    async with talking() as (service, llm):
        for _ in range(2):
            await complete(service, messages("Q1"), "trees", headers={"X-Task": ""})

        assert [("Q1", "A2")] == await stored(service, "trees")
        assert [("system", SYSTEM), ("user", "Q1")] == asked(llm.asked[1])


async def test_a_continued_reply_is_answered_and_not_stored() -> None:
    async with talking() as (service, llm):
        await complete(service, messages("Q1"), "trees")
        continued = await complete(service, [*messages("Q1", "Once"), ("assistant", "upon")], "trees")

        assert "A2" == continued.text
        assert continued.turn_id is None
        assert [("system", SYSTEM), ("user", "Q1"), ("assistant", "Once\n\nupon")] == asked(llm.asked[1])
        assert [("Q1", "A1")] == await stored(service, "trees")


async def test_an_edited_message_takes_the_place_of_everything_from_there_on() -> None:
    async with talking() as (service, llm):
        await complete(service, messages("Q1"), "trees")
        await complete(service, messages("Q1", "A1", "Q2"), "trees")
        await complete(service, messages("Q1", "A1", "Q2", "A2", "Q3"), "trees")
        await complete(service, messages("Q1", "A1", "Q2 edited"), "trees")

        assert [("Q1", "A1"), ("Q2 edited", "A4")] == await stored(service, "trees")
        await complete(service, messages("Q1", "A1", "Q2 edited", "A4", "Q4"), "trees")
        assert ["Q1", "Q2 edited", "Q4"] == [text for text, _ in await stored(service, "trees")]
        assert [("user", "Q2 edited"), ("assistant", "A4"), ("user", "Q4")] == asked(llm.asked[4])[3:]


@pytest.mark.server
async def test_after_a_stop_the_next_message_follows_whatever_the_client_has_kept_of_the_reply() -> None:
    stopped = ScriptedReply(deltas=("One", " two"), hangs=True)
    async with serving(ScriptedReply(), stopped, ScriptedReply(deltas=("Yes",))) as (service, llm):
        await complete(service, messages("Q1"), "trees")
        sent = {"messages": [{"role": role, "content": text} for role, text in messages("Q1", "Hello, world!", "Q2")]}
        headers = {"X-Conversation-Id": "trees"}
        async with service.client.stream("POST", PATH, json=sent | {"stream": True}, headers=headers) as response:
            async for line in response.aiter_lines():
                if " two" in line:
                    break
        await until(lambda: not llm.open)
        await complete(service, messages("Q1", "Hello, world!", "Q2", "One", "Q3"), "trees")

        assert [("Q1", "Hello, world!"), ("Q2", "One two"), ("Q3", "Yes")] == await stored(service, "trees")
        assert [("user", "Q2"), ("assistant", "One"), ("user", "Q3")] == asked(llm.asked[2])[3:]


@pytest.mark.server
async def test_after_a_stop_before_the_first_word_the_next_message_of_open_webui_is_answered() -> None:
    scripts = (ScriptedReply(deltas=("A1",)), ScriptedReply(deltas=(), hangs=True), ScriptedReply(deltas=("A3",)))
    async with serving(*scripts, **WEBUI) as (service, llm):
        await complete(service, messages("Q1"), headers=webui())
        stopped = asyncio.create_task(complete(service, messages("Q1", "A1", "Q2"), headers=webui()))
        await until(lambda: llm.open == 1)
        stopped.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopped
        # Its page leaves out the reply that never began.
        answered = await complete(service, [*messages("Q1", "A1", "Q2"), ("user", "Q3")], headers=webui())

        assert (200, "A3") == (answered.status, answered.text)
        assert [("Q1", "A1"), ("Q2", ""), ("Q3", "A3")] == await stored(service, "chat-1", "ann")
        assert messages("Q1", "A1", "Q2\n\nQ3") == asked(llm.asked[2])[1:]


@pytest.mark.parametrize("kept", [messages("Q1", "A1", "Q2", "", "Q3"), messages("Q1", "A1", "Q3")])
async def test_a_rejected_message_does_not_disturb_the_next_one(kept: list[tuple[str, str]]) -> None:
    refused = ScriptedReply(refusal=LLMContentRefused())
    async with talking(ScriptedReply(deltas=("A1",)), refused, ScriptedReply(deltas=("A3",))) as (service, llm):
        await complete(service, messages("Q1"), "trees")
        rejected = await complete(service, messages("Q1", "A1", "Q2"), "trees")
        answered = await complete(service, kept, "trees")

        assert (422, "content_refused") == (rejected.status, rejected.code)
        assert "A3" == answered.text
        assert ("Q1", "A1") == (await stored(service, "trees"))[0]
        assert ("Q3", "A3") == (await stored(service, "trees"))[-1]
        assert [("system", SYSTEM), *messages("Q1", "A1", "Q3")] == asked(llm.asked[2])


async def test_a_message_that_was_too_long_is_left_out_of_the_next_prompt() -> None:
    async with talking(context_tokens=500) as (service, llm):
        long = "many words " * 1_000
        rejected = await complete(service, messages(long), "trees")
        await complete(service, [("user", long), ("user", "Q2")], "trees")

        assert (400, "context_length_exceeded", "messages") == (
            rejected.status,
            rejected.code,
            rejected.error and rejected.error["param"],
        )
        assert [("Q2", "A1")] == await stored(service, "trees")
        assert [("system", SYSTEM), ("user", "Q2")] == asked(llm.asked[0])


async def test_a_greeting_before_the_first_message_is_part_of_the_context() -> None:
    async with talking() as (service, llm):
        await complete(service, [("assistant", "Welcome!"), ("user", "Q1")], "trees")
        await complete(service, [("assistant", "Welcome!"), ("user", "Q1")], "trees")

        assert [("system", SYSTEM), ("assistant", "Welcome!"), ("user", "Q1")] == asked(llm.asked[1])
        assert asked(llm.asked[0]) == asked(llm.asked[1])
        assert [("Q1", "A2")] == await stored(service, "trees")


async def test_a_message_that_never_reached_the_service_is_skipped() -> None:
    async with talking() as (service, llm):
        await complete(service, messages("Q1"), "trees")
        conversation = [*messages("Q1", "A1"), ("user", "Lost"), ("user", "Q2")]
        await complete(service, conversation, "trees")

        assert ["Q1", "Q2"] == [text for text, _ in await stored(service, "trees")]
        assert ("user", "Lost\n\nQ2") == asked(llm.asked[1])[-1]


@pytest.mark.parametrize(
    ("chat", "stores_all"), [("temporary:socket", True), ("local:1", False), ("channel:general", False), ("", False)]
)
async def test_a_temporary_chat_is_answered_from_what_is_sent_and_not_stored(chat: str, stores_all: bool) -> None:
    async with talking(**WEBUI, v1_store_all=stores_all) as (service, llm):
        answer = await complete(service, messages("Q1", "A0", "Q2"), headers=webui(chat))

        assert "A1" == answer.text
        assert not {"x-conversation-id", "x-turn-id"} & {name.lower() for name in answer.response.headers}
        assert [("system", SYSTEM), *messages("Q1", "A0", "Q2")] == asked(llm.asked[0])
        assert 0 == await count_of_turns(service, "ann")


async def test_the_id_of_a_temporary_chat_is_no_conversation_whichever_header_has_it() -> None:
    async with talking(v1_store_all=True) as (service, _):
        answer = await complete(service, messages("Q1"), "temporary:1")

        assert (200, None) == (answer.status, answer.turn_id)
        assert 0 == await count_of_turns(service)


TASK = messages("### Task:\nGenerate a title for the chat.", system="Be terse.")


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        (webui(), {"stream": False}),
        (webui(task="title_generation"), {}),
        ({"X-Conversation-Id": "chat-1", "X-Task": "tags_generation"}, {}),
        (webui(), {"model": "tasks"}),
        ({"X-Conversation-Id": "chat-1", "Idempotency-Key": "k"}, {"model": "tasks", "stream": False}),
    ],
)
async def test_a_side_call_is_answered_as_given_and_leaves_no_trace(
    headers: dict[str, str], fields: dict[str, Any]
) -> None:
    async with talking(**WEBUI, v1_task_model="tasks") as (service, llm):
        answers = [await complete(service, TASK, headers=headers, user="ann", **fields) for _ in range(2)]

        assert ["A1", "A2"] == [answer.text for answer in answers]
        assert [TASK] * 2 == [asked(prompt) for prompt in llm.asked]
        assert 0 == await count_of_turns(service, "ann")


@pytest.mark.server
async def test_a_side_call_does_not_wait_for_the_turn_of_its_conversation() -> None:
    hanging = ScriptedReply(deltas=("A",), hangs=True)
    async with serving(hanging, ScriptedReply(deltas=("Title",)), **WEBUI) as (service, _):
        chatting = asyncio.create_task(complete(service, messages("Q1"), headers=webui()))
        await eventually(lambda: _has_turns(service))
        side_call = await asyncio.wait_for(complete(service, TASK, headers=webui(), stream=False), 5)
        chatting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await chatting

        assert "Title" == side_call.text


async def _has_turns(service: Service) -> bool:
    return await count_of_turns(service, "ann") > 0


async def test_two_chats_that_begin_alike_stay_apart() -> None:
    async with talking(**WEBUI) as (service, _):
        for chat, user in (("one", "ann"), ("two", "ann"), ("one", "ben")):
            await complete(service, messages("Hello"), headers=webui(chat, user))
        await complete(service, messages("Hello", "A1", "Q2"), headers=webui("one", "ann"))

        assert [("Hello", "A1"), ("Q2", "A4")] == await stored(service, "one", "ann")
        assert [("Hello", "A2")] == await stored(service, "two", "ann")
        assert [("Hello", "A3")] == await stored(service, "one", "ben")


async def test_without_a_conversation_two_chats_that_begin_alike_share_nothing() -> None:
    async with talking() as (service, llm):
        for _ in range(2):
            await complete(service, messages("Hello"), user="ann")

        assert asked(llm.asked[0]) == asked(llm.asked[1])
        assert 0 == await count_of_turns(service, "ann")


async def test_a_client_that_sends_one_message_gets_the_stored_history() -> None:
    async with talking() as (service, llm):
        for text in ("yes", "yes", "no"):
            await complete(service, messages(text, system="Briefly."), "trees")

        assert [("yes", "A1"), ("yes", "A2"), ("no", "A3")] == await stored(service, "trees")
        assert [("system", f"{SYSTEM}\n\nBriefly."), *messages("yes", "A1", "yes", "A2", "no")] == asked(llm.asked[2])


@pytest.mark.server
@pytest.mark.parametrize("stream", [True, False])
async def test_a_library_that_repeats_its_request_after_a_time_out_gets_the_turn_of_the_first(stream: bool) -> None:
    async def wait(step: str) -> None:
        if step == "reply":
            await anyio.sleep(1)

    llm = ScriptedLLM(ScriptedReply(deltas=("Slow",)))
    async with running_service({"llm": GatedLLM(llm, wait)}) as service:
        with pytest.raises(httpx2.TimeoutException):
            await service.client.post(
                PATH,
                json={"messages": [{"role": "user", "content": "Q1"}], "stream": stream, "user": "ann"},
                headers={"X-Conversation-Id": "trees", "X-Stainless-Retry-Count": "0"},
                timeout=0.3,
            )
        again = await complete(
            service, messages("Q1"), "trees", stream=stream, user="ann", headers={"X-Stainless-Retry-Count": "1"}
        )

        assert ("Slow", "true") == (again.text, again.response.headers["Idempotency-Replayed"])
        assert 1 == len(llm.asked)
        assert [("Q1", "Slow")] == await stored(service, "trees", "ann")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_library_that_repeats_its_request_after_failures_leaves_one_turn(stream: bool) -> None:
    failed = ScriptedReply(refusal=LLMFailed())
    cut = failed if stream else ScriptedReply(deltas=("Half",), failure=LLMDisconnected())
    scripts = (ScriptedReply(deltas=("A1",)), failed, cut, ScriptedReply(deltas=("A2",)))
    async with talking(*scripts) as (service, llm):
        await complete(service, messages("Q1"), "trees")
        statuses = [
            (await complete(service, messages("Q2"), "trees", stream=stream, headers={RETRY: str(count)})).status
            for count in (0, 1, 2)
        ]

        assert ([502, 502, 200], 4) == (statuses, len(llm.asked))
        assert [("Q1", "A1"), ("Q2", "A2")] == await stored(service, "trees")


async def test_a_repeated_request_retracts_nothing_that_was_said_since() -> None:
    failed = ScriptedReply(refusal=LLMFailed())
    async with talking(failed, ScriptedReply(deltas=("A2",)), ScriptedReply(deltas=("A1",))) as (service, _):
        await complete(service, messages("Q1"), "trees", headers={RETRY: "0"})
        await complete(service, messages("Q2"), "trees")
        await complete(service, messages("Q1"), "trees", headers={RETRY: "1"})

        assert [("Q1", ""), ("Q2", "A2"), ("Q1", "A1")] == await stored(service, "trees")


async def test_only_a_repeated_request_is_let_back_in_and_only_to_its_own_turn() -> None:
    async with talking() as (service, _):
        first, retry = {"X-Stainless-Retry-Count": "0"}, {"X-Stainless-Retry-Count": "1"}
        await complete(service, messages("yes"), "trees", headers=first)
        again = await complete(service, messages("yes"), "trees", headers=first)
        repeated = await complete(service, messages("yes"), "trees", headers=retry)
        otherwise = await complete(service, messages("yes"), "trees", headers=retry, temperature=0)
        elsewhere = await complete(service, messages("yes"), "bushes", headers=retry)
        not_theirs = await complete(service, messages("yes"), "trees", headers=retry, user="ben")

        assert ["A2", "A2", "A3", "A4", "A5"] == [
            one.text for one in (again, repeated, otherwise, elsewhere, not_theirs)
        ]
        assert again.turn_id == repeated.turn_id


async def test_a_library_is_let_back_in_for_ten_minutes() -> None:
    now = datetime.now(UTC)
    async with service_in_process({"llm": ScriptedLLM(), "now": lambda: now}) as service:
        turns = []
        for count, minutes in ((0, 0), (1, 9), (2, 2)):
            now += timedelta(minutes=minutes)
            turns.append((await complete(service, messages("Q1"), "trees", headers={RETRY: str(count)})).turn_id)

    assert turns[0] == turns[1] != turns[2]


async def test_a_library_is_let_back_in_although_there_are_later_turns() -> None:
    async with talking() as (service, _):
        first = await complete(service, messages("Q1"), "trees", headers={RETRY: "0"})
        await complete(service, messages("Q2"), "trees")
        again = [await complete(service, messages("Q1"), "trees", headers={RETRY: count}) for count in ("1", "10")]

        assert [first.turn_id] * 2 == [one.turn_id for one in again]


async def test_one_service_is_not_let_back_in_to_the_turn_of_another_though_both_act_for_the_user() -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with service_in_process(overrides, **authentication()) as service:
        turns = [
            (
                await complete(
                    service,
                    messages("Q1"),
                    "trees",
                    user=f"{TENANT.prefix}ann",
                    headers={RETRY: str(count), **bearer(principal)},
                )
            ).turn_id
            for principal, count in ((TENANT, 0), (ADMIN, 1), (TENANT, 1))
        ]

    assert turns[0] == turns[2] != turns[1]


@pytest.mark.server
async def test_a_stop_of_a_library_that_repeats_requests_ends_the_turn() -> None:
    async with serving(ScriptedReply(deltas=("One",), hangs=True)) as (service, llm):
        sent = {"messages": [{"role": "user", "content": "Q1"}], "stream": True}
        headers = {"X-Conversation-Id": "trees", "X-Stainless-Retry-Count": "0"}
        async with service.client.stream("POST", PATH, json=sent, headers=headers) as response:
            async for line in response.aiter_lines():
                if "One" in line:
                    break
            turn_id = response.headers["X-Turn-ID"]
        await until(lambda: not llm.open)
        turn = (await service.client.get(f"/api/chat/turns/{turn_id}")).json()

        assert ("interrupted", "client_disconnected", "One") == (
            turn["status"], turn["reason"], turn["assistant_response"],
        )  # fmt: skip


@pytest.mark.server
async def test_a_turn_that_is_also_followed_elsewhere_goes_on_when_the_library_leaves() -> None:
    async with serving(ScriptedReply(deltas=("One",), hangs=True)) as (service, llm):
        sent = {"messages": [{"role": "user", "content": "Q1"}], "stream": True}
        headers = {"X-Conversation-Id": "trees", RETRY: "0"}
        async with contextlib.AsyncExitStack() as library:
            begun = service.client.stream("POST", PATH, json=sent, headers=headers)
            path = f"/api/chat/turns/{(await library.enter_async_context(begun)).headers['X-Turn-ID']}"
            async with streaming(service, f"{path}/stream") as follower:
                await follower.until(b"One")
                await library.aclose()
                await asyncio.sleep(0.3)
                assert 1 == llm.open
                await service.client.post(f"{path}/stop")
                await follower.until(b"[DONE]")

    assert b'"code": "cancelled"' in follower.received


@pytest.mark.server
@pytest.mark.parametrize(
    ("headers", "on_disconnect"), [({"Idempotency-Key": "k"}, "cancel"), ({RETRY: "0"}, "continue"), ({}, "continue")]
)
async def test_a_turn_that_is_to_be_finished_goes_on_when_its_client_leaves(
    headers: dict[str, str], on_disconnect: str
) -> None:
    replies = ScriptedReply(deltas=("One",), hangs=True)
    async with serving(replies, on_disconnect=on_disconnect) as (service, llm):
        sent = {"messages": [{"role": "user", "content": "Q1"}], "stream": True}
        headers = {"X-Conversation-Id": "trees", **headers}
        async with service.client.stream("POST", PATH, json=sent, headers=headers) as response:
            assert "assistant" in await anext(response.aiter_lines())
            turn = f"/api/chat/turns/{response.headers['X-Turn-ID']}"
        await asyncio.sleep(0.3)

        assert (1, "in_progress") == (llm.open, (await service.client.get(turn)).json()["status"])
        await service.client.post(f"{turn}/stop")


async def test_a_reply_that_broke_off_is_repeated_with_its_key() -> None:
    cut = ScriptedReply(deltas=("Hal", "f"), failure=LLMDisconnected())
    async with talking(cut) as (service, llm):
        key = {"Idempotency-Key": "k"}
        answers = [
            await complete(service, messages("Q1"), "trees", stream=stream, headers=key)
            for stream in (True, True, False)
        ]

        assert [(200, "Half"), (200, "Half"), (502, "")] == [(answer.status, answer.text) for answer in answers]
        assert ["upstream_disconnected"] * 3 == [answer.code for answer in answers]
        assert 1 == len(llm.asked)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_names_its_turn_and_conversation_if_there_are_any(stream: bool) -> None:
    async with talking(ScriptedReply(refusal=LLMFailed())) as (service, _):
        in_conversation, outside = [
            (await complete(service, messages("Q1"), chat, stream=stream)).response.headers for chat in ("trees", None)
        ]

    assert ("trees", True) == (in_conversation["X-Conversation-Id"], "X-Turn-ID" in in_conversation)
    assert not {"x-conversation-id", "x-turn-id"} & set(outside)


async def test_an_idempotency_key_names_one_request() -> None:
    async with talking() as (service, llm):
        key = {"Idempotency-Key": "k"}
        first = await complete(service, messages("Q1"), "trees", headers=key)
        again = await complete(service, messages("Q1"), "trees", headers=key, stream=False)
        other = await complete(service, messages("Q1", "A1", "Q1"), "trees", headers=key)

        assert (first.turn_id, "A1", "true") == (
            again.turn_id, again.text, again.response.headers["Idempotency-Replayed"],
        )  # fmt: skip
        assert (422, "idempotency_key_reused") == (other.status, other.code)
        assert 1 == len(llm.asked)


async def test_the_delivery_of_a_reply_and_the_order_of_fields_may_differ_in_a_repeated_request() -> None:
    async with talking() as (service, _):
        key = {"Idempotency-Key": "k"}
        delivery: dict[str, Any] = {"stream_options": {"include_usage": True}}
        answers = [
            await complete(service, messages("Q1"), "trees", headers=key, temperature=0, seed=1, **delivery),
            await complete(service, messages("Q1"), "trees", headers=key, stream=False, seed=1, temperature=0),
            await complete(service, messages("Q1"), "trees", headers=key, temperature=0, seed=2),
        ]

        assert [200, 200, 422] == [answer.status for answer in answers]
        assert answers[0].turn_id == answers[1].turn_id


async def test_a_request_that_is_repeated_with_its_key_after_a_failure_runs_again() -> None:
    failed = ScriptedReply(refusal=LLMFailed())
    async with talking(ScriptedReply(deltas=("A1",)), failed, ScriptedReply(deltas=("A2",))) as (service, _):
        await complete(service, messages("Q1"), "trees")
        for status in (502, 200):
            answer = await complete(service, messages("Q1", "A1", "Q2"), "trees", headers={"Idempotency-Key": "k"})
            assert status == answer.status

        assert [("Q1", "A1"), ("Q2", "A2")] == await stored(service, "trees")


async def test_a_conversation_that_is_deleted_while_a_request_begins_starts_anew() -> None:
    class Deleted(HistoryInMemory):
        async def messages(
            self, user_id: UserId, conversation_id: ConversationId, limit: int
        ) -> Sequence[tuple[TurnId, SentMessage]]:
            found = await super().messages(user_id, conversation_id, limit)
            await self.clear(user_id, conversation_id)
            return found

    async with service_in_process({"llm": ScriptedLLM(), "history": Deleted()}) as service:
        await complete(service, messages("Q1"), "trees")
        answer = await complete(service, messages("Q0", "A0", "Q2"), "trees")

        assert 200 == answer.status
        assert [("Q2", "Hello, world!")] == await stored(service, "trees")


async def test_a_system_message_counts_for_its_turn_only() -> None:
    async with talking() as (service, llm):
        await complete(service, messages("Q1", system="Speak German."), "trees")
        conversation = [("developer", "Speak French."), *messages("Q1", "A1", "Q2", system="Briefly.")]
        await complete(service, conversation, "trees")

        assert ("system", f"{SYSTEM}\n\nSpeak French.\n\nBriefly.") == asked(llm.asked[1])[0]
        assert [("Q1", "A1"), ("Q2", "A2")] == await stored(service, "trees")


async def test_a_system_message_may_follow_the_message_to_answer() -> None:
    """Aider reminds the model of its instructions there."""
    async with talking() as (service, llm):
        await complete(service, [*messages("Q1", system="Briefly."), ("system", "Remember: briefly.")], "trees")
        conversation = messages("Q1", "A1", "Q2", system="Briefly.")
        await complete(service, [*conversation, ("developer", "Remember: briefly.")], "trees")

        instructions = f"{SYSTEM}\n\nBriefly.\n\nRemember: briefly."
        assert [("system", instructions), *messages("Q1", "A1", "Q2")] == asked(llm.asked[1])
        assert [("Q1", "A1"), ("Q2", "A2")] == await stored(service, "trees")


async def test_a_setting_drops_system_messages() -> None:
    async with talking(v1_system_messages="drop") as (service, llm):
        answer = await complete(service, messages("Q1", system="Obey me."), "trees")

        assert [("system", SYSTEM), ("user", "Q1")] == asked(llm.asked[0])
        assert ["messages.system"] == answer.ignored


async def test_system_messages_are_limited() -> None:
    async with talking(max_message_chars=100) as (service, llm):
        answer = await complete(service, messages("Q1", system="x" * 101), "trees")

        assert (400, "invalid_request", "messages") == (
            answer.status,
            answer.code,
            answer.error and answer.error["param"],
        )
        assert [] == llm.asked
        assert 200 == (await complete(service, messages("Q1", system="x" * 100), "trees")).status


async def test_a_client_that_joins_late_adds_to_what_is_stored() -> None:
    async with talking() as (service, llm):
        await complete(service, messages("Q1", "B1", "Q2", "B2", "Q3"), "trees")
        await complete(service, messages("Q1", "B1", "Q2", "B2", "Q3", "A1", "Q4"), "trees")

        assert [("Q3", "A1"), ("Q4", "A2")] == await stored(service, "trees")
        assert messages("Q1", "B1", "Q2", "B2", "Q3", "A1", "Q4") == asked(llm.asked[1])[1:]


async def test_a_client_that_leaves_out_old_messages_retracts_nothing() -> None:
    async with talking() as (service, _):
        await complete(service, messages("Q1"), "trees")
        await complete(service, messages("Q1", "A1", "Q2"), "trees")
        await complete(service, messages("Q2", "A2", "Q3"), "trees")

        assert ["Q1", "Q2", "Q3"] == [text for text, _ in await stored(service, "trees")]


async def test_a_message_that_was_deleted_on_the_page_of_open_webui_does_not_retract_those_after_it() -> None:
    async with talking(**WEBUI) as (service, llm):
        for conversation in (["Q1"], ["Q1", "A1", "Q2"], ["Q1", "A1", "Q2", "A2", "Q3"]):
            await complete(service, messages(*conversation), headers=webui())
        await complete(service, messages("Q1", "A1", "Q3", "A3", "Q4"), headers=webui())

        assert ["Q1", "Q2", "Q3", "Q4"] == [text for text, _ in await stored(service, "chat-1", "ann")]
        assert [("system", SYSTEM), *messages("Q1", "A1", "Q3", "A3", "Q4")] == asked(llm.asked[3])
        await complete(service, messages("Q1", "A1", "Q3", "A3", "Q4"), headers=webui())
        assert ("Q4", "A5") == (await stored(service, "chat-1", "ann"))[-1]
        assert 4 == await count_of_turns(service, "ann")


async def test_a_message_without_a_reply_that_is_not_stored_retracts_nothing_if_old_ones_are_left_out() -> None:
    async with talking() as (service, _):
        await complete(service, messages("Q1"), "trees")
        await complete(service, messages("Q1", "A1", "Q2"), "trees")
        await complete(service, messages("Q1", "A1", "Q2", "A2", "Q3"), "trees")
        await complete(service, messages("Q2", "A2", "Lost", "", "Q3", "A3", "Q4"), "trees")

        assert ["Q1", "Q2", "Q3", "Q4"] == [text for text, _ in await stored(service, "trees")]


RETRIEVAL = "### Task:\nRespond to the user query using the provided context.\n<context>Oaks are trees.</context>\n"


async def test_a_question_with_documents_is_no_side_call_though_it_looks_like_a_task() -> None:
    async with talking(**WEBUI) as (service, _):
        await complete(service, messages(f"{RETRIEVAL}\nWhat are oaks?"), headers=webui())
        await complete(service, messages("What are oaks?", "A1", "And elms?"), headers=webui())

        assert [f"{RETRIEVAL}\nWhat are oaks?", "And elms?"] == [
            text for text, _ in await stored(service, "chat-1", "ann")
        ]


async def test_instructions_that_open_webui_adds_behind_one_message_retract_nothing_later() -> None:
    interpreter = "#### Code Interpreter\nYou have access to a Python code interpreter."
    async with talking(**WEBUI) as (service, _):
        await complete(service, messages(f"Add 1 and 2.\n{interpreter}"), headers=webui())
        await complete(service, messages("Add 1 and 2.", "A1", f"And 3.\n{interpreter}"), headers=webui())
        await complete(service, messages("Add 1 and 2.", "A1", "And 3.", "A2", "Thanks."), headers=webui())

        assert ["Add 1 and 2.", "And 3.", "Thanks."] == [
            text.partition("\n")[0] for text, _ in await stored(service, "chat-1", "ann")
        ]


@pytest.mark.parametrize("name", ["X-Conversation-Id", "X-OpenWebUI-Chat-Id", "X-OpenWebUI-User-Id"])
async def test_two_headers_with_an_id_are_refused(name: str) -> None:
    async with talking(**WEBUI) as (service, llm):
        sent = {"messages": [{"role": "user", "content": "Q1"}]}
        response = await service.client.post(PATH, json=sent, headers=[(name, "ann"), (name, "ben")])

        assert (400, name) == (response.status_code, response.json()["error"]["param"])
        assert [] == llm.asked


async def test_with_a_setting_every_request_is_stored() -> None:
    async with talking(v1_store_all=True) as (service, _):
        answers = [await complete(service, messages("Q1"), user="ann") for _ in range(2)]

        chats = [answer.response.headers["X-Conversation-Id"] for answer in answers]
        assert 2 == len(set(chats))
        assert [("Q1", "A2")] == await stored(service, chats[1], "ann")


async def test_with_that_setting_a_request_that_is_repeated_with_its_key_is_let_back_in() -> None:
    async with talking(v1_store_all=True) as (service, llm):
        first, again, other = [
            await complete(service, messages("Q1"), headers={"Idempotency-Key": key}) for key in ("k", "k", "l")
        ]
        users = [
            (await complete(service, messages("Q1"), headers={"Idempotency-Key": "k"}, user=user)).turn_id
            for user in ("ann", "ben")
        ]

        assert (first.turn_id, "true") == (again.turn_id, again.response.headers["Idempotency-Replayed"])
        chats = [one.response.headers["X-Conversation-Id"] for one in (first, again, other)]
        assert chats[0] == chats[1] != chats[2]
        assert 4 == len(llm.asked) == len({first.turn_id, other.turn_id, *users})


@pytest.mark.server
async def test_with_that_setting_a_turn_ends_with_the_request_of_a_library_that_cannot_be_let_back_in() -> None:
    async with serving(SILENT, ScriptedReply(), v1_store_all=True) as (service, llm):
        sent = {"messages": [{"role": "user", "content": "Q1"}], "user": "ann"}
        with pytest.raises(httpx2.TimeoutException):
            await service.client.post(PATH, json=sent, headers={RETRY: "0"}, timeout=0.3)
        await until(lambda: not llm.open)
        again = await complete(service, messages("Q1"), stream=False, user="ann", headers={RETRY: "1"})
        response = await service.client.get("/api/chat/conversations/ann")

    assert ("Hello, world!", None) == (again.text, again.response.headers.get("Idempotency-Replayed"))
    assert 2 == response.json()["count"]


async def test_with_that_setting_services_share_no_conversation_though_both_act_for_the_user() -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with service_in_process(overrides, v1_store_all=True, **authentication()) as service:
        chats = set()
        for principal in (TENANT, ADMIN):
            headers = {"Idempotency-Key": "k", **bearer(principal)}
            answer = await complete(service, messages("Q1"), user=f"{TENANT.prefix}ann", headers=headers)
            chats.add(answer.response.headers["X-Conversation-Id"])

    assert 2 == len(chats)


async def test_the_user_is_the_safety_identifier_then_user_then_the_header_of_open_webui() -> None:
    async with talking(**WEBUI) as (service, _):
        header = {"X-OpenWebUI-User-Id": "carl"}
        await complete(service, messages("Q1"), "trees", headers=header, safety_identifier="ann", user="ben")
        await complete(service, messages("Q1"), "trees", headers=header, user="ben")
        await complete(service, messages("Q1"), "trees", headers=header)
        await complete(service, messages("Q1"), "trees")

        counts = [await count_of_turns(service, user) for user in ("ann", "ben", "carl", "openai-api")]
        assert [1, 1, 1, 1] == counts


async def test_the_conversation_header_comes_before_that_of_open_webui() -> None:
    async with talking(**WEBUI) as (service, _):
        answer = await complete(service, messages("Q1"), "trees", stream=False, headers=webui())

        assert "trees" == answer.response.headers["X-Conversation-Id"]
        assert [("Q1", "A1")] == await stored(service, "trees", "ann")


async def test_without_the_setting_headers_of_open_webui_mean_nothing() -> None:
    async with talking() as (service, _):
        answer = await complete(service, messages("Q1"), headers=webui())
        in_conversation = await complete(service, messages("Q1"), "trees", headers=webui())

        assert (None, True) == (answer.turn_id, in_conversation.turn_id is not None)
        assert [0, 1] == [await count_of_turns(service, user) for user in ("ann", "openai-api")]


async def test_only_named_users_are_remembered() -> None:
    async with talking() as (service, llm):
        for user in ("ann", "openai-api"):
            await service.client.post(f"/api/memories/{user}", json={"fact": "Likes oak trees"})
        await complete(service, messages("Which trees?"), "trees", user="ann")
        await complete(service, messages("Which trees?"), "trees")

        assert ["Likes oak trees" in prompt[-1].text for prompt in llm.asked] == [True, False]


async def test_a_response_that_is_a_whole_completion_has_the_usage() -> None:
    async with talking(ScriptedReply()) as (service, _):
        answer = await complete(service, messages("Q1"), "trees", stream=False)
        usage = answer.response.json()["usage"]

        assert {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14} == usage


def test_answers_are_read_strictly() -> None:
    cut = httpx2.Response(200, headers={"content-type": "text/event-stream"}, text="data: {}")
    with pytest.raises(AssertionError):
        answer_of(cut)
