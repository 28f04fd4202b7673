"""The chat page as its user sees it."""

from dataclasses import dataclass
from typing import Any, Self

from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.harness.browser import Tab, new_tab

USER = "ann"

expect.set_options(timeout=20_000)  # milliseconds; nothing waits that long unless it fails


@dataclass
class ChatPage:
    """A tab with the chat page at `url`."""

    tab: Tab
    url: str

    @classmethod
    async def open(
        cls, opener: Browser | BrowserContext, url: str, *, conversation: str = "", user: str = USER, **options: Any
    ) -> Self:
        """Open the page, in a context with these options or in a given one, and wait until it can be used.

        Animations are off by default, because drawing them takes time.
        """
        opened = cls(await new_tab(opener, **{"reduced_motion": "reduce", **options}), url)
        await opened.page.goto(f"{url}/?user={user}" + (f"#{conversation}" if conversation else ""))
        await opened.until_ready()
        return opened

    @property
    def page(self) -> Page:
        return self.tab.page

    @property
    def field(self) -> Locator:
        return self.page.get_by_label("Message", exact=True)

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer")

    @property
    def turns(self) -> Locator:
        return self.page.locator(".turn")

    @property
    def notice(self) -> Locator:
        return self.page.locator("#notice")

    @property
    def conversations(self) -> Locator:
        return self.page.locator("#conversations a")

    async def until_ready(self) -> None:
        await expect(self.page.locator("#user")).not_to_be_empty()
        await expect(self.page.locator("#loading")).to_be_hidden()

    async def reload(self) -> None:
        await self.page.reload()
        await self.until_ready()

    async def send(self, text: str) -> None:
        """Send a message; the answer may still be on its way."""
        await self.field.fill(text)
        await self.page.get_by_role("button", name="Send", exact=True).click()

    async def ask(self, text: str) -> None:
        """Send a message, and wait for the end of its answer."""
        await self.send(text)
        await self.until_idle()

    async def stop(self) -> None:
        await self.page.get_by_role("button", name="Stop the answer").click()

    async def until_idle(self) -> None:
        await expect(self.page.get_by_role("button", name="Send", exact=True)).to_be_visible()

    async def until_writing(self) -> None:
        """Wait until a part of an answer is there."""
        await expect(self.page.locator(".writing").last).not_to_be_empty()

    async def texts(self) -> list[tuple[str, str]]:
        """Return message and answer of each turn in the document."""
        found: list[list[str]] = await self.page.evaluate(
            """[...document.querySelectorAll('.turn')].map(turn => [
                 turn.querySelector('.message').lastChild.textContent,
                 turn.querySelector('.answer').textContent,
               ])"""
        )
        return [(message, answer) for message, answer in found]

    async def close(self) -> None:
        await self.page.context.close()
