"""The statements that give conversations to turns, on a database that several processes share.

`conversation_leases` has a row for each conversation that was used: `turn_id` holds it while that turn runs, or until
`expires_at` if it has not begun. So the end of a turn frees the conversation without another write. `waiting` is the
queue as JSON, empty if nobody waits.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum, auto
from hashlib import sha256
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, text

from adapters.sql.compiled import PrecompiledStatement
from adapters.sql.database import Notifications
from adapters.sql.tables import EPOCH, Instant, microseconds
from domain.conversation import ConversationId, TurnId, UserId

TOPIC: Final = "leases"
"""Messages about it name the waiting turn for which a conversation has become free, by `digest_of`."""

FIRST_WAITING_SQL: Final = "encode(sha256(convert_to(CAST(lease.waiting AS json) -> 0 ->> 0, 'UTF8')), 'hex')"
"""`digest_of` the turn that waits first. Another one looks for itself if that has died."""

TIME_TO_BEGIN: Final = timedelta(seconds=5)
"""How long a turn may have its conversation before it has begun. Then another one may take it."""

PRESENCE: Final = timedelta(seconds=3)
"""How long a waiting turn keeps its place without a call of `take_or_wait`. Its process may have died."""

_OF_CONVERSATION: Final = "user_id = :user AND conversation_id = :conversation"
_NOBODY: Final = ""


class Applicant(NamedTuple):
    """A turn that is to have its conversation. With `first`, it waits ahead of those without."""

    turn_id: TurnId
    user_id: UserId
    conversation_id: ConversationId
    first: bool = False

    @property
    def values(self) -> dict[str, str]:
        return {"turn": self.turn_id, "user": self.user_id, "conversation": self.conversation_id}


class _Waiter(NamedTuple):
    turn_id: str
    until: int
    """Microseconds since 1970. It does not count from then on."""
    first: bool


def digest_of(turn_id: TurnId) -> str:
    """Return the name of a turn in messages, which any role of the database can read.

    Its id, a random UUID, cannot be found out by trying.
    """
    return sha256(turn_id.encode()).hexdigest()


class Outcome(Enum):
    TAKEN = auto()
    WAITING = auto()
    REJECTED = auto()


OWNER_SQL: Final = "owner AS MATERIALIZED (SELECT FROM users WHERE id = :user FOR NO KEY UPDATE)"
"""Locks the user, if there is one yet. Every transaction that locks a conversation has locked its user before:
otherwise, two batches that have several conversations of a user in common would deadlock."""

TAKE_SQL: Final = (
    "INSERT INTO conversation_leases AS lease (user_id, conversation_id, turn_id, expires_at)"
    " SELECT :user, :conversation, :turn, :lease_expires_at FROM (SELECT count(*) FROM owner) AS locked"
    " ON CONFLICT (user_id, conversation_id) DO UPDATE SET"
    " turn_id = excluded.turn_id, expires_at = excluded.expires_at"
    " WHERE lease.turn_id = excluded.turn_id OR lease.waiting = ''"
    " AND (SELECT status FROM turns WHERE turns.id = lease.turn_id) <> 'in_progress'"
)
"""Takes a conversation that was never used, or whose last turn has ended, if nobody waits. A holder keeps it. It needs
`OWNER_SQL`.

