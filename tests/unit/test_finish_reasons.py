"""Finish reasons of all vendors."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.openai_api.finish_reasons import FAILED, UNKNOWN, map_reason
from entrypoints.http.statuses import STATUS

WORDS = {
    "stop": ["stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete"],
    "length": ["length", "max_tokens", "max_output_tokens", "model_length"],
    "content_filter": ["content_filter", "safety", "recitation", "prohibited_content", "refusal", "sensitive"],
    "tool_calls": ["tool_calls", "function_call", "tool_use"],
    FAILED: ["error", "abort", "aborted", "cancelled", "timeout", "network_error", "insufficient_system_resource"],
}
CODES = {error.code for error in STATUS}
PAIRS = [(word, reason) for reason, words in WORDS.items() for word in words]


@given(st.sampled_from(PAIRS), st.randoms(use_true_random=False))
def test_case_does_not_matter(pair: tuple[str, str], random: Random) -> None:
    word, reason = pair
    assert map_reason("".join(map(random.choice, zip(word.lower(), word.upper(), strict=True)))) == reason
    assert map_reason(f" {word}\n") == reason


@pytest.mark.parametrize("reason", ["pause_turn", "upstream_auth", "", "failed", "unknown", 1, 2.5, True, {}, ["stop"]])
def test_any_other_reason_is_unknown(reason: object) -> None:
    assert map_reason(reason) == UNKNOWN


@given(st.one_of(st.text(), st.sampled_from(sorted(CODES))))
def test_no_finish_reason_equals_an_error_code(reason: str) -> None:
    assert map_reason(reason) not in CODES
