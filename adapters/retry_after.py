"""Parse how long a service asks its clients to wait."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


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
