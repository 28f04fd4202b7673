"""The events of this worker's turns on their way to the database, in batches for all turns together."""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from adapters.event_logs import EventLogs, RunningLog
from adapters.sql.database import SharedDatabase
from adapters.sql.errors import DATABASE_ERRORS
from adapters.sql.live_turns import statements
from adapters.sql.live_turns.statements import Events, Flush, Header, State
from adapters.sql.tables import microseconds
from application.ports.live_turns import End, LiveTurnsUnavailable, Stop
from domain.conversation import Turn, TurnId

if TYPE_CHECKING:
    from adapters.sql.live_turns.own_turns import OwnTurns

RETRY_DELAY: Final = 0.25
"""Seconds between attempts to store a batch."""


class SharedLog(RunningLog):
    """A log whose events are stored in the database as well."""

    def __init__(
        self,
        turn: Turn,
        stop: Stop,
        logs: "EventLogs[SharedLog]",
        outgoing: "Outgoing",
        own_turns: "OwnTurns",
        *,
        stop_when_left: bool,
    ) -> None:
        super().__init__(turn, stop, logs, stop_when_left=stop_when_left)
        self._outgoing = outgoing
        self._own_turns = own_turns
        self.announced = False
        """Whether its header has been handed over to be stored."""
        self.flushed = 0
        """Number of deltas that have been handed over."""
        self.tell_at = 0
        """Number of deltas at which `outgoing` has to know: the first new one, then those of a full batch."""
        self.acceptance_flushed = False
        self.queued = False
        self.is_followed = False
        """Whether it has, or had, readers in other workers."""
        self.is_shared = True
        """Whether further events are stored."""
        self.stored = asyncio.get_running_loop().create_future()
        """Resolved when the end is stored, or will not be."""
        outgoing.add(self)

    def accept(self) -> None:
        super().accept()
        self._outgoing.add(self)

    def append(self, deltas: Sequence[str]) -> None:
        if self.discarded:
            return
        self.deltas += deltas
        self._wake()
        if len(self.deltas) >= self.tell_at:
            self._outgoing.add(self)

    def finish(self, end: End) -> None:
        super().finish(end)
        self._own_turns.ended(self)
        self._outgoing.add(self)
        if self.is_followed:
            self._outgoing.flush_now()

    async def close(self, end: End) -> None:
        await super().close(end)
        if self.is_followed:
            await self._outgoing.wait_for(self)

    def last_reader_left(self) -> None:
        if self.stop_when_left:
            self._own_turns.look_for_readers(self)

    def follow(self) -> None:
        """Tell the readers in other workers of what is stored from now on, and of what was before they asked."""
        self.is_followed = True
        self._outgoing.notify()

    def delete_stored(self) -> None:
        """Delete the stored part of this log, and store no more of it."""
        self.unshare()
        self._outgoing.delete(self)

    def unshare(self) -> None:
        """Store no more of this log."""
        self.is_shared = False
        if not self.stored.done():
            self.stored.set_result(None)


