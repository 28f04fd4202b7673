"""Forgetting users as a whole."""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from application.ports.history import HistoryError
from application.ports.memory import LongTermMemory
from application.ports.memory_outbox import MemoryOutbox
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where
from domain.conversation import UserId


@dataclass(frozen=True)
class Forgetting:
    """Forgets users by a job of the outbox, which survives crashes and is retried until it succeeds."""

    memory: LongTermMemory
    outbox: MemoryOutbox
    observer: TurnObserver
    wake_worker: Callable[[], None]
    wait_timeout: float = 5.0
    """Seconds that a caller waits for the first attempt."""
    poll_interval: float = 0.02

    async def is_pending(self, user_id: UserId) -> bool:
        """Return whether a user is still to be forgotten, so that nothing of theirs may be shown.

        Raises:
            HistoryUnavailable: this cannot be determined.
        """
        return self.memory.extracts_from_turns and await self.outbox.forget_attempts(user_id) is not None

    async def forget(self, user_id: UserId) -> bool:
        """Forget a user, including turns that are not remembered yet. False if that goes on in the background.

        Raises:
            LongTermMemoryError: nothing was forgotten. Only if the memory does not extract facts from turns; otherwise
                it is retried.
            HistoryUnavailable: nothing was forgotten, and nothing will be.
        """
        if not self.memory.extracts_from_turns:
            return await self.memory.forget_all(user_id)
        await self.outbox.begin_forgetting(user_id)
        self.wake_worker()
        with anyio.move_on_after(self.wait_timeout):
            try:
                return await self._after_first_attempt(user_id)
            except HistoryError as error:
                self.observer.observe(BackgroundFailure(Where.CHECKING_FORGETTING, error))
        return False

    async def _after_first_attempt(self, user_id: UserId) -> bool:
        while True:
            attempts = await self.outbox.forget_attempts(user_id)
            if attempts is None:
                return True
            if attempts:
                return False
            await anyio.sleep(self.poll_interval)
