"""The decoder of server-sent events agrees with httpx-sse, however the bytes are split."""

import codecs
from itertools import pairwise

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.openai_api.stream import EventDecoder
from domain.errors import OutputLimit

LIMIT = 1000
LINES = st.one_of(
    st.builds("data: {}".format, st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))),
    st.sampled_from(
        ["data", "data:", "data:x", "data:  y", "event: error", "event", "id: 7", "retry: 10", ": comment"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff{"), max_size=8),
    st.just(""),
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\n", "\n\n", "\r", "\r\n"]))).map(
    lambda parts: "".join(line + end for line, end in parts).encode()
)
CUTS = st.lists(st.integers(0, 400))


def decode(stream: bytes, cuts: list[int], max_event_bytes: int = 64 * 1024) -> list[tuple[str, str]]:
    decoder = EventDecoder(max_event_bytes)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [stream[start:end] for start, end in pairwise(edges)]
    return [(name.decode(), data.decode()) for read in reads for name, data in decoder.feed(read)]


def decode_with_httpx_sse(stream: bytes) -> list[tuple[str, str]]:
    content = stream.removeprefix(codecs.BOM_UTF8)
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content)
    return [(event.event.replace("message", ""), event.data) for event in EventSource(response).iter_sse()]


def with_data(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Drop the events without data, which httpx-sse yields and the standard does not."""
    return [event for event in events if event[1]]


@given(STREAMS, CUTS)
@example(b"data: a\n\n\ndata: b\n\n", [])
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example("data: 👩‍👧\n\n".encode(), [7, 8, 9, 12])
def test_it_agrees_with_an_independent_decoder(stream: bytes, cuts: list[int]) -> None:
    assert with_data(decode(stream, cuts)) == with_data(decode_with_httpx_sse(stream))


@given(STREAMS, CUTS)
def test_a_byte_order_mark_at_the_start_is_skipped(stream: bytes, cuts: list[int]) -> None:
    assert decode(codecs.BOM_UTF8 + stream, cuts) == decode(stream, [])


@given(STREAMS, CUTS)
def test_the_split_of_the_bytes_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    assert decode(stream, cuts) == decode(stream, [])


@pytest.mark.parametrize("size", [1, 100, LIMIT, LIMIT + 100])
def test_a_line_over_the_limit_is_an_error_regardless_of_the_split(size: int) -> None:
    line = b"data: " + b"x" * LIMIT + b"\n\n"
    with pytest.raises(OutputLimit):
        decode(line, list(range(0, len(line), size)), LIMIT)


def test_a_line_of_exactly_the_limit_is_decoded() -> None:
    data = "x" * (LIMIT - len("data: "))
    assert decode(f"data: {data}\n\n".encode(), [300], LIMIT) == [("", data)]


def test_the_limit_applies_to_all_lines_of_an_event_together() -> None:
    with pytest.raises(OutputLimit):
        decode(b"data: xxxxxxxxxx\n" * 200, list(range(0, 3400, 300)), LIMIT)


def test_the_default_limit_is_64_kib() -> None:
    assert decode(b"data: " + b"x" * (64 * 1024 - 6) + b"\n\n", [])
    with pytest.raises(OutputLimit):
        decode(b"data: " + b"x" * (64 * 1024 - 5) + b"\n\n", [])


def test_a_line_of_bare_json_is_an_event() -> None:
    stream = b'data: a\n\n{"error": 1}\ndata: b\n\n'
    assert decode(stream, []) == decode(stream, [9, 12, 22]) == [("", "a"), ("", '{"error": 1}'), ("", "b")]


@pytest.mark.parametrize(
    ("rest", "events"),
    [
        (b"data: {}", [b"{}"]),
        (b"data: [DONE]\n", [b"[DONE]"]),
        (b'{"a": 1}', [b'{"a": 1}']),
        (b"data: {", []),
        (b"", []),
    ],
)
def test_a_whole_event_at_the_end_of_the_stream_needs_no_blank_line(rest: bytes, events: list[bytes]) -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\n\n" + rest) == [(b"", b"a")]
    assert decoder.finish() == [(b"", data) for data in events]
