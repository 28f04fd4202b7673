"""StoreWatch: whether the store accepts writes."""

from typing import Final

from application.ports.history import ConversationHistory, HistoryUnavailable
from application.ports.turn_observer import Event, Store, StoreCalled, TurnObserver
from application.watch import Watch

_READS: Final = frozenset({"find", "get", "latest", "messages", "page", "conversations", "forget_attempts", "counts"})
"""Operations whose failure says nothing about writes."""

_WRITES: Final = frozenset({"begin", "finish", "probe_write"})
"""Operations whose success proves that writes succeed. Others, e.g. `claim`, often have nothing to write."""


class StoreWatch(Watch, TurnObserver):
    """Knows whether the last write to the store succeeded, and finds out when writes succeed again.

    Observes the calls of the history and the outbox, and calls the store itself: a check, or after a failure a probe
    that writes, so that the service recovers without traffic. `intervals` are those of `Watch`.
    """

    def __init__(self, store: ConversationHistory, observer: TurnObserver, **intervals: float) -> None:
        super().__init__(Store.HISTORY, observer, **intervals)
        self._store = store

    async def call(self, *, failing: bool) -> None:
        await (self._store.probe_write() if failing else self._store.check())

    def observe(self, event: Event) -> None:
        match event:
            case StoreCalled(operation, _, HistoryUnavailable() as error) if operation not in _READS:
                self.note_failure(error)
            case StoreCalled(operation, _, None) if operation in _WRITES:
                self.note_success()
