"""Copies of the event logs of turns that run in other workers, for the readers in this one."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Final
from weakref import WeakSet

import orjson

from adapters.event_logs import Log
from adapters.sql.database import SharedDatabase
from adapters.sql.errors import DATABASE_ERRORS, raised_as
from adapters.sql.live_turns import statements
from adapters.sql.live_turns.statements import News
from application.ports.live_turns import DELETED, End, LiveTurnsUnavailable
from domain.conversation import ConversationId, TurnId, TurnStatus, UserId
from domain.errors import Failure, StreamExpired, WorkerLost

RENEWAL_INTERVAL: Final = 5.0
"""Seconds between two reports of a worker that it still has readers."""


class Mirror(Log):
    """A copy of a log. It exists as long as it has readers."""

    is_remote = True

    def __init__(
        self, turn_id: TurnId, user_id: UserId, conversation_id: ConversationId, worker: str, mirrors: "Mirrors"
    ) -> None:
        super().__init__(turn_id, user_id, conversation_id)
        self.worker = worker
        self.ended_in_history_at: float | None = None
        """When the turn was first seen to have ended although its log had not."""
        self._mirrors = mirrors

    def last_reader_left(self) -> None:
        self._mirrors.drop(self)

    def receive(self, news: News) -> None:
        """Append a batch of events."""
        if news.first is None or news.deltas is None:
            return
        if news.first == len(self.deltas) + 1:
            self.append(orjson.loads(news.deltas))
        else:  # something was lost, e.g. in a crash of the server
            self.abandon()


class Mirrors:
    """Follows logs of other workers: when one of them has stored something, and every `poll_interval` seconds.

    The log of a running turn is waited for `begin_timeout` seconds, that of one that has ended for `ended_timeout`: it
    is stored soon after the turn has begun, but not if it was given up.

    If the database fails for `max_outage` seconds, the mirrors end with `live_turns_unavailable`. So do those whose log
    has no end `end_timeout` seconds after their turn was seen to have ended, unless its worker died.

    While the service is closing, readers do not leave by themselves. Their turns wait for them to come back elsewhere,
    for as long as their presence was reported last.
    """

    def __init__(
        self,
        database: SharedDatabase,
        worker: str,
        is_closing: Callable[[], bool],
        *,
        poll_interval: float = 1.0,
        max_outage: float = 15.0,
        end_timeout: float = 3.0,
        begin_timeout: float = 5.0,
        ended_timeout: float = 1.0,
    ) -> None:
        self._database = database
        self._worker = worker
        self._is_closing = is_closing
        self._poll_interval = poll_interval
        self._max_outage = max_outage
        self._end_timeout = end_timeout
        self._begin_timeout = begin_timeout
        self._ended_timeout = ended_timeout
        self._mirrors: dict[TurnId, Mirror] = {}
        self._ended: WeakSet[Mirror] = WeakSet()
        """Mirrors that have ended, and whose readers may still have to read."""
        self._joining: Counter[TurnId] = Counter()
        """Turns whose readers are about to be here."""
        self._left: set[TurnId] = set()
        """Turns of which this worker has to report that it has no readers any more."""
        self._due = asyncio.Event()
        self._renewed_at = 0.0
        self._succeeded_at = 0.0

    async def mirror(self, turn_id: TurnId, owner: UserId | None) -> Log:
        """Return a copy of a log, which receives what follows. The caller has to join it without waiting before.

        Raises:
            StreamExpired: there is no log, or it belongs to another user.
            LiveTurnsUnavailable: the database does not respond.
        """
        mirror = self._mirrors.get(turn_id)
        if mirror is None:
            self._joining[turn_id] += 1
            try:
                news = await self._load(turn_id)
            finally:
                self._joining -= Counter([turn_id])
                self.report_departure(turn_id)  # unless there is a reader by then
            mirror = self._mirrors.get(turn_id) or self._new(news)
        if owner not in (None, mirror.user_id):
            raise StreamExpired
        return mirror

    def drop(self, mirror: Mirror) -> None:
        """Forget a mirror whose last reader has left."""
        self._mirrors.pop(mirror.turn_id, None)
        if not self._is_closing():
            self.report_departure(mirror.turn_id)

    def report_departure(self, turn_id: TurnId) -> None:
        self._left.add(turn_id)
        self._due.set()

    def look(self, worker: str | None = None) -> None:
        """Look for what is new, if this worker, or any, has turns that are followed here."""
        if any(worker in (None, mirror.worker) for mirror in self._mirrors.values()):
            self._due.set()

    def all(self) -> list[Mirror]:
        """Return all mirrors with readers."""
        return [*self._mirrors.values(), *self._ended]

    async def discard_deleted(self) -> None:
        """Discard the mirrors whose turns are deleted."""
        mirrors = self.all()
        if mirrors:
            ids = list({mirror.turn_id for mirror in mirrors})
            deleted = set(await self._database.read(partial(statements.deleted, turn_ids=ids)))
            for mirror in mirrors:
                if mirror.turn_id in deleted:
                    mirror.discard()
                    self._finish(mirror, DELETED)

    async def run(self) -> None:
        """Keep the mirrors up to date, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval if self._mirrors or self._left else None):
                    await self._due.wait()
            self._due.clear()
            now = asyncio.get_running_loop().time()
            try:
                await self._update(now)
            except DATABASE_ERRORS:
                if now - self._succeeded_at >= self._max_outage:
                    for mirror in list(self._mirrors.values()):
                        self._end(mirror, LiveTurnsUnavailable())
                await asyncio.sleep(min(self._poll_interval, 0.25))
            else:
                self._succeeded_at = now

    async def _load(self, turn_id: TurnId) -> list[News]:
        began_at = asyncio.get_running_loop().time()
        while True:
            load = partial(
                statements.load,
                turn_id=turn_id,
                worker=self._worker,
                now=self._database.now(),
                notifications=self._database.notifications,
            )
            with raised_as(LiveTurnsUnavailable):
                news = list(await self._database.write_soon(load))
            if news[0].worker is not None:
                return news
            # The header of a turn that has just begun, and may have ended, is stored with the next batch of its worker.
            is_running = news[0].status == TurnStatus.IN_PROGRESS
            timeout = self._begin_timeout if is_running else self._ended_timeout
            if news[0].status is None or asyncio.get_running_loop().time() - began_at >= timeout:
                raise StreamExpired
            await asyncio.sleep(0.1)

    def _new(self, news: list[News]) -> Mirror:
        first = news[0]
        assert first.user_id is not None
        assert first.conversation_id is not None
        assert first.worker is not None
        mirror = Mirror(first.turn_id, first.user_id, first.conversation_id, first.worker, self)
        if not self._mirrors:
            self._succeeded_at = asyncio.get_running_loop().time()
        self._mirrors[mirror.turn_id] = mirror
        self._receive(mirror, news)
        self._due.set()  # for what was stored meanwhile, and to drop it if nobody has joined
        return mirror

    async def _update(self, now: float) -> None:
        for mirror in list(self._mirrors.values()):
            if not mirror.readers:
                self.drop(mirror)
        await self._leave()
        if self._mirrors and now - self._renewed_at >= RENEWAL_INTERVAL:
            enter = partial(
                statements.enter, turn_ids=list(self._mirrors), worker=self._worker, now=self._database.now()
            )
            await self._database.write_soon(enter)
            self._renewed_at = now
        if self._mirrors:
            seen = {id: len(mirror.deltas) for id, mirror in self._mirrors.items()}
            rows = await self._database.read(partial(statements.news, seen=seen))
            for turn_id, news in groupby(rows, key=lambda row: row.turn_id):
                if (followed := self._mirrors.get(turn_id)) is not None and len(followed.deltas) == seen[turn_id]:
                    self._receive(followed, list(news))

    async def _leave(self) -> None:
        gone = [id for id in self._left if id not in self._mirrors and id not in self._joining]
        if gone:
            leave = partial(
                statements.leave, turn_ids=gone, worker=self._worker, notifications=self._database.notifications
            )
            await self._database.write_soon(leave)
        self._left.difference_update(gone, self._mirrors)

    def _receive(self, mirror: Mirror, news: list[News]) -> None:
        first = news[0]
        if first.status is None:
            mirror.discard()
            self._finish(mirror, DELETED)
        elif first.worker is None:  # the tables were emptied by a crash of the server, or the log was given up
            self._end(mirror, LiveTurnsUnavailable())
        else:
            if first.accepted and not mirror.accepted:
                mirror.accept()
            for row in news:
                mirror.receive(row)
            if first.end is not None:
                self._finish(mirror, statements.decode_end(first.end))
            elif first.status != TurnStatus.IN_PROGRESS:
                self._await_end(mirror, first.reason)

    def _await_end(self, mirror: Mirror, reason: str | None) -> None:
        now = asyncio.get_running_loop().time()
        if mirror.ended_in_history_at is None:
            mirror.ended_in_history_at = now
        elif now - mirror.ended_in_history_at >= self._end_timeout:
            self._end(mirror, WorkerLost() if reason == WorkerLost.code else LiveTurnsUnavailable())

    def _end(self, mirror: Mirror, error: WorkerLost | LiveTurnsUnavailable) -> None:
        self._finish(mirror, End(None, Failure.of(error)))

    def _finish(self, mirror: Mirror, end: End) -> None:
        self._mirrors.pop(mirror.turn_id, None)
        self._ended.add(mirror)
        if mirror.end is None:
            mirror.finish(end)
