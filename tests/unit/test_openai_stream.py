"""The decoder of server-sent events against httpx-sse's, whatever the bytes and however they are split."""

import codecs
from itertools import pairwise

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.openai_api.stream import LIMIT, EventDecoder
from domain.errors import OutputLimit

LINES = st.one_of(
    st.builds("data: {}".format, st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))),
    st.sampled_from(
        ["data", "data:", "data:x", "data:  y", "event: error", "event", "id: 7", "retry: 10", ": comment"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=8),
    st.just(""),
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\n", "\n\n", "\r", "\r\n"]))).map(
    lambda parts: "".join(line + end for line, end in parts).encode()
)
CUTS = st.lists(st.integers(0, 400))


def ours(stream: bytes, cuts: list[int]) -> list[tuple[str, str]]:
    decoder = EventDecoder()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reads = [stream[start:end] for start, end in pairwise(edges)]
    return [(name.decode(), data.decode()) for read in reads for name, data in decoder.feed(read)]


def theirs(stream: bytes) -> list[tuple[str, str]]:
    content = stream.removeprefix(codecs.BOM_UTF8)
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content)
    return [(event.event.replace("message", ""), event.data) for event in EventSource(response).iter_sse()]


def with_data(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Events without data are none to the standard, and some to httpx-sse."""
    return [event for event in events if event[1]]


@given(STREAMS, CUTS)
@example(b"data: a\n\n\ndata: b\n\n", [])
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example("data: 👩‍👧\n\n".encode(), [7, 8, 9, 12])
def test_it_decodes_what_an_independent_decoder_does(stream: bytes, cuts: list[int]) -> None:
    assert with_data(ours(stream, cuts)) == with_data(theirs(stream))


@given(STREAMS, CUTS)
def test_a_byte_order_mark_at_the_start_is_skipped(stream: bytes, cuts: list[int]) -> None:
    assert ours(codecs.BOM_UTF8 + stream, cuts) == ours(stream, [])


@given(STREAMS, CUTS)
def test_how_the_bytes_are_split_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    assert ours(stream, cuts) == ours(stream, [])


@pytest.mark.parametrize("size", [100, 1000, 16_384, LIMIT + 100])
def test_a_line_longer_than_the_limit_is_refused_however_it_is_split(size: int) -> None:
    line = b"data: " + b"x" * LIMIT + b"\n\n"
    with pytest.raises(OutputLimit):
        ours(line, list(range(0, len(line), size)))


def test_a_line_of_the_limit_is_decoded() -> None:
    data = "x" * (LIMIT - len("data: "))
    assert ours(f"data: {data}\n\n".encode(), [16_384]) == [("", data)]


def test_an_event_of_many_lines_is_limited_too() -> None:
    with pytest.raises(OutputLimit):
        ours(b"data: xxxxxxxxxx\n" * 10_000, list(range(0, 170_000, 16_384)))
