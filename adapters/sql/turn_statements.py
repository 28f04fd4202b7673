"""The statements that write and read turns: functions of a connection, for every database."""

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    case,
    delete,
    exists,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)

from adapters.sql import chosen_id_statements as chosen_ids
from adapters.sql import key_statements as keys
from adapters.sql import reply_parts
from adapters.sql import retraction_statements as retraction
from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.key_statements import NamedTurn
from adapters.sql.reply_parts import REPLY, TURN
from adapters.sql.tables import CONTEXT_TURNS, PROBE_WRITE, RUNNING_TURNS, Instant, conversations, turns, users
from adapters.sql.turn_rows import end_values, turn_of
from application.ports.history import ReplyAddition, TurnBegin, TurnEnd
from domain.conversation import ConversationId, Turn, TurnId, TurnStatus, UserId
from domain.errors import WorkerLost
from domain.paging import BEYOND_ALL
from domain.resent import SentMessage

_NEXT_SEQ: Final = PrecompiledStatement(
    text(
        "INSERT INTO users (id, last_seq) VALUES (:user, :first)"
        " ON CONFLICT (id) DO UPDATE SET last_seq = users.last_seq + 1 RETURNING last_seq, memory_epoch"
    ).bindparams(bindparam("first", type_=Instant))
)
"""A user's first position is the current time in microseconds. So positions keep rising after a user was deleted,
without anything about the user being kept."""

_TOUCH_CONVERSATION: Final = PrecompiledStatement(
    text(
        "INSERT INTO conversations (user_id, id, created_at, updated_at, last_seq, turns)"
        " VALUES (:user_id, :conversation_id, :started_at, :started_at, :seq, 1)"
        " ON CONFLICT (user_id, id) DO UPDATE SET"
        " updated_at = excluded.updated_at, last_seq = excluded.last_seq, turns = conversations.turns + 1"
    ).bindparams(bindparam("started_at", type_=Instant))
)
_INSERT_TURN: Final = PrecompiledStatement(insert(turns))


def begin(connection: Connection, record: TurnBegin, now: datetime) -> None:
    _insert(connection, record, now, *_next_position(connection, record.turn.user_id, now))


def begin_in_steps(connection: Connection, record: TurnBegin, now: datetime) -> NamedTurn | None:
    """Begin a turn with a key, with a chosen id, or instead of others. Returns None, or the turn that the key names.

    Raises:
        IdempotencyKeyReused: the user has another turn with the chosen id.
        TurnNotFound: the turn to be retracted is not there.
    """
    turn, key = record.turn, record.key
    position = _next_position(connection, turn.user_id, now)  # locks the user, whose key no other transaction can use
    named = None if key is None else keys.find(connection, key, now)
    if named is not None and (key is None or not named.turn.is_replaceable or named.fingerprint != key.fingerprint):
        return named
    place = None
    if record.retracts_from is not None:  # before the turn is replaced, which may be the one to be retracted
        place = retraction.place_of(connection, turn, record.retracts_from)
    if named is not None:
        was_retracted = retraction.delete_replaced(connection, named.turn.id)
    if turn.chosen_id is not None:
        chosen_ids.require_new(connection, turn.user_id, turn.chosen_id)
    _insert(connection, record, now, *position)
    if turn.chosen_id is not None:
        chosen_ids.store(connection, turn)
    if named is not None:
        retraction.replace(connection, named.turn.id, turn, was_retracted=was_retracted)
    if key is not None:
        keys.name(connection, turn, key, record.key_retention, now)
    if place is not None:
        retraction.retract(connection, turn, place)
    return None


def _next_position(connection: Connection, user_id: UserId, now: datetime) -> tuple[int, int]:
    """Return the position of the user's next turn, and their memory epoch."""
    ((seq, memory_epoch),) = _NEXT_SEQ.execute_raw(connection, {"user": user_id, "first": now})
    return seq, memory_epoch


def _insert(connection: Connection, record: TurnBegin, now: datetime, seq: int, memory_epoch: int) -> None:
    turn = record.turn
    row = {
        "id": turn.id,
        "user_id": turn.user_id,
        "conversation_id": turn.conversation_id,
        "seq": seq,
        "started_at": turn.started_at,
        "user_message": turn.user_message,
        "reply": turn.reply,
        "status": turn.status,
        "reason": turn.reason,
        "memory_epoch": memory_epoch,
        "lease_expires_at": now + record.lease,
        "prompt_tokens": None,
        "completion_tokens": None,
        "usage_estimated": None,
        "reply_number": None,
        "retracted_by": None,
    }
    _TOUCH_CONVERSATION.execute_raw(connection, row)
    _INSERT_TURN.execute_raw(connection, row)