class Outgoing:
    """Stores what is new every `interval` seconds.

    A log that is followed elsewhere is stored as soon as it ends, one with `max_events` new events within
    `urgent_interval`: a statement costs as much as some hundred events.

    While the database fails, turns go on, and their events are stored later, in the same order. Closing a log that is
    followed elsewhere waits for its end to be stored for at most `close_timeout` seconds. After `give_up_after` seconds
    of failures, the logs that are waiting are given up, so that they do not fill the memory.
    """

    def __init__(
        self,
        database: SharedDatabase,
        worker: str,
        *,
        give_up_after: float,
        interval: float = 0.25,
        urgent_interval: float = 0.05,
        max_events: int = 50,
        close_timeout: float = 1.0,
    ) -> None:
        self.max_events = max_events
        self._database = database
        self._worker = worker
        self._interval = interval
        self._urgent_interval = urgent_interval
        self._close_timeout = close_timeout
        self._give_up_after = give_up_after
        self._queued: list[SharedLog] = []
        self._deleted: list[TurnId] = []
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._urgent_timer: asyncio.TimerHandle | None = None
        self._all_due = False
        """Whether everything is to be stored, not only what is urgent."""
        self._notifies = False
        """Whether others are to be notified even if nothing of interest to them is stored."""
        self._failure: Exception | None = None

    def add(self, log: SharedLog) -> None:
        """Store what is new in this log with the next batch."""
        if not log.is_shared:
            return
        if not log.queued:
            log.queued, log.tell_at = True, log.flushed + self.max_events
            self._queued.append(log)
            self._start_timer()
        elif len(log.deltas) >= log.tell_at:
            log.tell_at = sys.maxsize
            if self._urgent_timer is None:
                self._urgent_timer = asyncio.get_running_loop().call_later(self._urgent_interval, self._on_urgent_timer)

    def delete(self, log: SharedLog) -> None:
        """Delete a log from the database with the next batch."""
        self._deleted.append(log.turn_id)
        self._start_timer()

    def flush_now(self) -> None:
        self._due.set()

    def notify(self) -> None:
        """Let other workers look for what is stored."""
        self._notifies = True
        self._due.set()

    async def wait_for(self, log: SharedLog) -> None:
        """Wait until the end of a log is stored.

        Raises:
            LiveTurnsUnavailable: it is not stored yet.
        """
        try:
            async with asyncio.timeout(0 if self._failure else self._close_timeout):
                await asyncio.shield(log.stored)
        except TimeoutError:
            raise LiveTurnsUnavailable from self._failure

    async def run(self) -> None:
        """Store batches for ever."""
        while True:
            await self._due.wait()
            await self._flush()

    async def close(self) -> None:
        """Store what is left, if the database does not fail."""
        self._give_up_after, self._all_due = 0, True
        if self._queued or self._deleted:
            await self._flush()
        for timer in (self._timer, self._urgent_timer):
            if timer is not None:
                timer.cancel()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._all_due = None, True
        self._due.set()

    def _on_urgent_timer(self) -> None:
        self._urgent_timer = None
        self._due.set()

    async def _flush(self) -> None:
        self._due.clear()
        logs, self._queued = self._queued, []
        if not self._all_due:  # an urgent log does not break up the batches of the others
            self._queued = [log for log in logs if not self._is_urgent(log)]
            logs = [log for log in logs if self._is_urgent(log)]
        self._all_due = False
        flush = self._take(logs)
        notifies = self._notifies or any(log.is_followed for log in logs)
        self._notifies = False
        if not any(flush) and not notifies:
            return
        self._failure = await self._store(flush, notifies=notifies)
        if self._failure is not None:
            self._give_up(logs, flush, self._failure)
            return
        for log in logs:
            if log.end is not None and not log.queued:
                log.unshare()

    async def _store(self, flush: Flush, *, notifies: bool) -> Exception | None:
        """Store a batch. Return the error if that has failed for too long.

        A failed attempt may have stored everything, so each one has to store the same.
        """
        notifications = self._database.notifications if notifies else None
        store = partial(statements.store, flush=flush, worker=self._worker, notifications=notifications)
        failing_since: float | None = None
        while True:
            try:
                await self._database.send_soon(store)
            except DATABASE_ERRORS as error:
                now = asyncio.get_running_loop().time()
                self._failure, failing_since = error, failing_since or now
                if now - failing_since >= self._give_up_after:
                    return error
                await asyncio.sleep(RETRY_DELAY)
            else:
                return None

    def _is_urgent(self, log: SharedLog) -> bool:
        return (log.is_followed and log.end is not None) or len(log.deltas) - log.flushed >= self.max_events

    def _take(self, logs: "list[SharedLog]") -> Flush:
        headers, events, states = [], [], []
        now = microseconds(self._database.now())
        for log in logs:
            log.queued, log.tell_at = False, 0
            if not log.is_shared:
                continue
            if not log.announced:
                log.announced = True
                headers.append(Header(turn_id=log.turn_id, user_id=log.user_id, conversation_id=log.conversation_id))
            if len(log.deltas) > log.flushed:
                deltas = orjson.dumps(log.deltas[log.flushed :]).decode()
                events.append(Events(turn_id=log.turn_id, first=log.flushed + 1, deltas=deltas))
                log.flushed = len(log.deltas)
            if log.end is not None:
                states.append(
                    State(turn_id=log.turn_id, accepted=log.accepted, end=statements.encode_end(log.end), ended_at=now)
                )
            elif log.accepted and not log.acceptance_flushed:
                log.acceptance_flushed = True
                states.append(State(turn_id=log.turn_id, accepted=True, end=None, ended_at=None))
        deleted, self._deleted = self._deleted, []
        return Flush(deleted, headers, events, states)

    def _give_up(self, logs: "list[SharedLog]", flush: Flush, error: Exception) -> None:
        structlog.get_logger().warning("sharing of running turns given up", detail=self._database.explain(error))
        self._deleted += flush.deleted
        for log in [*logs, *self._queued]:
            if log.is_shared:
                log.unshare()
                self._deleted.append(log.turn_id)  # others must not take what is stored for the whole
        if self._deleted:
            self._start_timer()
