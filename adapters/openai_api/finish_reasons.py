"""The finish reasons of the vendors, mapped to those of OpenAI."""

from typing import Final

FAILED: Final = "failed"
"""Stands for the reasons of a reply that the service could not finish. No finish reason that we report is this word."""

UNKNOWN: Final = "unknown"

_WORDS: Final = {
    "stop": "stop end_turn eos eos_token stop_sequence complete",
    "length": "length max_tokens max_output_tokens model_length",
    "content_filter": "content_filter safety recitation prohibited_content refusal sensitive",
    "tool_calls": "tool_calls function_call tool_use",
    FAILED: "error abort aborted cancelled timeout network_error insufficient_system_resource",
}
_REASONS: Final = {word: reason for reason, words in _WORDS.items() for word in words.split()}


def map_reason(reason: object) -> str:
    """Return the finish reason of OpenAI for a vendor's, `FAILED`, or `UNKNOWN` for a word without a known meaning."""
    return _REASONS.get(reason.strip().lower(), UNKNOWN) if isinstance(reason, str) else UNKNOWN
