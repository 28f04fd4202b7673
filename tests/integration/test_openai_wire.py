"""OpenAI's format: parameters, errors on every status, streams, and pages of other origins."""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from application.ports.history import HistoryUnavailable
from application.ports.llm import LLMAuthFailed, LLMDisconnected, LLMParameterRefused, LLMRateLimited, ReplyOptions
from domain.principal import Principal
from tests.harness.chat import SILENT, serving, streaming
from tests.harness.completions import PATH, complete, messages
from tests.harness.credentials import ANN, TENANT, KnownCredentials, authentication, bearer
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.raw_client import RawClient
from tests.harness.script import FailingHistory
from tests.harness.servers import running_service, service_in_process

JSON = {"Content-Type": "application/json"}


def saying(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


HELLO = saying("Hello")


async def rejection(**fields: Any) -> tuple[int, str | None, str | None]:
    """Return status, code and parameter of the error for a request with these fields."""
    llm = ScriptedLLM()
    async with service_in_process({"llm": llm}) as service:
        response = await service.client.post(PATH, content=json.dumps(HELLO | fields), headers=JSON)
        assert [] == llm.asked
        error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


async def test_parameters_reach_the_model_within_the_bounds_of_the_operator() -> None:
    llm = ScriptedLLM()
    chosen: dict[str, Any] = {
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["END", "\n"],
        "seed": 7,
    }
    async with service_in_process({"llm": llm}, v1_models="large") as service:
        answers = [
            await complete(service, messages("Q"), max_tokens=50, model="large", **chosen),
            await complete(service, messages("Q"), "trees", max_completion_tokens=40, stop="END"),
            await complete(service, messages("Q"), "trees", max_tokens=5_000, model="gpt-3.5-turbo"),
        ]

    assert [
        ReplyOptions("large", 0, 0.5, ("END", "\n"), 7),
        ReplyOptions(stop=("END",)),
        ReplyOptions(),
    ] == llm.options
    assert [50, 40, None] == llm.max_tokens
    assert [[], [], ["max_tokens"]] == [answer.ignored for answer in answers]
    assert "large" == answers[0].chunks[0].model


async def test_limits_and_stops_at_their_edges() -> None:
    llm = ScriptedLLM()
    stops = [["", "END"], [""], "", ["a", "b", "c", "d"], None]
    async with service_in_process({"llm": llm}, openai_max_tokens=100) as service:
        answers = [
            await complete(service, messages("Q"), max_tokens=50, max_completion_tokens=40),
            await complete(service, messages("Q"), max_tokens=40.0, max_completion_tokens=101),
            await complete(service, messages("Q"), max_tokens=100),
            await complete(service, messages("Q"), max_tokens=None, temperature=2, top_p=1, seed=-(2**63)),
        ]
        for stop in stops:
            await complete(service, messages("Q"), stop=stop)

    assert [40, 40, None, None] == llm.max_tokens[:4]
    assert [[], ["max_completion_tokens"], [], []] == [answer.ignored for answer in answers]
    assert ReplyOptions(temperature=2, top_p=1, seed=-(2**63)) == llm.options[3]
    assert [("END",), None, None, ("a", "b", "c", "d"), None] == [options.stop for options in llm.options[4:]]


async def test_values_that_ask_for_nothing_are_not_named_as_ignored() -> None:
    silent: dict[str, Any] = {
        "model": "",
        "user": "",
        "stream_options": {"include_obfuscation": False},
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "functions": [],
        "function_call": "none",
        "logit_bias": {},
        "metadata": {},
        "presence_penalty": 0,
    }
    sent = [
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": None},
        {
            "role": "user",
            "content": [{"type": "refusal", "refusal": "No"}, {"type": "text", "text": "Q", "meta": None}],
        },
    ]
    async with service_in_process({"llm": ScriptedLLM()}, v1_system_messages="drop") as service:
        answer = await complete(service, (), messages=sent, **silent)

    assert (200, []) == (answer.status, answer.ignored)


async def test_what_has_no_effect_is_named() -> None:
    tool = {"type": "function", "function": {"name": "search", "parameters": {}}}
    sent: dict[str, Any] = {
        "tools": [tool],
        "tool_choice": "auto",
        "presence_penalty": 1,
        "metadata": {"a": "b"},
        "store": True,
        "größe": 1,
        "temprature": 1,
    }
    silent: dict[str, Any] = {"n": 1, "logprobs": False, "store": False, "frequency_penalty": 0, "seed": None}
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        parts = [{"type": "text", "text": "Q", "cache_control": {"type": "ephemeral"}}]
        named = [{"role": "user", "content": parts, "name": "ann"}]
        answer = await complete(service, (), messages=named, **(sent | silent | sent))
        nothing = await complete(service, messages("Q"), **silent)
        padded = await complete(
            service, messages("Q"), stream_options={"include_usage": True, "include_obfuscation": True}
        )

    expected = ["tools", "tool_choice", "presence_penalty", "metadata", "store", "messages.name"]
    expected += ["messages.content.cache_control", "gr%C3%B6%C3%9Fe", "temprature;did-you-mean=temperature"]
    assert expected == answer.ignored
    assert [] == nothing.ignored
    assert ["stream_options.include_obfuscation"] == padded.ignored


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "search"}}),
        ("function_call", {"name": "search"}),
        ("n", 2),
        ("logprobs", True),
        ("modalities", ["text", "audio"]),
        ("response_format", {"type": "json_object"}),
        ("temperature", 2.1),
        ("top_p", -1),
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("stop", ["a"] * 5),
        ("stop", "a" * 1_001),
        ("seed", 2**64),
        ("user", {"id": "ann"}),
        ("user", "a b"),
        ("safety_identifier", "*"),
        ("stream", "maybe"),
        ("stream", 1),
        ("stream_options", {"include_usage": "yes"}),
        ("temperature", "0.7"),
        ("temperature", True),
        ("top_p", False),
        ("max_tokens", "50"),
        ("max_tokens", True),
        ("max_tokens", 50.5),
        ("max_completion_tokens", 50.5),
        ("seed", "7"),
        ("messages", []),
        ("messages", None),
        ("messages", [{"role": "user", "content": "Hi"}] * 20_001),
        ("messages", [{"role": "user", "content": "\ud83d"}]),
        ("stop", "\ude00"),
        ("stop", [1]),
    ],
)
async def test_what_cannot_be_honoured_is_a_400_that_names_the_parameter(field: str, value: Any) -> None:
    status, code, parameter = await rejection(**{field: value})

    assert (400, "invalid_request") == (status, code)
    assert re.fullmatch(rf"{field}(\[0\]\.content|\[0\]|\[1\]|\.type|\.include_usage)?", parameter or "")


