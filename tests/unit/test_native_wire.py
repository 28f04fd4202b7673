"""The bytes of the native format, checked with an independent parser of server-sent events."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from random import Random

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent
from hypothesis import example, given, settings
from hypothesis import strategies as st

from application.ports.live_turns import Batch, End
from application.ports.llm import LLMDisconnected
from domain.conversation import TurnId, Usage
from domain.errors import Cancelled, ChatError, Failure
from entrypoints.http.native.wire import NativeWire

TURN = TurnId("0b0c5b1e-8a7c-4a53-9f0e-6d3a4f1c2b7d")
STOP = End("stop", None)


def encode(batch: Batch, turn_id: TurnId = TURN, after: int = 0) -> bytes:
    return NativeWire(turn_id, after).encode(batch)


TRICKY_PIECES = (
    "\r", "\n", "\r\n", "\n\n", "\r\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\ufeff",
    "data: [DONE]\n\n", "id: 9\n", "event: x\n", ": c\n", "retry: 1\n", "[DONE]", '"', "\\", "\\n", "\\u0000", "\x00",
    "\x7f", "\x1b[31m", "</script>", "{}", " ", "  x", "x  ", "👩‍👩‍👧‍👦", "e\u0301", "\ufffd", "\U0010ffff", "世界",
)  # fmt: skip
"""Pieces of text that break parsers if they are not escaped."""

characters = st.characters(codec="utf-8")
tricky_deltas = st.lists(st.one_of(st.sampled_from(TRICKY_PIECES), characters), min_size=1, max_size=8).map("".join)
replies = st.lists(tricky_deltas, max_size=8)


def thousand_deltas(seed: int) -> list[str]:
    """Generate random deltas, much faster than Hypothesis does."""
    random = Random(seed)
    plain = [chr(code) for code in range(0x3000) if not 0xD800 <= code < 0xE000]
    return [
        "".join(random.choices([*TRICKY_PIECES, *random.sample(plain, 20)], k=random.randint(1, 8)))
        for _ in range(1000)
    ]


def parse(stream: bytes) -> Sequence[ServerSentEvent]:
    """Parse a stream with httpx-sse."""
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=stream)
    return list(EventSource(response).iter_sse())


def test_a_reply_is_encoded_as_documented() -> None:
    expected = (
        b'id: 1\ndata: {"content": "Hello! I\'m doing well", "done": false}\n\n'
        b'id: 2\ndata: {"content": ", thank you for asking.", "done": false}\n\n'
        b'id: 3\ndata: {"content": "", "done": true}\n\n'
        b"id: 4\ndata: [DONE]\n\n"
    )

    assert expected == encode(Batch(1, ["Hello! I'm doing well", ", thank you for asking."], True, STOP), TURN)


def test_event_numbers_continue_in_the_next_batch() -> None:
    expected = b'id: 7\ndata: {"content": "a", "done": false}\n\nid: 8\ndata: {"content": "b", "done": false}\n\n'

    assert expected == encode(Batch(7, ["a", "b"], True, None), TURN)


def test_text_is_utf_8_and_not_escaped() -> None:
    expected = 'id: 1\ndata: {"content": "Grüße, 世界 👋", "done": false}\n\n'.encode()

    assert expected == encode(Batch(1, ["Grüße, 世界 👋"], True, None), TURN)


@pytest.mark.parametrize("line_end", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_characters_that_some_clients_take_for_line_ends_are_escaped(line_end: str) -> None:
    event = encode(Batch(1, [f"“{line_end}é”"], True, None), TURN).decode()

    assert line_end not in event
    assert {"content": f"“{line_end}é”", "done": False} == json.loads(event.removeprefix("id: 1\ndata: "))


def test_line_ends_in_the_text_of_an_error_are_escaped() -> None:
    end = End(None, Failure("upstream_error", "Title", "One\u2028two", retryable=True))

    assert b"One\\u2028two" in encode(Batch(1, [], True, end), TURN)


@settings(max_examples=50)
@given(replies)
@example(list(TRICKY_PIECES))
def test_a_client_that_splits_text_with_splitlines_restores_the_whole_reply(deltas: list[str]) -> None:
    lines = encode(Batch(1, deltas, True, STOP), TURN).decode().splitlines()

    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(deltas) == "".join(event["content"] for event in events)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_finish_reason_other_than_stop_is_added_to_the_end(reason: str) -> None:
    expected = f'id: 1\ndata: {{"content": "", "done": true, "finish_reason": "{reason}"}}\n\n'.encode()

    assert expected + b"id: 2\ndata: [DONE]\n\n" == encode(Batch(1, [], True, End(reason, None)), TURN)


@pytest.mark.parametrize(
    ("error", "retryable"), [(Cancelled("Stopped.", retry_after=3), "false"), (LLMDisconnected("It broke."), "true")]
)
def test_an_error_is_added_to_the_end_and_done_still_follows(error: ChatError, retryable: str) -> None:
    expected = (
        f'id: 5\ndata: {{"content": "", "done": true, "error": {{"code": "{error.code}", "title": "{error.title}", '
        f'"detail": "{error.detail}", "turn_id": "{TURN}", "retryable": {retryable}}}}}\n\n'
        "id: 6\ndata: [DONE]\n\n"
    ).encode()

    assert expected == encode(Batch(5, [], True, End(None, Failure.of(error))), TURN)


def test_a_batch_without_events_has_no_bytes() -> None:
    assert encode(Batch(3, [], True, None), TURN) == b""


def test_the_keep_alive_is_a_comment_without_a_blank_line() -> None:
    assert NativeWire.keep_alive[:1] == b":"
    assert b"\n\n" not in NativeWire.keep_alive


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_an_independent_parser_restores_ten_thousand_random_deltas(seed: int) -> None:
    deltas = thousand_deltas(seed)

    events = parse(encode(Batch(1, deltas, True, None), TURN))

    assert deltas == [json.loads(event.data)["content"] for event in events]


@settings(max_examples=100)
@given(replies)
@example(list(TRICKY_PIECES))
def test_an_independent_parser_restores_the_whole_stream(deltas: list[str]) -> None:
    events = parse(encode(Batch(1, deltas, True, STOP), TURN))

    *contents, last = [json.loads(event.data) for event in events[:-1]]
    assert [{"content": delta, "done": False} for delta in deltas] == contents
    assert last == {"content": "", "done": True}
    assert events[-1].data == "[DONE]"
    assert [str(n) for n in range(1, len(deltas) + 3)] == [event.id for event in events]


@settings(max_examples=50)
@given(replies)
def test_a_delta_takes_exactly_two_lines_and_a_blank_line(deltas: list[str]) -> None:
    stream = encode(Batch(1, deltas, True, None), TURN)

    assert 3 * len(deltas) == len(stream.decode().replace("\r", "\n").split("\n")) - 1


@settings(max_examples=50)
@given(replies, st.integers(0, 8))
def test_a_replay_after_an_event_equals_the_rest_of_the_stream_byte_for_byte(deltas: list[str], after: int) -> None:
    after = min(after, len(deltas))
    whole = encode(Batch(1, deltas, True, STOP), TURN)
    replay = encode(Batch(after + 1, deltas[after:], True, STOP), TURN)

    assert whole == encode(Batch(1, deltas[:after], True, None), TURN) + replay


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (1, b'id: 2\ndata: {"content": "", "done": true}\n\nid: 3\ndata: [DONE]\n\n'),
        (2, b"id: 3\ndata: [DONE]\n\n"),
        (3, b""),
        (9, b""),
    ],
)
def test_end_events_up_to_the_cursor_are_omitted(after: int, expected: bytes) -> None:
    assert expected == encode(Batch(2, [], True, STOP), TURN, after)


@settings(max_examples=50)
@given(replies, st.data())
def test_the_bytes_do_not_depend_on_the_batches(deltas: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(deltas)))
    parts = encode(Batch(1, deltas[:cut], True, None), TURN) + encode(Batch(cut + 1, deltas[cut:], True, STOP), TURN)

    assert encode(Batch(1, deltas, True, STOP), TURN) == parts


def test_acceptance_alone_has_no_bytes() -> None:
    assert b"" == encode(Batch(1, [], True, None))


def test_the_response_headers_are_those_of_an_unbuffered_event_stream() -> None:
    expected = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "X-Turn-ID": TURN,
    }

    assert expected == NativeWire(TURN).head


@settings(max_examples=50)
@given(replies, st.sampled_from([STOP, End("length", None, Usage(1, 2)), End(None, Failure.of(Cancelled()))]))
def test_events_that_were_serialized_and_restored_give_the_same_bytes(deltas: list[str], end: End) -> None:
    batch = Batch(1, deltas, True, end)
    serialized = json.loads(json.dumps([batch.first, batch.deltas, batch.accepted, batch.end], default=asdict))
    first, deltas, accepted, (finish_reason, failure, usage) = serialized
    rebuilt = End(finish_reason, failure and Failure(*failure), usage and Usage(**usage))

    assert encode(batch) == encode(Batch(first, deltas, accepted, rebuilt))
