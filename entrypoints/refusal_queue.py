"""Paces the answers to requests that are refused when they arrive."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

_PAUSE: Final = 0.005
"""Seconds between two answers."""

_LENGTH_AT_DOUBLE_RATE: Final = 1000
"""Waiting requests from which on two are answered at a time; three from twice as many on, etc."""


class RefusalQueue:
    """Has refused requests answered one at a time, with a pause after each.

    Hundreds of malformed requests may arrive in one instant. If they were answered in one go, each in some 0.3 ms, the
    event loop and the interpreter's lock would be busy all the time. A turn needs both dozens of times: the loop, for
    its steps, and the lock, for the threads of its database, which get it after up to 5 ms each time. Measured with 500
    such requests, the slowest turn of that instant took about 200 ms instead of 40; with pauses it takes 35 to 65.

    Up to 200 are answered per second, and proportionally more when over 1,000 are waiting, as far as the processor
    allows. Hence the queue needs no limit besides the one on open connections.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], bool]] = deque()
        self._pausing = False

    def add(self, answer: Callable[[], bool]) -> None:
        """Call `answer` when those before it have been called, or now if the queue is idle.

        `answer` returns whether the client was still connected.
        """
        self._waiting.append(answer)
        if not self._pausing:
            self._proceed()

    def _proceed(self) -> None:
        self._pausing = bool(self._waiting)
        if self._pausing:
            asyncio.get_running_loop().call_later(_PAUSE, self._proceed)
        number = 1 + len(self._waiting) // _LENGTH_AT_DOUBLE_RATE
        while self._waiting and number:
            number -= self._waiting.popleft()()