`lease` is the row's latest version, locked, but the subquery sees the moment at which the statement began. If it finds
that the holder has ended, that is true for ever. A holder that it does not find is left alone, since it may have begun
meanwhile: `take_or_wait` looks again after locking the row.
"""


_INSERT: Final = text(
    "INSERT INTO conversation_leases (user_id, conversation_id, turn_id, expires_at)"
    " VALUES (:user, :conversation, :turn, :expires_at) ON CONFLICT DO NOTHING"
).bindparams(bindparam("expires_at", type_=Instant))
_LOCK: Final = text(
    f"WITH {OWNER_SQL} SELECT turn_id, expires_at, waiting"
    " FROM (SELECT count(*) FROM owner) AS locked, conversation_leases AS lease"
    f" WHERE {_OF_CONVERSATION} FOR UPDATE OF lease"
)
_STATUS: Final = text("SELECT status FROM turns WHERE id = :turn")
_GIVE: Final = text(
    "UPDATE conversation_leases SET turn_id = :turn, expires_at = :expires_at, waiting = :waiting"
    f" WHERE {_OF_CONVERSATION}"
).bindparams(bindparam("expires_at", type_=Instant))
_SET_WAITING: Final = text(f"UPDATE conversation_leases SET waiting = :waiting WHERE {_OF_CONVERSATION}")
_DELETE: Final = text(f"DELETE FROM conversation_leases WHERE {_OF_CONVERSATION}")


def take_or_wait(
    connection: Connection, applicant: Applicant, max_waiting: int, now: datetime, *, waits: bool
) -> Outcome:
    """Take the conversation if it is the turn of the applicant, who otherwise joins the queue or keeps its place.

    An applicant that does not wait is rejected instead.

    `begin` locks the row, too. So a holder that has not begun by now is refused if it begins later.
    """
    values = applicant.values
    while (row := connection.execute(_LOCK, values).one_or_none()) is None:
        if connection.execute(_INSERT, {**values, "expires_at": now + TIME_TO_BEGIN}).rowcount:
            return Outcome.TAKEN
    holder, expires_at, waiting = row
    status = connection.execute(_STATUS, {"turn": holder}).scalar()
    waiters = _parse(waiting, now, applicant)
    queue = _with(waiters, applicant, now + PRESENCE)
    if not _is_live(status, expires_at, now) and queue[0].turn_id == applicant.turn_id:
        connection.execute(_GIVE, {**values, "expires_at": now + TIME_TO_BEGIN, "waiting": _format(queue[1:])})
        return Outcome.TAKEN
    if not waits or len(queue) > max(max_waiting, len(waiters)):
        return Outcome.REJECTED
    connection.execute(_SET_WAITING, {**values, "waiting": _format(queue)})
    return Outcome.WAITING


def give_up(connection: Connection, applicant: Applicant, notifications: Notifications, now: datetime) -> None:
    """Leave the queue, or give the conversation back. Does nothing if the turn has neither."""
    values = applicant.values
    if (row := connection.execute(_LOCK, values).one_or_none()) is None:
        return
    queue = [waiter for waiter in _parse(row.waiting, now) if waiter.turn_id != applicant.turn_id]
    if row.turn_id != applicant.turn_id:
        if (waiting := _format(queue)) != row.waiting:
            connection.execute(_SET_WAITING, {**values, "waiting": waiting})
    elif queue:
        connection.execute(_GIVE, {**values, "turn": _NOBODY, "expires_at": EPOCH, "waiting": _format(queue)})
        notifications.send(connection, TOPIC, digest_of(TurnId(queue[0].turn_id)))
    else:
        connection.execute(_DELETE, values)


_LOOK: Final = PrecompiledStatement(
    text(
        "SELECT lease.turn_id, lease.expires_at, lease.waiting, turns.status FROM conversation_leases AS lease"
        " LEFT JOIN turns ON turns.id = lease.turn_id"
        " WHERE lease.user_id = :user AND lease.conversation_id = :conversation"
    )
)


def is_next(connection: Connection, applicant: Applicant, now: datetime) -> bool:
    """Whether `take_or_wait` is likely to do more than keep the place of a waiting applicant."""
    row = _LOOK.execute_raw(connection, applicant.values).fetchone()
    if row is None:
        return True
    _, expires_at, waiting, status = row
    queue = _parse(waiting, now, applicant)
    places = [place for place, waiter in enumerate(queue) if waiter.turn_id == applicant.turn_id]
    return not places or (places[0] == 0 and not _is_live(status, expires_at, now))


def holder(connection: Connection, user_id: UserId, conversation_id: ConversationId, now: datetime) -> TurnId | None:
    row = _LOOK.execute_raw(connection, {"user": user_id, "conversation": conversation_id}).fetchone()
    return TurnId(row[0]) if row is not None and _is_live(row[3], row[1], now) else None


def _is_live(status: str | None, expires_at: int, now: datetime) -> bool:
    """Whether a holder with this status, None if there is no such turn, keeps others out."""
    return _is_soon(expires_at, now) if status is None else status == "in_progress"


def _is_soon(instant: int, now: datetime) -> bool:
    """Whether an instant is still to come, and not so far away that the clock must have been set back since."""
    return microseconds(now) < instant < microseconds(now + 2 * TIME_TO_BEGIN)


def _with(queue: Sequence[_Waiter], applicant: Applicant, until: datetime) -> Sequence[_Waiter]:
    """Return the queue with the applicant in it, present until the given time."""
    places = {waiter.turn_id: place for place, waiter in enumerate(queue)}
    end = sum(waiter.first for waiter in queue) if applicant.first else len(queue)
    place = places.get(applicant.turn_id, end)
    others = [waiter for waiter in queue if waiter.turn_id != applicant.turn_id]
    return [*others[:place], _Waiter(applicant.turn_id, microseconds(until), applicant.first), *others[place:]]


def _parse(waiting: str, now: datetime, applicant: Applicant | None = None) -> Sequence[_Waiter]:
    """Return the waiters whose time is not up, and the applicant if it waits."""
    queue = [_Waiter(*each) for each in json.loads(waiting)] if waiting else []
    return [each for each in queue if _is_soon(each.until, now) or (applicant and each.turn_id == applicant.turn_id)]


def _format(queue: Sequence[_Waiter]) -> str:
    return json.dumps(queue) if queue else ""
