"""Running turns of one process: a log is a list, following it is an index."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

from application.ports.live_turns import Batch, End, LiveTurns, Reader, Stop, TurnLog
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, ClientDisconnected, Interruption, StreamExpired

RETENTION = 600.0
"""Seconds that a finished log is kept, so that a reader can come back."""

MAX_EVENTS = 10_000
MAX_BYTES = 512_000
"""A log that has grown longer can not be joined any more; readers that are there stay."""

MAX_FINISHED_BYTES = 64_000_000
"""What all finished logs may take together; the oldest go first."""

_LOG_BYTES = 1_500
"""What a log takes in memory without its texts."""

_EVENT_BYTES = 56
"""What a text costs in memory beyond its characters."""


class _Log(TurnLog):
    def __init__(self, turn: Turn, stop: Stop, keep: "Callable[[_Log], None]", *, stop_when_left: bool) -> None:
        self.turn_id = turn.id
        self.user_id = turn.user_id
        self.conversation_id = turn.conversation_id
        self.stop = stop
        self.stop_when_left = stop_when_left
        self._keep = keep
        self.texts: list[str] = []
        self.end: End | None = None
        self.ended_at = 0.0
        self.readers = 0
        self.waiting: set[asyncio.Future[bool]] = set()
        """Settled with True at the next event, unless someone else settles them first."""

    async def append(self, texts: Sequence[str]) -> None:
        self.texts += texts
        self._wake()

    async def close(self, end: End) -> None:
        self.end = end
        self.stop = _nothing_to_stop  # the turn, with all its text, is not kept along with the log
        self.ended_at = asyncio.get_running_loop().time()
        self._wake()
        self._keep(self)

    async def ended(self) -> None:
        while self.end is None:
            waiter = asyncio.get_running_loop().create_future()
            self.waiting.add(waiter)
            try:
                await waiter
            finally:
                self.waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(True)

    @property
    def bytes(self) -> int:
        return sum(map(len, self.texts)) + _EVENT_BYTES * len(self.texts)

    @property
    def joinable(self) -> bool:
        return len(self.texts) <= MAX_EVENTS and self.bytes <= MAX_BYTES


class _Reader(Reader):
    def __init__(self, log: _Log, after: int) -> None:
        self._log = log
        self._after = after
        self._left = False
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._silent_at = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        log.readers += 1

    async def next(self, silence: float) -> Batch:
        log = self._log
        while len(log.texts) <= self._after and log.end is None and await self._wait(silence):
            pass
        first = min(self._after, len(log.texts)) + 1
        texts = log.texts[self._after :]
        self._after += len(texts)
        return Batch(first, texts, log.end)

    async def _wait(self, silence: float) -> bool:
        # One alarm goes along with all waits: setting and stopping one a wait costs more than the rest of the wait.
        self._silent_at = self._loop.time() + silence
        if self._alarm is None:
            self._alarm = self._loop.call_at(self._silent_at, self._ring)
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter = waiter
        self._log.waiting.add(waiter)
        try:
            return await waiter
        finally:
            self._log.waiting.discard(waiter)

    def _ring(self) -> None:
        self._alarm = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._silent_at:
            self._alarm = self._loop.call_at(self._silent_at, self._ring)
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
        if self._alarm is not None:
            self._alarm.cancel()
        self._log.readers -= 1
        if not self._log.readers and self._log.end is None and self._log.stop_when_left:
            self._log.stop(ClientDisconnected())


def _nothing_to_stop(_interruption: Interruption) -> None:
    pass


class LiveTurnsInProcess(LiveTurns):
    """For following running turns within one process."""

    def __init__(self) -> None:
        self._logs: dict[TurnId, _Log] = {}
        self._finished: deque[tuple[_Log, int]] = deque()
        self._finished_bytes = 0

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> TurnLog:
        self._logs[turn.id] = log = _Log(turn, stop, self._keep, stop_when_left=stop_when_left)
        return log

    async def join(self, turn_id: TurnId, after: int = 0) -> Reader:
        self._forget_old()
        log = self._logs.get(turn_id)
        if log is None or not log.joinable:
            raise StreamExpired
        return _Reader(log, after)

    async def stop(self, turn_id: TurnId) -> None:
        log = self._logs.get(turn_id)
        if log is not None and log.end is None:
            log.stop(Cancelled())
            await log.ended()

    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        for log in list(self._logs.values()):
            if log.user_id == user_id and conversation_id in (None, log.conversation_id):
                del self._logs[log.turn_id]
                log.texts = [""] * len(log.texts)  # readers that are there get the end under its true number
                if log.end is None:
                    log.stop(Cancelled())

    def _keep(self, log: _Log) -> None:
        """Remember when a log ended, and what it takes."""
        size = log.bytes + _LOG_BYTES
        self._finished.append((log, size))
        self._finished_bytes += size
        self._forget_old()

    def _forget_old(self) -> None:
        """Forget finished logs that are past their time, and the oldest where all together take too much."""
        oldest = asyncio.get_running_loop().time() - RETENTION
        while self._finished and (self._finished[0][0].ended_at < oldest or self._finished_bytes > MAX_FINISHED_BYTES):
            log, size = self._finished.popleft()
            self._finished_bytes -= size
            self._logs.pop(log.turn_id, None)
