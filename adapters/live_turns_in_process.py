"""LiveTurns within one process: a log is a list, and a reader is an index into it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from application.ports.live_turns import DELETED, Batch, End, EventLog, LiveTurns, LiveTurnsUnavailable, Reader, Stop
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, ClientDisconnected, Failure, Interruption, StreamExpired

LOG_OVERHEAD = 1_500
"""Memory of a log without its deltas, in bytes (measured)."""

DELTA_OVERHEAD = 56
"""Memory of a delta beyond its characters, in bytes."""


class _Log(EventLog):
    def __init__(self, turn: Turn, stop: Stop, live_turns: "LiveTurnsInProcess", *, stop_when_left: bool) -> None:
        self.turn_id = turn.id
        self.user_id = turn.user_id
        self.conversation_id = turn.conversation_id
        self.stop = stop
        self.stop_when_left = stop_when_left
        self._live_turns = live_turns
        self.accepted = False
        self.deltas: list[str] = []
        self.discarded = False
        self.end: End | None = None
        self.ended_at = 0.0
        self.readers = 0
        self.waiters: set[asyncio.Future[bool]] = set()
        """Resolved with True at the next event, or with False when a reader's timeout passes."""

    def accept(self) -> None:
        self.accepted = True
        self._wake()

    def append(self, deltas: Sequence[str]) -> None:
        if not self.discarded:
            self.deltas += deltas
            self._wake()

    async def close(self, end: End) -> None:
        self.stop = _already_ended  # releases the running turn, which the log would otherwise keep in memory
        self._close(end)

    def discard(self) -> None:
        """Drop the text, and make `DELETED` the end."""
        self.discarded = True
        self.deltas = [""] * len(self.deltas)  # keeps the numbers, not the text
        if self.end is not None:
            self.end = DELETED

    def abandon(self) -> None:
        if self.end is None:
            self._close(End(None, Failure.of(LiveTurnsUnavailable())))

    def _close(self, end: End) -> None:
        self.end = DELETED if self.discarded else end
        self.ended_at = asyncio.get_running_loop().time()
        self._wake()
        if not self.discarded:
            self._live_turns.retain(self)

    async def wait_for_end(self) -> None:
        while self.end is None:
            waiter = asyncio.get_running_loop().create_future()
            self.waiters.add(waiter)
            try:
                await waiter
            finally:
                self.waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(True)

    @property
    def size(self) -> int:
        """Memory of the deltas, in bytes."""
        return sum(map(len, self.deltas)) + DELTA_OVERHEAD * len(self.deltas)


class _Reader(Reader):
    def __init__(self, log: _Log, after: int) -> None:
        self._log = log
        self._after = after
        self._accepted = False
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        log.readers += 1

    async def next(self, wait: float) -> Batch | None:
        log = self._log
        while (len(log.deltas) <= self._after or log.discarded) and log.end is None and log.accepted == self._accepted:
            if not await self._wait(wait):
                return None
        self._accepted = log.accepted
        if log.discarded:
            return Batch(len(log.deltas) + 1, (), log.accepted, log.end)
        first = min(self._after, len(log.deltas)) + 1
        deltas = log.deltas[self._after :]
        self._after += len(deltas)
        return Batch(first, deltas, log.accepted, log.end)

    async def _wait(self, wait: float) -> bool:
        # One timer serves all waits of a reader: creating and cancelling one per wait costs more than the wait itself.
        self._deadline = self._loop.time() + wait
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        elif self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter = waiter
        self._log.waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._log.waiters.discard(waiter)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        else:
            self._waiter.set_result(False)

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._left:
            return
        self._left = True
        if self._timer is not None:
            self._timer.cancel()
        self._log.readers -= 1
        if isinstance(error, LiveTurnsUnavailable):
            return
        if not self._log.readers and self._log.end is None and self._log.stop_when_left:
            self._log.stop(ClientDisconnected())


def _already_ended(_interruption: Interruption) -> None:
    pass


class LiveTurnsInProcess(LiveTurns):
    """Follows in-flight turns within one process. Never unavailable.

    Finished logs are kept for `retention` seconds, and take at most `max_retained_bytes` together: the oldest are
    dropped first. A log with more than `max_events` events or `max_bytes` of memory cannot be joined any more; readers
    already present stay.
    """

    def __init__(
        self,
        *,
        retention: float = 600,
        max_events: int = 10_000,
        max_bytes: int = 512_000,
        max_retained_bytes: int = 64_000_000,
    ) -> None:
        self._retention = retention
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_retained_bytes = max_retained_bytes
        self._logs: dict[TurnId, _Log] = {}
        self._retained: deque[tuple[_Log, int]] = deque()
        self._retained_bytes = 0

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        self._logs[turn.id] = log = _Log(turn, stop, self, stop_when_left=stop_when_left)
        return log

    async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
        self._drop_expired()
        log = self._log_of(turn_id, owner)
        if log is None or len(log.deltas) > self._max_events or log.size > self._max_bytes:
            raise StreamExpired
        return _Reader(log, after)

    async def stop(
        self,
        turn_id: TurnId,
        owner: UserId | None,
        interruption: Interruption = Cancelled(),  # noqa: B008  # immutable
    ) -> None:
        log = self._log_of(turn_id, owner)
        if log is not None:
            log.stop(interruption)
            await log.wait_for_end()

    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        for log in list(self._logs.values()):
            if log.user_id == user_id and conversation_id in (None, log.conversation_id):
                del self._logs[log.turn_id]
                log.discard()
                log.stop(Cancelled())

    def retain(self, log: _Log) -> None:
        """Keep a log that has ended, within the limits."""
        size = log.size + LOG_OVERHEAD
        self._retained.append((log, size))
        self._retained_bytes += size
        self._drop_expired()

    def _log_of(self, turn_id: TurnId, owner: UserId | None) -> _Log | None:
        log = self._logs.get(turn_id)
        return log if log is not None and owner in (None, log.user_id) else None

    def _drop_expired(self) -> None:
        oldest = asyncio.get_running_loop().time() - self._retention
        while self._retained and (
            self._retained[0][0].ended_at < oldest or self._retained_bytes > self._max_retained_bytes
        ):
            log, size = self._retained.popleft()
            self._retained_bytes -= size
            self._logs.pop(log.turn_id, None)
