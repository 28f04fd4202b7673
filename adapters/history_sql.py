"""Turns and the memory outbox in a relational database."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta

from sqlalchemy import Connection

from adapters.clock import utc_now
from adapters.sql import conversation_statements as conversations
from adapters.sql import key_statements as keys
from adapters.sql import outbox_statements as outbox
from adapters.sql import turn_statements as turns
from adapters.sql.database import Database, Statements, T
from adapters.sql.history_errors import history_errors
from application.ports.history import (
    ConversationHistory,
    ReplyAddition,
    TurnBegin,
    TurnEnd,
)
from application.ports.memory_outbox import (
    Claim,
    ForgetUser,
    MemoryOutbox,
    OutboxCounts,
    OutboxJob,
    RememberTurn,
)
from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, UserId
from domain.errors import ConversationNotFound, IdempotencyKeyReused, TurnInProgress, TurnNotFound
from domain.idempotency import IdempotencyKey
from domain.paging import Page, page_of, page_of_turns, parse_cursor
from domain.resent import SentMessage, within_size


class HistorySQL(ConversationHistory, MemoryOutbox):
    """Turns and the memory outbox as rows of one database, so that both change in the same transaction.

    As durable as the database's commits. `now` is the clock of leases and delays. While it is not steady, no turn is
    taken for abandoned: other processes may have renewed its lease by another time.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime] = utc_now,
        is_clock_steady: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._now = now
        self._is_clock_steady = is_clock_steady

    async def begin(self, begin: TurnBegin) -> Turn:
        now, writes, key = self._now(), self._database.turn_writes, begin.key
        if key is not None or begin.turn.chosen_id is not None or begin.retracts_from is not None:

            def begin_in_steps(connection: Connection) -> keys.NamedTurn | bool:
                if begin.takes_conversation and not writes.take_conversation(connection, begin.turn, now):
                    # perhaps the very turn that has the conversation
                    named = None if key is None else keys.find(connection, key, now)
                    return named if named is not None and not named.turn.is_replaceable else False
                return turns.begin_in_steps(connection, begin, now) or True

            begun = await self._write(begin_in_steps, begin.turn.user_id)
            if isinstance(begun, keys.NamedTurn):
                assert key is not None
                return _same_request(key, begun)
        else:
            with history_errors(self._database):
                begun = await self._database.write_turn(
                    lambda connection: writes.begin(connection, begin, now), begin.turn.user_id
                )
        if not begun:
            raise TurnInProgress(retry_after=1)
        return begin.turn

    async def find(self, key: IdempotencyKey) -> Turn | None:
        now = self._now()
        named = await self._read(lambda connection: keys.find(connection, key, now))
        return None if named is None else _same_request(key, named)

    async def save_progress(self, additions: Mapping[TurnId, ReplyAddition], lease: timedelta) -> Collection[TurnId]:
        if not additions:
            return ()
        now = self._now()
        return await self._write(lambda connection: turns.save_progress(connection, additions, lease, now))

    async def finish(self, end: TurnEnd) -> Turn | None:
        now = self._now()
        writes = self._database.turn_writes
        with history_errors(self._database):
            return await self._database.write_turn(
                lambda connection: writes.finish(connection, end, now), end.turn.user_id
            )

    async def finish_abandoned(self) -> int:
        now = self._now()
        if not self._is_clock_steady() or not await self._read(lambda connection: turns.has_abandoned(connection, now)):
            return 0
        return await self._write(lambda connection: turns.finish_abandoned(connection, now))

    async def get(self, turn_id: TurnId, owner: UserId | None, prefix: str = "") -> Turn:
        turn = await self._read(lambda connection: turns.get(connection, turn_id, owner, prefix))
        if turn is None:
            raise TurnNotFound
        return turn

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        values = {"user": user_id, "conversation": conversation_id, "rows": limit}
        return await self._read(
            lambda connection: list(map(Exchange._make, turns.LATEST.execute_raw(connection, values)))
        )

    async def messages(
        self, user_id: UserId, conversation_id: ConversationId, limit: int
    ) -> Sequence[tuple[TurnId, SentMessage]]:
        values = {"user": user_id, "conversation": conversation_id}
        return await self._read(lambda connection: within_size(turns.latest_messages(connection, values, limit)))

    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        before = parse_cursor(cursor)

        def page(connection: Connection) -> Page[Turn]:
            with closing(turns.latest_turns(connection, user_id, conversation_id, before, limit + 1)) as latest_first:
                return page_of_turns(latest_first, limit)

        return await self._read(page)

    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        values = {"user": user_id, "before": parse_cursor(cursor), "rows": limit + 1}
        rows = await self._read(lambda connection: connection.execute(conversations.PAGE, values).all())
        return page_of(((row.last_seq, conversations.conversation_of(row)) for row in rows), limit)

    async def set_title(self, user_id: UserId, conversation_id: ConversationId, title: str | None) -> Conversation:
        with history_errors(self._database):  # the earlier title is erased
            await self._database.erase(
                lambda connection: conversations.set_title(connection, user_id, conversation_id, title), user_id
            )
        values = {"user": user_id, "conversation": conversation_id}
        row = await self._read(lambda connection: connection.execute(conversations.ONE, values).one_or_none())
        if row is None:
            raise ConversationNotFound
        return conversations.conversation_of(row)

    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        now, writes = self._now(), self._database.turn_writes

        def clear(connection: Connection) -> int:
            writes.delete_leases(connection, user_id, conversation_id, now)
            return turns.clear(connection, user_id, conversation_id)

        with history_errors(self._database):
            return await self._database.erase(clear, user_id)

    async def check(self) -> None:
        with history_errors(self._database):
            await self._database.check()
        await self._read(lambda connection: connection.execute(turns.CHECK).all())

    async def probe_write(self) -> None:
        with history_errors(self._database):
            await self._database.write(turns.probe_write, patient=False)

    async def claim(self, limit: int, lease: timedelta) -> Sequence[OutboxJob]:
        now = self._now()
        if not await self._read(lambda connection: outbox.has_work(connection, now)):
            return []
        return await self._write(lambda connection: outbox.claim(connection, limit, lease, now))

    async def claim_user(self, user_id: UserId, lease: timedelta) -> Claim | None:
        now = self._now()
        return await self._write(lambda connection: outbox.claim_user(connection, user_id, lease, now), user_id)

    async def release(self, claim: Claim, *, unsettled_for: timedelta | None = None) -> None:
        now = self._now()
        await self._write(lambda connection: outbox.release(connection, claim, unsettled_for, now))

    async def settle(self, job: RememberTurn) -> None:
        now = self._now()
        await self._write(lambda connection: outbox.settle(connection, job, now))

    async def postpone(
        self, job: OutboxJob, delay: timedelta, *, unsettled_for: timedelta | None = None, counts: bool = True
    ) -> None:
        now = self._now()
        await self._write(lambda connection: outbox.postpone(connection, job, delay, unsettled_for, now, counts=counts))

    async def give_up(self, job: RememberTurn, *, unsettled_for: timedelta | None = None) -> None:
        now = self._now()
        await self._write(lambda connection: outbox.give_up(connection, job, unsettled_for, now))

    async def begin_forgetting(self, user_id: UserId) -> None:
        now = self._now()
        await self._write(lambda connection: outbox.begin_forgetting(connection, user_id, now), user_id)

    async def end_forgetting(self, job: ForgetUser) -> None:
        now = self._now()
        await self._write(lambda connection: outbox.end_forgetting(connection, job, now))

    async def forget_attempts(self, user_id: UserId) -> int | None:
        return await self._read(
            lambda connection: connection.execute(outbox.FORGET_ATTEMPTS, {"user": user_id}).scalar()
        )

    async def counts(self) -> OutboxCounts:
        return await self._read(outbox.counts)

    async def _read(self, statements: Statements[T]) -> T:
        with history_errors(self._database):
            return await self._database.read(statements)

    async def _write(self, statements: Statements[T], user_id: UserId | None = None) -> T:
        with history_errors(self._database):
            return await self._database.write(statements, user_id)


def _same_request(key: IdempotencyKey, named: keys.NamedTurn) -> Turn:
    """Return the turn that a key names, provided that it was begun with the same fingerprint."""
    if named.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused
    return named.turn
