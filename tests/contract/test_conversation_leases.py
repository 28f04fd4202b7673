"""Runs the suite of ConversationLeases on every adapter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.conversation_leases_in_process import ConversationLeasesInProcess
from application.ports.conversation_leases import ConversationLeases
from tests.contract.conversation_leases import ConversationLeasesContract


@pytest.mark.row("X2")
class TestConversationLeasesInProcess(ConversationLeasesContract):
    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[ConversationLeases]:
        yield ConversationLeasesInProcess()
