"""Throttle: limits how often something may fail for one address, key, or the like."""

import math
from collections import OrderedDict, deque

import anyio


class Throttle:
    """Allows `limit` failures per name within `period` seconds, in this process.

    Remembers the `max_names` that failed last, so that its memory is bounded whatever clients send.
    """

    def __init__(self, *, limit: int = 10, period: float = 60, max_names: int = 10_000) -> None:
        self._limit = limit
        self._period = period
        self._max_names = max_names
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def fail(self, name: str) -> int:
        """Note a failure. Return how many seconds to wait before the next one, or 0 if the limit is not exceeded.

        Failures beyond the limit are not noted, so that a name is throttled for a period at the most.
        """
        now = anyio.current_time()
        times = self._failures.setdefault(name, deque(maxlen=self._limit))
        self._failures.move_to_end(name)
        if len(self._failures) > self._max_names:
            self._failures.popitem(last=False)
        if len(times) == self._limit and (wait := times[0] + self._period - now) > 0:
            return math.ceil(wait)
        times.append(now)
        return 0
