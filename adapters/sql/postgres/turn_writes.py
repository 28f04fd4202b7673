"""The begin and the end of a turn on PostgreSQL: a single statement each."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, text

from adapters.sql import turn_statements
from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.lease_statements import FIRST_WAITING_SQL, OWNER_SQL, TAKE_SQL, TIME_TO_BEGIN, TOPIC
from adapters.sql.postgres.notifications import CHANNEL
from adapters.sql.reply_parts import REST_OF_REPLY
from adapters.sql.tables import Instant
from adapters.sql.turn_rows import end_values
from adapters.sql.turn_writes import Sent, TurnWrites
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import ConversationId, Turn, UserId

_INSTANTS: Final = [bindparam(name, type_=Instant) for name in ("now", "started_at", "expires_at", "lease_expires_at")]


def _begin_sql(first: str, condition: str) -> str:
    return (
        f"WITH {first}place AS ("
        f" INSERT INTO users (id, last_seq) SELECT :user, :now WHERE {condition}"
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
    )


_BEGIN: Final = PrecompiledStatement(text(_begin_sql("", "true")).bindparams(*_INSTANTS[:3]))
_TAKE_AND_BEGIN: Final = PrecompiledStatement(
    text(
        _begin_sql(f"{OWNER_SQL}, taken AS ({TAKE_SQL} RETURNING turn_id), ", "EXISTS (SELECT FROM taken)")
    ).bindparams(*_INSTANTS)
)
_TAKE: Final = text(f"WITH {OWNER_SQL} {TAKE_SQL}").bindparams(_INSTANTS[3])

_FINISH_SQL: Final = (
    "UPDATE turns SET status = :new_status, reason = :new_reason, prompt_tokens = :new_prompt_tokens,"
    " completion_tokens = :new_completion_tokens, usage_estimated = :new_usage_estimated,"
    f" reply = {REST_OF_REPLY.text} WHERE id = :turn_id AND status = 'in_progress'"
)
_RETURNING_SQL: Final = " RETURNING id, user_id, conversation_id, memory_epoch, retracted_by"
_WOKEN_SQL: Final = (
    f"SELECT pg_notify('{CHANNEL}', '{TOPIC} ' || {FIRST_WAITING_SQL})"
    " FROM finished JOIN conversation_leases AS lease USING (user_id, conversation_id) WHERE lease.waiting <> ''"
)
_COUNTS_SQL: Final = "SELECT (SELECT count(*) FROM finished), (SELECT count(*) FROM woken)"
_FINISH: Final = PrecompiledStatement(
    text(f"WITH finished AS ({_FINISH_SQL}{_RETURNING_SQL}), woken AS ({_WOKEN_SQL}) {_COUNTS_SQL}")
)
_FINISH_AND_REMEMBER: Final = PrecompiledStatement(
    text(
        # Forgetting the user waits for this lock, or else has advanced the epoch, which the locked row shows. It is not
        # FOR SHARE: two batches that both had that would deadlock if each began another turn of the user afterwards.
        "WITH owner AS (SELECT id, memory_epoch FROM users WHERE id = :user FOR NO KEY UPDATE), finished AS ("
        # Without a use in `finished`, that would run first and lock the turn, for which a deletion of the user waits.
        f"{_FINISH_SQL} AND EXISTS (SELECT FROM owner){_RETURNING_SQL}), woken AS ({_WOKEN_SQL}), remembered AS ("
        " INSERT INTO remembering (turn_id, user_id, due_at, attempts)"
        " SELECT finished.id, finished.user_id, :now, 0 FROM finished JOIN owner"
        " ON owner.id = finished.user_id AND owner.memory_epoch = finished.memory_epoch"
        " WHERE finished.retracted_by IS NULL"
        f") {_COUNTS_SQL}"
    ).bindparams(bindparam("now", type_=Instant))
)

_CLEARED: Final = "user_id = :user AND conversation_id = coalesce(CAST(:conversation AS text), conversation_id)"
_LOCK_LEASES: Final = text(
    # The strongest lock of the user at once, because the row may be deleted afterwards.
    "WITH owner AS MATERIALIZED (SELECT FROM users WHERE id = :user FOR UPDATE)"
    " SELECT FROM (SELECT count(*) FROM owner) AS locked, conversation_leases AS lease"
    f" WHERE {_CLEARED} FOR UPDATE OF lease"
)
_DELETE_LEASES: Final = text(
    # Not that of a turn which is about to begin, after the deletion: it would no longer keep others out.
    f"DELETE FROM conversation_leases WHERE {_CLEARED}"
    " AND (expires_at <= :now OR EXISTS (SELECT FROM turns WHERE turns.id = turn_id))"
).bindparams(bindparam("now", type_=Instant))


class PostgresTurnWrites(TurnWrites):
    """Sends one statement, whose result may be read after others have been sent.

    All writes that lock several rows lock the user first, then the lease, then the turns.
    """

    def take_conversation(self, connection: Connection, turn: Turn, now: datetime) -> bool:
        values = {"turn": turn.id, "user": turn.user_id, "conversation": turn.conversation_id}
        return connection.execute(_TAKE, {**values, "lease_expires_at": now + TIME_TO_BEGIN}).rowcount == 1

    def delete_leases(
        self, connection: Connection, user_id: UserId, conversation_id: ConversationId | None, now: datetime
    ) -> None:
        values = {"user": user_id, "conversation": conversation_id, "now": now}
        connection.execute(_LOCK_LEASES, values).close()
        connection.execute(_DELETE_LEASES, values).close()

    def begin(self, connection: Connection, record: TurnBegin, now: datetime) -> Sent[bool]:
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
            "lease_expires_at": now + TIME_TO_BEGIN,
        }
        cursor = (_TAKE_AND_BEGIN if record.takes_conversation else _BEGIN).execute_raw(connection, values)

        def begun() -> bool:
            rows: int = cursor.rowcount
            cursor.close()
            return rows == 1

        return begun

    def finish(self, connection: Connection, end: TurnEnd, now: datetime) -> Sent[Turn | None]:
        values = {**end_values(end.turn), "user": end.turn.user_id, "now": now}
        cursor = (_FINISH_AND_REMEMBER if end.remember else _FINISH).execute_raw(connection, values)

        def stored() -> Turn | None:
            finished, _ = cursor.fetchone()
            cursor.close()
            return end.turn if finished else turn_statements.get(connection, end.turn.id, None)

        return stored
