"""Excerpts of what services write: neither the request's texts nor credentials, however they are disguised."""

import html
import json
import string
import time
import unicodedata
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.openai_api.redaction import _VIEWS, GAP, Redactor, _View

TEXT = "My doctor says that I have three weeks left; don't tell Anna-Lena Müller."
SECRET = "sk-proj-canary5e1f0c"


def normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def without_white_space(text: str) -> str:
    return "".join(normalised(text).split())


def letters_only(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", normalised(text))
    return "".join(character for character in decomposed if character.isalnum())


def shared_run(excerpt: str, text: str, normalise: Callable[[str], str] = normalised, length: int = 12) -> str | None:
    excerpt, text = normalise(excerpt), normalise(text)
    windows = (excerpt[start : start + length] for start in range(len(excerpt) - length + 1))
    return next((window for window in windows if window in text), None)


@pytest.mark.parametrize("message", ["Loading model", "Invalid value for something", "404 page not found"])
def test_a_message_without_the_requests_text_is_kept(message: str) -> None:
    assert Redactor([TEXT], [SECRET]).excerpt(message) == message


def test_what_surrounds_the_requests_text_is_kept() -> None:
    excerpt = Redactor([TEXT]).excerpt(f"Invalid message <{TEXT}> in request, see manual")
    assert excerpt == f"Invalid message <{GAP}> in request, see manual"


@pytest.mark.parametrize(
    "disguise",
    [
        str.upper,
        lambda text: "\u200b".join(text),
        lambda text: "\u0301".join(text),
        lambda text: "\u20dd".join(text),
        lambda text: "  \n".join(text.split()),
        lambda text: "".join(text.split()),
        lambda text: " ".join(text),
        lambda text: "-".join(text),
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
        lambda text: "".join(chr(0x1D400 + string.ascii_uppercase.index(c.upper())) if c.isascii() and c.isalpha()
                             else c for c in text),
        lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
        lambda text: "".join(f"\\\\u{ord(c):04x}" for c in text),
        lambda text: "".join(f"&#{ord(c)};" for c in text),
        lambda text: "".join(f"&amp;#x{ord(c):x};" for c in text),
        lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
        lambda text: quote(quote(text)),
        lambda text: html.escape(html.escape(text)),
        lambda text: json.dumps(json.dumps(text)),
        lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode("latin-1")),
        lambda text: text.replace(" ", "+"),
    ],
)  # fmt: skip
def test_disguised_text_of_the_request_is_removed(disguise: Callable[[str], str]) -> None:
    excerpt = Redactor([TEXT]).excerpt(f"Error: {disguise(TEXT)}")
    assert GAP in excerpt
    for normalise in (normalised, without_white_space, letters_only):
        assert shared_run(excerpt, TEXT, normalise) is None, excerpt


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("कि खि गि घि चि", "कि खि गि घि चि"),
        ("a, b, c, d, e", "a\u0e34, b\u0e34, c\u0e34, d\u0e34, e"),
        ("किखिगिघिचिछि", "कि खि गि घि चि छि"),
        ("a,b,c,d,e,f,", "a\u0e34, b\u0e34, c\u0e34, d\u0e34, e\u0e34, f\u0e34,"),
        ("abcdefghijkl", "a.b.c.d.e.f\u0e34.g.h.i. j.k.l"),
        ("\u3164".join("abcdefghijkl"), "abcdefghijkl"),
        ("".join(f"\\u00{code:x}" for code in range(0x61, 0x6D)), "abcdefghijkl"),
        ("aéèêëàâùûîïôç", "ae\u0301e\u0300e\u0302e\u0308a\u0300a\u0302u\u0300u\u0302i\u0302i\u0308o\u0302c\u0327"),
    ],
)
def test_text_is_recognised_whichever_side_has_marks_white_space_or_escapes(text: str, quoted: str) -> None:
    excerpt = Redactor([text]).excerpt(f"<{quoted}>")
    assert GAP in excerpt


def test_text_that_was_escaped_too_often_is_not_quoted() -> None:
    assert Redactor([TEXT]).excerpt("&" + "amp;" * 20 + "#77;y doctor") == GAP


def test_pieces_do_not_form_a_run_once_what_separated_them_is_removed() -> None:
    excerpt = Redactor(["abcdefghijkl", "mnopqrstuvwxyz"]).excerpt("abcdefmnopqrstuvwxyzghijkl")
    assert shared_run(excerpt, "abcdefghijkl", letters_only) is None


