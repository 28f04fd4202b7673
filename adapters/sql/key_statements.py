"""The statements that write and read idempotency keys. Requests without a key run none of them."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, text

from adapters.sql.reply_parts import TURN
from adapters.sql.tables import Instant, turns
from adapters.sql.tables import idempotency_keys as keys
from adapters.sql.turn_rows import turn_of
from domain.conversation import ConversationId, Turn, TurnId, UserId
from domain.idempotency import IdempotencyKey


class NamedTurn(NamedTuple):
    """The turn that a key names, and the fingerprint of the request that began it."""

    turn: Turn
    fingerprint: str


FIND: Final = (
    select(keys.c.fingerprint, *TURN)
    .join(turns, turns.c.id == keys.c.turn_id)
    .where(keys.c.name == bindparam("name"), keys.c.expires_at > bindparam("now"))
)


def find(connection: Connection, key: IdempotencyKey, now: datetime) -> NamedTurn | None:
    row = connection.execute(FIND, {"name": key.name, "now": now}).one_or_none()
    return None if row is None else NamedTurn(turn_of(row[1:]), row[0])


_EXPIRED: Final = (
    select(keys.c.turn_id)
    .where(keys.c.expires_at <= bindparam("now"))
    .order_by(keys.c.expires_at)
    .limit(bindparam("rows"))
    .with_for_update(skip_locked=True)
)
REMOVE_EXPIRED: Final = delete(keys).where(keys.c.turn_id.in_(_EXPIRED))
"""Removes the keys that expired first, which an index finds. More are removed than added, and few at a time, so that no
request waits for a day's keys."""

_REMOVED_AT_ONCE: Final = 4

_NAME: Final = text(
    "INSERT INTO idempotency_keys (turn_id, name, fingerprint, expires_at)"
    " VALUES (:turn_id, :name, :fingerprint, :expires_at) ON CONFLICT (name) DO UPDATE SET"
    " turn_id = excluded.turn_id, fingerprint = excluded.fingerprint, expires_at = excluded.expires_at"
).bindparams(bindparam("expires_at", type_=Instant))
"""A key that is stored already has expired, but was not removed yet."""


def name(connection: Connection, turn_id: TurnId, key: IdempotencyKey, retention: timedelta, now: datetime) -> None:
    """Let a key that names no turn name this one."""
    connection.execute(REMOVE_EXPIRED, {"now": now, "rows": _REMOVED_AT_ONCE}).close()
    row = {"turn_id": turn_id, "name": key.name, "fingerprint": key.fingerprint, "expires_at": now + retention}
    connection.execute(_NAME, row).close()


_DELETE_TURN: Final = delete(turns).where(turns.c.id == bindparam("turn"))
_SUBTRACT_TURN: Final = text(
    "UPDATE conversations SET turns = turns - 1, created_at = (SELECT started_at FROM turns WHERE user_id = :user"
    " AND conversation_id = :conversation ORDER BY seq LIMIT 1) WHERE user_id = :user AND id = :conversation"
)


def delete_turn(connection: Connection, turn_id: TurnId) -> None:
    """Delete a turn that has no reply, and with it its key. `subtract_turn` follows, once its successor is stored."""
    connection.execute(_DELETE_TURN, {"turn": turn_id}).close()


def subtract_turn(connection: Connection, user_id: UserId, conversation_id: ConversationId) -> None:
    """Take a deleted turn out of the summary of its conversation, which has others."""
    connection.execute(_SUBTRACT_TURN, {"user": user_id, "conversation": conversation_id}).close()
