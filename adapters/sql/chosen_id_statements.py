"""The statements for turn ids that clients have chosen."""

from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, func, insert, literal_column, or_, select

from adapters.sql.reply_parts import TURN
from adapters.sql.tables import chosen_turn_ids, turns
from adapters.sql.turn_rows import turn_of
from domain.conversation import Turn, TurnId, UserId
from domain.errors import IdempotencyKeyReused

_CHOSEN: Final = chosen_turn_ids.c.chosen_id == bindparam("turn_id")
_FIND_ALL: Final = (
    select(*TURN)
    .select_from(chosen_turn_ids.join(turns, turns.c.id == chosen_turn_ids.c.turn_id))
    .where(_CHOSEN)
    .order_by(turns.c.started_at, turns.c.seq)
    .limit(1)
)
_FIND_BELOW: Final = _FIND_ALL.where(
    func.substr(chosen_turn_ids.c.user_id, 1, bindparam("prefix_chars")) == bindparam("prefix")
)
FIND: Final = _FIND_ALL.order_by(None).where(chosen_turn_ids.c.user_id == bindparam("user"))


def find(connection: Connection, turn_id: TurnId, owner: UserId | None, prefix: str) -> Turn | None:
    """Return the turn of the owner, or, without one, the first of those of users whose ids begin with `prefix`."""
    values: dict[str, Any] = {"turn_id": turn_id}
    if owner is not None:
        query, values["user"] = FIND, owner
    elif prefix:  # LIKE would ignore case with SQLite
        query, values = _FIND_BELOW, {**values, "prefix": prefix, "prefix_chars": len(prefix)}
    else:
        query = _FIND_ALL
    row = connection.execute(query, values).one_or_none()
    return None if row is None else turn_of(row)


_IS_USED: Final[Select[Any]] = select(literal_column("1")).where(
    turns.c.user_id == bindparam("user"),
    or_(
        turns.c.id == bindparam("turn_id"),
        turns.c.id.in_(
            select(chosen_turn_ids.c.turn_id).where(_CHOSEN, chosen_turn_ids.c.user_id == bindparam("user"))
        ),
    ),
)


def require_new(connection: Connection, user_id: UserId, turn_id: TurnId) -> None:
    """Raise IdempotencyKeyReused if the user, who is locked, has a turn that is known by this id."""
    if connection.execute(_IS_USED, {"user": user_id, "turn_id": turn_id}).first() is not None:
        raise IdempotencyKeyReused


_INSERT: Final = insert(chosen_turn_ids)


def store(connection: Connection, turn: Turn) -> None:
    row = {"turn_id": turn.id, "user_id": turn.user_id, "chosen_id": turn.chosen_id}
    connection.execute(_INSERT, row).close()
