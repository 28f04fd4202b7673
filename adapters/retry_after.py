"""Parse how long a service asks its clients to wait, from headers and texts."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNIT_NAMES: Final = r"(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)"
_DURATION: Final = re.compile(rf"(\d+(?:\.\d+)?)\s*{_UNIT_NAMES}(?![a-z])", re.I)
_COMPACT: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_WAIT: Final = re.compile(
    r"\b(?:retry|try again|wait|available)(?: \w+)? (?:in|after|for) ((?:[\d.]{1,20}\s*[a-z]+\s*)+)", re.I
)

_RESETS: Final = re.compile(r"x-ratelimit-reset(?:-(?P<of>[a-z-]+))?|ratelimit-reset")
_EPOCH: Final = 1_000_000_000
"""Seconds; a larger number is a point in time, not a duration."""


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds to wait from `now`; None if the headers are missing or malformed.

    Reads `retry-after-ms` (milliseconds, sent by OpenAI), then `retry-after` (seconds or an HTTP date). A time in the
    past is 0. `headers` is case-insensitive or has lower-case names; `now` is timezone-aware.
    """
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = _parse_seconds(headers.get("retry-after", ""), now)
    except (ValueError, OverflowError):  # the latter for a date beyond any calendar
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _parse_seconds(value: str, now: datetime) -> float:
    try:
        return float(value)
    except ValueError:
        date = parsedate_to_datetime(value)
        return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()


def parse_rate_limit_reset(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds until a rate limit allows another request; None if no header tells.

    Reads `x-ratelimit-reset-<limit>`, `x-ratelimit-reset` and `ratelimit-reset`: durations such as `6m0s`, seconds, or
    a point in time in seconds or milliseconds. If `x-ratelimit-remaining-<limit>` tells which limits are used up, the
    last of these counts; otherwise the first of all, since most are sent with every response. `headers` have
    lower-case names.
    """
    resets: list[float] = []
    used_up: list[float] = []
    for name, value in headers.items():
        found = _RESETS.fullmatch(name)
        seconds = _until(value, now) if found else None
        if found is None or seconds is None:
            continue
        resets.append(seconds)
        if headers.get(name.replace("reset", "remaining"), "").strip() == "0":
            used_up.append(seconds)
    if used_up:
        return max(used_up)
    return min(resets, default=None)


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration such as `37s`, `1m2.5s`, `200ms` or `12`; None if it is none."""
    text = text.strip().lower()
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text):
        return float(text)
    if not re.fullmatch(rf"(?:{_COMPACT.pattern})+", text):
        return None
    return _finite(sum(float(number) * _UNITS[unit] for number, unit in _COMPACT.findall(text)))


def find_wait(text: str) -> float | None:
    """Return the seconds that a message names, e.g. `Please try again in 1m2s.`"""
    found = _WAIT.search(text)
    parts = _DURATION.findall(found[1]) or _COMPACT.findall(found[1]) if found else []
    return _finite(sum(float(number) * _unit(unit) for number, unit in parts)) if parts else None


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _unit(name: str) -> float:
    name = name.lower()
    return _UNITS["ms" if name.startswith(("ms", "mil")) else name[0]]


def _until(value: str, now: datetime) -> float | None:
    seconds = parse_duration(value)
    if seconds is None:
        try:
            seconds = datetime.fromisoformat(value).timestamp() if "T" in value else None
        except (ValueError, OverflowError):
            return None
    if seconds is None:
        return None
    if seconds > 1000 * _EPOCH:
        seconds /= 1000
    return max(0.0, seconds - now.timestamp() if seconds > _EPOCH else seconds)
