"""LiveTurns in several processes that share a PostgreSQL database."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from typing import Final, Self
from uuid import uuid4

import structlog

from adapters.event_logs import EventLogs
from adapters.sql.database import SharedDatabase, Statements
from adapters.sql.errors import DATABASE_ERRORS, raised_as
from adapters.sql.live_turns import deletion_statements, statements
from adapters.sql.live_turns.deletions import Deletions
from adapters.sql.live_turns.mirrors import Mirrors
from adapters.sql.live_turns.outgoing import Outgoing, SharedLog
from adapters.sql.live_turns.own_turns import OwnTurns
from application.ports.live_turns import EventLog, LiveTurns, LiveTurnsUnavailable, Reader, Stop
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.errors import Cancelled, ClientDisconnected, Interruption, StreamExpired

STOP_TIMEOUT: Final = 30.0
"""Seconds that a stop waits for a turn of another worker. If that has died, its turns are ended after 20 seconds."""


class LiveTurnsSQL(LiveTurns, AbstractAsyncContextManager["LiveTurnsSQL"]):
    """Lets every process follow and stop the turns of all processes. `EventLogs` describes the limits.

    A turn's readers in the process that runs it read its log in memory. The others read copies, which the database
    carries, in batches. It also knows which processes have readers, and keeps finished logs for `retention` seconds.

    `is_closing` tells whether the service is shutting down, which takes readers away from turns that go on elsewhere.
    While the database fails, turns go on, and the readers of copies wait for at most `max_outage` seconds.
    """

    def __init__(
        self,
        database: SharedDatabase,
        is_closing: Callable[[], bool] = lambda: False,
        *,
        retention: float = 600,
        max_events: int = 10_000,
        max_bytes: int = 512_000,
        max_retained_bytes: int = 64_000_000,
        purge_interval: float = 60.0,
        max_outage: float = 15.0,
    ) -> None:
        self._database = database
        self._retention = timedelta(seconds=retention)
        self._purge_interval = purge_interval
        self._worker = worker = uuid4().hex
        self._logs: EventLogs[SharedLog] = EventLogs(
            retention=retention, max_events=max_events, max_bytes=max_bytes, max_retained_bytes=max_retained_bytes
        )
        self._outgoing = Outgoing(database, worker, give_up_after=2 * max_outage)
        self._own_turns = OwnTurns(database, worker, self._logs, max_outage=max_outage)
        self._mirrors = Mirrors(database, worker, is_closing, max_outage=max_outage)
        self._deletions = Deletions(database, worker, self._logs, self._mirrors)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._deletions.open()
        loops = (
            self._outgoing.run,
            self._own_turns.run,
            self._mirrors.run,
            self._deletions.run,
            self._purge_forever,
        )
        self._tasks = [asyncio.create_task(_run_forever(loop)) for loop in loops]
        self._database.notifications.subscribe(statements.TOPIC, self._on_message, self._on_gap)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._outgoing.close()
        await self._deletions.close()

    async def open(self, turn: Turn, stop: Stop, *, stop_when_left: bool) -> EventLog:
        log = SharedLog(turn, stop, self._logs, self._outgoing, self._own_turns, stop_when_left=stop_when_left)
        self._logs.add(log)
        self._own_turns.began(log)
        return log

    async def join(self, turn_id: TurnId, owner: UserId | None, after: int = 0) -> Reader:
        log = self._logs.get(turn_id)
        if log is None:
            return self._logs.join(await self._mirrors.mirror(turn_id, owner), after)
        if owner not in (None, log.user_id):
            raise StreamExpired
        return self._logs.join(log, after)

    async def stop(
        self,
        turn_id: TurnId,
        owner: UserId | None,
        interruption: Interruption = Cancelled(),  # noqa: B008  # immutable
    ) -> None:
        log = self._logs.get(turn_id)
        if log is None:
            await self._stop_elsewhere(turn_id, owner, interruption)
        elif owner in (None, log.user_id):
            log.stop(interruption)
            await log.wait_for_end()

    async def stop_when_left(self, turn_id: TurnId, owner: UserId | None) -> None:
        log = self._logs.get(turn_id)
        if log is None:
            with raised_as(LiveTurnsUnavailable):
                await self._database.write_soon(self._stop_request(turn_id, owner, ClientDisconnected()))
        elif owner in (None, log.user_id):
            log.require_readers()

    async def discard(self, user_id: UserId, conversation_id: ConversationId | None) -> None:
        for log in self._logs.of(user_id, conversation_id):
            log.unshare()
            self._logs.discard(log)
        discard = partial(
            deletion_statements.discard,
            user_id=user_id,
            conversation_id=conversation_id,
            worker=self._worker,
            now=self._database.now(),
            notifications=self._database.notifications,
        )
        with raised_as(LiveTurnsUnavailable):
            deletion = await self._database.write_soon(discard)
            await self._mirrors.discard_deleted()
            if deletion is not None:
                await self._deletions.wait_for_others(deletion)

    def _stop_request(self, turn_id: TurnId, owner: UserId | None, interruption: Interruption) -> Statements[bool]:
        return partial(
            statements.request_stop,
            turn_id=turn_id,
            owner=owner,
            code=interruption.code,
            notifications=self._database.notifications,
        )

    async def _stop_elsewhere(self, turn_id: TurnId, owner: UserId | None, interruption: Interruption) -> None:
        request = self._stop_request(turn_id, owner, interruption)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                delay = 0.05
                with raised_as(LiveTurnsUnavailable):
                    while await self._database.write_soon(request):
                        await asyncio.sleep(delay)
                        delay = min(delay * 1.5, 0.5)
        except TimeoutError:
            raise LiveTurnsUnavailable from None

    def _on_message(self, message: str) -> None:
        match message.split(" "):
            case ["flushed", worker]:
                self._mirrors.look(worker)
            case ["asked"]:
                self._own_turns.look()
            case ["asked", worker] if worker == self._worker:
                self._own_turns.look()
            case ["discard"]:
                self._deletions.look()

    def _on_gap(self) -> None:
        self._own_turns.follow_all()
        self._deletions.look_at_all()
        self._mirrors.look()

    async def _purge_forever(self) -> None:
        while True:
            await asyncio.sleep(self._purge_interval)
            purge = partial(statements.purge, now=self._database.now(), retention=self._retention)
            try:
                while await self._database.write_soon(purge):
                    pass
            except DATABASE_ERRORS as error:  # without the warning, tables would grow unnoticed
                structlog.get_logger().warning("logs of ended turns not deleted", detail=self._database.explain(error))


async def _run_forever(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop again if it fails unexpectedly: without it, no turn could be followed elsewhere."""
    while True:
        try:
            await loop()
        except Exception as bug:
            structlog.get_logger().error("sharing of running turns failed", exc_info=bug)
            await asyncio.sleep(1)
