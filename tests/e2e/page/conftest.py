"""One browser for all tests of the chat page; each test opens contexts of its own."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.harness.browser import running_browser
from tests.harness.elsewhere import Elsewhere


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    """One event loop for all of them, because the browser is bound to its loop."""
    return "asyncio"


@pytest.fixture(scope="package")
async def elsewhere() -> AsyncIterator[Elsewhere]:
    async with Elsewhere() as listening:
        yield listening


@pytest.fixture(scope="package")
async def browser(elsewhere: Elsewhere) -> AsyncIterator[Browser]:
    async with running_browser(elsewhere.flag) as running:
        yield running


@pytest.fixture(autouse=True)
async def nothing_stays_open(browser: Browser) -> AsyncIterator[None]:
    shared = list(browser.contexts)
    yield
    for context in browser.contexts:
        if context not in shared:
            await context.close()
