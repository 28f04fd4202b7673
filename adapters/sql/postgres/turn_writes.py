"""The begin and the end of a turn on PostgreSQL: a single statement each."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, text

from adapters.sql import turn_statements
from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.reply_parts import REST_OF_REPLY
from adapters.sql.tables import Instant
from adapters.sql.turn_rows import end_values
from adapters.sql.turn_writes import Sent, TurnWrites
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import Turn

_BEGIN: Final = PrecompiledStatement(
    text(
        "WITH place AS ("
        " INSERT INTO users (id, last_seq) VALUES (:user, :now)"
        " ON CONFLICT (id) DO UPDATE SET last_seq = users.last_seq + 1 RETURNING last_seq, memory_epoch"
        "), conversation AS ("
        " INSERT INTO conversations (user_id, id, created_at, updated_at, last_seq, turns)"
        " SELECT :user, :conversation, :started_at, :started_at, last_seq, 1 FROM place"
        " ON CONFLICT (user_id, id) DO UPDATE SET"
        " updated_at = excluded.updated_at, last_seq = excluded.last_seq, turns = conversations.turns + 1"
        ") INSERT INTO turns (id, user_id, conversation_id, seq, started_at, user_message, reply, status, memory_epoch,"
        " lease_expires_at)"
        " SELECT :turn, :user, :conversation, last_seq, :started_at, :message, '', :status, memory_epoch, :expires_at"
        " FROM place"
    ).bindparams(*(bindparam(name, type_=Instant) for name in ("now", "started_at", "expires_at")))
)

_FINISH_SQL: Final = (
    "UPDATE turns SET status = :new_status, reason = :new_reason, prompt_tokens = :new_prompt_tokens,"  # noqa: S608
    " completion_tokens = :new_completion_tokens, usage_estimated = :new_usage_estimated,"
    f" reply = {REST_OF_REPLY.text} WHERE id = :turn_id AND status = 'in_progress'"
)
_FINISH: Final = PrecompiledStatement(text(_FINISH_SQL))
_FINISH_AND_REMEMBER: Final = PrecompiledStatement(
    text(
        # Forgetting the user waits for this lock, or else has advanced the epoch, which the locked row shows.
        "WITH owner AS (SELECT id, memory_epoch FROM users WHERE id = :user FOR SHARE), finished AS ("  # noqa: S608
        f"{_FINISH_SQL} RETURNING id, user_id, memory_epoch"
        "), remembered AS ("
        " INSERT INTO remembering (turn_id, user_id, due_at, attempts)"
        " SELECT finished.id, finished.user_id, :now, 0 FROM finished JOIN owner"
        " ON owner.id = finished.user_id AND owner.memory_epoch = finished.memory_epoch"
        ") SELECT count(*) FROM finished"
    ).bindparams(bindparam("now", type_=Instant))
)


class PostgresTurnWrites(TurnWrites):
    """Sends one statement, whose result may be read after others have been sent."""

    def begin(self, connection: Connection, record: TurnBegin, now: datetime) -> Sent[None]:
        turn = record.turn
        values = {
            "turn": turn.id,
            "user": turn.user_id,
            "conversation": turn.conversation_id,
            "now": now,
            "started_at": turn.started_at,
            "message": turn.user_message,
            "status": turn.status,
            "expires_at": now + record.lease,
        }
        cursor = _BEGIN.execute_raw(connection, values)
        return lambda: cursor.close()

    def finish(self, connection: Connection, end: TurnEnd, now: datetime) -> Sent[Turn | None]:
        values = {**end_values(end.turn), "user": end.turn.user_id, "now": now}
        cursor = (_FINISH_AND_REMEMBER if end.remember else _FINISH).execute_raw(connection, values)

        def stored() -> Turn | None:
            finished = cursor.fetchone()[0] if end.remember else cursor.rowcount
            cursor.close()
            return end.turn if finished else turn_statements.get(connection, end.turn.id, None)

        return stored
