"""Watch: whether a store works, found out in the background."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from application.ports.history import HistoryLost, HistoryUnavailable
from application.ports.turn_observer import Store, StoreFailing, StoreRecovered, TurnObserver


class Watch(ABC):
    """Finds out in the background whether a store works, so that asking for it costs nothing.

    Calls the store every `interval` seconds, for at most `timeout` seconds. A failure is reported when it begins, and
    every `report_interval` seconds while it lasts.
    """

    failure: HistoryUnavailable | None
    """Why the store does not work; None if it does, as far as is known."""

    def __init__(
        self,
        store: Store,
        observer: TurnObserver,
        *,
        interval: float = 2.0,
        timeout: float = 10.0,
        report_interval: float = 60.0,
    ) -> None:
        self.failure = None
        self._name = store
        self._observer = observer
        self._interval = interval
        self._timeout = timeout
        self._report_interval = report_interval
        self._failed_at = 0.0
        self._reported_at = 0.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Watch the store while the context is open. If it has failed before, it is called first."""
        if self.failure:
            await self._call_store()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    @abstractmethod
    async def call(self, *, failing: bool) -> None:
        """Call the store. If it is `failing`, succeed only if it works again.

        Raises:
            HistoryUnavailable: it does not work.
        """
        ...

    def note_failure(self, error: HistoryUnavailable) -> None:
        """Record that the store does not work, and report it if that is due."""
        now, known = anyio.current_time(), self.failure
        # Without the traceback, which refers to the text of turns.
        self.failure = type(error)(retry_after=error.retry_after, explanation=error.explanation)
        if known is None:
            self._failed_at = now
        lost = isinstance(error, HistoryLost)
        if known is None or lost != isinstance(known, HistoryLost):
            due = True
        else:
            due = not lost and now - self._reported_at >= self._report_interval
        if due:
            self._reported_at = now
            self._observer.observe(StoreFailing(self.failure, now - self._failed_at, self._name))

    def note_success(self) -> None:
        """Record that the store works, and report it if it did not before."""
        if self.failure is not None:
            self.failure = None
            self._observer.observe(StoreRecovered(anyio.current_time() - self._failed_at, self._name))

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(self._interval)
            await self._call_store()

    async def _call_store(self) -> None:
        failing = self.failure is not None
        try:
            with anyio.fail_after(self._timeout):
                await self.call(failing=failing)
        except HistoryUnavailable as error:
            self.note_failure(error)
        except TimeoutError:
            self.note_failure(
                HistoryUnavailable(explanation=f"The store did not respond within {self._timeout:g} seconds.")
            )
        except Exception as bug:  # of any kind: the watch must go on
            self.note_failure(HistoryUnavailable(explanation=f"The store failed: unexpected {type(bug).__qualname__}."))
        else:
            if failing:
                self.note_success()
