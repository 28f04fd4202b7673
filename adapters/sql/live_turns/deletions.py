"""Deletions of turns: a worker that deletes some waits until no other one delivers their text any more."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from adapters.event_logs import EventLogs, Log
from adapters.sql.database import SharedDatabase
from adapters.sql.errors import DATABASE_ERRORS
from adapters.sql.live_turns import deletion_statements, statements
from adapters.sql.live_turns.mirrors import Mirrors
from application.ports.live_turns import LiveTurnsUnavailable

if TYPE_CHECKING:
    from adapters.sql.live_turns.outgoing import SharedLog


class Deletions:
    """Acknowledges the deletions of other workers, after discarding the logs and copies that are in this one.

    Says every `interval` seconds that this worker is alive, and looks for what it may have missed. One that does not
    say so for `deletion_statements.ALIVE`, e.g. because it is paused, is neither asked nor waited for. So a worker
    looks at all its logs if it did not count as alive, or may not have because the server's clock was set. After a
    pause of more than `max_pause` seconds, nothing is delivered before that. One that the network alone separates from
    the database goes on, since an outage must not end streams.
    """

    def __init__(
        self,
        database: SharedDatabase,
        worker: str,
        logs: "EventLogs[SharedLog]",
        mirrors: Mirrors,
        *,
        interval: float = 2.0,
        tick: float = 0.5,
        max_pause: float = 2.0,
        acknowledgement_timeout: float = 15.0,
        leave_timeout: float = 0.05,
    ) -> None:
        self._database = database
        self._worker = worker
        self._logs = logs
        self._mirrors = mirrors
        self._interval = interval
        self._tick = tick
        self._max_pause = max_pause
        self._acknowledgement_timeout = acknowledgement_timeout
        self._leave_timeout = leave_timeout
        self._suspects_all = False
        """Whether turns may have been deleted without asking this worker."""
        self._held: list[Log] = []
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0

    async def open(self) -> None:
        """Let other workers know of this one. If that fails, `run` does it."""
        self._ticked_at = asyncio.get_running_loop().time()
        self._on_tick()
        with suppress(*DATABASE_ERRORS):
            await self._look()

    async def close(self) -> None:
        """Let other workers not wait for this one any more. The database finishes the write when it is closed."""
        if self._timer is not None:
            self._timer.cancel()
        with suppress(*DATABASE_ERRORS, TimeoutError):
            async with asyncio.timeout(self._leave_timeout):
                await self._database.write_soon(partial(deletion_statements.die, worker=self._worker))

    def look(self) -> None:
        """Discard what this worker is asked to."""
        self._due.set()

    def look_at_all(self) -> None:
        """Discard everything that is deleted, because messages may have been lost."""
        self._suspects_all = True
        self._due.set()

    async def run(self) -> None:
        """Do this for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._due.wait()
            self._due.clear()
            try:
                await self._look()
            except DATABASE_ERRORS:
                await asyncio.sleep(0.25)
                self._due.set()

    async def wait_for_others(self, deletion: str) -> None:
        """Wait until all other workers that are alive have acknowledged a deletion.

        Raises:
            LiveTurnsUnavailable: one has not.
        """
        delay = 0.005
        try:
            async with asyncio.timeout(self._acknowledgement_timeout):
                while True:
                    await asyncio.sleep(delay)
                    is_pending = partial(deletion_statements.is_pending, deletion=deletion, now=self._database.now())
                    if not await self._database.read(is_pending):
                        return
                    delay = min(delay * 1.5, 0.25)
        except TimeoutError:
            raise LiveTurnsUnavailable from None

    async def _look(self) -> None:
        looks_at_all, self._suspects_all = self._suspects_all, False
        try:
            await self._discard_and_acknowledge(looks_at_all=looks_at_all)
        except BaseException:
            self._suspects_all = True
            raise
        if looks_at_all and not self._suspects_all:  # there may have been another pause meanwhile
            held, self._held = self._held, []
            for log in held:
                log.release()

    async def _discard_and_acknowledge(self, *, looks_at_all: bool) -> None:
        # First, because copies that were being loaded are here when the same thread has read what is asked.
        attend = partial(deletion_statements.attend, worker=self._worker, now=self._database.now())
        was_alive, asked = await self._database.write_soon(attend)
        looks_at_all = looks_at_all or not was_alive or not self._database.is_clock_steady()
        scopes = {(deletion.user_id, deletion.conversation_id) for deletion in asked}
        if scopes or looks_at_all:
            logs = self._logs.all() if looks_at_all else [log for scope in scopes for log in self._logs.of(*scope)]
            await self._discard_deleted(logs)
            await self._mirrors.discard_deleted()
        if asked:
            acknowledge = partial(deletion_statements.acknowledge, deletions=asked, worker=self._worker)
            await self._database.write_soon(acknowledge)

    async def _discard_deleted(self, logs: "list[SharedLog]") -> None:
        if logs:
            by_id = {log.turn_id: log for log in logs}
            for turn_id in await self._database.read(partial(statements.deleted, turn_ids=list(by_id))):
                log = by_id[turn_id]
                if not log.discarded:
                    self._logs.discard(log)
                    log.delete_stored()

    def _on_tick(self) -> None:
        """Called by a timer of the event loop: so it runs before the tasks that the end of a pause wakes."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._ticked_at > self._tick + self._max_pause:
            self._held += [*self._logs.all(), *self._mirrors.all()]
            for log in self._held:
                log.hold()
            self.look_at_all()
        self._ticked_at = now
        self._timer = loop.call_later(self._tick, self._on_tick)
