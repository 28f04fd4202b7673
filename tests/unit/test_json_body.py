"""Strict JSON: what two parsers could read differently is refused."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.http.errors import RequestProblem
from entrypoints.http.json_body import parse_json

REFUSED = {
    b"": "not JSON at character 0",
    b" ": "not JSON at character",
    b"{": "not JSON at character",
    b"}": "not JSON at character 0",
    b'{"a": 1}}': "not JSON at character 8",
    b'{"a": 1} {"a": 2}': "not JSON at character 9",
    b'{"a": 1,}': "not JSON at character",
    b"[1,]": "not JSON at character",
    b"{'a': 1}": "not JSON at character 1",
    b"{a: 1}": "not JSON at character 1",
    b'{"a" 1}': "not JSON at character",
    b'{"a": tru}': "not JSON at character",
    b'{"a": True}': "not JSON at character",
    b'{"a": undefined}': "not JSON at character",
    b'{"a": 01}': "not JSON at character",
    b'{"a": +1}': "not JSON at character",
    b'{"a": .5}': "not JSON at character",
    b'{"a": 1.}': "not JSON at character",
    b'{"a": 0x1f}': "not JSON at character",
    b'{"a": 1_000}': "not JSON at character",
    b'{"a": "\n"}': "not JSON at character",
    b'{"a": "\x00"}': "not JSON at character",
    b'{"a": "\\x41"}': "not JSON at character",
    b'{"a": "\\u12g4"}': "not JSON at character",
    b'{"a": "': "not JSON at character",
    b'{"a": 1} // comment': "not JSON at character",
    b'/* comment */ {"a": 1}': "not JSON at character 0",
    b"\xef\xbb\xbf{}": "not JSON at character 0",
    "{}".encode("utf-16"): "not UTF-8 at byte 0",
    b'{"a": "\xff"}': "not UTF-8 at byte 7",
    b'{"a": "\xed\xa0\x80"}': "not UTF-8 at byte 7",
    b'{"a": NaN}': "NaN",
    b'{"a": Infinity}': "Infinity",
    b'{"a": -Infinity}': "-Infinity",
    b'{"a": 1e999}': "out of range",
    b'{"a": -1e999}': "out of range",
    b'{"a": ' + b"9" * 5000 + b"}": "out of range",
    b'{"a": 1, "a": 2}': "the same key twice",
    b'{"a": 1, "\\u0061": 2}': "the same key twice",
    b'[{"b": {"a": 1, "a": 1}}]': "the same key twice",
    b"[" * 100_000: "nested too deeply",
    b'{"a":' * 100_000: "nested too deeply",
    b"[" * 100_000 + b"]" * 100_000: "nested too deeply",
}

TAKEN: dict[bytes, Any] = {
    b"{}": {},
    b"null": None,
    b" \t\r\n[1, -0.5e-3, true] ": [1, -0.0005, True],
    b'{"": 1, " ": 2}': {"": 1, " ": 2},
    b'{"a": "\\ud83d\\ude00 \\u0000"}': {"a": "😀 \0"},
    b'{"a": 1e-999}': {"a": 0.0},
    b'{"a": 1e308}': {"a": 1e308},
    b'{"a": 1, "A": 2}': {"a": 1, "A": 2},
    b'{"a": {"x": 1}, "b": {"x": 1}}': {"a": {"x": 1}, "b": {"x": 1}},
    b"9" * 4000: int("9" * 4000),
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(("body", "why"), REFUSED.items(), ids=lambda value: repr(value[:24]))
def test_what_is_not_json_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(RequestProblem) as refusal:
        parse_json(body)

    assert (refusal.value.status, refusal.value.code) == (400, "malformed_json")
    assert why in refusal.value.detail


@pytest.mark.parametrize(("body", "value"), TAKEN.items(), ids=lambda value: repr(value)[:24])
def test_unusual_json_is_read(body: bytes, value: Any) -> None:
    assert value == parse_json(body)


@pytest.mark.parametrize("body", [b'{"canary": canary}', b'"canary', b'{"canary": 1, "canary": 2}', b"canary"])
def test_a_refusal_does_not_repeat_the_body(body: bytes) -> None:
    with pytest.raises(RequestProblem) as refusal:
        parse_json(body)

    assert "canary" not in refusal.value.detail


@settings(max_examples=200, deadline=None)
@given(values, st.booleans())
def test_json_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    assert value == parse_json(json.dumps(value, ensure_ascii=ascii_only).encode())


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from(list('{}[]",:\\01e-.nulltrue')), max_size=30).map(lambda parts: "".join(parts).encode())
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(RequestProblem):
        parse_json(body)