async def test_only_models_of_the_list_are_accepted() -> None:
    assert (400, "model_not_found", "model") == await rejection(model="http://evil.example/v1")


@pytest.mark.parametrize(
    ("sent", "parameter"),
    [
        ([("user", "Hi"), ("tool", "42")], "messages[1].role"),
        ([("function", "42"), ("user", "Hi")], "messages[0].role"),
        ([("user", "Hi"), ("assistant", "Hello"), ("system", "Late")], "messages[2].role"),
        ([("system", "Alone")], "messages[0].content"),
        ([("user", " "), ("developer", "Late")], "messages[0].content"),
        ([("assistant", "Hi")], "messages[0].content"),
        ([("user", "  ")], "messages[0].content"),
        ([("user", "nul\0")], "messages[0].content"),
        ([("user", [{"type": "image_url", "image_url": {"url": "https://x"}}])], "messages[0].content"),
        ([("user", 7)], "messages[0].content"),
        ([("user", [{"type": {}, "text": "Hi"}])], "messages[0].content"),
    ],
)
async def test_messages_that_cannot_be_answered_are_a_400(sent: list[tuple[str, Any]], parameter: str) -> None:
    found = [{"role": role, "content": content} for role, content in sent]

    assert (400, "invalid_request", parameter) == await rejection(messages=found)


async def test_of_many_wrong_values_the_first_is_reported() -> None:
    wrong: dict[str, list[Any]] = {"messages": [{}] * 50_000, "modalities": ["audio"] * 50_000}
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        for field, values in wrong.items():
            response = await service.client.post(PATH, json=HELLO | {field: values})
            assert 400 == response.status_code
            assert len(response.content) < 300


async def test_many_unknown_fields_take_little_time() -> None:
    fields: dict[str, Any] = {f"field{number}": 1 for number in range(60_000)}
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        started = time.process_time()
        answer = await complete(service, messages("Q"), **fields)

    assert time.process_time() - started < 5
    assert (21, "field0", "...") == (len(answer.ignored), answer.ignored[0], answer.ignored[-1])