_ONE_RUNNING: Final = update(turns).where(turns.c.id == bindparam("turn_id"), RUNNING_TURNS)
_RENEW: Final = PrecompiledStatement(
    _ONE_RUNNING.where(
        or_(
            turns.c.lease_expires_at <= bindparam("renew_before"),
            turns.c.lease_expires_at > bindparam("expires_at"),  # the clock was set back meanwhile
        )
    ).values(lease_expires_at=bindparam("expires_at"))
)
_IS_RUNNING: Final = PrecompiledStatement(select(turns.c.id).where(turns.c.id == bindparam("turn_id"), RUNNING_TURNS))


def save_progress(
    connection: Connection, additions: Mapping[TurnId, ReplyAddition], lease: timedelta, now: datetime
) -> Collection[TurnId]:
    """Return those of the turns that do not run any more."""
    # Somewhat before a third has passed, so that a caller who asks at a third always renews.
    expiry = {"expires_at": now + lease, "renew_before": now + lease * 0.7}
    lost = set()
    for turn_id, addition in additions.items():
        runs = bool(addition.text) and reply_parts.save(connection, turn_id, addition)
        renewed = _RENEW.execute_raw(connection, {"turn_id": turn_id, **expiry}).rowcount
        if not runs and not renewed and not _IS_RUNNING.execute_raw(connection, {"turn_id": turn_id}).fetchall():
            lost.add(turn_id)
    return lost


_FINISH: Final = PrecompiledStatement(
    _ONE_RUNNING.values(
        {
            column: bindparam(f"new_{column}")
            for column in ("status", "reason", "prompt_tokens", "completion_tokens", "usage_estimated")
        }
        | {"reply": reply_parts.REST_OF_REPLY}
    )
)
_ADD_TO_OUTBOX: Final = text(
    "INSERT INTO remembering (turn_id, user_id, due_at, attempts)"
    " SELECT turns.id, turns.user_id, :now, 0 FROM turns JOIN users ON users.id = turns.user_id"
    " WHERE turns.id = :turn_id AND turns.memory_epoch = users.memory_epoch AND turns.retracted_by IS NULL"
).bindparams(bindparam("now", type_=Instant))


_HOLD_USER: Final = select(users.c.id).where(users.c.id == bindparam("user")).with_for_update(key_share=True)
"""Not for sharing: two batches that both did so would deadlock if each began another turn of the user afterwards."""


def finish(connection: Connection, end: TurnEnd, now: datetime) -> Turn | None:
    if end.remember:  # forgetting the user waits until the turn is in the outbox, or else is seen here
        connection.execute(_HOLD_USER, {"user": end.turn.user_id}).close()
    if _FINISH.execute_raw(connection, end_values(end.turn)).rowcount:
        if end.remember:
            connection.execute(_ADD_TO_OUTBOX, {"turn_id": end.turn.id, "now": now})
        return end.turn
    return get(connection, end.turn.id, None)


