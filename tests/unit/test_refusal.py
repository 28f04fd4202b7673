"""Errors as services report them, in hostile bodies."""

import time

import pytest

from adapters.openai_api.errors import from_event
from adapters.openai_api.parameters import Accepted, adapted
from adapters.openai_api.refusal import Refusal

SIZE = 1024 * 1024
MAX_SECONDS = 3.0
"""Far above the time taken, 0.2 s. With searches that backtrack, these bodies took more than 8 s."""


@pytest.mark.parametrize(
    "body",
    [
        {"message": "<script>" * (SIZE // 8)},
        {"message": "<script>a</script " * (SIZE // 18)},
        "<html>" + "<style>" * (SIZE // 7),
        {"type": "rate_limit_error", "message": "retry in " + "1" * SIZE + "z"},
        {"type": "rate_limit_error", "message": "retry in " + "1s" * (SIZE // 2)},
        {"errors": [f"{number:x}" for number in range(SIZE // 8)]},
        {"message": "model " * (SIZE // 6)},
        {"errors": ["["] * (SIZE // 4)},
        {f"{number:x}": "[" for number in range(SIZE // 12)},
        {f"{number:x}": {"code": f"a{number}", "loc": [str(number)]} for number in range(SIZE // 48)},
        {"error": {"retry_after": "1" * SIZE, "message": "[" * SIZE}},
    ],
    ids=[
        "script",
        "unclosed end",
        "style",
        "digits",
        "durations",
        "list",
        "words",
        "quoted lists",
        "fields",
        "nested fields",
        "delay",
    ],
)
def test_a_hostile_body_does_not_block_the_event_loop(body: object) -> None:
    started = time.perf_counter()
    from_event(body)
    assert time.perf_counter() - started < MAX_SECONDS


def test_a_hostile_parameter_does_not_block_the_event_loop() -> None:
    form, refusal = Accepted(0.7, 1000), Refusal.parse({"param": "messages" + "." * 60_000}, 400)
    started = time.perf_counter()
    adapted(form, refusal, form.parameters(), has_system=True)
    assert time.perf_counter() - started < MAX_SECONDS


@pytest.mark.parametrize("prefix", ["&#", "<a> &#", "max_tokens must be less than ", "retry in "])
def test_a_number_with_thousands_of_digits_is_only_text(prefix: str) -> None:
    form, refusal = Accepted(0.7, 1000), Refusal.parse({"message": f"{prefix}{'9' * 5000}; wrong max_tokens"}, 400)
    assert adapted(form, refusal, form.parameters(), has_system=True) == Accepted(
        0.7, 1000, limit_name="max_completion_tokens"
    )


def test_none_as_a_text_is_no_name() -> None:
    body = {"error": {"message": "Unsupported value: 'temperature'", "type": "None", "param": "None", "code": "400"}}
    refusal, form = Refusal.parse(body, 400), Accepted(0.7, 1000)
    assert (refusal.type, refusal.parameters, refusal.codes) == ("", (), frozenset({"400"}))
    assert adapted(form, refusal, form.parameters(), has_system=True) == Accepted(None, 1000)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"param": "messages[3].content"}, {"messages"}),
        ({"param": "/messages/0/content"}, {"messages"}),
        ({"param": "messages[2] assistant content must contain at least one part"}, {"messages"}),
        ({"detail": [{"loc": ["body", "messages", 0, "content"]}, {"loc": ["body", "Model"]}]}, {"messages", "model"}),
        ({"details": [{"fieldViolations": [{"field": "contents[0].parts"}]}]}, {"contents"}),
        ({"param": "422"}, set()),
        ({"param": "body"}, set()),
        ({"param": None}, set()),
    ],
)
def test_the_fields_of_the_request_are_read_from_paths_in_any_notation(body: object, fields: set[str]) -> None:
    assert Refusal.parse(body, 400).named_fields == fields


def test_text_after_an_unclosed_script_is_not_visible() -> None:
    assert Refusal.parse("<html><h1>Bad gateway</h1><script>var a = 1;", 502).message == "Bad gateway"


def test_of_an_error_with_very_many_fields_the_first_ones_are_read() -> None:
    fields = {f"field{number}": {"code": f"code{number}"} for number in range(100_000)}
    refusal = Refusal.parse({"message": "Too long", "code": "context_length_exceeded", **fields}, 400)

    assert (refusal.message, refusal.code) == ("Too long", "context_length_exceeded")
    assert len(refusal.keys) <= 1_000
