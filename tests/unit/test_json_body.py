"""Strict JSON: input that parsers interpret differently is rejected."""

import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.http.json_body import MAX_VALUES, parse_json
from entrypoints.http.openai.schemas import MAX_MESSAGES
from entrypoints.http.request_problems import RequestProblem

INVALID = {
    b"": "not valid JSON at character 0",
    b" ": "not valid JSON at character",
    b"{": "not valid JSON at character",
    b"}": "not valid JSON at character 0",
    b'{"a": 1}}': "not valid JSON at character 8",
    b'{"a": 1} {"a": 2}': "not valid JSON at character 9",
    b'{"a": 1,}': "not valid JSON at character",
    b"[1,]": "not valid JSON at character",
    b"{'a': 1}": "not valid JSON at character 1",
    b"{a: 1}": "not valid JSON at character 1",
    b'{"a" 1}': "not valid JSON at character",
    b'{"a": tru}': "not valid JSON at character",
    b'{"a": True}': "not valid JSON at character",
    b'{"a": undefined}': "not valid JSON at character",
    b'{"a": 01}': "not valid JSON at character",
    b'{"a": +1}': "not valid JSON at character",
    b'{"a": .5}': "not valid JSON at character",
    b'{"a": 1.}': "not valid JSON at character",
    b'{"a": 0x1f}': "not valid JSON at character",
    b'{"a": 1_000}': "not valid JSON at character",
    b'{"a": "\n"}': "not valid JSON at character",
    b'{"a": "\x00"}': "not valid JSON at character",
    b'{"a": "\\x41"}': "not valid JSON at character",
    b'{"a": "\\u12g4"}': "not valid JSON at character",
    b'{"a": "': "not valid JSON at character",
    b'{"a": 1} // comment': "not valid JSON at character",
    b'/* comment */ {"a": 1}': "not valid JSON at character 0",
    b"\xef\xbb\xbf{}": "not valid JSON at character 0",
    "{}".encode("utf-16"): "not valid UTF-8 at byte 0",
    b'{"a": "\xff"}': "not valid UTF-8 at byte 7",
    b'{"a": "\xed\xa0\x80"}': "not valid UTF-8 at byte 7",
    b'{"a": NaN}': "NaN",
    b'{"a": Infinity}': "Infinity",
    b'{"a": -Infinity}': "-Infinity",
    b'{"a": 1e999}': "out of range",
    b'{"a": -1e999}': "out of range",
    b'{"a": ' + b"9" * 5000 + b"}": "out of range",
    b'{"a": 1, "a": 2}': "duplicate key",
    b'{"a": 1, "\\u0061": 2}': "duplicate key",
    b'[{"b": {"a": 1, "a": 1}}]': "duplicate key",
    b"[" * 100_000: "nested too deeply",
    b'{"a":' * 100_000: "nested too deeply",
    b"[" * 100_000 + b"]" * 100_000: "nested too deeply",
}

VALID: dict[bytes, Any] = {
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


@pytest.mark.parametrize(("body", "reason"), INVALID.items(), ids=lambda value: repr(value[:24]))
def test_invalid_json_is_rejected_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(RequestProblem) as rejected:
        parse_json(body)

    assert (rejected.value.status, rejected.value.code) == (400, "malformed_json")
    assert reason in rejected.value.detail


@pytest.mark.parametrize(("body", "value"), VALID.items(), ids=lambda value: repr(value)[:24])
def test_unusual_but_valid_json_is_parsed(body: bytes, value: Any) -> None:
    assert value == parse_json(body)


SIZE = 4_000_000


@pytest.mark.parametrize(
    "value",
    [b"{}", b"[]", b'""', b'"\\\\"', b"0", b'{"a":1}', b'{"a":[{"b":"\\",[{"}]}'],
    ids=repr,
)
def test_a_body_with_too_many_values_is_rejected_before_they_are_built(value: bytes) -> None:
    body = b"[" + b",".join([value] * (SIZE // (len(value) + 1))) + b"]"
    tracemalloc.start()
    try:
        with pytest.raises(RequestProblem) as rejected:
            parse_json(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (rejected.value.status, rejected.value.code) == (413, "body_too_large")
    assert peak < 10 * SIZE


@pytest.mark.parametrize("text", [",", ", ", "[{,", '\\",', '"', "\\", "a,\n"], ids=repr)
def test_commas_and_brackets_of_a_text_are_no_values(text: str) -> None:
    value = {"a": [text * (SIZE // 10), text]}

    assert value == parse_json(json.dumps(value).encode())


def test_as_many_messages_as_v1_accepts_are_not_too_many_values() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Hello, [world]"}]}
    body = {"model": "gpt", "stream": True, "messages": [message] * MAX_MESSAGES}

    assert body == parse_json(json.dumps(body).encode())


def test_a_string_without_an_end_takes_no_longer_than_another() -> None:
    started = time.process_time()
    with pytest.raises(RequestProblem, match=None) as rejected:
        parse_json(b"[" * 2 * MAX_VALUES + b'"' + b'\\"' * (SIZE // 2))

    assert rejected.value.status == 413
    assert time.process_time() - started < 3


@pytest.mark.parametrize("body", [b'{"canary": canary}', b'"canary', b'{"canary": 1, "canary": 2}', b"canary"])
def test_the_error_does_not_quote_the_body(body: bytes) -> None:
    with pytest.raises(RequestProblem) as rejected:
        parse_json(body)

    assert "canary" not in rejected.value.detail


@settings(max_examples=200)
@given(values, st.booleans())
def test_serialized_json_is_parsed_to_the_same_value(value: Any, ascii_only: bool) -> None:
    assert value == parse_json(json.dumps(value, ensure_ascii=ascii_only).encode())


@settings(max_examples=500)
@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from(list('{}[]",:\\01e-.nulltrue')), max_size=30).map(lambda parts: "".join(parts).encode())
)
def test_arbitrary_bytes_are_parsed_or_rejected(body: bytes) -> None:
    with suppress(RequestProblem):
        parse_json(body)
