"""The memory outbox in the memory of one process: the part of `HistoryInMemory` that is about long-term memory."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from application.ports.memory_outbox import Claim, ForgetUser, MemoryOutbox, OutboxCounts, OutboxJob, RememberTurn
from domain.conversation import Turn, TurnId, UserId

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class _Entry:
    """A turn to be remembered. `due_at` is None once it was given up."""

    turn: Turn
    due_at: datetime | None
    attempts: int = 0


@dataclass
class _MemoryUser:
    """A user for whom long-term memory has something to do."""

    claim: str | None = None
    claim_expires_at: datetime = _NEVER
    unsettled_until: datetime = _NEVER
    forget_at: datetime | None = None
    forget_attempts: int = 0


class MemoryOutboxInMemory(MemoryOutbox):
    """Keeps jobs until the process ends. `now` is the clock of leases and delays."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._entries: dict[TurnId, _Entry] = {}
        self._memory_users: dict[UserId, _MemoryUser] = {}

    def enqueue(self, turn: Turn) -> None:
        """Have a turn remembered that has just been completed."""
        self._entries[turn.id] = _Entry(turn, self._now())

    def withdraw(self, turn_id: TurnId) -> None:
        """Do not remember a turn, and do not count it as given up. Does nothing if it is not in the outbox."""
        self._entries.pop(turn_id, None)

    async def claim(self, limit: int, lease: timedelta) -> Sequence[OutboxJob]:
        await asyncio.sleep(0)
        now = self._now()
        for user_id in list(self._memory_users):
            self._purge(user_id)
        jobs: list[OutboxJob] = []
        forgets = [(user.forget_at, id, user) for id, user in self._memory_users.items() if user.forget_at]
        for forget_at, user_id, user in sorted(forgets, key=lambda one: one[0]):
            if len(jobs) < limit and forget_at <= now and user.claim_expires_at <= now:
                claim = self._claim(user_id, lease)
                jobs.append(ForgetUser(claim, user.forget_attempts, user.unsettled_until > now))
        due = [(entry.due_at, entry) for entry in self._entries.values() if entry.due_at and entry.due_at <= now]
        for _, entry in sorted(due, key=lambda one: one[0]):
            user_id = entry.turn.user_id
            if len(jobs) < limit and self._is_free(user_id):
                jobs.append(RememberTurn(self._claim(user_id, lease), entry.turn, entry.attempts))
        return jobs

    async def claim_user(self, user_id: UserId, lease: timedelta) -> Claim | None:
        await asyncio.sleep(0)
        return self._claim(user_id, lease) if self._is_free(user_id) else None

    def _is_free(self, user_id: UserId) -> bool:
        user = self._memory_users.get(user_id)
        return user is None or (user.claim_expires_at <= self._now() and user.forget_at is None)

    def _claim(self, user_id: UserId, lease: timedelta) -> Claim:
        user = self._memory_users.setdefault(user_id, _MemoryUser())
        user.claim, user.claim_expires_at = uuid4().hex, self._now() + lease
        return Claim(user_id, user.claim)

    async def release(self, claim: Claim, *, unsettled_for: timedelta | None = None) -> None:
        await asyncio.sleep(0)
        self._release(claim, unsettled_for)

    def _release(self, claim: Claim, unsettled_for: timedelta | None = None) -> bool:
        user = self._memory_users.get(claim.user_id)
        if user is None or user.claim != claim.token:
            return False
        user.claim, user.claim_expires_at = None, _NEVER
        if unsettled_for is not None:
            user.unsettled_until = max(user.unsettled_until, self._now() + unsettled_for)
        self._purge(claim.user_id)
        return True

    def _purge(self, user_id: UserId) -> None:
        """Keep nothing of a user for whom nothing is left to do."""
        now, user = self._now(), self._memory_users[user_id]
        if user.forget_at is None and user.claim_expires_at <= now and user.unsettled_until <= now:
            del self._memory_users[user_id]

    async def settle(self, job: RememberTurn) -> None:
        await asyncio.sleep(0)
        if self._release(job.claim):
            self._entries.pop(job.turn.id, None)

    async def postpone(
        self, job: OutboxJob, delay: timedelta, *, unsettled_for: timedelta | None = None, counts: bool = True
    ) -> None:
        await asyncio.sleep(0)
        if not self._release(job.claim, unsettled_for):
            return
        if isinstance(job, RememberTurn):
            self._end_attempt(job, self._now() + delay, counts=counts)
        elif (user := self._memory_users.get(job.claim.user_id)) and user.forget_at is not None:
            user.forget_at, user.forget_attempts = self._now() + delay, user.forget_attempts + counts

    async def give_up(self, job: RememberTurn, *, unsettled_for: timedelta | None = None) -> None:
        await asyncio.sleep(0)
        if self._release(job.claim, unsettled_for):
            self._end_attempt(job, None)

    def _end_attempt(self, job: RememberTurn, due_at: datetime | None, *, counts: bool = True) -> None:
        if entry := self._entries.get(job.turn.id):
            entry.due_at, entry.attempts = due_at, entry.attempts + counts

    async def begin_forgetting(self, user_id: UserId) -> None:
        await asyncio.sleep(0)
        for turn in [entry.turn for entry in self._entries.values() if entry.turn.user_id == user_id]:
            self.withdraw(turn.id)
        user = self._memory_users.setdefault(user_id, _MemoryUser())
        user.forget_at, user.forget_attempts = self._now(), 0

    async def end_forgetting(self, job: ForgetUser) -> None:
        await asyncio.sleep(0)
        user = self._memory_users.get(job.claim.user_id)
        if user is not None and user.claim == job.claim.token:
            user.forget_at, user.forget_attempts = None, 0
            self._release(job.claim)

    async def forget_attempts(self, user_id: UserId) -> int | None:
        await asyncio.sleep(0)
        user = self._memory_users.get(user_id)
        return user.forget_attempts if user is not None and user.forget_at is not None else None

    async def counts(self) -> OutboxCounts:
        await asyncio.sleep(0)
        dead = sum(entry.due_at is None for entry in self._entries.values())
        forgetting = sum(user.forget_at is not None for user in self._memory_users.values())
        return OutboxCounts(len(self._entries) - dead, dead, forgetting)
