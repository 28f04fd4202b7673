"""What tests of connections want around them."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(scope="module")
def nothing_else_is_collected() -> Iterator[None]:
    """Collecting garbage takes long where it has to look at all that was ever imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """Errors that nobody retrieves, and sockets that nobody closes, fail the test when they are collected."""
    before = len(asyncio.all_tasks())
    yield
    assert before == len(asyncio.all_tasks())
    gc.collect()


@pytest.fixture
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
