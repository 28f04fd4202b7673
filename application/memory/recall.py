"""What long-term memory has to say in a turn."""

from collections.abc import Sequence

from application.memory.outbox_worker import MemoryKeeper
from application.ports.history import HistoryError
from application.ports.memory import LongTermMemory, LongTermMemoryError
from application.ports.turn_observer import TurnObserver
from application.turns.running import RunningTurn
from domain.context import MAX_FACTS


class Recollection:
    """Recalls what fits a user's message. A chat goes on without what can not be recalled."""

    def __init__(self, memory: LongTermMemory, keeper: MemoryKeeper, observer: TurnObserver) -> None:
        self._memory = memory
        self._keeper = keeper
        self._observer = observer
        self.failures = 0
        """Turns that had to do without."""

    async def recall_for(self, running: RunningTurn) -> Sequence[str]:
        """The facts that fit best, best first; none where the turn keeps out of memory or memory does not answer."""
        if not running.uses_memory:
            return ()
        turn = running.turn
        try:
            if await self._keeper.is_forgetting(turn.user_id):
                return ()
            recalled = await self._memory.recall(turn.user_id, turn.user_message, MAX_FACTS)
        except LongTermMemoryError:  # whoever raised it has said so
            self.failures += 1
            return ()
        except HistoryError as error:
            self.failures += 1
            self._observer.failed("asking whether a user is being forgotten", error)
            return ()
        running.recalled = len(recalled)
        return [one.memory.fact for one in recalled]
