"""Runs the suite of LiveTurns on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.live_turns import LiveTurns
from tests.contract.live_turns import LiveTurnsContract


class TestLiveTurnsInProcess(LiveTurnsContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LiveTurns]:
        yield LiveTurnsInProcess()
