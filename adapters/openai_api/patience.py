"""How long the next part of an answer may take."""

import asyncio

from adapters.openai_api.connection import Answer


class Patience:
    """Fails the read of an answer that waits longer than it may.

    One timer goes along with all reads, and looks when it rings whether it is time: setting and stopping one a read
    costs several times what a look at the clock does.
    """

    def __init__(self, answer: Answer, seconds: float) -> None:
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """Let the next read take so long from now on."""
        self._due = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._due:
            self._set()

    def end(self) -> None:
        """Fail no read any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self) -> None:
        self.end()
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        if self._loop.time() < self._due:
            self._set()
        else:
            self._answer.fail(TimeoutError("The service has fallen silent."))
