"""The statements of the memory outbox: functions of a connection, for every database."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Connection, and_, bindparam, case, delete, func, or_, select, text, update

from adapters.sql.reply_parts import TURN
from adapters.sql.tables import EPOCH, Instant, memory_users, remembering, turns
from adapters.sql.turn_rows import turn_of
from application.ports.memory_outbox import Claim, ForgetUser, OutboxCounts, OutboxJob, RememberTurn
from domain.conversation import UserId

_USER: Final = memory_users.c.user_id == bindparam("user")
_FORGETTING: Final = memory_users.c.forget_at.is_not(None)
_CLAIMED: Final = memory_users.c.claim_expires_at > bindparam("now")
_IDLE: Final = and_(~_CLAIMED, ~_FORGETTING, memory_users.c.unsettled_until <= bindparam("now"))
"""Nothing is left to do for the user."""

_FORGETS_DUE: Final = (
    select(memory_users.c.user_id)
    .where(memory_users.c.forget_at <= bindparam("now"), ~_CLAIMED)
    .order_by(memory_users.c.forget_at)
    .limit(bindparam("rows"))
)
_NEXT_TURN_DUE: Final = (
    select(turns.c.id, turns.c.user_id)
    .join_from(remembering, turns, turns.c.id == remembering.c.turn_id)
    .where(
        remembering.c.due_at <= bindparam("now"),
        remembering.c.user_id.not_in(select(memory_users.c.user_id).where(or_(_CLAIMED, _FORGETTING))),
    )
    .order_by(remembering.c.due_at)
    .limit(1)
)
_STILL_DUE: Final = (
    select(*TURN, remembering.c.attempts)
    .join_from(remembering, turns, turns.c.id == remembering.c.turn_id)
    .where(turns.c.id == bindparam("turn"), remembering.c.due_at <= bindparam("now"))
)
_HAS_IDLE: Final = select(memory_users.c.user_id).where(_IDLE).limit(1)
_PURGE_IDLE: Final = delete(memory_users).where(_IDLE)


def has_work(connection: Connection, now: datetime) -> bool:
    """Return whether `claim` would find anything to do. Writes nothing."""
    at = {"now": now, "rows": 1}
    return any(connection.execute(query, at).first() for query in (_FORGETS_DUE, _NEXT_TURN_DUE, _HAS_IDLE))


def claim(connection: Connection, limit: int, lease: timedelta, now: datetime) -> Sequence[OutboxJob]:
    """Claim jobs. Each is read again with or after its claim: another worker may have done it since it was found."""
    connection.execute(_PURGE_IDLE, {"now": now})
    jobs: list[OutboxJob] = []
    users: set[UserId] = set()
    for user_id in connection.execute(_FORGETS_DUE, {"now": now, "rows": limit}).scalars().all():
        values = {"user": user_id, "token": uuid4().hex, "expires_at": now + lease, "now": now}
        if row := connection.execute(_CLAIM_FORGETTING, values).first():
            claimed = Claim(UserId(user_id), values["token"])
            jobs.append(ForgetUser(claimed, row.forget_attempts, row.unsettled_until > now))
    while len(jobs) < limit:  # one at a time, because each claim excludes the other turns of its user
        row = connection.execute(_NEXT_TURN_DUE, {"now": now}).one_or_none()
        if row is None or row.user_id in users:  # the latter only if the lease is zero
            break
        users.add(UserId(row.user_id))
        if held := _claim(connection, UserId(row.user_id), lease, now):
            if due := connection.execute(_STILL_DUE, {"turn": row.id, "now": now}).one_or_none():
                jobs.append(RememberTurn(held, turn_of(due[:-1]), due[-1]))
            else:
                release(connection, held, None, now)
    return jobs


_CLAIM: Final = text(
    "INSERT INTO memory_users (user_id, claim, claim_expires_at) VALUES (:user, :token, :expires_at)"
    " ON CONFLICT (user_id) DO UPDATE SET claim = excluded.claim, claim_expires_at = excluded.claim_expires_at"
    " WHERE memory_users.claim_expires_at <= :now RETURNING user_id"
).bindparams(bindparam("expires_at", type_=Instant), bindparam("now", type_=Instant))
_CLAIM_FORGETTING: Final = (
    update(memory_users)
    .where(_USER, memory_users.c.forget_at <= bindparam("now"), ~_CLAIMED)
    .values(claim=bindparam("token"), claim_expires_at=bindparam("expires_at"))
    .returning(memory_users.c.forget_attempts, memory_users.c.unsettled_until)
)
_IS_FORGETTING: Final = select(memory_users.c.user_id).where(_USER, _FORGETTING)


def claim_user(connection: Connection, user_id: UserId, lease: timedelta, now: datetime) -> Claim | None:
    if connection.execute(_IS_FORGETTING, {"user": user_id}).first():
        return None
    return _claim(connection, user_id, lease, now)


def _claim(connection: Connection, user_id: UserId, lease: timedelta, now: datetime) -> Claim | None:
    token = uuid4().hex
    values = {"user": user_id, "token": token, "expires_at": now + lease, "now": now}
    return Claim(user_id, token) if connection.execute(_CLAIM, values).first() else None


_RELEASE: Final = (
    update(memory_users)
    .where(_USER, memory_users.c.claim == bindparam("token"))
    .values(
        claim=None,
        claim_expires_at=EPOCH,
        unsettled_until=case(
            (memory_users.c.unsettled_until > bindparam("unsettled", type_=Instant), memory_users.c.unsettled_until),
            else_=bindparam("unsettled", type_=Instant),
        ),
    )
)
_PURGE_USER: Final = delete(memory_users).where(_USER, _IDLE)


def release(connection: Connection, claim: Claim, unsettled_for: timedelta | None, now: datetime) -> bool:
    """Release the claim. False, and nothing is changed, if another worker has taken the user over."""
    unsettled = EPOCH if unsettled_for is None else now + unsettled_for
    values = {"user": claim.user_id, "token": claim.token, "unsettled": unsettled}
    if not connection.execute(_RELEASE, values).rowcount:
        return False
    connection.execute(_PURGE_USER, {"user": claim.user_id, "now": now})
    return True


_OF_TURN: Final = remembering.c.turn_id == bindparam("turn")
_SETTLE: Final = delete(remembering).where(_OF_TURN)
_POSTPONE_TURN: Final = (
    update(remembering)
    .where(_OF_TURN)
    .values(due_at=bindparam("due"), attempts=remembering.c.attempts + bindparam("counted"))
)
_POSTPONE_FORGET: Final = (
    update(memory_users)
    .where(_USER, _FORGETTING)
    .values(forget_at=bindparam("due"), forget_attempts=memory_users.c.forget_attempts + bindparam("counted"))
)


def settle(connection: Connection, job: RememberTurn, now: datetime) -> None:
    if release(connection, job.claim, None, now):
        connection.execute(_SETTLE, {"turn": job.turn.id})


def postpone(
    connection: Connection,
    job: OutboxJob,
    delay: timedelta,
    unsettled_for: timedelta | None,
    now: datetime,
    *,
    counts: bool,
) -> None:
    if not release(connection, job.claim, unsettled_for, now):
        return
    values = {"due": now + delay, "counted": int(counts)}
    if isinstance(job, RememberTurn):
        connection.execute(_POSTPONE_TURN, {"turn": job.turn.id, **values})
    else:
        connection.execute(_POSTPONE_FORGET, {"user": job.claim.user_id, **values})


def give_up(connection: Connection, job: RememberTurn, unsettled_for: timedelta | None, now: datetime) -> None:
    if release(connection, job.claim, unsettled_for, now):
        connection.execute(_POSTPONE_TURN, {"turn": job.turn.id, "due": None, "counted": 1})


_WITHDRAW: Final = delete(remembering).where(remembering.c.user_id == bindparam("user"))
_NEXT_EPOCH: Final = text("UPDATE users SET memory_epoch = memory_epoch + 1 WHERE id = :user")
_BEGIN_FORGETTING: Final = text(
    "INSERT INTO memory_users (user_id, forget_at) VALUES (:user, :now)"
    " ON CONFLICT (user_id) DO UPDATE SET forget_at = excluded.forget_at, forget_attempts = 0"
).bindparams(bindparam("now", type_=Instant))


def begin_forgetting(connection: Connection, user_id: UserId, now: datetime) -> None:
    user: dict[str, Any] = {"user": user_id}
    connection.execute(_NEXT_EPOCH, user)  # first: it waits for transactions that add turns of the epoch before
    connection.execute(_BEGIN_FORGETTING, {**user, "now": now})  # before the turns, as all that locks both
    connection.execute(_WITHDRAW, user)


_END_FORGETTING: Final = (
    update(memory_users)
    .where(_USER, memory_users.c.claim == bindparam("token"))
    .values(forget_at=None, forget_attempts=0)
)


def end_forgetting(connection: Connection, job: ForgetUser, now: datetime) -> None:
    connection.execute(_END_FORGETTING, {"user": job.claim.user_id, "token": job.claim.token})
    release(connection, job.claim, None, now)


FORGET_ATTEMPTS: Final = select(memory_users.c.forget_attempts).where(_USER, _FORGETTING)
_COUNTS: Final = select(
    select(func.count()).select_from(remembering).where(remembering.c.due_at.is_not(None)).scalar_subquery(),
    select(func.count()).select_from(remembering).where(remembering.c.due_at.is_(None)).scalar_subquery(),
    select(func.count()).select_from(memory_users).where(_FORGETTING).scalar_subquery(),
)


def counts(connection: Connection) -> OutboxCounts:
    pending, dead, forgetting = connection.execute(_COUNTS).one()
    return OutboxCounts(pending, dead, forgetting)
