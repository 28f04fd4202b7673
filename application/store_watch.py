"""StoreWatch: whether the store accepts writes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from application.ports.history import ConversationHistory, HistoryLost, HistoryUnavailable
from application.ports.turn_observer import Event, StoreCalled, StoreFailing, StoreRecovered, TurnObserver

_READS: Final = frozenset({"find", "get", "latest", "messages", "page", "conversations", "forget_attempts", "counts"})
"""Operations whose failure says nothing about writes."""

_WRITES: Final = frozenset({"begin", "finish", "probe_write"})
"""Operations whose success proves that writes succeed. Others, e.g. `claim`, often have nothing to write."""


class StoreWatch(TurnObserver):
    """Knows whether the last write to the store succeeded, and finds out when writes succeed again.

    Observes the calls of the history and the outbox. Every `interval` seconds it calls the store itself, for at most
    `timeout` seconds: a check, or after a failure a probe that writes, so that the service recovers without traffic.
    A failure is reported when it begins, and every `report_interval` seconds while it lasts.
    """

    def __init__(
        self,
        store: ConversationHistory,
        observer: TurnObserver,
        *,
        interval: float = 2.0,
        timeout: float = 10.0,
        report_interval: float = 60.0,
    ) -> None:
        self.failure: HistoryUnavailable | None = None
        """Why the store does not accept writes; None if it does, as far as is known."""
        self._store = store
        self._observer = observer
        self._interval = interval
        self._timeout = timeout
        self._report_interval = report_interval
        self._failed_at = 0.0
        self._reported_at = 0.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Watch the store while the context is open. If it has failed before, it is probed first."""
        if self.failure:
            await self._call_store()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    def observe(self, event: Event) -> None:
        match event:
            case StoreCalled(operation, _, HistoryUnavailable() as error) if operation not in _READS:
                self.note_failure(error)
            case StoreCalled(operation, _, None) if operation in _WRITES:
                self.note_success()

    def note_failure(self, error: HistoryUnavailable) -> None:
        """Record that the store does not accept writes, and report it if that is due."""
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
            self._observer.observe(StoreFailing(self.failure, now - self._failed_at))

    def note_success(self) -> None:
        """Record that the store has accepted a write, and report it if the one before failed."""
        if self.failure is not None:
            self.failure = None
            self._observer.observe(StoreRecovered(anyio.current_time() - self._failed_at))

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(self._interval)
            await self._call_store()

    async def _call_store(self) -> None:
        probing = self.failure is not None
        try:
            with anyio.fail_after(self._timeout):
                await (self._store.probe_write() if probing else self._store.check())
        except HistoryUnavailable as error:
            self.note_failure(error)
        except TimeoutError:
            self.note_failure(
                HistoryUnavailable(explanation=f"The store did not respond within {self._timeout:g} seconds.")
            )
        except Exception as bug:  # of any kind: the watch must go on
            self.note_failure(HistoryUnavailable(explanation=f"The store failed: unexpected {type(bug).__qualname__}."))
        else:
            if probing:
                self.note_success()
