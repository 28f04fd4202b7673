"""Paths in the log: words of the API, and nothing that may be about a user."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.http.app import create_app
from entrypoints.http.logged_path import logged_path, words_of
from entrypoints.settings import Settings

WORDS = words_of(create_app(Settings(_env_file=None, history_backend="in_memory", memory_backend="none")))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("", ""),
        ("/", "/"),
        ("/favicon.ico", "/favicon.ico"),
        ("/no-such-path", "/no-such-path"),
        ("/wp-login.php", "/wp-login.php"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/bot/api/chat/simple", "/bot/api/chat/simple"),
        ("/api/chat/", "/api/chat/"),
        ("/api/chat/histroy/ann", "/api/chat/*/*"),
        ("/memories/ann", "/memories/*"),
        ("/api/memory/ann@example.org", "/api/*/*"),
        ("/4f6a1b", "/*"),
        ("/ck_5f1e_0123456789abcdef", "/*"),
        ("/What is my name?", "/*"),
        ("/" + "a" * 33, "/*"),
        ("/a\r\nINJECTED", "/*"),
        ("/api\x1b[31m/chat\u202e", "/*/*"),
        ("/api" + "/chat" * 20, "/api" + "/chat" * 7 + "/*"),
    ],
)
def test_only_words_are_shown(path: str, shown: str) -> None:
    assert logged_path(path, WORDS) == shown


@given(st.text(max_size=300))
def test_a_shown_path_is_short_and_printable(path: str) -> None:
    shown = logged_path("/" + path, WORDS)

    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 200
