"""Event logs in the memory of a process: a log is a list, and a reader is an index into it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

from application.ports.live_turns import DELETED, Batch, End, EventLog, LiveTurnsUnavailable, Reader, Stop
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, ClientDisconnected, Failure, Interruption, StreamExpired

LOG_OVERHEAD: Final = 1_500
"""Memory of a log without its deltas, in bytes (measured)."""

MAX_BATCH: Final = 250
"""Events that a reader gets at once, so that a client that reads slowly holds little of a long reply in memory."""

DELTA_OVERHEAD: Final = 56
"""Memory of a delta beyond its characters, in bytes."""


class Log:
    """The events of one turn, and the readers that wait for more."""

    is_remote = False
    """Whether another process runs the turn."""

    def __init__(self, turn_id: TurnId, user_id: UserId, conversation_id: ConversationId) -> None:
        self.turn_id = turn_id
        self.user_id = user_id
        self.conversation_id = conversation_id
        self.accepted = False
        self.deltas: list[str] = []
        self.discarded = False
        self.held = False
        """Whether readers get nothing for the moment."""
        self.muted = False
        """Whether they get no text because it is discarded or held."""
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

    def finish(self, end: End) -> None:
        """Append the last event."""
        self.end = DELETED if self.discarded else end
        self.ended_at = asyncio.get_running_loop().time()
        self._wake()

    def discard(self) -> None:
        """Drop the text, and make `DELETED` the end."""
        self.discarded = self.muted = True
        self.deltas = [""] * len(self.deltas)  # keeps the numbers, not the text
        if self.end is not None:
            self.end = DELETED

    def hold(self) -> None:
        """Let readers wait until `release`."""
        self.held = self.muted = True

    def release(self) -> None:
        if self.held:
            self.held, self.muted = False, self.discarded
            self._wake()

    def abandon(self) -> None:
        if self.end is None:
            self.finish(End(None, Failure.of(LiveTurnsUnavailable())))

    def last_reader_left(self) -> None:
        """Called when there are no readers any more, unless the log has ended."""

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


class LogReader(Reader):
    """A reader of a log in this process. `after` is the number of the last event that its client has received."""

    def __init__(self, log: Log, after: int) -> None:
        self._log = log
        self._after = after
        self._accepted = False
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        log.readers += 1

    @property
    def is_remote(self) -> bool:
        return self._log.is_remote

    async def next(self, wait: float) -> Batch | None:
        log = self._log
        while (len(log.deltas) <= self._after or log.muted) and (
            log.held or (log.end is None and log.accepted == self._accepted)
        ):
            if not await self._wait(wait):
                return None
        self._accepted = log.accepted
        if log.discarded:
            return Batch(len(log.deltas) + 1, (), log.accepted, log.end)
        first = min(self._after, len(log.deltas)) + 1
        deltas = log.deltas[self._after : self._after + MAX_BATCH]
        self._after += len(deltas)
        return Batch(first, deltas, log.accepted, log.end if self._after >= len(log.deltas) else None)

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
        log = self._log
        log.readers -= 1
        if not log.readers and log.end is None and not isinstance(error, LiveTurnsUnavailable):
            log.last_reader_left()


class RunningLog(Log, EventLog):
    """The log of a turn that runs in this process."""

    def __init__(self, turn: Turn, stop: Stop, logs: "EventLogs[Any]", *, stop_when_left: bool) -> None:
        super().__init__(turn.id, turn.user_id, turn.conversation_id)
        self.stop = stop
        self.stop_when_left = stop_when_left
        self._logs = logs

    async def close(self, end: End) -> None:
        self.stop = _already_ended  # releases the running turn, which the log would otherwise keep in memory
        self.finish(end)

    def finish(self, end: End) -> None:
        super().finish(end)
        if not self.discarded:
            self._logs.retain(self)

    def last_reader_left(self) -> None:
        if self.stop_when_left:
            self.stop(ClientDisconnected())

    def require_readers(self) -> None:
        """Stop the turn when it has no readers, although it was opened without `stop_when_left`."""
        if not self.stop_when_left:
            self.stop_when_left = True
            if not self.readers and self.end is None:
                self.last_reader_left()


def _already_ended(_interruption: Interruption) -> None:
    pass


L = TypeVar("L", bound=RunningLog)


class EventLogs(Generic[L]):
    """The logs of the turns that run in this process, or have recently ended.

    Finished logs are kept for `retention` seconds, and take at most `max_retained_bytes` together: the oldest are
    dropped first. A log with more than `max_events` events or `max_bytes` of memory cannot be joined any more; readers
    already present stay.
    """

    def __init__(self, *, retention: float, max_events: int, max_bytes: int, max_retained_bytes: int) -> None:
        self._retention = retention
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_retained_bytes = max_retained_bytes
        self._logs: dict[TurnId, L] = {}
        self._dropped: WeakSet[L] = WeakSet()
        """Finished logs that are not kept any more, and whose readers may still have to read."""
        self._retained: deque[tuple[RunningLog, int]] = deque()
        self._retained_bytes = 0

    def add(self, log: L) -> None:
        self._logs[log.turn_id] = log

    def get(self, turn_id: TurnId) -> L | None:
        """Return the log of a turn, if it is kept."""
        self._drop_expired()
        return self._logs.get(turn_id)

    def of(self, user_id: UserId, conversation_id: ConversationId | None) -> list[L]:
        """Return the logs of one conversation, or of all conversations of the user, as `all` does."""
        return [log for log in self.all() if log.user_id == user_id and conversation_id in (None, log.conversation_id)]

    def all(self) -> list[L]:
        """Return all logs, including those that only readers already present can read."""
        return [*self._logs.values(), *self._dropped]

    def join(self, log: Log, after: int) -> Reader:
        """Return a reader of a log, which need not be one of these.

        Raises:
            StreamExpired: the log has outgrown its limits.
        """
        if len(log.deltas) > self._max_events or log.size > self._max_bytes:
            raise StreamExpired
        return LogReader(log, after)

    def discard(self, log: RunningLog) -> None:
        """Delete a log and stop its turn."""
        self._logs.pop(log.turn_id, None)
        log.discard()
        log.stop(Cancelled())

    def retain(self, log: RunningLog) -> None:
        """Keep a log that has ended, within the limits."""
        size = log.size + LOG_OVERHEAD
        self._retained.append((log, size))
        self._retained_bytes += size
        self._drop_expired()

    def _drop_expired(self) -> None:
        oldest = asyncio.get_running_loop().time() - self._retention
        while self._retained and (
            self._retained[0][0].ended_at < oldest or self._retained_bytes > self._max_retained_bytes
        ):
            log, size = self._retained.popleft()
            self._retained_bytes -= size
            if (dropped := self._logs.pop(log.turn_id, None)) is not None:
                self._dropped.add(dropped)