_FINISH_ABANDONED: Final = (
    update(turns)
    .where(
        # A worker that was paused may have locked some of its turns. These must not keep the others from being ended.
        turns.c.id.in_(
            select(turns.c.id)
            .where(RUNNING_TURNS, turns.c.lease_expires_at <= bindparam("now"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(
        status=case(
            (and_(turns.c.reply == "", turns.c.reply_number.is_(None)), TurnStatus.FAILED.value),
            else_=TurnStatus.INTERRUPTED.value,
        ),
        reason=WorkerLost.code,
    )
)


_ABANDONED: Final = PrecompiledStatement(
    select(turns.c.id).where(RUNNING_TURNS, turns.c.lease_expires_at <= bindparam("now", type_=Instant)).limit(1)
)


def has_abandoned(connection: Connection, now: datetime) -> bool:
    return _ABANDONED.execute_raw(connection, {"now": now}).fetchone() is not None


def finish_abandoned(connection: Connection, now: datetime) -> int:
    return connection.execute(_FINISH_ABANDONED, {"now": now}).rowcount


_GET: Final = select(*TURN).where(turns.c.id == bindparam("turn_id"))


def get(connection: Connection, turn_id: TurnId, owner: UserId | None, prefix: str = "") -> Turn | None:
    row = connection.execute(_GET, {"turn_id": turn_id}).one_or_none()
    if row is not None and (row.user_id.startswith(prefix) if owner is None else row.user_id == owner):
        return turn_of(row)
    return chosen_ids.find(connection, turn_id, owner, prefix)


_OF_USER: Final = select(*TURN).where(turns.c.user_id == bindparam("user"), turns.c.retracted_by.is_(None))
_OF_CONVERSATION: Final = _OF_USER.where(turns.c.conversation_id == bindparam("conversation"))
_BEFORE: Final = turns.c.seq < bindparam("before")

LATEST: Final = PrecompiledStatement(
    _OF_CONVERSATION.with_only_columns(turns.c.user_message, REPLY)
    .where(CONTEXT_TURNS)
    .order_by(turns.c.seq.desc())
    .limit(bindparam("rows"))
)
_MESSAGES: Final = PrecompiledStatement(
    _OF_CONVERSATION.with_only_columns(
        turns.c.seq,
        turns.c.id,
        turns.c.user_message,
        literal_column("(reply <> '' OR reply_number IS NOT NULL)").label("answered"),
    )
    .where(_BEFORE)
    .order_by(turns.c.seq.desc())
    .limit(bindparam("rows"))
)


def latest_messages(
    connection: Connection, values: Mapping[str, Any], limit: int, *, at_once: int = 200
) -> Iterator[tuple[TurnId, SentMessage]]:
    """Yield the messages of a conversation, latest first. Selects `at_once`, since PostgreSQL fetches them all."""
    before = BEYOND_ALL
    while limit > 0:
        count = 0
        rows = {**values, "before": before, "rows": min(limit, at_once)}
        with closing(_MESSAGES.execute_raw(connection, rows)) as messages:
            for seq, id, message, answered in messages:
                before, count = seq, count + 1
                yield id, SentMessage(message, bool(answered))
        limit = limit - count if count == at_once else 0


PAGE: Final = _OF_USER.where(_BEFORE).order_by(turns.c.seq.desc()).limit(bindparam("rows"))
CONVERSATION_PAGE: Final = _OF_CONVERSATION.where(_BEFORE).order_by(turns.c.seq.desc()).limit(bindparam("rows"))


def latest_turns(
    connection: Connection,
    user_id: UserId,
    conversation_id: ConversationId | None,
    before: int,
    limit: int,
    *,
    at_once: int = 51,
) -> Generator[tuple[int, Turn], None, None]:
    """Yield the turns of a user or of one conversation with their positions, latest first.

    Selects `at_once`, since PostgreSQL fetches them all. That is a page of 50, and whether another one follows.
    """
    query = PAGE if conversation_id is None else CONVERSATION_PAGE
    values = {"user": user_id, "conversation": conversation_id}
    while limit > 0:
        count = 0
        with connection.execute(query, {**values, "before": before, "rows": min(limit, at_once)}) as rows:
            for row in rows:
                before, count = row.seq, count + 1
                yield before, turn_of(row)
        limit = limit - count if count == at_once else 0


CHECK: Final = select(users.c.id).limit(1)


def probe_write(connection: Connection) -> None:
    for statement in PROBE_WRITE:
        connection.execute(statement).close()


_LOCK_USER: Final = select(users.c.id).where(users.c.id == bindparam("user")).with_for_update()
_DELETE_TURNS: Final = delete(turns).where(turns.c.user_id == bindparam("user"))
_DELETE_CONVERSATIONS: Final = delete(conversations).where(conversations.c.user_id == bindparam("user"))
_DELETE_USER: Final = delete(users).where(
    users.c.id == bindparam("user"), ~exists().where(conversations.c.user_id == users.c.id)
)


def clear(connection: Connection, user_id: UserId, conversation_id: ConversationId | None) -> int:
    user = {"user": user_id}
    if connection.execute(_LOCK_USER, user).one_or_none() is None:
        return 0
    delete_turns, delete_conversations = _DELETE_TURNS, _DELETE_CONVERSATIONS
    if conversation_id is not None:
        delete_turns = delete_turns.where(turns.c.conversation_id == conversation_id)
        delete_conversations = delete_conversations.where(conversations.c.id == conversation_id)
    reply_parts.delete_of(connection, user_id, conversation_id)
    deleted = connection.execute(delete_turns, user).rowcount
    connection.execute(delete_conversations, user)
    connection.execute(_DELETE_USER, user)
    return deleted
