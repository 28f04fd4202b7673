"""Fixtures for tests of outgoing connections and their resources."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def nothing_else_is_collected() -> Iterator[None]:
    """Exclude all imported modules from garbage collection, which is slow otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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
