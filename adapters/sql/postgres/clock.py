"""The clock of a PostgreSQL server, which all processes share."""

import time
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, text

from adapters.clock import utc_now
from adapters.sql.tables import EPOCH

_NOW: Final = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")

SETTLE_TIME: Final = 20.0
"""Seconds after which all processes have noticed that the clock was set, and have renewed their leases by it."""


class PostgresClock:
    """Tells the server's time by this host's monotonic clock, after comparing the two.

    It is wrong by at most half of the round trip of the comparison, and by what the clocks have drifted apart since.
    When the server's clock was set, it is not steady for `SETTLE_TIME`: what other processes have stored until they
    noticed cannot be compared with it.
    """

    def __init__(self, *, max_round_trip: float = 0.5, max_drift: float = 1.0) -> None:
        self._max_round_trip = max_round_trip
        self._max_drift = timedelta(seconds=max_drift)
        self._started_at: datetime | None = None
        """The server's time when the monotonic clock showed 0."""
        self._steady_from = 0.0

    @property
    def is_steady(self) -> bool:
        return time.monotonic() >= self._steady_from

    def now(self) -> datetime:
        if self._started_at is None:  # nothing was asked of the server yet
            return utc_now()
        return self._started_at + timedelta(seconds=time.monotonic())

    def compare(self, connection: Connection) -> None:
        """Ask the server for its time. A response that took too long is used only if there was none before."""
        before = time.monotonic()
        microseconds = connection.execute(_NOW).scalar_one()
        after = time.monotonic()
        started_at = EPOCH + timedelta(microseconds=microseconds) - timedelta(seconds=(before + after) / 2)
        if self._started_at is None:
            self._started_at = started_at
        elif after - before <= self._max_round_trip:
            if abs(started_at - self._started_at) > self._max_drift:
                self._steady_from = after + SETTLE_TIME
            self._started_at = started_at
