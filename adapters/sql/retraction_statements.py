"""The statements by which a turn takes the place of earlier ones. Only the begins of such turns run them."""

from typing import Final

from sqlalchemy import Connection, and_, bindparam, delete, select, text, update

from adapters.sql.tables import remembering, turns
from domain.conversation import Turn, TurnId
from domain.errors import TurnNotFound

_OF_CONVERSATION: Final = and_(
    turns.c.user_id == bindparam("user"), turns.c.conversation_id == bindparam("conversation")
)
_PLACE: Final = select(turns.c.seq).where(turns.c.id == bindparam("turn_id"), _OF_CONVERSATION)
_RETRACT: Final = (
    update(turns)
    .where(
        _OF_CONVERSATION,
        turns.c.seq >= bindparam("first"),
        turns.c.retracted_by.is_(None),
        turns.c.id != bindparam("new_turn"),
    )
    .values(retracted_by=bindparam("new_turn"))
)
_COUNT: Final = text(
    "UPDATE conversations SET retracted = retracted + :count WHERE user_id = :user AND id = :conversation"
)
_WITHDRAW: Final = delete(remembering).where(
    remembering.c.turn_id.in_(
        select(turns.c.id).where(
            _OF_CONVERSATION, turns.c.seq >= bindparam("first"), turns.c.retracted_by == bindparam("new_turn")
        )
    )
)
"""Follows the update: the user is locked, so no turn that it has found can enter the outbox any more."""


def place_of(connection: Connection, turn: Turn, first: TurnId) -> int:
    """Return the place of another turn in the conversation of `turn`.

    Raises:
        TurnNotFound: `first` is no turn of the conversation.
    """
    values = {"user": turn.user_id, "conversation": turn.conversation_id, "turn_id": first}
    place: int | None = connection.execute(_PLACE, values).scalar()
    if place is None:
        raise TurnNotFound
    return place


def retract(connection: Connection, turn: Turn, place: int) -> None:
    """Retract the earlier turns of a conversation from a place on, in favour of a turn that has just been stored."""
    values = {"user": turn.user_id, "conversation": turn.conversation_id, "new_turn": turn.id}
    count = connection.execute(_RETRACT, {**values, "first": place}).rowcount
    connection.execute(_COUNT, {**values, "count": count}).close()
    connection.execute(_WITHDRAW, {**values, "first": place}).close()


_DELETE: Final = delete(turns).where(turns.c.id == bindparam("turn")).returning(turns.c.retracted_by)
_SUBTRACT: Final = text(
    "UPDATE conversations SET turns = turns - 1, retracted = retracted - :retracted,"
    " created_at = (SELECT started_at FROM turns WHERE user_id = :user AND conversation_id = :conversation"
    " ORDER BY seq LIMIT 1) WHERE user_id = :user AND id = :conversation"
)
_TAKE_OVER: Final = (
    update(turns)
    .where(_OF_CONVERSATION, turns.c.retracted_by == bindparam("earlier"))
    .values(retracted_by=bindparam("new_turn"))
)


def delete_replaced(connection: Connection, turn_id: TurnId) -> bool:
    """Delete a turn that has no reply, and with it its key. Returns whether it was retracted. `replace` follows."""
    return connection.execute(_DELETE, {"turn": turn_id}).scalar_one() is not None


def replace(connection: Connection, earlier: TurnId, turn: Turn, *, was_retracted: bool) -> None:
    """Take a deleted turn out of the summary of its conversation, and let its successor, now stored, follow it."""
    values = {"user": turn.user_id, "conversation": turn.conversation_id}
    connection.execute(_SUBTRACT, {**values, "retracted": int(was_retracted)}).close()
    connection.execute(_TAKE_OVER, {**values, "earlier": earlier, "new_turn": turn.id}).close()
