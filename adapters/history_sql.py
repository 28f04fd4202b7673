"""History in a relational database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, case, delete, exists, insert, select, text, update

from adapters.sql.compiled import Compiled
from adapters.sql.database import Database, Statements, T
from adapters.sql.errors import raised_as
from adapters.sql.tables import CONTEXT_TURNS, RUNNING_TURNS, Instant, conversations, remembering, turns, users
from adapters.sql.turn_rows import turn_of
from application.ports.history import ConversationHistory, HistoryUnavailable
from domain.conversation import Conversation, ConversationId, Exchange, Turn, TurnId, TurnStatus, UserId
from domain.errors import TurnNotFound, WorkerLost
from domain.paging import Page, page_of, page_of_turns, place_of


class HistorySQL(ConversationHistory):
    """For keeping turns as rows; as durable as the database's commits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, turn: Turn) -> None:
        await self._write(lambda connection: _begin(connection, turn))

    async def save_progress(self, replies: Mapping[TurnId, str]) -> None:
        rows = [{"turn_id": turn_id, "new_reply": reply} for turn_id, reply in replies.items()]
        if rows:
            await self._write(lambda connection: connection.execute(_SAVE_PROGRESS, rows).close())

    async def finish(self, turn: Turn, *, remember_at: datetime | None = None) -> bool:
        return await self._write(lambda connection: _finish(connection, turn, remember_at))

    async def finish_abandoned(self) -> int:
        return await self._write(lambda connection: connection.execute(_FINISH_ABANDONED).rowcount)

    async def get(self, turn_id: TurnId) -> Turn:
        row = await self._read(lambda connection: connection.execute(_GET, {"turn_id": turn_id}).one_or_none())
        if row is None:
            raise TurnNotFound
        return turn_of(row)

    async def latest(self, user_id: UserId, conversation_id: ConversationId, limit: int) -> Sequence[Exchange]:
        wanted = {"user": user_id, "conversation": conversation_id, "rows": limit}
        return await self._read(lambda connection: list(map(Exchange._make, _LATEST.run(connection, wanted))))

    async def page(
        self, user_id: UserId, conversation_id: ConversationId | None, limit: int, cursor: str | None
    ) -> Page[Turn]:
        query = _PAGE if conversation_id is None else _CONVERSATION_PAGE
        wanted = {"user": user_id, "conversation": conversation_id, "before": place_of(cursor), "rows": limit + 1}

        def page(connection: Connection) -> Page[Turn]:
            with connection.execute(query, wanted) as rows:  # row by row: long texts are not read beyond the page
                return page_of_turns(((row.seq, turn_of(row)) for row in rows), limit)

        return await self._read(page)

    async def conversations(self, user_id: UserId, limit: int, cursor: str | None) -> Page[Conversation]:
        wanted = {"user": user_id, "before": place_of(cursor), "rows": limit + 1}
        rows = await self._read(lambda connection: connection.execute(_CONVERSATIONS, wanted).all())
        return page_of(((row.last_seq, _conversation(row)) for row in rows), limit)

    async def clear(self, user_id: UserId, conversation_id: ConversationId | None) -> int:
        with raised_as(HistoryUnavailable):
            return await self._database.erase(lambda connection: _clear(connection, user_id, conversation_id))

    async def check(self) -> None:
        await self._read(lambda connection: connection.execute(_CHECK).all())

    async def _read(self, statements: Statements[T]) -> T:
        with raised_as(HistoryUnavailable):
            return await self._database.read(statements)

    async def _write(self, statements: Statements[T]) -> T:
        with raised_as(HistoryUnavailable):
            return await self._database.write(statements)


_TAKE_PLACE: Final = Compiled(
    text(
        "INSERT INTO users (id, last_seq) VALUES (:user, 1)"
        " ON CONFLICT (id) DO UPDATE SET last_seq = users.last_seq + 1 RETURNING last_seq"
    )
)
_TOUCH_CONVERSATION: Final = Compiled(
    text(
        "INSERT INTO conversations (user_id, id, created_at, updated_at, last_seq, turns)"
        " VALUES (:user_id, :conversation_id, :started_at, :started_at, :seq, 1)"
        " ON CONFLICT (user_id, id) DO UPDATE SET"
        " updated_at = excluded.updated_at, last_seq = excluded.last_seq, turns = conversations.turns + 1"
    ).bindparams(bindparam("started_at", type_=Instant))
)
_INSERT_TURN: Final = Compiled(insert(turns))


