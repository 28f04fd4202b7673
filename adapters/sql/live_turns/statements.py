"""The statements that share the event logs of running turns, on PostgreSQL: functions of a connection.

The tables are created by migrations 0008 and 0012. `live_turns` has one row per log, its header; `turn_events` has the
deltas in batches, as JSON, the first of which has the number `first`; `turn_readers` names the workers that have
readers of a turn that runs in another one; `stop_requests` has requests to stop turns whose log has no header that
could be marked. They are unlogged, so they are empty after a crash of the server.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypedDict

import orjson
from sqlalchemy import Connection, text

from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.database import Notifications
from adapters.sql.tables import microseconds
from adapters.sql.turn_writes import Sent
from application.ports.live_turns import End
from domain.conversation import ConversationId, TurnId, Usage, UserId
from domain.errors import ClientDisconnected, Failure

TOPIC: Final = "live_turns"
"""Of the messages between workers. Any role of the database can read and send them, so they only tell a worker to look
into the tables, and contain no ids but those of workers, which are random:

- `flushed <worker>`: it has stored events.
- `asked <worker>`, or `asked` to all: there are requests to stop its turns, or readers of them have come or gone.
- `discard`: turns were deleted.
"""

PRESENCE: Final = timedelta(seconds=30)
"""How long a worker's readers count as present after it has said so. It says so again every few seconds; the rest is
for the longest outage of the database that must not end a turn, which is 15 seconds."""

WHEN_LEFT: Final = ClientDisconnected.code
"""Asks to stop a turn when it has no readers. All other codes ask to stop it now."""


class Header(TypedDict):
    """The first record of a log."""

    turn_id: TurnId
    user_id: UserId
    conversation_id: ConversationId


class Events(TypedDict):
    """Consecutive deltas as one JSON text; `first` is the number of the first."""

    turn_id: TurnId
    first: int
    deltas: str


class State(TypedDict):
    turn_id: TurnId
    accepted: bool
    end: str | None
    ended_at: int | None


class Flush(NamedTuple):
    """What a worker has to store. Storing it again changes nothing."""

    deleted: Sequence[TurnId]
    headers: Sequence[Header]
    events: Sequence[Events]
    states: Sequence[State]


_INSERT_HEADERS: Final = PrecompiledStatement(
    text(
        "INSERT INTO live_turns (turn_id, user_id, conversation_id, worker)"
        " SELECT new.*, :worker FROM json_to_recordset(CAST(:rows AS json))"
        " AS new(turn_id text, user_id text, conversation_id text)"
        " WHERE EXISTS (SELECT FROM turns WHERE turns.id = new.turn_id) ON CONFLICT DO NOTHING"
    )
)
_INSERT_EVENTS: Final = PrecompiledStatement(
    text(
        "INSERT INTO turn_events (turn_id, first, deltas)"
        " SELECT new.* FROM json_to_recordset(CAST(:rows AS json)) AS new(turn_id text, first integer, deltas text)"
        " JOIN live_turns ON live_turns.turn_id = new.turn_id AND live_turns.worker = :worker"
        " FOR KEY SHARE OF live_turns SKIP LOCKED ON CONFLICT DO NOTHING"
    )
)
"""Events without a header are dropped: their log was discarded, or a crash has emptied the table. The lock lets a
discard wait for the events that it has to delete; headers that a discard has locked are gone as soon as it commits."""

_UPDATE_HEADERS: Final = PrecompiledStatement(
    text(
        'UPDATE live_turns SET accepted = new.accepted, "end" = new."end", ended_at = new.ended_at'
        " FROM json_to_recordset(CAST(:rows AS json))"
        ' AS new(turn_id text, accepted boolean, "end" text, ended_at bigint)'
        " WHERE live_turns.turn_id = new.turn_id AND live_turns.worker = :worker"
    )
)
_DELETE: Final = (
    PrecompiledStatement(text("DELETE FROM live_turns WHERE turn_id = ANY(CAST(:turns AS text[]))")),
    PrecompiledStatement(text("DELETE FROM turn_events WHERE turn_id = ANY(CAST(:turns AS text[]))")),
    PrecompiledStatement(text("DELETE FROM turn_readers WHERE turn_id = ANY(CAST(:turns AS text[]))")),
)
"""The header first: that waits for a flush of its events, which are then visible."""


def store(connection: Connection, flush: Flush, worker: str, notifications: Notifications | None) -> Sent[None]:
    """Store a batch. With `notifications`, tell all workers.

    Every message wakes every worker, on the server as well: with 100 workers, messages about each batch would take a
    third of a processor there. So they are sent only if a turn is followed elsewhere.
    """
    if flush.deleted:
        delete(connection, flush.deleted)
    for statement, rows in (
        (_INSERT_HEADERS, flush.headers),
        (_INSERT_EVENTS, flush.events),
        (_UPDATE_HEADERS, flush.states),
    ):
        if rows:  # as JSON, because the driver takes long to make arrays of texts
            statement.execute_raw(connection, {"rows": orjson.dumps(rows).decode(), "worker": worker}).close()
    if notifications is not None:
        notifications.send(connection, TOPIC, f"flushed {worker}")
    return lambda: None


class News(NamedTuple):
    """A header with one batch of events, if there is one. `status` is the turn's in the history, None if it is deleted.

    The header's columns are None if there is none.
    """

    turn_id: TurnId
    status: str | None
    reason: str | None
    user_id: UserId | None
    conversation_id: ConversationId | None
    worker: str | None
    accepted: bool | None
    end: str | None
    first: int | None
    deltas: str | None


_NEWS: Final = (
    "SELECT followed.id, turns.status, turns.reason, live_turns.user_id, live_turns.conversation_id, worker,"
    ' accepted, "end", first, deltas'
    " FROM unnest(%(turns)s::text[], %(seen)s::integer[]) AS followed(id, seen)"
    " LEFT JOIN turns ON turns.id = followed.id"
    " LEFT JOIN live_turns ON live_turns.turn_id = followed.id"
    " LEFT JOIN turn_events ON turn_events.turn_id = live_turns.turn_id AND first > followed.seen"
    " ORDER BY followed.id, first"
)


def news(connection: Connection, seen: dict[TurnId, int]) -> Sequence[News]:
    """Return what is stored about the turns, with the events above the number that was seen last of each."""
    rows = run(connection, _NEWS, turns=list(seen), seen=list(seen.values()))
    return [News(*row) for row in rows]


_ENTER: Final = (
    "INSERT INTO turn_readers (turn_id, worker, expires_at)"
    " SELECT turn_id, %(worker)s, %(expires_at)s FROM live_turns"
    " WHERE turn_id = ANY(%(turns)s::text[]) AND ended_at IS NULL"
    " ON CONFLICT (turn_id, worker) DO UPDATE SET expires_at = excluded.expires_at"
)


def enter(connection: Connection, turn_ids: Sequence[TurnId], worker: str, now: datetime) -> None:
    """Record that a worker has readers of these turns, for `PRESENCE` from now on.

    Also of turns that need no readers: they may do so later.
    """
    changed(connection, _ENTER, turns=list(turn_ids), worker=worker, expires_at=microseconds(now + PRESENCE))


def load(
    connection: Connection, turn_id: TurnId, worker: str, now: datetime, notifications: Notifications
) -> Sequence[News]:
    """Enter, and return everything about the turn. Its worker is told that it is followed, unless it has ended."""
    enter(connection, [turn_id], worker, now)
    found = news(connection, {turn_id: 0})
    if found[0].worker is not None and found[0].end is None:
        notifications.send(connection, TOPIC, f"asked {found[0].worker}")
    return found


_LEAVE: Final = (
    "WITH gone AS (DELETE FROM turn_readers WHERE turn_id = ANY(%(turns)s::text[]) AND worker = %(worker)s"
    " RETURNING turn_id) SELECT DISTINCT worker FROM gone JOIN live_turns USING (turn_id)"
)


def leave(connection: Connection, turn_ids: Sequence[TurnId], worker: str, notifications: Notifications) -> None:
    """Record that a worker has no readers of these turns any more. The workers that run them are told."""
    for (running,) in run(connection, _LEAVE, turns=list(turn_ids), worker=worker):
        notifications.send(connection, TOPIC, f"asked {running}")


class Presence(NamedTuple):
    """Whether a turn still has a header, and whether other workers have readers of it."""

    turn_id: TurnId
    shared: bool
    present: bool


_PRESENT: Final = (
    "SELECT watched.id, EXISTS (SELECT FROM live_turns WHERE turn_id = watched.id),"
    " EXISTS (SELECT FROM turn_readers WHERE turn_id = watched.id AND expires_at > %(now)s)"
    " FROM unnest(%(turns)s::text[]) AS watched(id)"
)


def presence(connection: Connection, turn_ids: Sequence[TurnId], now: datetime) -> Sequence[Presence]:
    return [Presence(*row) for row in run(connection, _PRESENT, turns=list(turn_ids), now=microseconds(now))]


_FOLLOWED: Final = (
    "SELECT DISTINCT turn_id FROM turn_readers JOIN live_turns USING (turn_id)"
    " WHERE live_turns.worker = %(worker)s AND ended_at IS NULL"
)


def followed(connection: Connection, worker: str) -> Sequence[TurnId]:
    """Return the turns of a worker that others have readers of, unless their end is stored."""
    return [turn_id for (turn_id,) in run(connection, _FOLLOWED, worker=worker)]


_MARK: Final = (
    "UPDATE live_turns SET stop = %(code)s WHERE turn_id = %(turn)s AND ended_at IS NULL"
    " AND (stop IS NULL OR stop = %(when_left)s AND %(code)s <> %(when_left)s) RETURNING worker"
)
_CAN_BE_MARKED: Final = "SELECT 1 FROM live_turns WHERE turn_id = %(turn)s AND ended_at IS NULL"
"""False before the header of a log is stored, if a crash has emptied the table, and if the log of a running turn was
abandoned or given up."""

_REQUEST: Final = (
    "INSERT INTO stop_requests AS earlier (turn_id, stop) VALUES (%(turn)s, %(code)s) ON CONFLICT (turn_id)"
    " DO UPDATE SET stop = excluded.stop WHERE earlier.stop = %(when_left)s"
)


def request_stop(
    connection: Connection, turn_id: TurnId, owner: UserId | None, code: str, notifications: Notifications
) -> bool:
    """Ask the worker that runs a turn to stop it, unless that was asked before. Returns whether it is running."""
    row = run(connection, "SELECT user_id FROM turns WHERE id = %(turn)s AND status = 'in_progress'", turn=turn_id)
    if not row or owner not in (None, row[0][0]):
        return False
    if marked := run(connection, _MARK, turn=turn_id, code=code, when_left=WHEN_LEFT):
        notifications.send(connection, TOPIC, f"asked {marked[0][0]}")
    elif not run(connection, _CAN_BE_MARKED, turn=turn_id):
        changed(connection, _REQUEST, turn=turn_id, code=code, when_left=WHEN_LEFT)
        notifications.send(connection, TOPIC, "asked")
    return True


_STOPS: Final = (
    "SELECT turn_id, stop FROM live_turns WHERE worker = %(worker)s AND stop IS NOT NULL AND ended_at IS NULL"
    " UNION ALL SELECT turn_id, stop FROM stop_requests"
)


def stops(connection: Connection, worker: str) -> Sequence[tuple[TurnId, str]]:
    """Return the running turns that were asked to stop, each with the code of the reason.

    They are those of a worker, and those of which it is not known who runs them.
    """
    return [(turn_id, code) for turn_id, code in run(connection, _STOPS, worker=worker)]


def deleted(connection: Connection, turn_ids: Sequence[TurnId]) -> Sequence[TurnId]:
    """Return the turns that are not in the history."""
    rows = run(
        connection,
        "SELECT id FROM unnest(%(turns)s::text[]) AS asked(id) WHERE NOT EXISTS"
        " (SELECT FROM turns WHERE turns.id = asked.id)",
        turns=list(turn_ids),
    )
    return [turn_id for (turn_id,) in rows]


def delete(connection: Connection, turn_ids: Sequence[TurnId]) -> None:
    """Delete logs."""
    for statement in _DELETE:
        statement.execute_raw(connection, {"turns": list(turn_ids)}).close()


_END_LOST: Final = (
    "UPDATE live_turns SET ended_at = %(now)s WHERE ended_at IS NULL"
    " AND NOT EXISTS (SELECT FROM turns WHERE turns.id = turn_id AND status = 'in_progress')"
)
"""Logs whose worker died."""

_DELETE_EXPIRED: Final = (
    "DELETE FROM turn_readers WHERE expires_at <= %(now)s",
    "DELETE FROM live_workers WHERE expires_at <= %(now)s",
    "DELETE FROM unacknowledged_deletions WHERE expires_at <= %(now)s",
    "DELETE FROM stop_requests WHERE NOT EXISTS"
    " (SELECT FROM turns WHERE turns.id = turn_id AND status = 'in_progress')",
)
_EXPIRED: Final = "SELECT turn_id FROM live_turns WHERE ended_at <= %(oldest)s LIMIT 1000 FOR UPDATE SKIP LOCKED"


def purge(connection: Connection, now: datetime, retention: timedelta) -> bool:
    """Delete expired logs, at most 1,000. Returns whether there may be more."""
    changed(connection, _END_LOST, now=microseconds(now))
    for statement in _DELETE_EXPIRED:
        changed(connection, statement, now=microseconds(now))
    expired = [turn_id for (turn_id,) in run(connection, _EXPIRED, oldest=microseconds(now - retention))]
    delete(connection, expired)
    return len(expired) == 1000


def encode_end(end: End) -> str:
    failure = end.failure and list(end.failure)
    if failure and failure[-1] is None:
        failure.pop()  # workers of version 0.1.0 know no parameter
    usage = end.usage and (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.estimated)
    return orjson.dumps([end.finish_reason, failure, usage]).decode()


def decode_end(stored: str) -> End:
    finish_reason, failure, usage = orjson.loads(stored)
    return End(finish_reason, failure and Failure(*failure), usage and Usage(*usage))


def run(connection: Connection, sql: str, **values: object) -> Sequence[Any]:
    """Run a statement, and return its rows."""
    result = connection.exec_driver_sql(sql, values)
    return result.all() if result.returns_rows else ()


def changed(connection: Connection, sql: str, **values: object) -> int:
    """Run a statement, and return how many rows it has changed."""
    result = connection.exec_driver_sql(sql, values)
    try:
        return result.rowcount
    finally:
        result.close()