async def test_an_error_of_the_whole_body_names_no_parameter() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        error = (await service.client.post(PATH, json=[])).json()["error"]
        named = (await service.client.post(PATH, json={})).json()["error"]

    assert (None, "input should be a valid dictionary or object to extract fields from") == (
        error["param"],
        error["message"],
    )
    assert ("messages", "messages: field required") == (named["param"], named["message"])


async def test_messages_say_what_is_wrong_without_the_title_that_they_have_in_the_native_api() -> None:
    async with service_in_process({"llm": ScriptedLLM()}, v1_max_body_bytes=1_000) as service:
        tool = (await service.client.post(PATH, json=HELLO | {"tool_choice": "required"})).json()["error"]
        body = (await service.client.post(PATH, json=saying("x" * 1_000))).json()["error"]

    assert "tool_choice: must be none or auto, since this service offers the model no tools" == tool["message"]
    assert "The body of the request exceeds the limit of 1000 bytes." == body["message"]


async def test_all_invalid_fields_are_told_and_the_first_is_named() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        error = (await service.client.post(PATH, json=HELLO | {"temperature": 3, "n": 2})).json()["error"]
        header = {"X-Conversation-Id": "a b"}
        of_header = (await service.client.post(PATH, json=HELLO, headers=header)).json()["error"]

    assert "temperature" == error["param"]
    assert ["temperature", "n"] == re.findall(r"(?:^|; )(\w+): ", error["message"])
    assert "X-Conversation-Id" == of_header["param"]


async def test_parts_of_text_are_joined() -> None:
    llm = ScriptedLLM()
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    async with service_in_process({"llm": llm}) as service:
        await complete(service, (), messages=[{"role": "user", "content": parts}])

    assert "Hello" == llm.asked[0][-1].text


@pytest.mark.parametrize(
    ("method", "path", "arguments", "status", "code"),
    [
        ("POST", PATH, {"json": HELLO, "headers": {"Authorization": ""}}, 401, "invalid_api_key"),
        ("GET", "/v1/models", {"headers": {"Authorization": "Bearer wrong"}}, 401, "invalid_api_key"),
        ("POST", PATH, {"json": HELLO, "headers": {"X-API-Key": "ck_x_y"}}, 400, "ambiguous_credentials"),
        ("POST", PATH, {"json": HELLO | {"user": "ben"}}, 403, "forbidden"),
        ("POST", "/v1/embeddings", {"json": {}}, 404, "not_found"),
        ("GET", "/v1", {}, 404, "not_found"),
        ("GET", PATH, {}, 405, "method_not_allowed"),
        ("POST", PATH, {"content": b"x" * 2_000_000, "headers": JSON}, 413, "body_too_large"),
        ("POST", PATH, {"json": saying("x" * 40_000)}, 413, "message_too_long"),
        ("POST", PATH, {"json": saying("x " * 15_000)}, 400, "context_length_exceeded"),
        ("POST", PATH, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
        ("POST", PATH, {"content": b"{", "headers": JSON}, 400, "malformed_json"),
        ("POST", PATH, {"json": HELLO, "headers": {"Idempotency-Key": "a b"}}, 400, "invalid_idempotency_key"),
        ("POST", PATH, {"json": HELLO, "headers": {"X-Conversation-Id": "a b"}}, 400, "invalid_request"),
        ("POST", PATH, {"json": [1]}, 400, "invalid_request"),
    ],
)  # fmt: skip
async def test_errors_have_the_format_of_openai(
    method: str, path: str, arguments: dict[str, Any], status: int, code: str
) -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    settings = {**authentication(), "v1_max_body_bytes": 1_000_000, "context_tokens": 500}
    async with service_in_process(overrides, **settings) as service:
        headers: Mapping[str, str] = {**bearer(TENANT), **arguments.pop("headers", {})}
        response = await service.client.request(method, path, headers=headers, **arguments)

    assert (status, "application/json") == (response.status_code, response.headers["content-type"])
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} == error.keys()
    types = {401: "authentication_error", 403: "permission_error"}
    assert (code, types.get(status, "invalid_request_error")) == (error["code"], error["type"])
    assert error["message"]


async def test_other_endpoints_name_those_that_there_are() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        missing = (await service.client.post("/v1/responses", json={})).json()["error"]["message"]
        elsewhere = (await service.client.post("/chat/completions", json=HELLO)).json()["detail"]

    assert ["/v1/chat/completions", "/v1/models"] == re.findall(r"/v1/[a-z/]+", missing)
    assert "OpenAI's under /v1" in elsewhere


HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


@pytest.mark.server
@pytest.mark.parametrize(
    ("sent", "media_type", "status", "code"),
    [
        (b"Content-Length: 50\r\n\r\n{", "application/json", 408, "request_timeout"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "application/json", 400, "malformed_request"),
        (b"Content-Length: 5000\r\n\r\n" + b"x" * 5_000, "application/json", 413, "body_too_large"),
        (b"X: ", "application/problem+json", 408, "request_timeout"),
        (b"bad\r\n\r\n", "application/problem+json", 400, "malformed_request"),
        (b"X: " + b"x" * 40_000, "application/problem+json", 431, "headers_too_large"),
    ],
)
async def test_errors_of_the_connection_have_the_format_of_openai_once_the_head_is_read(
    sent: bytes, media_type: str, status: int, code: str
) -> None:
    timeouts: dict[str, Any] = {"head_timeout": 0.5, "body_timeout": 0.5}
    async with (
        running_service({"llm": ScriptedLLM()}, v1_max_body_bytes=1_000, **timeouts) as service,
        RawClient(service.url) as client,
    ):
        client.send(HEAD + sent)
        await client.head()
        await client.rest()

    found = json.loads(client.body)
    assert (status, media_type, "close") == (
        client.status, client.headers["content-type"], client.headers["connection"],
    )  # fmt: skip
    assert code == (found["error"] if media_type == "application/json" else found)["code"]


async def test_too_many_attempts_are_a_429_with_a_time_to_wait() -> None:
    async with service_in_process({"llm": ScriptedLLM()}, **authentication()) as service:
        wrong = {"Authorization": "Bearer ck_0000000000000000_wrong"}
        responses = [await service.client.get("/v1/models", headers=wrong) for _ in range(12)]

    assert (429, "rate_limit_error") == (responses[-1].status_code, responses[-1].json()["error"]["type"])
    assert "Retry-After" in responses[-1].headers


async def test_errors_elsewhere_keep_their_format() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        for path in ("/v1x", "/api/v1", "/nothing"):
            response = await service.client.get(path)
            assert "application/problem+json" == response.headers["content-type"]


@pytest.mark.parametrize(
    ("error", "status", "should_retry"),
    [
        (LLMRateLimited(retry_after=20), 503, None),
        (LLMRateLimited(retry_after=60), 503, None),
        (LLMRateLimited(retry_after=61), 503, "false"),
        (LLMParameterRefused("temperature"), 400, None),
        (LLMAuthFailed(), 502, "false"),
    ],
)
async def test_a_library_is_told_not_to_repeat_what_cannot_succeed(
    error: Any, status: int, should_retry: str | None
) -> None:
    async with service_in_process({"llm": ScriptedLLM(ScriptedReply(refusal=error))}) as service:
        answer = await complete(service, messages("Q"))

    assert (status, should_retry) == (answer.status, answer.response.headers.get("X-Should-Retry"))


