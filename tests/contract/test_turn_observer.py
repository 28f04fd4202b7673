"""Runs the suite of TurnObserver on every adapter and the fake."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.history_in_memory import HistoryInMemory
from adapters.turn_observer_group import TurnObserverGroup
from adapters.turn_observer_structlog import TurnObserverStructlog
from application.ports.turn_observer import TurnObserver
from application.store_watch import StoreWatch
from tests.contract.turn_observer import TurnObserverContract
from tests.harness.script import Observed


class TestTurnObserverStructlog(TurnObserverContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[TurnObserver]:
        yield TurnObserverStructlog(pseudonym=lambda user_id: "pseudonym")


class TestObserved(TurnObserverContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[TurnObserver]:
        yield Observed()


class TestTurnObserverGroup(TurnObserverContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[TurnObserver]:
        yield TurnObserverGroup([Observed(), TurnObserverStructlog(pseudonym=lambda user_id: "pseudonym")])


class TestStoreWatch(TurnObserverContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[TurnObserver]:
        yield StoreWatch(HistoryInMemory(), Observed())
