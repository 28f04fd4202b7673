"""The recipes of docs/front-ends.md in a real browser, on pages of another origin than the service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from playwright.async_api import Page, expect

from application.ports.llm import LLMUnreachable
from domain.errors import Cancelled
from tests.harness.browser import Tab, browser_tab
from tests.harness.documents import ROOT, files_of
from tests.harness.exchange import history
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.node_tools import bundle, check_types, link_packages
from tests.harness.pages import cutting_proxy, served
from tests.harness.servers import Service, running_service

FILES = files_of(ROOT / "docs" / "front-ends.md")
DOCUMENTED = "http://localhost:8000"

REACT_PAGE = """\
<!doctype html><meta charset="utf-8"><div id="root"></div><script type="module" src="main.js"></script>
"""
REACT_MAIN = """\
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Chat } from "./Chat";

createRoot(document.getElementById("root")!).render(<StrictMode><Chat userId="user123" /></StrictMode>);
"""
MODULE_MAIN = """\
import { send } from "./chat-client";

const received: unknown[] = [];
for await (const event of send("user123", "Hello", crypto.randomUUID())) received.push(event);
document.body.append(JSON.stringify(received));
"""


@dataclass
class FrontEnd:
    """A page in a browser, and a service whose model ends its first reply when it is released."""

    tab: Tab
    service: Service
    release: anyio.Event

    @property
    def page(self) -> Page:
        return self.tab.page


@asynccontextmanager
async def front_end(directory: Path, *scripts: ScriptedReply, held: str = "texts done") -> AsyncIterator[FrontEnd]:
    """`held` is the step of `GatedLLM` at which the model waits."""
    release = anyio.Event()

    async def gate(step: str) -> None:
        if step == held:
            await release.wait()

    with served(directory) as origin:
        llm = GatedLLM(ScriptedLLM(*scripts), gate)
        async with running_service({"llm": llm}, cors_origins=origin) as service, browser_tab() as tab:
            for file in directory.iterdir():
                if file.suffix in (".html", ".js"):
                    file.write_text(file.read_text().replace(DOCUMENTED, service.url))
            await tab.page.goto(origin)
            yield FrontEnd(tab, service, release)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text(FILES["index.html"])
    return tmp_path


@pytest.fixture
async def react(tmp_path: Path) -> Path:
    link_packages(tmp_path)
    sources = {"main.tsx": REACT_MAIN, "Chat.tsx": FILES["Chat.tsx"], "chat-client.ts": FILES["chat-client.ts"]}
    for name, text in (sources | {"index.html": REACT_PAGE}).items():
        (tmp_path / name).write_text(text)
    await bundle(tmp_path, "main.tsx", "main.js", '--define:process.env.NODE_ENV="development"')
    return tmp_path


async def send_message(page: Page) -> None:
    await page.get_by_label("Message").fill("Hello")
    await page.get_by_role("button", name="Send").click()


async def stored(service: Service) -> list[tuple[str, str]]:
    return [(turn["assistant_response"], turn["status"]) for turn in await history(service.client, "user123")]


async def test_the_plain_page_shows_a_reply_while_it_comes(plain: Path) -> None:
    async with front_end(plain) as front:
        await send_message(front.page)
        await expect(front.page.get_by_role("log")).to_have_text("Hello, world!")
        front.release.set()
        await expect(front.page.get_by_role("log")).to_have_text("Hello, world! [done]")

    assert front.tab.errors == []


async def test_the_plain_page_rejoins_a_reply_after_a_reload(plain: Path) -> None:
    async with front_end(plain) as front:
        await send_message(front.page)
        await expect(front.page.get_by_role("log")).to_have_text("Hello, world!")
        await front.page.reload()
        await expect(front.page.get_by_role("log")).to_have_text("Hello, world!")
        front.release.set()
        await expect(front.page.get_by_role("log")).to_have_text("Hello, world! [done]")
        turns = await stored(front.service)

    assert turns == [("Hello, world!", "completed")]


async def test_the_plain_page_stops_a_reply(plain: Path) -> None:
    async with front_end(plain) as front:
        await send_message(front.page)
        await expect(front.page.get_by_role("log")).to_have_text("Hello, world!")
        await front.page.get_by_role("button", name="Stop").click()
        await expect(front.page.get_by_role("log")).to_contain_text("[")
        turns = await stored(front.service)

    assert turns == [("Hello, world!", "interrupted")]


async def test_the_plain_page_stops_a_reply_before_the_model_has_answered(plain: Path) -> None:
    async with front_end(plain, held="reply") as front:
        await send_message(front.page)
        async with front.page.expect_response("**/stop") as stopped:
            with anyio.fail_after(20):
                while not await stored(front.service):
                    await anyio.sleep(0.02)
            await front.page.get_by_role("button", name="Stop").click()
        status = (await stopped.value).status
        await expect(front.page.get_by_role("log")).to_contain_text(Cancelled.title)
        turns = await stored(front.service)

    assert status == 200
    assert turns == [("", "interrupted")]


async def test_the_plain_page_shows_why_a_message_was_refused(plain: Path) -> None:
    async with front_end(plain, ScriptedReply(refusal=LLMUnreachable())) as front:
        await send_message(front.page)
        await expect(front.page.get_by_role("log")).to_contain_text(LLMUnreachable().detail)


async def test_the_react_component_streams_stops_and_shows_the_history(react: Path) -> None:
    async with front_end(react) as front:
        await send_message(front.page)
        await expect(front.page.get_by_role("listitem")).to_contain_text("Hello, world!")
        await front.page.get_by_role("button", name="Stop").click()
        await expect(front.page.get_by_role("button", name="Send")).to_be_enabled()
        front.release.set()
        await send_message(front.page)
        await expect(front.page.get_by_role("listitem")).to_have_count(2)
        await expect(front.page.get_by_role("button", name="Send")).to_be_enabled()
        await front.page.reload()
        await expect(front.page.get_by_role("listitem")).to_have_count(2)
        turns = await stored(front.service)

    assert turns == [("Hello, world!", "interrupted"), ("Hello, world!", "completed")]
    assert front.tab.errors == []


async def test_the_react_component_rejoins_a_reply_after_a_reload(react: Path) -> None:
    async with front_end(react) as front:
        await send_message(front.page)
        await expect(front.page.get_by_role("listitem")).to_contain_text("Hello, world!")
        await front.page.reload()
        await expect(front.page.get_by_role("listitem")).to_contain_text("Hello, world!")
        await expect(front.page.get_by_role("button", name="Send")).to_be_disabled()
        front.release.set()
        await expect(front.page.get_by_role("button", name="Send")).to_be_enabled()
        turns = await stored(front.service)

    assert turns == [("Hello, world!", "completed")]


@pytest.mark.parametrize("cuts", [(2,), (1, 1), (0, 0, 4)])
async def test_the_module_survives_broken_connections_without_sending_twice(
    cuts: tuple[int, ...], tmp_path: Path
) -> None:
    left = list(cuts)
    link_packages(tmp_path)
    llm = ScriptedLLM(ScriptedReply(pause=0.02))
    (tmp_path / "index.html").write_text("<!doctype html><body></body><script type=module src=main.js></script>")
    (tmp_path / "main.ts").write_text(MODULE_MAIN)
    with served(tmp_path) as origin:
        async with (
            running_service({"llm": llm}, cors_origins=origin) as service,
            cutting_proxy(service.url, left) as url,
            browser_tab() as tab,
        ):
            (tmp_path / "chat-client.ts").write_text(FILES["chat-client.ts"].replace(DOCUMENTED, url))
            await bundle(tmp_path, "main.ts", "main.js")
            await tab.page.goto(origin)
            await expect(tab.page.locator("body")).to_have_text(
                '[{"content":"Hello","done":false},{"content":", ","done":false},{"content":"world","done":false},'
                '{"content":"!","done":false},{"content":"","done":true}]'
            )

    assert left == []
    assert len(llm.asked) == 1


async def test_the_recipes_are_valid_typescript(tmp_path: Path) -> None:
    link_packages(tmp_path)
    for name in ("chat-client.ts", "Chat.tsx"):
        (tmp_path / name).write_text(FILES[name])

    await check_types(tmp_path, "chat-client.ts", "Chat.tsx")
