"""The client of the terminal chat: its URL, and what it shows of others' text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.cli.chat import _subject_of
from entrypoints.cli.terminal.client import ServiceClient
from entrypoints.cli.terminal.text import printable


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "http://", "http://ann:secret@host", "http://host?x", "http://host#x", "http://host:x", "http://["],
)
def test_a_url_that_cannot_be_one_is_rejected_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as rejected:
        ServiceClient(url, None)

    assert "secret" not in str(rejected.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://example.org/bot/", "https://example.org/bot"),
        ("example.org:81/bot", "http://example.org:81/bot"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_may_have_a_path_and_lack_a_scheme(url: str, base: str) -> None:
    assert ServiceClient(url, None).url == base


@given(st.lists(st.text(st.characters(), max_size=10)))
def test_nothing_that_controls_a_terminal_is_printable_however_it_is_cut(pieces: list[str]) -> None:
    shown = "".join(map(printable, pieces))

    assert shown == printable("".join(pieces))
    assert [character for character in shown if not character.isprintable() and ord(character) in DANGEROUS] == []


DANGEROUS = {
    *range(9),
    *range(0xB, 0x20),
    *range(0x7F, 0xA0),
    *range(0xD800, 0xE000),
    0x61C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
}


def test_each_control_character_is_replaced() -> None:
    assert [code for code in DANGEROUS if chr(code) in printable(f"a{chr(code)}b")] == []


def test_other_text_is_shown_as_it_is() -> None:
    text = "größe\t日本語\n✅ 👩‍👩‍👧 می‌خواهم עברית"

    assert printable(text) == text


@pytest.mark.parametrize("token", ["", "opaque", "a.b.c", "a.e30.c", "a.W10.c", "a.////.c"])
def test_a_credential_that_is_no_token_names_no_user(token: str) -> None:
    assert _subject_of(token) is None


def test_a_token_names_its_user() -> None:
    assert _subject_of("x.eyJzdWIiOiAiYW5uIn0.x") == "ann"
