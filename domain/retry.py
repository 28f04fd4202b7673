"""When a failed background job is retried, and when it is given up. Pure arithmetic: the caller supplies the times."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff from `first_delay`, doubling up to `max_delay`.

    A job is given up when it is older than `give_up_after` *and* has been attempted `min_attempts` times, so that an
    outage longer than `give_up_after` does not discard jobs unattempted. With `give_up_after=None` a job is never
    given up.
    """

    first_delay: timedelta
    max_delay: timedelta
    give_up_after: timedelta | None = None
    min_attempts: int = 1

    def delay(self, failures: int, retry_after: float | None = None) -> timedelta:
        """Return the delay before the next attempt, after `failures` attempts (at least one) have failed.

        `retry_after` is the delay in seconds that the failing service asked for; it is honoured up to `max_delay`.
        """
        backoff = self.first_delay * (1 << min(max(failures, 1) - 1, 20))
        requested = timedelta(seconds=min(retry_after or 0.0, self.max_delay.total_seconds()))
        return max(requested, min(backoff, self.max_delay))

    def gives_up(self, failures: int, age: timedelta) -> bool:
        """Return whether a job of this age is given up after `failures` failed attempts."""
        return self.give_up_after is not None and age > self.give_up_after and failures >= self.min_attempts
