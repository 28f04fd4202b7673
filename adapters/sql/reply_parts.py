"""Replies that are saved while they are generated: statements that store their parts and put them together."""

from contextlib import closing
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    Text,
    bindparam,
    case,
    column,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.tables import REPLY_NUMBERS, RUNNING_TURNS, chosen_turn_ids, reply_parts, turns
from application.ports.history import ReplyAddition
from domain.conversation import ConversationId, TurnId, UserId

_OF_TURN: Final = reply_parts.c.reply_number == turns.c.reply_number

_SAVED: Final = (
    # A literal, because a precompiled statement can have no other constant there. Only a `str` is annotated.
    select(func.aggregate_strings(column("text"), literal_column("''")))  # type: ignore[arg-type]
    .select_from(
        select(reply_parts.c.text).where(_OF_TURN).order_by(reply_parts.c.start).correlate(turns).subquery("part")
    )
    .scalar_subquery()
)
REPLY: Final = case((turns.c.reply_number.is_(None), turns.c.reply), else_=_SAVED.concat(turns.c.reply)).label("reply")
"""A turn's reply: its parts, then `turns.reply`. One expression, because a turn may end between two statements."""

_CHOSEN_ID: Final = (
    select(chosen_turn_ids.c.chosen_id)
    .where(chosen_turn_ids.c.turn_id == turns.c.id)
    .correlate(turns)
    .scalar_subquery()
    .label("chosen_id")
)

TURN: Final = [*(REPLY if one is turns.c.reply else one for one in turns.c), _CHOSEN_ID]
"""The columns of a turn, for `turn_rows.turn_of`."""


REST_OF_REPLY: Final = text(
    "substr(:new_reply, CAST(1 + coalesce((SELECT start + length(text) FROM reply_parts"
    " WHERE reply_parts.reply_number = turns.reply_number ORDER BY start DESC LIMIT 1), 0) AS INTEGER))"
)
"""The part of `new_reply` that is not saved yet, in an update of `turns`."""


class _next_number(FunctionElement[int]):
    """A number that no other reply has: the next one, in the one process that writes to a database, or a sequence's."""

    type = BigInteger()
    inherit_cache = True


@compiles(_next_number)
def _one_more(_element: _next_number, _compiler: SQLCompiler, **_: Any) -> str:
    return "(SELECT coalesce(max(reply_number), 0) + 1 FROM reply_parts)"


@compiles(_next_number, "postgresql")
def _next_of_sequence(_element: _next_number, _compiler: SQLCompiler, **_: Any) -> str:
    return f"nextval('{REPLY_NUMBERS.name}')"


_ASSIGN_NUMBER: Final = PrecompiledStatement(
    update(turns)
    .where(turns.c.id == bindparam("turn_id"), RUNNING_TURNS, turns.c.reply_number.is_(None))
    .values(reply_number=_next_number())
)

_INSERT: Final = PrecompiledStatement(
    insert(reply_parts).from_select(
        [reply_parts.c.reply_number, reply_parts.c.start, reply_parts.c.text],
        select(turns.c.reply_number, bindparam("from_start", type_=BigInteger), bindparam("new_text", type_=Text))
        .where(turns.c.id == bindparam("turn_id"), RUNNING_TURNS)
        # Another worker may be about to end the turn. It waits, or else this does not find the turn running any more.
        .with_for_update(read=True)
        .suffix_with("ON CONFLICT (reply_number, start) DO UPDATE SET text = excluded.text"),
    )
)


def save(connection: Connection, turn_id: TurnId, addition: ReplyAddition) -> bool:
    """Store an addition to the reply of a turn, if that is running. Returns whether it is."""
    values = {"turn_id": turn_id, "from_start": addition.start, "new_text": addition.text}
    if addition.start == 0:
        _ASSIGN_NUMBER.execute_raw(connection, values).close()
    with closing(_INSERT.execute_raw(connection, values)) as cursor:
        return bool(cursor.rowcount)


_OF_USER: Final = turns.c.user_id == bindparam("user")
_LOCK_RUNNING: Final = select(turns.c.id).where(_OF_USER, RUNNING_TURNS).with_for_update()
"""Waits for other workers that are saving text of these turns. Otherwise that would be stored after the parts are
deleted and before the turns are, and stay for ever."""

_REPLIES: Final = select(turns.c.reply_number).where(_OF_USER, turns.c.reply_number.is_not(None))


def delete_of(connection: Connection, user_id: UserId, conversation_id: ConversationId | None) -> None:
    """Delete the parts of a user's replies. Precedes the deletion of the turns."""
    running, replies = _LOCK_RUNNING, _REPLIES
    if conversation_id is not None:
        of_conversation = turns.c.conversation_id == conversation_id
        running, replies = running.where(of_conversation), replies.where(of_conversation)
    connection.execute(running, {"user": user_id}).close()
    connection.execute(delete(reply_parts).where(reply_parts.c.reply_number.in_(replies)), {"user": user_id})