@pytest.mark.parametrize("chat", [None, "trees"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_parameter_that_the_model_rejects_is_named(chat: str | None, stream: bool) -> None:
    refused = ScriptedReply(refusal=LLMParameterRefused("temperature"))
    async with service_in_process({"llm": ScriptedLLM(refused)}) as service:
        answer = await complete(service, messages("Q"), chat, stream=stream, temperature=0)

    assert 400 == answer.status
    assert {
        "message": "The model does not accept this temperature.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "unsupported_parameter",
    } == answer.error


async def test_a_parameter_that_the_model_rejects_late_is_named_in_the_stream() -> None:
    refused = ScriptedReply(deltas=("Hel",), failure=LLMParameterRefused("seed"))
    async with service_in_process({"llm": ScriptedLLM(refused)}) as service:
        answer = await complete(service, messages("Q"), seed=1)

    assert answer.error is not None
    assert (200, "seed") == (answer.status, answer.error["param"])


@pytest.mark.server
async def test_a_busy_conversation_is_a_409_that_is_not_repeated() -> None:
    async with serving(SILENT) as (service, _):
        chat = {"conversation_id": "trees", "user_id": "openai-api"}
        async with streaming(service, json=chat | {"message": "Hello"}):
            service.container.send_message().__dict__["queue_timeout"] = 0.1
            answer = await complete(service, messages("Q"), "trees")

        assert (409, "turn_in_progress") == (answer.status, answer.code)
        assert "false" == answer.response.headers["X-Should-Retry"]


async def test_an_unavailable_store_is_a_503() -> None:
    history = FailingHistory({"begin": [HistoryUnavailable()]})
    async with service_in_process({"llm": ScriptedLLM(), "history": history}) as service:
        answer = await complete(service, messages("Q"), "trees")

    assert (503, "history_unavailable") == (answer.status, answer.code)


async def test_an_unexpected_error_is_a_500_that_is_not_repeated() -> None:
    history = FailingHistory({"begin": [ValueError("a bug")]})
    async with service_in_process({"llm": ScriptedLLM(), "history": history}) as service:
        answer = await complete(service, messages("Q"), "trees")

    assert answer.error is not None
    assert (500, "server_error", "internal_error") == (answer.status, answer.error["type"], answer.code)
    assert "false" == answer.response.headers["X-Should-Retry"]
    assert "bug" not in answer.response.text


async def test_a_reply_that_breaks_off_ends_with_an_error_and_nothing_after_it() -> None:
    cut = ScriptedReply(deltas=("Hel", "lo"), failure=LLMDisconnected())
    async with service_in_process({"llm": ScriptedLLM(cut)}) as service:
        for chat in (None, "trees"):
            answer = await complete(service, messages("Q"), chat)

            assert (200, "Hello", None) == (answer.status, answer.text, answer.finish_reason)
            assert answer.error is not None
            assert ("upstream_disconnected", "server_error") == (answer.error["code"], answer.error["type"])


async def test_a_reply_that_breaks_off_is_an_error_if_it_is_not_streamed() -> None:
    cut = ScriptedReply(deltas=("Hel", "lo"), failure=LLMDisconnected())
    async with service_in_process({"llm": ScriptedLLM(cut)}) as service:
        answer = await complete(service, messages("Q"), "trees", stream=False)

    assert (502, "upstream_disconnected") == (answer.status, answer.code)
    assert answer.turn_id


@pytest.mark.parametrize(
    ("reason", "told"),
    [("length", "length"), ("content_filter", "content_filter"), ("tool_calls", "stop"), ("unknown", "stop")],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_only_known_finish_reasons_are_sent(reason: str, told: str, stream: bool) -> None:
    async with service_in_process({"llm": ScriptedLLM(ScriptedReply(finish_reason=reason))}) as service:
        answer = await complete(service, messages("Q"), stream=stream)

    assert told == answer.finish_reason


async def test_usage_is_sent_on_request() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        without = await complete(service, messages("Q"), stream_options={"include_usage": False})
        with_usage = await complete(service, messages("Q"), stream_options={"include_usage": True})
        ignored = await complete(service, messages("Q"), stream=False, stream_options={"include_usage": True})

    assert [] == [chunk for chunk in without.chunks if "usage" in chunk.model_fields_set or not chunk.choices]
    *others, last = with_usage.chunks
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in others)
    assert last.usage is not None
    assert ([], 14) == (last.choices, last.usage.total_tokens)
    assert ["stream_options"] == ignored.ignored


async def test_a_stream_is_made_of_whole_events_without_other_fields() -> None:
    nasty = ("\u2028", "\x85", "\r\n\n", "data: [DONE]\n\n", "", "ü👩")
    llm = ScriptedLLM(ScriptedReply(deltas=nasty))
    async with service_in_process({"llm": llm}) as service:
        answer = await complete(service, messages("Q"))

    assert "".join(nasty) == answer.text
    lines = answer.response.text.splitlines()
    assert {"", "data"} == {line.partition(":")[0] for line in lines}
    assert "assistant" == answer.chunks[0].choices[0].delta.role


async def test_a_comment_keeps_a_slow_stream_alive_and_makes_no_event() -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=("a", "b"), pause=0.3))
    async with service_in_process({"llm": llm}, comment_interval=0.1) as service:
        response = await service.client.post(PATH, json=HELLO | {"stream": True})

    assert "\n: keep-alive\n" in response.text
    assert all("data: " in event for event in response.text.removesuffix("\n\n").split("\n\n"))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_tells_its_turn_and_when_that_began(stream: bool) -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        answer = await complete(service, messages("Q"), "trees", stream=stream)

    found = answer.chunks[0] if stream else ChatCompletion.model_validate(answer.response.json())
    assert f"chatcmpl-{answer.turn_id}" == found.id
    assert abs(found.created - time.time()) < 3_600


