"""What a model accepts, learned from refusals in any words."""

import json
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from adapters.openai_api.parameters import MAX_FORMS, Accepted, Parameters, adapted
from adapters.openai_api.refusal import Refusal
from domain.conversation import Message, Role

FIRST = Accepted(temperature=0.7, max_tokens=1000)
NO_TEMPERATURE = Accepted(None, 1000)
RENAMED = Accepted(0.7, 1000, limit_name="max_completion_tokens")
NO_USAGE = Accepted(0.7, 1000, usage=False)
FOLDED = Accepted(0.7, 1000, system_role=False)
LIMIT_512 = Accepted(0.7, 512)

MESSAGES = [Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello")]


def after(body: object, status: int = 400, form: Accepted = FIRST, *, has_system: bool = True) -> Accepted | None:
    return adapted(form, Refusal.parse(body, status), form.parameters(), has_system=has_system)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "no", "param": "temperature", "code": None}}, NO_TEMPERATURE),
        ({"error": {"message": "no", "param": "stream_options.include_usage"}}, NO_USAGE),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "no"}]}, NO_USAGE),
        ({"detail": [{"loc": ["body", "OpenAIRequest", "max_tokens"], "msg": "Extra inputs are not permitted"}]},
         RENAMED),
        ({"message": {"detail": [{"loc": ["body", "stream_options"]}]}, "type": "invalid_request_error"}, NO_USAGE),
        ({"error": {"message": "Unrecognized request argument supplied: stream_options"}}, NO_USAGE),
        ({"error": {"message": 'Invalid JSON payload received. Unknown name "stream_options": Cannot find field.'}},
         NO_USAGE),
        ({"error": "json: unknown field `stream_options` at line 1"}, NO_USAGE),
        ("property 'temperature' is unsupported", NO_TEMPERATURE),
        ({"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                               "'max_completion_tokens' instead."}}, RENAMED),
        ({"error": {"message": "Provider returned error", "metadata": {
            "raw": '{"error": {"message": "unsupported", "param": "temperature"}}'}}}, NO_TEMPERATURE),
    ],
)  # fmt: skip
def test_a_parameter_is_rejected_by_a_field_or_in_the_text(body: object, expected: Accepted) -> None:
    assert after(body) == expected
    assert after(body, 422) == expected


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        ("max_tokens is too large: 1000. This model supports at most 512 completion tokens.", 512),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 512]", 512),
        ("max_tokens: 1000 > 512, which is the maximum allowed number of output tokens for m-3-5-2024", 512),
        ("max_tokens must be less than or equal to 512", 512),
        ("max_tokens must be less than 513", 512),
        ("Range of max_tokens should be [1, 512]", 512),
        ("Error code 400: max_tokens exceeds the limit of 512", 512),
        ("`max_tokens` must be <= 512, got 1,000", 512),
    ],
)
def test_a_limit_above_the_models_is_lowered_to_it(message: str, allowed: int) -> None:
    assert after({"error": {"message": message, "param": "max_tokens"}}) == Accepted(0.7, allowed)
    assert after({"error": message}) == Accepted(0.7, allowed)


def test_the_bound_in_a_validation_error_is_the_limit() -> None:
    body = {"detail": [{"loc": ["body", "max_tokens"], "msg": "Input should be smaller", "ctx": {"le": 512}}]}
    assert after(body, 422) == LIMIT_512


def test_a_limit_that_is_rejected_under_both_names_is_not_sent() -> None:
    form = after({"error": {"param": "max_completion_tokens"}}, form=RENAMED)
    assert form is not None
    assert form.parameters() == {"temperature": 0.7, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                   "param": "messages[0].role"}},
        {"error": {"message": "System role not supported", "param": None}},
        {"message": "Conversation roles must alternate user/assistant/user/assistant/..."},
        [{"error": {"message": "Developer instruction is not enabled for models/gemma-3", "code": 400}}],
        {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user' or 'assistant'"}]},
    ],
)  # fmt: skip
def test_a_rejected_system_role_is_folded_into_the_first_message(body: object) -> None:
    assert after(body) == FOLDED
    assert after(body, has_system=False) is None
    assert FOLDED.prompt(MESSAGES) == [
        {"role": "user", "content": "Be brief.\n\nHi"},
        {"role": "assistant", "content": "Hello"},
    ]


