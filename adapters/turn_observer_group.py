"""Several observers as one."""

from collections.abc import Sequence
from contextlib import suppress

from application.ports.turn_observer import Event, TurnObserver


class TurnObserverGroup(TurnObserver):
    """Passes each event to every observer, in order. An observer that raises does not affect the others."""

    def __init__(self, observers: Sequence[TurnObserver]) -> None:
        self._observers = tuple(observers)

    def observe(self, event: Event) -> None:
        for observer in self._observers:
            with suppress(Exception):
                observer.observe(event)