def _begin(connection: Connection, turn: Turn) -> None:
    ((seq,),) = _TAKE_PLACE.run(connection, {"user": turn.user_id})
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
    }
    _TOUCH_CONVERSATION.run(connection, row)
    _INSERT_TURN.run(connection, row)


_ONE_RUNNING: Final = update(turns).where(turns.c.id == bindparam("turn_id"), RUNNING_TURNS)
_SAVE_PROGRESS: Final = _ONE_RUNNING.values(reply=bindparam("new_reply"))
_FINISH: Final = Compiled(
    _ONE_RUNNING.values(reply=bindparam("new_reply"), status=bindparam("new_status"), reason=bindparam("new_reason"))
)
_EXISTS: Final = select(turns.c.id).where(turns.c.id == bindparam("turn_id"))
_FINISH_ABANDONED: Final = (
    update(turns)
    .where(RUNNING_TURNS)
    .values(
        status=case((turns.c.reply == "", TurnStatus.FAILED.value), else_=TurnStatus.INTERRUPTED.value),
        reason=WorkerLost.code,
    )
)


_INSERT_REMEMBERING: Final = insert(remembering)


def _finish(connection: Connection, turn: Turn, remember_at: datetime | None) -> bool:
    end = {"turn_id": turn.id, "new_reply": turn.reply, "new_status": turn.status, "new_reason": turn.reason}
    if _FINISH.run(connection, end).rowcount:
        if remember_at is not None:
            row = {"turn_id": turn.id, "user_id": turn.user_id, "due_at": remember_at, "attempts": 0}
            connection.execute(_INSERT_REMEMBERING, row)
        return True
    return connection.execute(_EXISTS, {"turn_id": turn.id}).scalar() is not None


_GET: Final = select(turns).where(turns.c.id == bindparam("turn_id"))
_OF_USER: Final = select(turns).where(turns.c.user_id == bindparam("user"))
_OF_CONVERSATION: Final = _OF_USER.where(turns.c.conversation_id == bindparam("conversation"))
_LATEST: Final = Compiled(
    _OF_CONVERSATION.with_only_columns(turns.c.user_message, turns.c.reply)
    .where(CONTEXT_TURNS)
    .order_by(turns.c.seq.desc())
    .limit(bindparam("rows"))
)
_BEFORE: Final = turns.c.seq < bindparam("before")
_PAGE: Final = _OF_USER.where(_BEFORE).order_by(turns.c.seq.desc()).limit(bindparam("rows"))
_CONVERSATION_PAGE: Final = _OF_CONVERSATION.where(_BEFORE).order_by(turns.c.seq.desc()).limit(bindparam("rows"))
_CONVERSATIONS: Final = (
    select(conversations)
    .where(conversations.c.user_id == bindparam("user"), conversations.c.last_seq < bindparam("before"))
    .order_by(conversations.c.last_seq.desc())
    .limit(bindparam("rows"))
)
_CHECK: Final = select(users.c.id).limit(1)


def _conversation(row: Row[*tuple[Any, ...]]) -> Conversation:
    user_id, id, created_at, updated_at, _, count = row
    return Conversation(UserId(user_id), ConversationId(id), created_at, updated_at, count)


_LOCK_USER: Final = select(users.c.id).where(users.c.id == bindparam("user")).with_for_update()
_DELETE_TURNS: Final = delete(turns).where(turns.c.user_id == bindparam("user"))
_DELETE_CONVERSATIONS: Final = delete(conversations).where(conversations.c.user_id == bindparam("user"))
_DELETE_USER: Final = delete(users).where(
    users.c.id == bindparam("user"), ~exists().where(conversations.c.user_id == users.c.id)
)


def _clear(connection: Connection, user_id: UserId, conversation_id: ConversationId | None) -> int:
    doomed = {"user": user_id}
    if connection.execute(_LOCK_USER, doomed).one_or_none() is None:
        return 0
    delete_turns, delete_conversations = _DELETE_TURNS, _DELETE_CONVERSATIONS
    if conversation_id is not None:
        delete_turns = delete_turns.where(turns.c.conversation_id == conversation_id)
        delete_conversations = delete_conversations.where(conversations.c.id == conversation_id)
    deleted = connection.execute(delete_turns, doomed).rowcount
    connection.execute(delete_conversations, doomed)
    connection.execute(_DELETE_USER, doomed)
    return deleted
