"""A real browser for tests: the machine's Chromium, without a window, driven by Playwright.

Chromium is a package of Debian's: Playwright's own download is neither needed nor used.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

_FLAGS = (
    "--no-sandbox",  # Chromium refuses to run as root with its sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # Its own connections, to hosts that tests must not reach:
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_TIMEOUT = 30_000
"""Milliseconds. Playwright waits until something happens, no longer."""


@dataclass
class Tab:
    """A page, and what happened on it: the origins of its requests, and the errors in its console."""

    page: Page
    origins: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("request", lambda request: self.origins.add(_origin(request.url)))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)


@asynccontextmanager
async def running_browser(*flags: str, keeps_pages: bool = False) -> AsyncIterator[Browser]:
    """Start the browser, with these flags beside the usual ones.

    With `keeps_pages`, it keeps the pages that it leaves, as it does without Playwright, and shows them again when it
    goes back.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("This test needs Chromium: run `make test-tools` or `apt-get install chromium`.")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium,
            args=[*_FLAGS, *flags],
            ignore_default_args=["--disable-back-forward-cache"] if keeps_pages else None,
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def browser_tab() -> AsyncIterator[Tab]:
    """Open an empty tab in a browser of its own."""
    async with running_browser() as browser:
        yield await new_tab(browser)


async def new_tab(opener: Browser | BrowserContext, **options: Any) -> Tab:
    """Open an empty tab: in a new context with these options, or together with the other tabs of a context."""
    context = await opener.new_context(**options) if isinstance(opener, Browser) else opener
    tab = Tab(await context.new_page())
    tab.page.set_default_timeout(_TIMEOUT)
    tab.watch()
    return tab


def _origin(url: str) -> str:
    scheme, host, *_ = urlsplit(url)
    return f"{scheme}://{host}" if host else f"{scheme}:"
