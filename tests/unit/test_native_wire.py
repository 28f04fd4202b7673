"""The bytes of the native format."""

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


LURES = (
    "\r", "\n", "\r\n", "\n\n", "\r\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\ufeff",
    "data: [DONE]\n\n", "id: 9\n", "event: x\n", ": c\n", "retry: 1\n", "[DONE]", '"', "\\", "\\n", "\\u0000", "\x00",
    "\x7f", "\x1b[31m", "</script>", "{}", " ", "  x", "x  ", "👩‍👩‍👧‍👦", "e\u0301", "\ufffd", "\U0010ffff", "世界",
)  # fmt: skip
"""Pieces that break parsers when they are let through as they are."""

characters = st.characters(codec="utf-8")
nasty_texts = st.lists(st.one_of(st.sampled_from(LURES), characters), min_size=1, max_size=8).map("".join)
replies = st.lists(nasty_texts, max_size=8)


def thousand_texts(seed: int) -> list[str]:
    """Cheaper to make than Hypothesis makes them, so that there can be many."""
    random = Random(seed)
    plain = [chr(code) for code in range(0x3000) if not 0xD800 <= code < 0xE000]
    return ["".join(random.choices([*LURES, *random.sample(plain, 20)], k=random.randint(1, 8))) for _ in range(1000)]


def read(stream: bytes) -> Sequence[ServerSentEvent]:
    """What an independent parser of server-sent events makes of `stream`."""
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=stream)
    return list(EventSource(response).iter_sse())


def test_a_reply_is_sent_as_documented() -> None:
    expected = (
        b'id: 1\ndata: {"content": "Hello! I\'m doing well", "done": false}\n\n'
        b'id: 2\ndata: {"content": ", thank you for asking.", "done": false}\n\n'
        b'id: 3\ndata: {"content": "", "done": true}\n\n'
        b"id: 4\ndata: [DONE]\n\n"
    )

    assert expected == encode(Batch(1, ["Hello! I'm doing well", ", thank you for asking."], True, STOP), TURN)


def test_the_numbers_go_on_in_the_next_batch() -> None:
    expected = b'id: 7\ndata: {"content": "a", "done": false}\n\nid: 8\ndata: {"content": "b", "done": false}\n\n'

    assert expected == encode(Batch(7, ["a", "b"], True, None), TURN)


def test_text_is_sent_as_utf_8_and_not_escaped() -> None:
    expected = 'id: 1\ndata: {"content": "Grüße, 世界 👋", "done": false}\n\n'.encode()

    assert expected == encode(Batch(1, ["Grüße, 世界 👋"], True, None), TURN)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_another_finish_reason_than_stop_follows_done(reason: str) -> None:
    expected = f'id: 1\ndata: {{"content": "", "done": true, "finish_reason": "{reason}"}}\n\n'.encode()

    assert expected + b"id: 2\ndata: [DONE]\n\n" == encode(Batch(1, [], True, End(reason, None)), TURN)


@pytest.mark.parametrize(
    ("error", "retryable"), [(Cancelled("Stopped.", retry_after=3), "false"), (LLMDisconnected("It broke."), "true")]
)
def test_an_error_follows_done_and_the_stream_still_ends_as_documented(error: ChatError, retryable: str) -> None:
    expected = (
        f'id: 5\ndata: {{"content": "", "done": true, "error": {{"code": "{error.code}", "title": "{error.title}", '
        f'"detail": "{error.detail}", "turn_id": "{TURN}", "retryable": {retryable}}}}}\n\n'
        "id: 6\ndata: [DONE]\n\n"
    ).encode()

    assert expected == encode(Batch(5, [], True, End(None, Failure.of(error))), TURN)


def test_a_batch_without_events_is_no_bytes() -> None:
    assert encode(Batch(3, [], True, None), TURN) == b""


def test_a_comment_alone_is_no_event_to_a_parser_that_ends_events_at_blank_lines() -> None:
    assert NativeWire.keep_alive[:1] == b":"
    assert b"\n\n" not in NativeWire.keep_alive


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_ten_thousand_nasty_texts_come_back_from_an_independent_parser(seed: int) -> None:
    texts = thousand_texts(seed)

    events = read(encode(Batch(1, texts, True, None), TURN))

    assert texts == [json.loads(event.data)["content"] for event in events]


@settings(max_examples=100, deadline=None)
@given(replies)
@example(list(LURES))
def test_an_independent_parser_reads_the_texts_as_they_were(texts: list[str]) -> None:
    events = read(encode(Batch(1, texts, True, STOP), TURN))

    *contents, last = [json.loads(event.data) for event in events[:-1]]
    assert [{"content": text, "done": False} for text in texts] == contents
    assert last == {"content": "", "done": True}
    assert events[-1].data == "[DONE]"
    assert [str(n) for n in range(1, len(texts) + 3)] == [event.id for event in events]


@settings(max_examples=50, deadline=None)
@given(replies)
def test_a_text_takes_exactly_two_lines_and_a_blank_one(texts: list[str]) -> None:
    stream = encode(Batch(1, texts, True, None), TURN)

    assert 3 * len(texts) == len(stream.decode().replace("\r", "\n").split("\n")) - 1


@settings(max_examples=50, deadline=None)
@given(replies, st.integers(0, 8))
def test_what_is_replayed_behind_a_number_is_the_end_of_the_whole_byte_by_byte(texts: list[str], after: int) -> None:
    after = min(after, len(texts))
    whole, replay = encode(Batch(1, texts, True, STOP), TURN), encode(Batch(after + 1, texts[after:], True, STOP), TURN)

    assert whole == encode(Batch(1, texts[:after], True, None), TURN) + replay


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (1, b'id: 2\ndata: {"content": "", "done": true}\n\nid: 3\ndata: [DONE]\n\n'),
        (2, b"id: 3\ndata: [DONE]\n\n"),
        (3, b""),
        (9, b""),
    ],
)
def test_events_that_were_seen_are_left_out_of_the_end_too(after: int, expected: bytes) -> None:
    assert expected == encode(Batch(2, [], True, STOP), TURN, after)


@settings(max_examples=50, deadline=None)
@given(replies, st.data())
def test_how_events_are_batched_does_not_show(texts: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(texts)))
    parts = encode(Batch(1, texts[:cut], True, None), TURN) + encode(Batch(cut + 1, texts[cut:], True, STOP), TURN)

    assert encode(Batch(1, texts, True, STOP), TURN) == parts


def test_the_acceptance_alone_has_no_bytes() -> None:
    assert b"" == encode(Batch(1, [], True, None))


def test_the_head_is_that_of_an_unbuffered_event_stream() -> None:
    expected = {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "X-Turn-ID": TURN,
    }

    assert expected == NativeWire(TURN).head


@settings(max_examples=50, deadline=None)
@given(replies, st.sampled_from([STOP, End("length", None, Usage(1, 2)), End(None, Failure.of(Cancelled()))]))
def test_the_bytes_are_the_same_after_the_events_travelled_as_data(texts: list[str], end: End) -> None:
    batch = Batch(1, texts, True, end)
    travelled = json.loads(json.dumps([batch.first, batch.deltas, batch.accepted, batch.end], default=asdict))
    first, deltas, accepted, (finish_reason, failure, usage) = travelled
    rebuilt = End(finish_reason, failure and Failure(*failure), usage and Usage(**usage))

    assert encode(batch) == encode(Batch(first, deltas, accepted, rebuilt))
