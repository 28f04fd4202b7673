"""A turn in progress, as its callers see it."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from application.ports.live_turns import Batch, End, LiveTurnsUnavailable, Reader
from domain.conversation import Turn, TurnStatus
from domain.errors import Failure


class TurnHandle(AbstractAsyncContextManager["TurnHandle"]):
    """A turn as it began, and one reader of its event log.

    The reader is present until the context exits. Everything that happens to the turn is read from the log, which ends
    with the turn's end as stored. If the log itself fails, it ends with `live_turns_unavailable`.

    `is_repeated` says that an earlier request with the same idempotency key began the turn, which may have ended.
    """

    def __init__(self, turn: Turn, reader: Reader, after: int = 0, *, is_repeated: bool = False) -> None:
        self.turn = turn
        self.is_repeated = is_repeated
        self._reader = reader
        self._next_number = after + 1
        self._lost: LiveTurnsUnavailable | None = None

    async def next(self, wait: float) -> Batch | None:
        """Return the events appended since the last call; None if nothing is appended within `wait` seconds."""
        try:
            batch = await self._reader.next(wait)
        except LiveTurnsUnavailable as error:
            self._lost = error
            return Batch(self._next_number, (), accepted=True, end=End(None, Failure.of(error)))
        if batch is not None and batch.deltas:
            self._next_number = batch.first + len(batch.deltas)
        return batch

    async def read_to_end(self) -> tuple[str, End]:
        """Wait for the end, and return the remaining text with it."""
        deltas: list[str] = []
        while True:
            batch = await self.next(3600)
            if batch is not None:
                deltas += batch.deltas
                if batch.end is not None:
                    return "".join(deltas), batch.end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        if self._lost is not None:  # tells the log that the reader did not leave
            exc_info = LiveTurnsUnavailable, self._lost, self._lost.__traceback__
        await self._reader.__aexit__(*exc_info)


class EndedReader(Reader):
    """A reader of a turn that has ended, and whose `events` are known: its log may be gone, or was never opened."""

    def __init__(self, events: Batch) -> None:
        self._events = events

    async def next(self, wait: float) -> Batch:
        return self._events

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass


class ReadAheadReader(Reader):
    """A reader of which `start`, if anything, was read before. It is returned again, first."""

    def __init__(self, reader: Reader, start: Batch | None) -> None:
        self._reader = reader
        self._start = start

    async def next(self, wait: float) -> Batch | None:
        start, self._start = self._start, None
        return start or await self._reader.next(wait)

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._reader.__aexit__(*exc_info)


def end_of(turn: Turn) -> End:
    """Return the end of a turn that has ended, as the history tells it."""
    if turn.status is TurnStatus.COMPLETED:
        return End(turn.reason or "stop", None, turn.usage)
    return End(None, Failure.of_code(turn.reason or ""), turn.usage)


def stored_events(turn: Turn) -> Batch:
    """Return the events of a turn that has ended, as the history tells them: its reply is one delta."""
    accepted = bool(turn.reply) or turn.status is TurnStatus.COMPLETED or turn.usage is not None
    return Batch(1, [turn.reply] if turn.reply else [], accepted, end_of(turn))
