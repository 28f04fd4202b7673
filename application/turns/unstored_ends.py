"""UnstoredEnds: ends of turns that the store did not accept, to be stored later."""

from dataclasses import dataclass

from application.ports.history import ConversationHistory, HistoryUnavailable, TurnEnd
from application.ports.turn_observer import BackgroundFailure, TurnObserver, Where
from domain.conversation import Turn, TurnId


@dataclass(slots=True)
class _UnstoredEnd:
    turn: Turn
    failures: int = 0


class UnstoredEnds:
    """Keeps the ends of turns that the store did not accept, and tries again to store them.

    Keeps at most `max_ends`, and drops the oldest. A turn whose end was dropped is ended as abandoned.

    An end that the store does not accept although it accepts other writes, e.g. because the turn's row is damaged, is
    dropped after `max_failures` attempts, or after the first one if the error is not `HistoryUnavailable`.
    """

    def __init__(
        self, history: ConversationHistory, observer: TurnObserver, *, max_ends: int = 1_000, max_failures: int = 10
    ) -> None:
        self._history = history
        self._observer = observer
        self._max_ends = max_ends
        self._max_failures = max_failures
        self._ends: dict[TurnId, _UnstoredEnd] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, turn: Turn) -> None:
        """Keep a turn with its end. `turn` is as it was to be stored."""
        self._ends[turn.id] = _UnstoredEnd(turn)
        if len(self._ends) > self._max_ends:
            del self._ends[next(iter(self._ends))]

    async def store(self) -> None:
        """Try to store each end once.

        Raises:
            HistoryUnavailable: the store accepts no writes; the rest was not tried.
        """
        for end in list(self._ends.values()):
            try:
                await self._history.finish(TurnEnd(end.turn))
            except Exception as error:
                await self._history.probe_write()  # raises if the failure is not the turn's
                self._count_failure(end, error)
            else:
                self._ends.pop(end.turn.id, None)

    def _count_failure(self, end: _UnstoredEnd, error: Exception) -> None:
        end.failures += 1
        if end.failures >= self._max_failures or not isinstance(error, HistoryUnavailable):
            self._ends.pop(end.turn.id, None)
            self._observer.observe(BackgroundFailure(Where.STORING_END, error))
