"""The statements of deletions, which every worker that is alive has to acknowledge.

The tables are created by migration 0011. `live_workers` has a row for each worker that is alive, and
`unacknowledged_deletions` one for each deletion that a worker has still to acknowledge. They are unlogged.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import uuid4

from sqlalchemy import Connection

from adapters.sql.database import Notifications
from adapters.sql.live_turns.statements import TOPIC, changed, delete, run
from adapters.sql.tables import microseconds
from domain.conversation import ConversationId, UserId

ALIVE: Final = timedelta(seconds=6)
"""How long a worker counts as alive after it has said so, which it does every two seconds."""

KEPT: Final = timedelta(seconds=60)
"""How long a deletion can be acknowledged."""


class Deletion(NamedTuple):
    """What was deleted: a conversation, or all of the user's if that is None."""

    id: str
    user_id: UserId
    conversation_id: ConversationId | None


_DELETE_HEADERS: Final = (
    "DELETE FROM live_turns WHERE user_id = %(user)s"
    " AND (%(conversation)s::text IS NULL OR conversation_id = %(conversation)s)"
    " AND NOT EXISTS (SELECT FROM turns WHERE turns.id = turn_id) RETURNING turn_id"
)
_ALIVE: Final = "expires_at BETWEEN %(now)s AND %(latest)s"
"""The row of a worker that died before the clock was set back expires later than any of a worker that is alive."""

_ASK: Final = (
    "INSERT INTO unacknowledged_deletions (worker, deletion, user_id, conversation_id, expires_at)"
    " SELECT worker, %(deletion)s, %(user)s, %(conversation)s, %(expires_at)s FROM live_workers"
    f" WHERE worker <> %(worker)s AND {_ALIVE}"
)


def discard(
    connection: Connection,
    user_id: UserId,
    conversation_id: ConversationId | None,
    worker: str,
    now: datetime,
    notifications: Notifications,
) -> str | None:
    """Delete the logs of turns that are deleted from the history, and ask every other worker to do the same.

    Returns the id of the deletion, None if there are no other workers.
    """
    rows = run(connection, _DELETE_HEADERS, user=user_id, conversation=conversation_id)
    delete(connection, [turn_id for (turn_id,) in rows])
    deletion = uuid4().hex
    asked = changed(
        connection,
        _ASK,
        deletion=deletion,
        user=user_id,
        conversation=conversation_id,
        expires_at=microseconds(now + KEPT),
        worker=worker,
        **_time(now),
    )
    notifications.send(connection, TOPIC, "discard")
    return deletion if asked else None


_PENDING: Final = (
    "SELECT EXISTS (SELECT FROM unacknowledged_deletions WHERE deletion = %(deletion)s"
    f" AND worker IN (SELECT worker FROM live_workers WHERE {_ALIVE}))"
)


def is_pending(connection: Connection, deletion: str, now: datetime) -> bool:
    """Return whether a worker that is alive has not acknowledged a deletion yet."""
    [(pending,)] = run(connection, _PENDING, deletion=deletion, **_time(now))
    return bool(pending)


def _time(now: datetime) -> dict[str, int]:
    return {"now": microseconds(now), "latest": microseconds(now + 2 * ALIVE)}


_LIVE: Final = (
    "WITH renewed AS (INSERT INTO live_workers (worker, expires_at) VALUES (%(worker)s, %(expires_at)s)"
    " ON CONFLICT (worker) DO UPDATE SET expires_at = excluded.expires_at)"
    f" SELECT EXISTS (SELECT FROM live_workers WHERE worker = %(worker)s AND {_ALIVE})"
)
"""Returns whether the worker counted as alive before."""

_ASKED: Final = "SELECT deletion, user_id, conversation_id FROM unacknowledged_deletions WHERE worker = %(worker)s"


class Attendance(NamedTuple):
    """The deletions that a worker has to acknowledge. If it did not count as alive, there may have been others."""

    was_alive: bool
    asked: Sequence[Deletion]


def attend(connection: Connection, worker: str, now: datetime) -> Attendance:
    """Record that a worker is alive, and return which deletions it has to acknowledge."""
    [(was_alive,)] = run(connection, _LIVE, worker=worker, expires_at=microseconds(now + ALIVE), **_time(now))
    return Attendance(was_alive, [Deletion(*row) for row in run(connection, _ASKED, worker=worker)])


def acknowledge(connection: Connection, deletions: Sequence[Deletion], worker: str) -> None:
    """Record that a worker delivers nothing more of what these deletions are about."""
    changed(
        connection,
        "DELETE FROM unacknowledged_deletions WHERE worker = %(worker)s AND deletion = ANY(%(deletions)s::text[])",
        worker=worker,
        deletions=[deletion.id for deletion in deletions],
    )


def die(connection: Connection, worker: str) -> None:
    """Record that a worker is not alive any more."""
    for table in ("live_workers", "unacknowledged_deletions"):
        changed(connection, f"DELETE FROM {table} WHERE worker = %(worker)s", worker=worker)
