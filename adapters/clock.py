"""The wall clock. Adapters that need one take it as a parameter, so that tests can set the time."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    return datetime.now(UTC)
