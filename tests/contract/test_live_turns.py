"""Runs the suite of LiveTurns on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.live_turns_in_process import LiveTurnsInProcess
from application.ports.live_turns import LiveTurns
from tests.contract.live_turns import LiveTurnsContract
from tests.harness.live_turns import open_worker


class TestLiveTurnsInProcess(LiveTurnsContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LiveTurns]:
        yield LiveTurnsInProcess()


@pytest.mark.server
@pytest.mark.usefixtures("postgres_in_tmp_path")
class TestLiveTurnsSQL(LiveTurnsContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[LiveTurns]:
        async with open_worker(directory) as worker:
            yield worker
