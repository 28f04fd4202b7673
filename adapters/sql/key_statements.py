"""The statements that write and read idempotency keys. Requests without a key run none of them."""

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, text

from adapters.sql.reply_parts import TURN
from adapters.sql.tables import Instant, turns
from adapters.sql.tables import idempotency_keys as keys
from adapters.sql.turn_rows import turn_of
from domain.conversation import Turn
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


_NEVER: Final = datetime.max.replace(tzinfo=UTC)


def name(connection: Connection, turn: Turn, key: IdempotencyKey, retention: timedelta, now: datetime) -> None:
    """Let a key that names no turn name this one."""
    connection.execute(REMOVE_EXPIRED, {"now": now, "rows": _REMOVED_AT_ONCE}).close()
    expires_at = now + retention if turn.chosen_id is None else _NEVER
    row = {"turn_id": turn.id, "name": key.name, "fingerprint": key.fingerprint, "expires_at": expires_at}
    connection.execute(_NAME, row).close()
