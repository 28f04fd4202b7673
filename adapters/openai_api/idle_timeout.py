"""The idle timeout of a streamed response."""

import asyncio

import aiohttp


class IdleTimeout:
    """Fails the pending read of a body if nothing arrives for too long.

    One timer serves all reads of a response and checks the clock when it fires. aiohttp's `sock_read` would cancel and
    set a timer at every read, which costs several times as much.
    """

    def __init__(self, content: aiohttp.StreamReader, seconds: float) -> None:
        self._content = content
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._fires_at = 0.0
        self.bytes_read = 0
        """Counted by the reader: the service is not idle if there are more to read."""
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Expect the next data within `seconds` from now."""
        self._seconds = seconds
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._fires_at > self._deadline:
            self._schedule()

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self.cancel()
        # Kept here, since uvloop returns a handle without a time if that is less than a millisecond away.
        self._fires_at = self._deadline
        self._timer = self._loop.call_at(self._fires_at, self._check)

    def _check(self) -> None:
        if self._content.total_bytes > self.bytes_read:  # it is the reader that is late
            self._deadline = self._loop.time() + self._seconds
        if self._loop.time() < self._deadline:
            self._schedule()
        else:
            self._content.set_exception(aiohttp.SocketTimeoutError())
