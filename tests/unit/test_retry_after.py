"""Parsing of the headers Retry-After and Retry-After-Ms."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.retry_after import parse_retry_after

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Sun, 01 Nov 2026 12:01:00 GMT"}, 60),
        ({"retry-after": "Sun, 01 Nov 2026 12:01:00"}, 60),
        ({"retry-after": "Sun, 01 Nov 2026 14:01:00 +0200"}, 60),
    ],
)
def test_seconds_milliseconds_and_dates_are_parsed(headers: dict[str, str], seconds: float) -> None:
    assert seconds == parse_retry_after(headers, NOW)


@pytest.mark.parametrize("value", ["-3", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_time_in_the_past_is_zero_seconds(value: str) -> None:
    assert parse_retry_after({"retry-after": value}, NOW) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry-after": ""},
        {"retry-after": "soon"},
        {"retry-after": "nan"},
        {"retry-after": "inf"},
        {"retry-after": "Sun, 01 Nov 99999999999999999999 12:01:00 GMT"},
        {"retry-after-ms": "x"},
    ],
)
def test_a_missing_or_malformed_header_is_none(headers: dict[str, str]) -> None:
    assert parse_retry_after(headers, NOW) is None


@given(st.text() | st.from_regex(r"\w{3}, \d{1,30} \w{3} \d{1,30} \d{1,9}:\d{1,9}:\d{1,9} [+-]\d{1,9}"))
def test_any_text_gives_none_or_a_non_negative_number(value: str) -> None:
    seconds = parse_retry_after({"retry-after": value}, NOW)
    assert seconds is None or seconds >= 0