def test_empty_instructions_are_not_sent() -> None:
    assert FIRST.prompt([Message(Role.SYSTEM, ""), MESSAGES[1]]) == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "Your organization must be verified to stream", "param": "stream"}}, 400),
        ({"error": {"message": "Invalid value for something"}}, 400),
        ({"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "temperature is fine"}]}, 422),
        ({"error": {"message": "no", "param": "temperature"}}, 500),
        ({"error": {"message": "no", "param": "temperature"}}, 404),
    ],
)
def test_what_cannot_be_left_out_is_not_adapted(body: object, status: int) -> None:
    assert after(body, status) is None


def test_the_limit_of_a_single_call_is_the_lower_one() -> None:
    assert FIRST.parameters(600)["max_tokens"] == 600
    assert FIRST.parameters(2000)["max_tokens"] == 1000


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    before = structlog.get_config()
    capture = LogCapture()
    structlog.configure(processors=[capture], cache_logger_on_first_use=False)
    yield capture.entries
    structlog.configure(**before)


def test_what_was_learned_is_remembered_and_logged_once(lines: list[MutableMapping[str, Any]]) -> None:
    parameters = Parameters(FIRST)
    parameters.learn(FIRST, LIMIT_512)
    parameters.learn(FIRST, LIMIT_512)
    assert parameters.accepted == LIMIT_512
    assert lines == [{"log_level": "warning", "event": "model parameters adapted", "max_tokens": 512}]


EVERYTHING = Accepted(0.7, 1000, top_p=0.9, stop=("END",), seed=7, reasoning_effort="low")


def test_only_what_is_set_is_sent() -> None:
    names = {"temperature", "max_tokens", "stream_options"}
    assert FIRST.parameters().keys() == names
    sent = EVERYTHING.parameters()
    assert sent.keys() == names | {"top_p", "stop", "seed", "reasoning_effort"}
    assert (sent["top_p"], sent["stop"], sent["seed"], sent["reasoning_effort"]) == (0.9, ("END",), 7, "low")


@pytest.mark.parametrize("name", ["top_p", "stop", "seed", "reasoning_effort"])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no", "param": "NAME"}},
        {"error": {"message": "Unsupported parameter: 'NAME' is not supported with this model."}},
        {"detail": [{"loc": ["body", "NAME"], "msg": "Extra inputs are not permitted"}]},
    ],
)
def test_a_parameter_that_was_set_is_left_out_if_it_is_rejected(name: str, body: dict[str, Any]) -> None:
    rejected = json.loads(json.dumps(body).replace("NAME", name))
    form = after(rejected, form=EVERYTHING)
    assert form == replace(EVERYTHING, **dict[str, Any]({name: None}))
    assert after(rejected) is None


def test_all_parameters_can_be_rejected_one_by_one() -> None:
    form, forms = EVERYTHING, 1
    for name in ("temperature", "top_p", "stop", "seed", "reasoning_effort", "max_tokens", "stream_options"):
        next_form = after({"error": {"param": name}}, form=form)
        assert next_form is not None
        form, forms = next_form, forms + 1
    assert form.parameters() == {"max_completion_tokens": 1000}
    assert forms + 2 < MAX_FORMS  # the other name of the limit, and the role of instructions


def test_lessons_of_concurrent_calls_add_up() -> None:
    parameters = Parameters(FIRST)
    parameters.learn(FIRST, NO_TEMPERATURE)
    parameters.learn(FIRST, NO_USAGE)
    assert parameters.accepted == Accepted(None, 1000, usage=False)


def test_a_small_number_in_a_refusal_does_not_cut_all_later_replies_to_it() -> None:
    assert after({"error": {"message": "max_tokens exceeds the limit, see section 5"}}) == RENAMED


def test_a_limit_is_compared_with_the_one_that_was_sent() -> None:
    refusal = Refusal.parse({"error": {"message": "max_tokens of 300 is too large; at most 200"}}, 400)
    assert adapted(FIRST, refusal, FIRST.parameters(300), has_system=True) == Accepted(0.7, 200)
