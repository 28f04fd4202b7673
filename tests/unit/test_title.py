"""The title that a conversation gets from its first message."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.title import SOURCE_CHARS, TITLE_CHARS, title_of

SHORT = "x" * (TITLE_CHARS - 1)


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("Hello", "Hello"),
        ("  Tell me\n\n\tabout\u00a0trees.\r\n", "Tell me about trees."),
        ("x" * 81, "x" * 80),
        (SHORT + " more", SHORT),
        ("é" * 100, "é" * 80),
        (SHORT + "e\u0301", SHORT),
        (SHORT[:-1] + "e\u0301!", SHORT[:-1] + "e\u0301"),
        (SHORT + "👍🏽", SHORT),
        (SHORT + "🏳️‍🌈", SHORT),
        (SHORT[2:] + "👩‍👩‍👧", SHORT[2:]),
        (SHORT[1:] + "🇪🇺🇫🇷", SHORT[1:] + "🇪🇺"),
        (SHORT + "🇪🇺🇫🇷", SHORT),
        ("e" + "\u0301" * 200, "e" + "\u0301" * 79),
        (" " * SOURCE_CHARS + "late", "…"),
    ],
)
def test_a_title_is_the_beginning_of_the_message_on_one_line(message: str, title: str) -> None:
    assert title == title_of(message)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_a_title_is_short_one_line_and_a_beginning(message: str) -> None:
    title = title_of(message)
    assert 0 < len(title) <= TITLE_CHARS
    assert title == "…" or " ".join(message.split()).startswith(title)
    assert not any(character.isspace() and character != " " for character in title)


@given(st.integers(70, 90), st.text(st.sampled_from("ab\u0301👍🏽🇪🇺\u200d"), max_size=40))
def test_no_accent_is_cut_off(length: int, rest: str) -> None:
    message = "x" * length + rest
    title = title_of(message)
    follows = message[len(title) : len(title) + 1]
    assert not (follows and unicodedata.category(follows) == "Mn")
