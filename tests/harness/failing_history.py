"""A store that fails, blocks or crashes at a chosen call."""

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from adapters.history_observed import ObservedHistory, Store
from adapters.turn_observer_group import TurnObserverGroup
from application.ports.history import HistoryUnavailable

T = TypeVar("T")

Gate = Callable[[str], Awaitable[None]]
"""Called with the name of a method before it takes effect, e.g. `begin`, and after, e.g. `begin done`. May raise."""


class GatedHistory(ObservedHistory):
    """Passes each call through a gate, before and after its effect."""

    def __init__(self, store: Store, gate: Gate) -> None:
        super().__init__(store, TurnObserverGroup([]))
        self._gate = gate

    async def _call(self, operation: str, call: Coroutine[Any, Any, T]) -> T:
        try:
            await self._gate(operation)
        except BaseException:
            call.close()
            raise
        result = await call
        await self._gate(f"{operation} done")
        return result


class FailNext:
    """A gate that fails the next calls, as many as planned for each method, and counts all calls."""

    def __init__(self, **failures: int) -> None:
        self.failures = Counter(failures)
        self.calls = Counter[str]()

    async def __call__(self, point: str) -> None:
        self.calls[point] += 1
        if self.failures[point]:
            self.failures[point] -= 1
            raise HistoryUnavailable(retry_after=2)
