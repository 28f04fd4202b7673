"""Fixtures for tests of outgoing connections and their resources."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """Fail the test if it leaves tasks, exceptions that were never retrieved, or open sockets."""
    before = len(asyncio.all_tasks())
    yield
    assert before == len(asyncio.all_tasks())
    gc.collect()


@pytest.fixture
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the proxies configured in the environment of the test run."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
