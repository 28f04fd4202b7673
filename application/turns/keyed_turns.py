"""KeyedTurns: following and replaying the turns of requests that are repeated with the same idempotency key."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

import anyio

from application.ports.history import ConversationHistory, HistoryUnavailable
from application.ports.live_turns import Batch, End, LiveTurns, LiveTurnsUnavailable, Reader
from application.turns.handle import EndedReader, ReadAheadReader, TurnHandle, end_of, stored_events
from application.turns.new_message import NewMessage
from domain.conversation import Turn, TurnId, TurnStatus
from domain.errors import IdempotencyKeyReused, StreamExpired, TurnInProgress, TurnNotFound, WorkerLost
from domain.idempotency import IdempotencyKey

REPEATED_WITHIN: Final = timedelta(minutes=10)
"""Age of a turn up to which the repetition of its request gets that turn, if the request has no key."""

RECENT_TURNS: Final = 5
"""How many of the latest turns of a conversation are compared with such a request."""


class KeyedTurns:
    """Finds the turn that an earlier, identical request has begun, and follows or replays it. Times are in seconds.

    A running turn may have no event log here, e.g. because its worker has died: then its state is polled every
    `poll_interval`, for at most `lost_timeout`.

    A turn that another process runs is handed out when it has text or has ended, and after `lost_timeout` in any case.
    Until then that process may turn out to have died, which is looked up every `lost_poll_interval`, and another turn
    can take the place of this one, since no client has seen any of it.

    Reading the log of a turn that has ended may take `read_timeout`.
    """

    def __init__(
        self,
        history: ConversationHistory,
        live_turns: LiveTurns,
        *,
        lost_timeout: float = 20.0,
        poll_interval: float = 0.1,
        lost_poll_interval: float = 1.0,
        read_timeout: float = 5.0,
    ) -> None:
        self._history = history
        self._live_turns = live_turns
        self._lost_timeout = lost_timeout
        self._poll_interval = poll_interval
        self._lost_poll_interval = lost_poll_interval
        self._read_timeout = read_timeout
        self._locks: dict[str, anyio.Lock] = {}

    @asynccontextmanager
    async def locked(self, key: IdempotencyKey) -> AsyncIterator[None]:
        """Serialise the requests in this process that have the same key, while one finds its turn or begins it.

        Otherwise the others would wait for the conversation to be free of the very turn that they are to get.
        """
        lock = self._locks.setdefault(key.name, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop(key.name, None)

    async def find(self, key: IdempotencyKey) -> Turn | None:
        """Return the turn that the key names; None if it names none, or one that is replaceable.

        Raises:
            IdempotencyKeyReused, HistoryUnavailable: see the port.
        """
        turn = await self._history.find(key)
        return None if turn is None or turn.is_replaceable else turn

    async def of_repeated(self, message: NewMessage, now: datetime) -> TurnHandle | None:
        """Follow or replay the turn that an earlier request with this message has begun.

        Returns None if there is none, or if it has broken off: the client then repeats the request to get a new reply.

        Raises: as `follow`.
        """
        page = await self._history.page(message.user_id, message.conversation_id, RECENT_TURNS, None)
        for turn in reversed(page.items):
            if now - turn.started_at > REPEATED_WITHIN:
                break
            if await self._has_begun(message, turn):
                return None if turn.has_broken_off else await self.follow(turn, 0)
        return None

    async def broken_off(self, message: NewMessage) -> TurnId | None:
        """Return the latest turn of the conversation, if it has broken off and a request with this message began it."""
        page = await self._history.page(message.user_id, message.conversation_id, 1, None)
        for turn in page.items:
            if turn.has_broken_off and await self._has_begun(message, turn):
                return turn.id
        return None

    async def _has_begun(self, message: NewMessage, turn: Turn) -> bool:
        key = IdempotencyKey.of_turn(turn.id, message.principal, message.user_id, message.digest)
        try:
            return await self._history.find(key) is not None
        except IdempotencyKeyReused:  # by another message
            return False

    async def follow(self, turn: Turn, after: int) -> TurnHandle | None:
        """Join the readers of a running turn, or replay one that has ended, from the event numbered above `after`.

        Returns None if the turn was found to be replaceable or deleted, so that the request has to run again.

        Raises:
            StreamExpired: the client has seen events that are no longer kept, so that it cannot continue after them.
            TurnInProgress: the turn runs, but cannot be followed.
            LiveTurnsUnavailable, HistoryUnavailable: see the ports.
        """
        give_up_at = anyio.current_time() + self._lost_timeout
        while turn.status is TurnStatus.IN_PROGRESS:
            try:
                reader = await self._live_turns.join(turn.id, turn.user_id, after)
            except StreamExpired:
                if anyio.current_time() >= give_up_at:
                    raise TurnInProgress(
                        "The turn of this key is running. Repeat the request.", retry_after=5
                    ) from None
            else:
                followed: Reader | None = reader
                if reader.is_remote and not after:  # a client that continues has seen text
                    followed = await self._with_text(reader, turn, give_up_at)
                if followed is not None:
                    return TurnHandle(turn, followed, after, is_repeated=True)
            await anyio.sleep(self._poll_interval)
            try:
                turn = await self._history.get(turn.id, turn.user_id)
            except TurnNotFound:
                return None
        return None if turn.is_replaceable else await self._replay(turn, after)

    async def _with_text(self, reader: Reader, turn: Turn, give_up_at: float) -> Reader | None:
        """Return the reader of a turn of another process once there is text or the end. None if that process has died.

        At `give_up_at`, the reader is returned in any case.
        """
        start: Batch | None = None
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(reader)
            while True:
                wait = min(self._lost_poll_interval, give_up_at - anyio.current_time())
                batch = await reader.next(max(0, wait))
                start = batch or start
                if batch is None and await self._is_lost(turn):
                    return None
                if batch is not None and batch.end is not None and _is_of_lost_worker(batch.end) and not batch.deltas:
                    return None
                has_begun = batch is not None and (batch.deltas or batch.end is not None)
                if has_begun or anyio.current_time() >= give_up_at:
                    stack.pop_all()  # the reader stays
                    return ReadAheadReader(reader, start)

    async def _is_lost(self, turn: Turn) -> bool:
        """Whether a turn was ended because its worker died. Its log ends later."""
        try:
            turn = await self._history.get(turn.id, turn.user_id)
        except TurnNotFound:
            return True
        except HistoryUnavailable:  # it may answer the next time
            return False
        return turn.status is not TurnStatus.IN_PROGRESS and _is_of_lost_worker(end_of(turn))

    async def _replay(self, turn: Turn, after: int) -> TurnHandle:
        if not after and _is_of_lost_worker(end_of(turn)):  # its log has no end, and perhaps other text than was stored
            events = None
        else:
            events = await self._kept_events(turn, after)
        if events is None:
            if after:  # the reply is one delta now, so the client's number means nothing
                raise StreamExpired
            events = stored_events(turn)
        return TurnHandle(turn, EndedReader(events), after, is_repeated=True)

    async def _kept_events(self, turn: Turn, after: int) -> Batch | None:
        """Return the events of a turn that has ended; None if its log is not kept, or does not tell the stored end.

        The latter is the case if the log failed, or if it was unknown whether the end had been stored.
        """
        try:
            with anyio.fail_after(self._read_timeout):
                async with await self._live_turns.join(turn.id, turn.user_id, after) as reader:
                    events, end = await _read_to_end(reader)
        except (StreamExpired, LiveTurnsUnavailable, TimeoutError):
            return None
        return events if _reason_of(end) == _reason_of(end_of(turn)) else None


async def _read_to_end(reader: Reader) -> tuple[Batch, End]:
    """Return all events up to the end of the log as one batch, and the end."""
    deltas: list[str] = []
    while True:
        batch = await reader.next(3600)
        if batch is not None:
            deltas += batch.deltas
            if batch.end is not None:
                first = batch.first + len(batch.deltas) - len(deltas)
                return Batch(first, deltas, batch.accepted, batch.end), batch.end


def _reason_of(end: End) -> tuple[str | None, str | None]:
    """Return why a turn has ended: a finish reason or the code of an error."""
    return end.finish_reason, end.failure and end.failure.code


def _is_of_lost_worker(end: End) -> bool:
    return end.failure is not None and end.failure.code == WorkerLost.code
