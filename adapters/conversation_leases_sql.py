"""Leases as rows of a database, for all processes that share it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio

from adapters.sql import lease_statements as statements
from adapters.sql.database import SharedDatabase
from adapters.sql.history_errors import history_errors
from adapters.sql.lease_statements import Applicant, Outcome
from application.ports.conversation_leases import ConversationLeases, Lease
from application.ports.history import HistoryUnavailable
from domain.conversation import ConversationId, TurnId, UserId
from domain.errors import TurnInProgress


class _Lease(Lease):
    kept_in_history = True

    def __init__(self, leases: "ConversationLeasesSQL", applicant: Applicant) -> None:
        self._leases = leases
        self._applicant = applicant
        self._released = False

    async def release(self, *, turn_ended: bool = False) -> None:
        if not self._released:
            self._released = True
            if not turn_ended:
                await self._leases.give_up(self._applicant)


class ConversationLeasesSQL(ConversationLeases):
    """Runs one turn at a time per conversation, over all processes that share the database.

    The history has to be in the same database: `begin` takes a lease, or refuses a turn that has lost it, and the lease
    ends with the turn. So a turn of a conversation that is free needs nothing of this class.
    At most `max_waiting` turns queue for each conversation. They look every `poll_interval` seconds, and the first one
    when it is notified. Every `renew_interval` they report that they still wait: a queue forgets those whose process
    has died. A caller that is cancelled leaves the queue within `leave_timeout` seconds.
    """

    def __init__(
        self,
        database: SharedDatabase,
        *,
        max_waiting: int = 4,
        poll_interval: float = 0.25,
        renew_interval: float = 1.0,
        leave_timeout: float = 1.0,
    ) -> None:
        self._database = database
        self._max_waiting = max_waiting
        self._poll_interval = poll_interval
        self._renew_interval = renew_interval
        self._leave_timeout = leave_timeout
        self._waiting: dict[str, asyncio.Event] = {}
        """By the names of the waiting turns in messages."""
        database.notifications.subscribe(statements.TOPIC, self._wake, self._wake_all)

    async def acquire(
        self,
        turn_id: TurnId,
        user_id: UserId,
        conversation_id: ConversationId,
        *,
        wait: float,
        first: bool = False,
        tentative: bool = False,
    ) -> Lease:
        applicant = Applicant(turn_id, user_id, conversation_id, first)
        if not tentative:
            try:
                with history_errors(self._database):
                    await self._queue(applicant, wait)
            except (asyncio.CancelledError, HistoryUnavailable):  # what was requested may still be done
                with anyio.move_on_after(self._leave_timeout, shield=True):
                    await self._try_to_give_up(applicant)
                raise
        return _Lease(self, applicant)

    async def holder(self, user_id: UserId, conversation_id: ConversationId) -> TurnId | None:
        now = self._database.now()
        with history_errors(self._database):
            return await self._database.read(
                lambda connection: statements.holder(connection, user_id, conversation_id, now)
            )

    async def give_up(self, applicant: Applicant) -> None:
        """Leave the queue, or give the conversation back."""
        database = self._database
        with history_errors(database):
            await database.write(
                lambda connection: statements.give_up(connection, applicant, database.notifications, database.now()),
                applicant.user_id,
            )

    async def _try_to_give_up(self, applicant: Applicant) -> None:
        with suppress(HistoryUnavailable):  # its time in the queue runs out
            await self.give_up(applicant)

    async def _queue(self, applicant: Applicant, wait: float) -> None:
        """Return when the applicant has the conversation."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait
        with self._woken(applicant.turn_id) as woken:
            outcome, renewed_at = await self._take_or_wait(applicant, waits=wait > 0), loop.time()
            while outcome is Outcome.WAITING:
                left = give_up_at - loop.time()
                if left <= 0:
                    await self.give_up(applicant)
                    break
                with anyio.move_on_after(min(left, self._poll_interval)):
                    await woken.wait()
                woken.clear()
                if loop.time() - renewed_at >= self._renew_interval or await self._is_next(applicant):
                    outcome, renewed_at = await self._take_or_wait(applicant, waits=True), loop.time()
            if outcome is not Outcome.TAKEN:
                raise TurnInProgress(retry_after=1)

    async def _take_or_wait(self, applicant: Applicant, *, waits: bool) -> Outcome:
        database, limit = self._database, self._max_waiting
        return await database.write(
            lambda connection: statements.take_or_wait(connection, applicant, limit, database.now(), waits=waits),
            applicant.user_id,
        )

    async def _is_next(self, applicant: Applicant) -> bool:
        now = self._database.now()
        return await self._database.read(lambda connection: statements.is_next(connection, applicant, now))

    @contextmanager
    def _woken(self, turn_id: TurnId) -> Iterator[asyncio.Event]:
        """Provide an event that is set when the conversation may have become free for this turn."""
        name = statements.digest_of(turn_id)
        self._waiting[name] = event = asyncio.Event()
        try:
            yield event
        finally:
            del self._waiting[name]

    def _wake(self, name: str) -> None:
        if (event := self._waiting.get(name)) is not None:
            event.set()

    def _wake_all(self) -> None:
        for event in self._waiting.values():
            event.set()
