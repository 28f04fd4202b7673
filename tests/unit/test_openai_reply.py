"""Replies in the dialects of all services: text, finish reason and usage, however the bytes are split."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from adapters.openai_api.delta_cache import DeltaCache
from adapters.openai_api.reply import OpenAIReply
from application.ports.llm import (
    LLMContentRefused,
    LLMContextTooLong,
    LLMDisconnected,
    LLMError,
    LLMFailed,
    LLMInvalid,
    LLMRateLimited,
    LLMTruncated,
    LLMWrongAPI,
)
from domain.conversation import Usage
from domain.errors import OutputLimit

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Read:
    """What the reader of a reply gets."""

    text: str
    finish_reason: str
    usage: Usage | None = None
    notes: tuple[str, ...] = ()
    failure: type[LLMError | OutputLimit] | None = None


class Pieces(aiohttp.StreamReader):
    """A body whose reads return these pieces, and then fail or end."""

    def __init__(self, pieces: Iterator[bytes], error: Exception | None) -> None:
        self._pieces = pieces
        self._error = error

    async def read(self, n: int = -1) -> bytes:
        piece = next(self._pieces, b"")
        if not piece and self._error is not None:
            raise self._error
        return piece

    def at_eof(self) -> bool:
        return True


async def excerpt(text: str) -> str:
    return text[:48]


async def _read(reply: OpenAIReply) -> Read:
    deltas: list[str] = []
    failure: type[LLMError | OutputLimit] | None = None
    with reply:
        try:
            async for some in reply:
                assert some
                assert all(some)
                deltas += some
        except (LLMError, OutputLimit) as error:
            failure = type(error)
    return Read("".join(deltas), reply.finish_reason, reply.usage, tuple(reply.notes), failure)


def read(*pieces: bytes, error: Exception | None = None, **options: Any) -> Read:
    async def run() -> Read:
        body = Pieces(filter(None, pieces), error)
        return await _read(OpenAIReply(body, 60, DeltaCache(), excerpt=excerpt, **options))

    return asyncio.run(run())


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def choice(reason: object = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "finish_reason": reason, **fields}]})


def delta(content: object, reason: object = None) -> bytes:
    return choice(reason, delta={"content": content})


def end(reason: object = "stop") -> bytes:
    return choice(reason, delta={})


HELLO = Read("Hello", "stop")

DIALECTS = {
    "usual": delta("Hel") + delta("lo") + end() + DONE,
    "finish reason with the last text": delta("Hel") + delta("lo", "stop") + DONE,
    "finish reason with every text": delta("Hel", "stop") + delta("lo", "stop"),
    "text after the finish reason": delta("Hel", "length") + delta("lo") + end("stop"),
    "parts": delta([{"type": "text", "text": "Hel"}]) + delta(["lo"]) + delta({"type": "text", "text": ""}) + end(),
    "parts with values": delta([{"type": "output_text", "text": {"value": "Hello"}}]) + end(),
    "refusal": choice(delta={"content": None, "refusal": "Hel"}) + choice(delta={"refusal": "lo"}) + end(),
    "message": choice("stop", message={"content": "Hello"}) + DONE,
    "message after the deltas": delta("Hel") + delta("lo") + choice("stop", message={"content": "Hello"}),
    "message beside an empty delta": choice("stop", delta={}, message={"content": "Hello"}),
    "text of the older API": choice(text="Hel") + choice("stop", text="lo"),
    "index that counts": b"".join(choice(index=n, delta={"content": c}) for n, c in enumerate("Hello", 1)) + end(),
    "index that counts from zero": b"".join(choice(index=n, delta={"content": c}) for n, c in enumerate("Hello"))
    + choice("stop", index=5, delta={}),
    "index as a string": choice(index="0", delta={"content": "Hello"}) + choice("stop", index="0", delta={}),
    "another index throughout": choice(index=1, delta={"content": "Hel"})
    + choice("stop", index=1, delta={"content": "lo"}),
    "no index": event({"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]}),
    "other choices in the same chunk": event(
        {"choices": [{"index": 1, "delta": {"content": "Bye"}}, {"index": 0, "delta": {"content": "Hello"}}]}
    )
    + end(),
    "other choices": choice(index=0, delta={"role": "assistant"})
    + choice(index=1, delta={"role": "assistant"})
    + delta("Hel")
    + choice(index=1, delta={"content": "Bye"})
    + delta("lo")
    + choice("length", index=1, delta={})
    + end(),
    "empty data": b"data: \n\ndata:\n\n" + delta("Hello") + b"data: null\n\n" + end(),
    "pings": b'event: ping\ndata: {"type": "ping"}\n\n: comment\n\n' + delta("Hello") + end(),
    "no space": delta("Hello").replace(b"data: ", b"data:") + end().replace(b"data: ", b"data:"),
    "no blank line at the end": (delta("Hello") + end()).rstrip(b"\n"),
    "lists": event([{"choices": [{"delta": {"content": "Hel"}}]}, {"choices": [{"delta": {"content": "lo"}}]}]) + end(),
    "JSON": json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode(),
    "indented JSON": json.dumps(
        {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}, indent=2
    ).encode(),
    "JSON after a byte order mark": b"\xef\xbb\xbf\n"
    + json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode(),
    "JSON lines": (delta("Hel") + delta("lo") + end()).replace(b"data: ", b""),
    "reasoning field": choice(delta={"content": None, "reasoning_content": "hm"}) + delta("Hello") + end(),
    "other reasoning field": choice(delta={"content": "", "reasoning": "hm"}) + delta("Hello") + end(),
    "reasoning parts": delta([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])
    + delta("Hello")
    + end(),
    "think block": delta("<think>hm") + delta("</think>Hello") + end(),
    "junk after the end": delta("Hello") + end() + b"data: END\n\n",
}


@pytest.mark.parametrize("body", DIALECTS.values(), ids=DIALECTS)
def test_a_reply_is_the_same_in_every_dialect_and_however_its_bytes_are_split(body: bytes) -> None:
    assert read(body) == HELLO
    for size in (1, 7, 50):
        assert read(*(body[start : start + size] for start in range(0, len(body), size))) == HELLO


@given(st.sampled_from([*DIALECTS.values()]), st.lists(st.integers(0, 400)), st.booleans())
def test_the_split_of_the_bytes_makes_no_difference(body: bytes, cuts: list[int], keep_reasoning: bool) -> None:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = (body[start:stop] for start, stop in pairwise(edges))
    assert read(*pieces, keep_reasoning=keep_reasoning) == read(body, keep_reasoning=keep_reasoning)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (DIALECTS["reasoning field"], "hmHello"),
        (DIALECTS["other reasoning field"], "hmHello"),
        (DIALECTS["reasoning parts"], "hmHello"),
        (DIALECTS["think block"], "<think>hm</think>Hello"),
        (choice(delta={"content": "lo", "reasoning_content": "Hel"}) + end(), "Hello"),
    ],
)
def test_reasoning_that_is_kept_is_part_of_the_reply_as_sent(body: bytes, text: str) -> None:
    assert read(body, keep_reasoning=True) == Read(text, "stop")


@pytest.mark.parametrize(
    "reasoning",
    [
        choice(delta={"reasoning_content": "hm"}),
        delta("<think>hm"),
        delta("<think>hm</think>"),
        event({"choices": [], "usage": {"completion_tokens_details": {"reasoning_tokens": 7}}}),
    ],
)
def test_a_reply_that_is_only_reasoning_keeps_its_finish_reason_and_is_noted(reasoning: bytes) -> None:
    assert read(reasoning + end("length") + DONE) == Read("", "length", notes=("only reasoning",))


def test_a_reply_without_text_is_noted() -> None:
    assert read(end("stop") + DONE) == Read("", "stop", notes=("no text",))


def test_text_that_may_become_a_think_block_is_part_of_the_reply_if_it_ends_there() -> None:
    assert read(delta(" <thin") + end()) == Read(" <thin", "stop")
    assert read(delta(" <thin")) == Read(" <thin", "", failure=LLMTruncated)


@pytest.mark.parametrize(
    ("body", "reason", "note"),
    [
        (delta("Hello") + end("pause_turn"), "unknown", "finish reason pause_turn"),
        (delta("Hello") + end(1) + DONE, "unknown", "finish reason 1"),
        (delta("Hello") + end({"type": "stop"}), "unknown", "finish reason {'type': 'stop'}"),
        (delta("Hello") + end("x" * 60_000), "unknown", "finish reason " + "x" * 48),
        (delta("Hello") + DONE, "unknown", "no finish reason"),
        (delta("Hello") + end("upstream_auth"), "unknown", "finish reason upstream_auth"),
    ],
)
def test_an_end_without_a_known_finish_reason_is_unknown_and_noted(body: bytes, reason: str, note: str) -> None:
    assert read(body) == Read("Hello", reason, notes=(note,))


def test_the_last_finish_reason_wins() -> None:
    assert read(delta("Hel", "error") + delta("lo", "length") + end("stop") + DONE) == HELLO


FAILURES = {
    "failure reason": (end("ERROR") + DONE, LLMFailed),
    "failure reason at the end": (end("abort"), LLMFailed),
    "no mark of the end": (b"", LLMTruncated),
    "half an event": (b'data: {"choices": [', LLMTruncated),
    "error": (event({"error": {"code": 429, "message": "slow down"}}), LLMRateLimited),
    "error beside choices": (event({"error": "x", "choices": [{"finish_reason": "error"}]}), LLMFailed),
    "error inside a choice": (choice("error", error={"code": 429}), LLMRateLimited),
    "named error": (b'event: error\ndata: {"message": "broken"}\n\n', LLMFailed),
    "named error in plain text": (b"event: error\ndata: broken\n\n", LLMFailed),
    "error object": (event({"object": "error", "message": "broken", "code": 500}), LLMFailed),
    "error of Anthropic": (event({"type": "error", "error": {"type": "rate_limit_error"}}), LLMRateLimited),
    "message": (event({"message": "maximum context length is 4096 tokens", "code": 400}), LLMContextTooLong),
    "detail": (event({"detail": "Internal Server Error"}), LLMFailed),
    "bare JSON": (b'{"error": {"code": 429}}\n', LLMRateLimited),
    "bare JSON without an end of line": (b'{"error": {"code": 429}}', LLMRateLimited),
    "error that withdraws the reply": (end("stop") + event({"error": {"code": "content_filter"}}), LLMContentRefused),
    "error that replaces the finish reason": (
        end("stop") + event({"error": {"code": 429}, "choices": [{"finish_reason": "error", "delta": {}}]}),
        LLMRateLimited,
    ),
    "error in a choice that replaces the finish reason": (
        end("stop") + choice("error", error={"code": 429}),
        LLMRateLimited,
    ),
    "error after an unknown finish reason": (end("null") + event({"error": {"code": 429}}), LLMRateLimited),
    "not JSON": (b"data: {not json\n\n", LLMInvalid),
    "not a chunk": (b"data: [1]\n\n", LLMInvalid),
    "content of another type": (delta(5), LLMInvalid),
}


@pytest.mark.parametrize(("body", "failure"), FAILURES.values(), ids=FAILURES)
def test_a_failure_keeps_the_text_so_far(body: bytes, failure: type[LLMError]) -> None:
    assert read(delta("Hel") + body) == Read("Hel", "", failure=failure)
    assert read(delta("Hel"), body) == Read("Hel", "", failure=failure)


@pytest.mark.parametrize(
    "error",
    [
        event({"error": {"code": 429, "message": "slow down"}}),
        event({"error": {"code": 502, "message": "Provider disconnected"}, "choices": []}),
        event({"error": {"message": "usage callback failed"}, "choices": [{"finish_reason": "stop", "delta": {}}]}),
        choice("stop", error={"code": 500}),
        b"event: error\ndata: broken\n\n",
        b'{"error": {"code": 429}}\n',
    ],
)
@pytest.mark.parametrize("reply", [delta("Hello", "stop"), delta("Hello") + end("stop")])
def test_an_error_after_the_finish_reason_is_noted_and_does_not_fail_the_complete_reply(
    reply: bytes, error: bytes
) -> None:
    result = read(reply + error + DONE)
    assert result == read(reply, error)
    (note,) = result.notes
    assert note.endswith(" after the finish reason")
    assert (result.text, result.finish_reason, result.failure) == ("Hello", "stop", None)


def test_an_error_is_a_failure_if_finish_reasons_do_not_mark_the_end() -> None:
    body = delta("Hel", "stop") + delta("lo", "stop") + event({"error": {"code": 429}})
    assert read(body) == Read("Hello", "", failure=LLMRateLimited)


@pytest.mark.parametrize(
    "mark", ["data: [DONE]", "data:[DONE]", "data: [DONE] ", "data: [DONE]\t ", "data:  [DONE]", "data: [done]"]
)
@pytest.mark.parametrize("line_end", ["\n\n", "\r\n\r\n", "\n", ""])
def test_the_mark_of_the_end_may_have_white_space_and_any_case(mark: str, line_end: str) -> None:
    done = (mark + line_end).encode()
    assert read(delta("Hello") + done) == Read("Hello", "unknown", notes=("no finish reason",))
    assert read(delta("Hello"), done) == Read("Hello", "unknown", notes=("no finish reason",))
    assert read(delta("Hello") + end() + done) == HELLO


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b'{"error": {"code": 429, "message": "slow down"}}', LLMRateLimited),
        (b'[{"error": {"code": 429, "message": "slow down"}}]', LLMRateLimited),
        (b'{"detail": "broken"}', LLMFailed),
        (b'{"status": "ok"}', LLMWrongAPI),
        (b'{"status": "ok", "message": "The server is running"}', LLMWrongAPI),
        (event({"type": "response.output_text.delta", "delta": "Hello"}) + DONE, LLMWrongAPI),
        (b" <!DOCTYPE html><title>Welcome</title>", LLMWrongAPI),
        (b"Welcome", LLMTruncated),
        (b"", LLMTruncated),
        (b'{"choices": [{', LLMInvalid),
        (b'{"choices": [{"message": "' + b"x" * 1024 * 1024, OutputLimit),
    ],
)
def test_a_body_without_a_reply_is_a_failure(body: bytes, failure: type[LLMError]) -> None:
    assert read(body) == Read("", "", failure=failure)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4}, Usage(10, 4)),
        ({"prompt_tokens": "10", "completion_tokens": "4"}, Usage(10, 4)),
        ({"prompt_tokens": 10.0, "completion_tokens": 4}, Usage(10, 4)),
        ({"prompt_tokens": 10}, None),
        ({"prompt_tokens": "many", "completion_tokens": None}, None),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 4}, None),
    ],
)
def test_usage_is_read_from_numbers_and_strings(usage: dict[str, Any], expected: Usage | None) -> None:
    assert read(delta("Hello") + end() + event({"choices": [], "usage": usage}) + DONE) == Read(
        "Hello", "stop", expected
    )


@pytest.mark.parametrize("usage", [[10, 4], "14", 14])
def test_usage_of_an_unknown_shape_does_not_end_the_reply(usage: object) -> None:
    first = event({"choices": [{"index": 0, "delta": {"content": "Hel"}}], "usage": usage})
    assert read(first + delta("lo") + end() + DONE) == Read("Hello", "stop")


def test_a_connection_that_breaks_after_the_finish_reason_does_not_matter() -> None:
    assert read(delta("Hello") + end(), error=aiohttp.ClientPayloadError()) == HELLO


def test_a_connection_that_breaks_is_a_failure_if_finish_reasons_do_not_mark_the_end() -> None:
    body = delta("Hel", "stop") + delta("lo", "stop")
    expected = Read("Hello", "", failure=LLMDisconnected)
    assert read(body, error=aiohttp.ClientPayloadError()) == expected


class Timed:
    """Sends pieces of a body, each some seconds after the previous one, and then nothing more."""

    def __init__(self, *pieces: tuple[float, bytes]) -> None:
        self._pieces = pieces
        self._sent = 0

    async def read(self, *, final_after: float) -> tuple[Read, int]:
        """Return what was read, and how many pieces had been sent by then."""
        loop = asyncio.get_running_loop()
        protocol = BaseProtocol(loop)
        protocol.connection_made(asyncio.Transport())
        content = aiohttp.StreamReader(protocol, 2**16, loop=loop)
        sending = asyncio.create_task(self._send(content))
        reply = OpenAIReply(content, 30, DeltaCache(), excerpt=excerpt, final_after=final_after)
        result = await _read(reply)
        sending.cancel()
        return result, self._sent

    async def _send(self, content: aiohttp.StreamReader) -> None:
        for pause, piece in self._pieces:
            await anyio.sleep(pause)
            content.feed_data(piece)
            self._sent += 1


async def test_a_finish_reason_is_final_if_no_text_follows_in_time() -> None:
    pieces = (0, delta("Hel", "stop")), (0.1, delta("lo", "stop")), (10, delta("!", "stop"))
    assert await Timed(*pieces).read(final_after=0.6) == (HELLO, 2)


async def test_comments_and_chunks_without_text_do_not_postpone_the_end() -> None:
    idle = (0.1, b": comment\n\n" + delta(""))
    result, sent = await Timed((0, delta("Hello", "stop")), *[idle] * 100).read(final_after=0.25)
    assert result == HELLO
    assert sent < 101


async def test_reasoning_that_is_dropped_postpones_the_end() -> None:
    thoughts = [(0.2, delta(text, "stop")) for text in ("<think>", "a", "b", "</think>")]
    result, _ = await Timed(*thoughts, (0.2, delta("Hello", "stop"))).read(final_after=0.7)
    assert result == HELLO


async def test_a_reply_without_a_finish_reason_is_not_ended_early() -> None:
    result, _ = await Timed((0, delta("Hel")), (0.4, delta("lo") + end() + DONE)).read(final_after=0.1)
    assert result == HELLO


@pytest.mark.parametrize("body", [b"", b"Ollama is running", b": ping\n\n"])
def test_a_body_without_any_event_is_no_reply_unless_it_is_a_stream_of_events(body: bytes) -> None:
    assert read(body, media_type="text/plain") == Read("", "", failure=LLMWrongAPI)
    assert read(body, media_type="") == Read("", "", failure=LLMWrongAPI)
    assert read(body) == Read("", "", failure=LLMTruncated)


@pytest.mark.parametrize(
    "body",
    [
        {
            "type": "message",
            "content": [{"type": "text", "text": "Hi"}],
            "usage": {"input_tokens": 9, "output_tokens": 1},
        },
        {"object": "response", "output": [], "usage": {"input_tokens": 9, "output_tokens": 1}},
    ],
)
def test_the_json_of_another_api_is_no_reply_even_if_it_reports_usage(body: object) -> None:
    assert read(json.dumps(body).encode()) == Read("", "", failure=LLMWrongAPI)
