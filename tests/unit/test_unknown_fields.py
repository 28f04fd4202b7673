"""The header that names the fields of a body that were ignored."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.http.native.schemas.chat import ChatRequest
from entrypoints.http.unknown_fields import MAX_HEADER_CHARS, header_of, nearest

KNOWN = frozenset(ChatRequest.model_fields)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("conversationId", "conversation_id"),
        ("conversationID", "conversation_id"),
        ("conversation-id", "conversation_id"),
        ("userId", "user_id"),
        ("user", "user_id"),
        ("mesage", "message"),
        ("whenBusy", "when_busy"),
        ("on_disconect", "on_disconnect"),
        ("model", None),
        ("temperature", None),
        ("system_prompt", None),
        ("x" * 10_000, None),
    ],
)
def test_the_nearest_known_field_is_suggested(name: str, known: str | None) -> None:
    assert nearest(name, KNOWN) == known


def test_names_are_percent_encoded_and_separated_by_commas() -> None:
    names = ["conversationId", "a,b;c", "größe", "\r\nSet-Cookie: x", "\ud800"]

    assert header_of(names, KNOWN) == (
        "conversationId;did-you-mean=conversation_id, a%2Cb%3Bc, gr%C3%B6%C3%9Fe, %0D%0ASet-Cookie%3A%20x, %3F"
    )


def test_no_more_than_twenty_names_are_listed() -> None:
    assert header_of([f"field{number}" for number in range(30)], KNOWN).split(", ")[19:] == ["field19", "..."]


def test_a_long_name_is_cut() -> None:
    assert header_of(["x" * 65], KNOWN) == "x" * 64 + "..."


@given(st.lists(st.text(st.characters(), max_size=200), max_size=40, unique=True))
def test_the_header_is_bounded_and_safe(names: list[str]) -> None:
    value = header_of(names, KNOWN)

    assert len(value) <= MAX_HEADER_CHARS + len(", ...")
    assert value.isascii()
    assert "\r" not in value
    assert "\n" not in value
    if len(names) < 5 and all(name.isprintable() and len(name) <= 64 for name in names):
        assert [unquote(entry.partition(";")[0]) for entry in value.split(", ")] == (names or [""])
