"""What other workers ask of the turns that run in this one: to stop, or to go on for their readers."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from adapters.event_logs import EventLogs
from adapters.sql.database import SharedDatabase
from adapters.sql.errors import DATABASE_ERRORS
from adapters.sql.live_turns import statements
from domain.conversation import TurnId
from domain.errors import Cancelled, ClientDisconnected, Interruption

if TYPE_CHECKING:
    from adapters.sql.live_turns.outgoing import SharedLog


class OwnTurns:
    """Looks for it when another worker has sent a message, and every `poll_interval` seconds while turns run.

    A turn whose last reader in this worker has left is stopped unless there are readers in others. If the database
    fails, it is stopped as well, unless it had readers in other workers: they may be there for `max_outage` seconds.
    """

    def __init__(
        self,
        database: SharedDatabase,
        worker: str,
        logs: "EventLogs[SharedLog]",
        *,
        max_outage: float,
        poll_interval: float = 1.0,
        read_timeout: float = 0.8,
    ) -> None:
        self._database = database
        self._worker = worker
        self._logs = logs
        self._poll_interval = poll_interval
        self._read_timeout = read_timeout
        self._max_outage = max_outage
        self._running: dict[TurnId, SharedLog] = {}
        self._left: dict[TurnId, SharedLog] = {}
        """Running turns whose readers, if any, are in other workers."""
        self._elsewhere: set[TurnId] = set()
        """Running turns that have, or had, readers in other workers."""
        self._asked = False
        """Whether a message has come since the last look."""
        self._due = asyncio.Event()
        self._succeeded_at = 0.0

    def began(self, log: "SharedLog") -> None:
        if not self._running:
            self._succeeded_at = asyncio.get_running_loop().time()
            self._due.set()  # to poll from now on
        self._running[log.turn_id] = log

    def ended(self, log: "SharedLog") -> None:
        self._running.pop(log.turn_id, None)
        self._left.pop(log.turn_id, None)
        self._elsewhere.discard(log.turn_id)

    def look_for_readers(self, log: "SharedLog") -> None:
        """Stop a turn whose last reader here has left, unless others have readers."""
        self._left[log.turn_id] = log
        self._due.set()

    def look(self) -> None:
        """Look for what other workers ask."""
        self._asked = True
        self._due.set()

    def follow_all(self) -> None:
        """Assume that all turns have readers elsewhere, because the messages about them may have been lost."""
        for log in self._running.values():
            log.follow()

    async def run(self) -> None:
        """Do this for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval if self._running or self._asked else None):
                    await self._due.wait()
            self._due.clear()
            asked, self._asked = self._asked, False
            now = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(self._read_timeout):
                    if asked:
                        await self._look_for_followers()
                    await self._look_for_readers()
                    if asked or self._running:
                        await self._look_for_stops()
            except (*DATABASE_ERRORS, TimeoutError):
                self._asked |= asked
                self._assume_readers(now)
            else:
                self._succeeded_at = now

    async def _look_for_followers(self) -> None:
        for turn_id in await self._database.read(partial(statements.followed, worker=self._worker)):
            if turn_id in self._running:
                self._elsewhere.add(turn_id)
            log = self._logs.get(turn_id)
            if log is not None and not log.is_followed:  # it may have ended, but its end is not stored yet
                log.follow()

    async def _look_for_readers(self) -> None:
        if not self._left:
            return
        read = partial(statements.presence, turn_ids=list(self._left), now=self._database.now())
        for turn_id, is_shared, present in await self._database.read(read):
            log = self._left.get(turn_id)
            if log is None:
                continue
            if log.readers:
                del self._left[turn_id]
            elif present:
                self._elsewhere.add(turn_id)
            elif turn_id in self._elsewhere and not self._database.is_clock_steady():
                pass  # readers there have not been reported by the new time yet
            elif turn_id in self._elsewhere and not is_shared:
                del self._left[turn_id]  # the tables were emptied by a crash: readers were lost, but none has left
            else:
                self._stop(log)

    def _assume_readers(self, now: float) -> None:
        """Stop turns that probably have no readers, because the database does not tell."""
        for turn_id, log in list(self._left.items()):
            if log.readers:
                del self._left[turn_id]
            elif turn_id not in self._elsewhere or now - self._succeeded_at >= self._max_outage:
                self._stop(log)

    def _stop(self, log: "SharedLog") -> None:
        del self._left[log.turn_id]
        log.stop(ClientDisconnected())

    async def _look_for_stops(self) -> None:
        for turn_id, code in await self._database.read(partial(statements.stops, worker=self._worker)):
            log = self._logs.get(turn_id)
            if log is not None and code == statements.WHEN_LEFT:
                log.require_readers()
            elif log is not None:
                log.stop(_interruption(code))


def _interruption(code: str) -> Interruption:
    """Return the reason to stop with this code."""
    return next((kind() for kind in Interruption.__subclasses__() if kind.code == code), Cancelled())
