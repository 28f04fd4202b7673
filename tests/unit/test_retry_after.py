"""Parsing of waiting times in headers and messages."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.retry_after import find_wait, parse_duration, parse_rate_limit_reset, parse_retry_after

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


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 1),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"},
         360),
        ({"x-ratelimit-reset-tokens": "17ms"}, 0.017),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset": "12"}, 12),
        ({"ratelimit-reset": "12"}, 12),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 30)}, 30),
        ({"x-ratelimit-reset": str(int(NOW.timestamp() * 1000) + 30_000)}, 30),
        ({"x-ratelimit-reset-requests": "2026-11-01T12:00:09Z"}, 9),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) - 30)}, 0),
        ({"x-ratelimit-reset": "soon", "x-ratelimit-limit": "5"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_reset_of_a_rate_limit_is_parsed(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_rate_limit_reset(headers, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("37s", 37), ("37.2s", 37.2), ("1m2s", 62), ("200ms", 0.2), ("5", 5), ("", None), ("5 apples", None), ("s", None)],
)
def test_a_duration_is_parsed(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Limit reached. Please try again in 1m2.5s. Visit https://example.com", 62.5),
        ("Please retry in 37.2s.", 37.2),
        ("Please try again in 20ms.", 0.02),
        ("Please retry after 20 seconds.", 20),
        ("Wait for 2 minutes", 120),
        ("Please try again later", None),
        ("You used 5 s of compute", None),
    ],
)
def test_the_wait_that_a_message_names_is_found(message: str, seconds: float | None) -> None:
    assert find_wait(message) == seconds


@given(st.text() | st.from_regex(r"retry in [\d.]{1,400} ?(ms|s|m|h|d)"))
def test_no_text_breaks_the_search_for_a_wait(text: str) -> None:
    for seconds in (find_wait(text), parse_duration(text), parse_rate_limit_reset({"ratelimit-reset": text}, NOW)):
        assert seconds is None or 0 <= seconds < float("inf")
