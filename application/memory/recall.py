"""Recalling memories for a turn."""

from collections.abc import Sequence

import anyio

from application.memory.forgetting import Forgetting
from application.ports.history import HistoryError
from application.ports.memory import LongTermMemory, LongTermMemoryError
from application.ports.turn_observer import BackgroundFailure, MemoriesRecalled, TurnObserver, Where
from domain.context import MAX_FACTS
from domain.conversation import Turn


class Recall:
    """Recalls the memories that fit a user's message. A chat continues without them if that fails."""

    def __init__(
        self, memory: LongTermMemory, forgetting: Forgetting, observer: TurnObserver, *, max_failures: int = 3
    ) -> None:
        self._memory = memory
        self._forgetting = forgetting
        self._observer = observer
        self.failures = 0
        """Number of turns since the start that had to do without memories."""
        self._max_failures = max_failures
        self._failures_in_a_row = 0
        self._latest_failure: LongTermMemoryError | HistoryError | None = None

    @property
    def failure(self) -> LongTermMemoryError | HistoryError | None:
        """The error of the latest recall, if at least the latest `max_failures` have failed."""
        return self._latest_failure if self._failures_in_a_row >= self._max_failures else None

    async def facts_for(self, turn: Turn) -> Sequence[str] | None:
        """Return the best matching facts, best first; None if long-term memory did not answer."""
        started = anyio.current_time()
        facts = await self._facts(turn)
        count = None if facts is None else len(facts)
        self._observer.observe(MemoriesRecalled(turn, anyio.current_time() - started, count))
        return facts

    async def _facts(self, turn: Turn) -> Sequence[str] | None:
        try:
            if await self._forgetting.is_pending(turn.user_id):
                return ()
            recalled = await self._memory.recall(turn.user_id, turn.user_message, MAX_FACTS)
        except LongTermMemoryError as error:  # has been reported by the memory's guard
            self._count(error)
            return None
        except HistoryError as error:
            self._count(error)
            self._observer.observe(BackgroundFailure(Where.CHECKING_FORGETTING, error))
            return None
        self._failures_in_a_row, self._latest_failure = 0, None
        return [one.memory.fact for one in recalled]

    def _count(self, error: LongTermMemoryError | HistoryError) -> None:
        self.failures += 1
        self._failures_in_a_row += 1
        self._latest_failure = error
