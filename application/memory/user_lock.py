"""Changing one user's memories at a time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio

from application.ports.history import HistoryError
from application.ports.memory import LongTermMemory, MemoryUnavailable
from application.ports.memory_outbox import SETTLE_TIME, Claim, MemoryOutbox
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where
from domain.conversation import UserId


@dataclass(frozen=True)
class UserLock:
    """Serialises changes to a user's memories with the outbox's jobs for the same user, across workers.

    Only needed if the memory extracts facts from turns; otherwise nothing runs in the background.
    """

    memory: LongTermMemory
    outbox: MemoryOutbox
    observer: TurnObserver
    wake_worker: Callable[[], None]
    lease: timedelta = timedelta(minutes=5)
    """Upper bound of a change; the lock is lost afterwards."""
    wait_timeout: float = 5.0
    """Seconds that a caller waits for the lock."""
    poll_interval: float = 0.02
    settle_time: timedelta = SETTLE_TIME
    """How long a write may still arrive that the memory store did not confirm."""

    @asynccontextmanager
    async def held(self, user_id: UserId) -> AsyncIterator[None]:
        """Hold the lock of one user.

        Raises:
            MemoryUnavailable: the lock was not free in time, or the user is being forgotten and a change made now
                would be lost with the rest.
            HistoryUnavailable: the lock cannot be taken.
        """
        if not self.memory.extracts_from_turns:
            yield
            return
        claim = await self._claim(user_id)
        unsettled_for = None
        try:
            yield
        except (MemoryUnavailable, anyio.get_cancelled_exc_class()):
            unsettled_for = self.settle_time
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._release(claim, unsettled_for)
            self.wake_worker()  # a job of this user may have become due meanwhile

    async def _claim(self, user_id: UserId) -> Claim:
        give_up_at = anyio.current_time() + self.wait_timeout
        while True:
            # Shielded: the store claims the user even if its caller is cancelled, and then no caller would release it.
            with anyio.CancelScope(shield=True):
                claim = await self.outbox.claim_user(user_id, self.lease)
            if claim is not None:
                return claim
            if await self.outbox.forget_attempts(user_id) is not None:
                raise MemoryUnavailable("The user is being forgotten.", retry_after=5)
            if anyio.current_time() >= give_up_at:
                raise MemoryUnavailable("Another change to the user's memories is in progress.", retry_after=5)
            await anyio.sleep(self.poll_interval)

    async def _release(self, claim: Claim, unsettled_for: timedelta | None) -> None:
        try:
            await self.outbox.release(claim, unsettled_for=unsettled_for)
        except HistoryError as error:  # the change stands; the claim expires by itself
            self.observer.observe(BackgroundFailure(Where.RELEASING_USER, error))
