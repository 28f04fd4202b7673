"""When a process that has ended is started again. Pure arithmetic: the caller supplies the times."""

from datetime import timedelta
from typing import Final

from domain.retry import RetryPolicy

RETRY_POLICY: Final = RetryPolicy(first_delay=timedelta(seconds=0.5), max_delay=timedelta(seconds=30))

HEALTHY_TIME: Final = 60.0
"""Seconds after which a process counts as healthy, so that its end says nothing about the next one."""


class Restarts:
    """The delays before the restarts of one process: none before the first, then exponential backoff.

    The backoff begins anew when a process has run for `healthy_time` seconds.
    """

    def __init__(self, policy: RetryPolicy = RETRY_POLICY, healthy_time: float = HEALTHY_TIME) -> None:
        self.failures = 0
        """How many times the process has ended since it last ran for `healthy_time`, that end included."""
        self._policy = policy
        self._healthy_time = healthy_time

    def delay_after(self, ran: float) -> float:
        """Return the seconds to wait before the next start, after a process that ran for `ran` seconds has ended."""
        if ran >= self._healthy_time:
            self.failures = 0
        self.failures += 1
        return self._policy.delay(self.failures - 1).total_seconds() if self.failures > 1 else 0.0