ALPHABET = st.characters() | st.sampled_from(
    "ab ß ǅ ﬁ İ é\u0301\u0316\u200b\u00ad\u3164\u0e33\u0939\u093f㎏½ \t\n[].,%&\\"
)
TEXTS = st.text(ALPHABET, max_size=60) | st.text("ab .", max_size=60)
CHANGES: list[Callable[[str], str]] = [
    str,
    str.upper,
    str.casefold,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
    lambda text: "\u200b".join(text),
    lambda text: "\u0327".join(text),
    lambda text: " ".join(text.split()),
    lambda text: "".join(text.split()),
    lambda text: json.dumps(text)[1:-1],
    lambda text: html.escape(text),
    lambda text: quote(text.encode(errors="replace")),
]


@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3),
    between=st.lists(st.text(ALPHABET, max_size=12), min_size=4, max_size=4),
    start=st.integers(0, 30),
    length=st.integers(12, 60),
    change=st.sampled_from(CHANGES),
    limit=st.integers(20, 300),
)
@example(["[...]ab[...]ab"], ["", "", "", ""], 0, 40, str, 300)
def test_no_run_of_12_characters_is_shared_with_the_request(
    texts: list[str], between: list[str], start: int, length: int, change: Callable[[str], str], limit: int
) -> None:
    quoted = [change(text[start % (len(text) + 1) :][:length]) for text in texts]
    message = between[0] + "".join(map("".join, zip(quoted, between[1:], strict=False)))
    excerpt = Redactor(texts).excerpt(message, limit)
    assert len(excerpt) <= limit
    assert "\n" not in excerpt
    for text in texts:
        assert shared_run(excerpt, text) is None
        assert shared_run(excerpt, text, without_white_space) is None
        assert shared_run(excerpt, text, letters_only) is None


@given(st.text(string.ascii_letters + string.digits + "-_", min_size=6, max_size=60), st.text(max_size=20))
def test_no_run_of_6_characters_is_shared_with_a_secret(secret: str, around: str) -> None:
    excerpt = Redactor([], [secret]).excerpt(f"{around}{secret}{around}, or {secret.upper()}")
    assert shared_run(excerpt, secret, letters_only, length=6) is None


@pytest.mark.parametrize(
    "credential",
    [
        "sk-abcdefgh",
        "sk-proj-****abcd",
        "gsk_1a2b3c4d5e6f",
        "AIzaSyA1b2C3d4E5f6G7h8",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "0123456789abcdef0123456789abcdef",
        "Zm9vYmFy/YmF6cXV4/MTIzNDU2Nzg5MA==",
    ],
)
def test_what_looks_like_a_credential_is_removed(credential: str) -> None:
    assert (
        Redactor([]).excerpt(f"Incorrect key {credential} for model gpt-4o") == f"Incorrect key {GAP} for model gpt-4o"
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Bearer abc123", f"Bearer {GAP}"),
        ("Incorrect API key provided: hunter2.", f"Incorrect API key provided: {GAP}"),
        ("http://user:hunter2@proxy:80 failed", f"http://{GAP}@proxy:80 failed"),
        ("claude-3-5-sonnet-20241022 is overloaded", "claude-3-5-sonnet-20241022 is overloaded"),
        ("unexpected token: <", f"unexpected token: {GAP}"),
    ],
)
def test_a_credential_is_recognised_by_what_precedes_it(message: str, expected: str) -> None:
    assert Redactor([]).excerpt(message) == expected


def test_a_long_message_is_cut() -> None:
    excerpt = Redactor([]).excerpt("word " * 1000)
    assert len(excerpt) <= 300
    assert excerpt.endswith(GAP)


def test_a_request_with_an_endless_character_reference_is_redacted() -> None:
    text = "&#" + "9" * 5000 + "; " + TEXT
    assert shared_run(Redactor([text]).excerpt(f"Invalid message: {TEXT}"), TEXT) is None


def test_text_beside_what_was_escaped_too_often_is_redacted() -> None:
    text = "%" + "25" * 12 + "20 " + TEXT.replace(" ", "%20")
    assert shared_run(Redactor([text]).excerpt(f"Invalid: {TEXT}"), TEXT) is None


def test_a_run_of_combining_characters_is_not_put_in_order_as_a_whole() -> None:
    started = time.thread_time()
    assert Redactor(["a" + "\u0344\u0316" * 32_000]).excerpt("Something went wrong") == "Something went wrong"
    assert time.thread_time() - started < 3  # as a whole, it would take 10 seconds or more


def test_the_characters_of_requests_fill_no_memory() -> None:
    Redactor(["".join(map(chr, range(0x3400, 0xA000)))]).excerpt("Something went wrong")
    assert max(map(len, _VIEWS)) <= _View.max_entries