async def test_a_stream_without_text_has_a_role_and_an_end_or_only_an_error() -> None:
    llm = ScriptedLLM(ScriptedReply(deltas=()), ScriptedReply(deltas=(), failure=LLMDisconnected()))
    async with service_in_process({"llm": llm}) as service:
        empty, failed = [await complete(service, messages("Q")) for _ in range(2)]

    assert ("assistant", None) == tuple(chunk.choices[0].delta.role for chunk in empty.chunks)
    assert "stop" == empty.finish_reason
    assert ([], "upstream_disconnected") == (failed.chunks, failed.code)


@pytest.mark.server
async def test_one_turn_is_seen_by_both_surfaces() -> None:
    """Begun at `/v1`, followed on the native stream, and stopped there."""
    hanging = ScriptedReply(deltas=("One", " two"), hangs=True)
    async with serving(hanging) as (service, _):
        headers = {"X-Conversation-Id": "trees"}
        sending = asyncio.create_task(complete(service, messages("Q"), headers=headers, user="ann"))
        turn = None
        while turn is None:
            await asyncio.sleep(0.01)
            history = (await service.client.get("/api/chat/history/ann")).json()["history"]
            turn = history[0]["id"] if history else None
        async with streaming(service, f"/api/chat/turns/{turn}/stream") as follower:
            await follower.until(b" two")
            stopped = await service.client.post(f"/api/chat/turns/{turn}/stop")
            await follower.until(b"[DONE]")
        answer = await sending

    assert (turn, "One two", "cancelled") == (answer.turn_id, answer.text, answer.code)
    assert ("One two", "interrupted") == (stopped.json()["assistant_response"], stopped.json()["status"])
    assert b'"code": "cancelled"' in follower.received


async def test_the_models_are_those_of_the_settings() -> None:
    async with service_in_process({"llm": ScriptedLLM()}, v1_models="large, small", v1_task_model="tasks") as service:
        found = (await service.client.get("/v1/models")).json()

    assert ["gpt-3.5-turbo", "large", "small", "tasks"] == [model["id"] for model in found["data"]]
    assert {"id", "object", "created", "owned_by"} == found["data"][0].keys()


@pytest.mark.parametrize(("principal", "owner"), [(ANN, "ann"), (TENANT, f"{TENANT.prefix}openai-api")])
async def test_the_user_is_the_one_that_the_credential_names(principal: Principal, owner: str) -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with service_in_process(overrides, **authentication()) as service:
        fields: dict[str, Any] = {"user": "ben"} if principal is ANN else {}
        answer = await complete(service, messages("Q"), "trees", headers=bearer(principal), **fields)
        response = await service.client.get(f"/api/chat/history/{owner}", headers=bearer(principal))

    assert answer.turn_id == response.json()["history"][0]["id"]
    assert list(fields) == answer.ignored


async def test_pages_of_other_origins_may_use_the_headers_of_libraries() -> None:
    origin = "https://app.example"
    async with service_in_process({"llm": ScriptedLLM()}, cors_origins=origin) as service:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-stainless-os,x-task"}
        preflight = await service.client.options(PATH, headers={"Origin": origin, **asked})
        native = await service.client.options("/api/chat", headers={"Origin": origin, **asked})
        response = await service.client.post(PATH, json=HELLO | {"stream": True}, headers={"Origin": origin})
        error = await service.client.post(PATH, json={}, headers={"Origin": origin})

    assert (200, 400) == (preflight.status_code, native.status_code)
    assert "x-stainless-os" in preflight.headers["Access-Control-Allow-Headers"]
    assert "DELETE" not in preflight.headers["Access-Control-Allow-Methods"]
    assert [origin] * 2 == [one.headers["Access-Control-Allow-Origin"] for one in (response, error)]
    assert "X-Conversation-Id" in response.headers["Access-Control-Expose-Headers"]


async def test_errors_do_not_quote_the_request() -> None:
    canary = "canary-" * 5
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        for sent in ({"model": canary}, {"user": f"{canary} *"}, {"n": canary}, {"messages": [{"role": canary}]}):
            response = await service.client.post(PATH, json=HELLO | sent)
            assert 400 == response.status_code
            assert canary not in json.dumps(response.json())
