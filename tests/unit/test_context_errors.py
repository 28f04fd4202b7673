"""Errors about the context window: recognised in many services' words, told from throttling, with their numbers."""

import json

import pytest

from adapters.openai_api.context_errors import context_error
from adapters.openai_api.refusal import Refusal

Numbers = tuple[int | None, int | None]


def numbers_of(body: object, status: int | None = 400) -> Numbers | None:
    error = context_error(Refusal.parse(body, status))
    return None if error is None else (error.limit, error.prompt_tokens)


@pytest.mark.parametrize(
    ("message", "numbers"),
    [
        ("This model's maximum context length is 8192 tokens.", (8192, None)),
        ("This model's maximum context length is 16,385 tokens. However, your messages resulted in 20,000 tokens.",
         (16385, 20000)),
        ("This endpoint's maximum context length is 131072 tokens. However, you requested about 200000 tokens "
         "(190000 of text input, 10000 in the output).", (131072, 190000)),
        ("'max_tokens' or 'max_completion_tokens' is too large: 1000. This model's maximum context length is 1024 "
         "tokens and your request has 40 input tokens (1000 > 1024 - 40).", (1024, 40)),
        ("prompt is too long: 209353 tokens > 199999 maximum", (199999, 209353)),
        ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", (200000, 190000)),
        ("This model's maximum prompt length is 131072 but the request contains 136973 tokens.", (131072, 136973)),
        ("Please reduce the length of the messages or completion. Current length is 42328 while limit is 40000",
         (40000, 42328)),
        ("Input length (265330) exceeds model's maximum context length (262144).", (262144, 265330)),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 1000 `max_new_tokens`",
         (4096, 4000)),
        ("Your request exceeded model token limit: 8192", (8192, None)),
        ("Range of input length should be [1, 30720]", (30720, None)),
        ("The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
         (1048576, 1100000)),
        ("the request exceeds the available context size (4096 tokens), try increasing it", (4096, None)),
        ("Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context "
         "length of only 4096 tokens", (4096, 5000)),
        ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
         (32768, 40000)),
        ("too many tokens: total number of tokens in the prompt cannot exceed 4081", (4081, None)),
        ("prompt token count of 70000 exceeds the limit of 64000", (64000, 70000)),
        ("The prompt is too long: 40000, model maximum context length: 32767", (32767, 40000)),
        ("Input is too long for requested model.", (None, None)),
        ("litellm.ContextWindowExceededError: prompt is too long", (None, None)),
        ("Prompt exceeds max length", (None, None)),
        ("Prompt 超长", (None, None)),
    ],
)  # fmt: skip
def test_a_context_error_is_recognised_with_its_numbers(message: str, numbers: Numbers) -> None:
    assert numbers_of({"error": {"message": message}}) == numbers


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (None, {"message": "Context length exceeded", "code": "CONTEXT_LENGTH_EXCEEDED"}),
        (400, {"code": 400, "type": "exceed_context_size_error"}),
        (500, {"error": {"code": "context_length_exceeded"}}),
        (400, [{"error": {"message": "prompt is too long"}}]),
        (422, {"detail": [{"loc": ["body", "messages"], "msg": "Prompt exceeds maximum context length"}]}),
        (400, {"error": {"message": "Provider returned error", "metadata": {"raw": json.dumps(
            {"error": {"message": "prompt is too long"}})}}}),
        (400, "too large for the context window"),
        (413, "<html><h1>413 Request Entity Too Large</h1></html>"),
        (413, {"error": {"message": "Request too large for model on tokens per minute (TPM): Limit 6000, "
                                    "Requested 7000", "code": "rate_limit_exceeded"}}),
        (429, {"error": {"message": "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested "
                                    "12000", "code": "rate_limit_exceeded"}}),
    ],
)  # fmt: skip
def test_a_context_error_is_recognised_in_any_shape(status: int | None, body: object) -> None:
    assert numbers_of(body, status) is not None


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (429, "Rate limit reached for gpt-4 on tokens per min (TPM): Limit 6000, Used 5900, Requested 700."),
        (400, "Too many tokens, please wait before trying again."),
        (400, "You exceeded your token limit per minute"),
        (429, "Your request exceeded the token limit"),
        (None, "Quota exceeded for quota metric 'Input tokens per model per minute'"),
        (400, "Unknown model"),
        (400, "Invalid value for 'temperature': 3 exceeds the maximum of 2"),
        (400, "max_tokens is too large: 1000. This model supports at most 512 completion tokens."),
        (500, "the context window was exceeded"),
    ],
)
def test_throttling_and_other_errors_are_not_context_errors(status: int | None, message: str) -> None:
    assert numbers_of({"error": {"message": message}}, status) is None


def test_numeric_fields_take_precedence_over_the_text() -> None:
    body = {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096, "message": "1 > 2"}}
    assert numbers_of(body) == (4096, 5000)


@pytest.mark.parametrize(
    ("message", "reply_only"),
    [
        ("maximum context length is 1024 tokens. You requested 1040 tokens (40 in the messages, 1000 in the "
         "completion)", True),
        ("maximum context length is 1024 tokens. You requested 3000 tokens (2000 in the messages, 1000 in the "
         "completion)", False),
        ("maximum context length is 1024 tokens", False),
    ],
)  # fmt: skip
def test_only_the_reply_is_too_long_if_the_prompt_alone_fits(message: str, reply_only: bool) -> None:
    error = context_error(Refusal.parse({"message": message}, 400))
    assert error is not None
    assert error.reply_only is reply_only
