"""The statements that read the summaries of conversations, and set their titles."""

from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, func, literal_column, select, update

from adapters.sql.tables import conversations, turns, users
from domain.conversation import Conversation, ConversationId, UserId
from domain.title import SOURCE_CHARS, title_of

_FIRST_MESSAGE: Final = (
    select(func.substr(turns.c.user_message, literal_column("1"), literal_column(str(SOURCE_CHARS))))
    .where(
        turns.c.user_id == conversations.c.user_id,
        turns.c.conversation_id == conversations.c.id,
        turns.c.retracted_by.is_(None),
    )
    .order_by(turns.c.seq)
    .limit(literal_column("1"))
    .correlate(conversations)
    .scalar_subquery()
)
_OF_USER: Final = select(conversations, _FIRST_MESSAGE).where(conversations.c.user_id == bindparam("user"))
PAGE: Final = (
    _OF_USER.where(conversations.c.last_seq < bindparam("before"))
    .order_by(conversations.c.last_seq.desc())
    .limit(bindparam("rows"))
)
ONE: Final = _OF_USER.where(conversations.c.id == bindparam("conversation"))


def conversation_of(row: Row[*tuple[Any, ...]]) -> Conversation:
    user_id, id, created_at, updated_at, _, count, retracted, title, first_message = row
    title = title_of(first_message) if title is None else title
    return Conversation(UserId(user_id), ConversationId(id), created_at, updated_at, count - retracted, title)


_HOLD_USER: Final = select(users.c.id).where(users.c.id == bindparam("user")).with_for_update(key_share=True)
"""First, as all writes that lock a conversation lock its user."""

_THIS: Final = (conversations.c.user_id == bindparam("user"), conversations.c.id == bindparam("conversation"))
_TITLE: Final = select(conversations.c.title).where(*_THIS)
_SET_TITLE: Final = update(conversations).where(*_THIS).values(title=bindparam("new_title"))


def set_title(connection: Connection, user_id: UserId, conversation_id: ConversationId, title: str | None) -> int:
    """Set the title if there is such a conversation. Returns the number of titles that were replaced: 1 or 0."""
    connection.execute(_HOLD_USER, {"user": user_id}).close()
    values = {"user": user_id, "conversation": conversation_id}
    replaced = connection.execute(_TITLE, values).scalar()
    connection.execute(_SET_TITLE, {**values, "new_title": title}).close()
    return int(replaced is not None)
