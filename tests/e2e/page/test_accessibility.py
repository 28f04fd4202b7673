"""The chat page with a keyboard, with a screen reader, and with less motion."""

from typing import Any, Literal

import anyio
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from application.ports.llm import LLMAuthFailed
from tests.e2e.page.test_markdown import DOCUMENT
from tests.harness.browser import new_tab
from tests.harness.chat_page import USER, ChatPage
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import running_service

WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 844}

OPTIONS: dict[Literal["light", "dark"], dict[str, Any]] = {"light": {}, "dark": {"runOnly": ["color-contrast"]}}

NAME_OF_FOCUSED = "(e => e.ariaLabel || e.labels?.[0]?.innerText || e.innerText)(document.activeElement).trim()"

LISTEN = """
() => {
  window.heard = [];  // what a screen reader says
  const hear = changes => changes.forEach(change => change.addedNodes.forEach(node => heard.push(node.textContent)));
  new MutationObserver(hear).observe(document.getElementById('announcements'), {childList: true});
}
"""


async def findings(chat: ChatPage) -> list[str]:
    """Return what axe finds in the present state of the page; in dark colours, of contrast."""
    found = []
    for scheme, options in OPTIONS.items():
        await chat.page.emulate_media(color_scheme=scheme)
        results = await Axe().run(chat.page, options={"resultTypes": ["violations"], **options})
        for rule in results.response["violations"]:
            found += [f"{rule['id']} ({scheme}): {node['html']}" for node in rule["nodes"]]
    return found


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_axe_finds_nothing_in_any_state(browser: Browser, viewport: Any) -> None:
    llm = ScriptedLLM(ScriptedReply((DOCUMENT,)), ScriptedReply(("part of an answer",), hangs=True))
    async with running_service({"llm": llm}) as service:
        await service.client.post(f"/api/memories/{USER}", json={"fact": "I have a dog."})
        found = {}
        chat = await ChatPage.open(browser, service.url, viewport=viewport)
        found["empty"] = await findings(chat)
        await chat.ask("Tell me about Paris")
        await chat.send("And Lyon?")
        await chat.until_writing()
        found["writing"] = await findings(chat)
        await chat.stop()
        await chat.until_idle()
        found["stopped"] = await findings(chat)
        if viewport is NARROW:
            await chat.page.get_by_role("button", name="Conversations", exact=True).click()
            found["drawer"] = await findings(chat)
        await chat.page.get_by_role("button", name="What I remember").click()
        await expect(chat.page.locator("#memory-list li")).to_have_count(1)
        found["memories"] = await findings(chat)
        await chat.page.keyboard.press("Escape")
        await chat.page.keyboard.press("Escape")
        await chat.page.get_by_role("button", name="Delete this conversation").click()
        found["question"] = await findings(chat)

    assert found == {state: [] for state in found}


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_axe_finds_nothing_where_something_failed(browser: Browser, viewport: Any) -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMAuthFailed()))
    async with running_service({"llm": llm}) as service:
        chat = ChatPage(await new_tab(browser, viewport=viewport, reduced_motion="reduce"), service.url)
        await chat.page.route("**/chat/conversations/*", lambda route: route.abort())
        await chat.page.goto(service.url)
        await chat.until_ready()
        if viewport is NARROW:
            await chat.page.get_by_role("button", name="Conversations", exact=True).click()
        await expect(chat.page.locator("#conversations-problem")).to_be_visible()
        found = {"list": await findings(chat)}
        if viewport is NARROW:
            await chat.page.keyboard.press("Escape")
        await chat.ask("Hi")
        await expect(chat.page.locator(".failure")).to_be_visible()
        found["turn"] = await findings(chat)
        await chat.page.context.set_offline(True)
        await chat.send("More")
        await expect(chat.notice).to_be_visible()
        found["notice"] = await findings(chat)

    assert found == {state: [] for state in found}


async def test_axe_finds_what_is_wrong(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.evaluate("document.getElementById('send').removeAttribute('aria-label')")
        await chat.page.evaluate("document.getElementById('title').style.color = '#777'")
        found = [finding.split(":")[0] for finding in await findings(chat)]

    assert found == ["button-name (light)", "color-contrast (light)", "color-contrast (dark)"]


async def test_every_control_can_be_reached_with_the_tab_key_in_order(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        await expect(chat.conversations).to_have_text(["Hi"])
        await chat.page.locator(".skip-link").focus()
        reached = []
        for _ in range(10):
            await chat.page.keyboard.press("Tab")
            reached.append(await chat.page.evaluate(NAME_OF_FOCUSED))

    assert reached == [
        "New conversation",
        "Hi",
        "Delete “Hi”",
        "What I remember",
        "System",
        "Rename this conversation",
        "Delete this conversation",
        "Messages",
        "Copy answer",
        "Message",
    ]


async def test_the_skip_link_leads_to_the_message_field_of_the_same_conversation(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        address = chat.page.url
        await chat.page.get_by_role("link", name="Skip to the message field").focus()
        await chat.page.keyboard.press("Enter")
        await expect(chat.field).to_be_focused()

        assert chat.page.url == address
        assert await chat.turns.count() == 1


async def test_the_focus_stays_when_what_had_it_is_replaced(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMAuthFailed()), ScriptedReply())
    async with running_service({"llm": llm}) as service:
        chat = await ChatPage.open(browser, service.url)
        for button in ("Ask a question", "Try again"):
            await chat.page.get_by_role("button", name=button).focus()
            await chat.page.keyboard.press("Enter")
            await expect(chat.field).to_be_focused()
            await chat.until_idle()
        await chat.field.fill("More")
        await chat.page.get_by_role("button", name="Send", exact=True).focus()
        await chat.page.keyboard.press("Enter")
        await expect(chat.field).to_be_focused()
        await chat.until_idle()

        await chat.page.get_by_role("button", name="Delete “What is").focus()
        other = await ChatPage.open(chat.page.context, service.url)
        await other.ask("Elsewhere")
        await expect(chat.conversations).to_have_count(2)
        await expect(chat.page.get_by_role("button", name="Delete “What is")).to_be_focused()


async def test_the_focus_goes_on_when_a_notice_or_the_button_for_the_newest_turns_is_gone(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(("line\n\n" * 100,)))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        await chat.page.evaluate("document.getElementById('scroller').scrollTop = 0")
        await chat.page.get_by_role("button", name="Newest").press("Enter")
        await expect(chat.page.get_by_role("region", name="Messages")).to_be_focused()

        await chat.page.get_by_role("button", name="New conversation").click()
        for button in ("Dismiss", "Try again"):
            await chat.page.context.set_offline(True)
            await chat.conversations.first.click()
            await expect(chat.notice).to_be_visible()
            await chat.page.context.set_offline(False)
            await chat.notice.get_by_role("button", name=button).press("Enter")
            await expect(chat.field).to_be_focused()


async def test_what_is_chosen_shows_where_colours_are_forced(browser: Browser) -> None:
    backgrounds = """selector => new Set([...document.querySelectorAll(selector)]
                       .map(e => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3).join())).size"""
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, forced_colors="active")
        await chat.ask("One")
        await chat.page.get_by_role("button", name="New conversation").click()
        await chat.ask("Two")
        await expect(chat.conversations).to_have_count(2)

        assert await chat.page.evaluate(backgrounds, "#conversations a") == 2
        assert await chat.page.evaluate(backgrounds, "#theme label") == 2


async def test_the_drawer_keeps_the_focus_inside_and_returns_it(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, viewport=NARROW)
        opener = chat.page.get_by_role("button", name="Conversations", exact=True)
        await opener.click()
        await expect(chat.page.get_by_role("button", name="Close the list of conversations")).to_be_focused()
        inside = []
        for _ in range(8):
            await chat.page.keyboard.press("Tab")
            inside.append(await chat.page.evaluate("!document.getElementById('main').contains(document.activeElement)"))
        await chat.page.keyboard.press("Escape")

        await expect(opener).to_be_focused()
        assert all(inside)


async def test_sent_stopped_and_complete_are_announced(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(), ScriptedReply(("part",), hangs=True))
    async with running_service({"llm": llm}) as service:
        chat = await ChatPage.open(browser, service.url)
        status = chat.page.get_by_role("status")
        await chat.send("Hi")
        await expect(status).to_have_text("Answer complete.")
        await chat.send("More")
        await expect(status).to_have_text("Message sent. The answer is being written.")
        await chat.until_writing()
        await chat.stop()
        await expect(status).to_have_text("Stopped.")
        assert await chat.page.locator("#turns [aria-live]").count() == 0


async def test_why_an_answer_failed_is_announced(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(refusal=LLMAuthFailed()))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await expect(chat.page.get_by_role("status")).to_have_text(
            "The model’s provider rejected the service’s API key. Whoever runs this service has to look at its log."
        )


async def test_what_was_copied_is_announced_each_time(browser: Browser) -> None:
    answer = "Look:\n\n```python\nprint(1)\n```\n"
    async with running_service({"llm": ScriptedLLM(ScriptedReply((answer,)))}) as service:
        chat = await ChatPage.open(browser, service.url, permissions=["clipboard-read", "clipboard-write"])
        await chat.ask("Hi")
        await expect(chat.page.get_by_role("status")).to_have_text("Answer complete.")
        await chat.page.evaluate(LISTEN)
        for copy in (chat.page.locator(".copy-code"), chat.page.get_by_role("button", name="Copy answer")):
            await copy.click()
            await expect(copy).to_have_text("Copied")

        assert await chat.page.evaluate("heard") == ["Copied.", "Copied."]


async def test_a_failed_copy_says_what_to_do(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        await chat.page.evaluate("""() => {
            Object.defineProperty(navigator, 'clipboard', {value: undefined});
            document.execCommand = () => false;
        }""")
        await chat.page.get_by_role("button", name="Copy answer").click()

        await expect(chat.page.get_by_role("alert")).to_contain_text("Select the text, and copy it")
        await expect(chat.page.get_by_role("button", name="Copy answer")).to_have_text("Not copied")


async def test_nothing_moves_for_those_who_prefer_less_motion(browser: Browser) -> None:
    moving = "document.getAnimations().length"
    async with running_service({"llm": ScriptedLLM(ScriptedReply(("part",), hangs=True))}) as service:
        chat = await ChatPage.open(browser, service.url, reduced_motion="no-preference")
        await chat.send("Hi")
        await chat.until_writing()
        by_default = await chat.page.evaluate(moving)
        await chat.page.emulate_media(reduced_motion="reduce")
        with anyio.fail_after(10):  # the preference takes effect soon
            while await chat.page.evaluate(moving):
                await anyio.sleep(0.05)

    assert by_default > 0


async def test_nothing_is_wider_than_the_screen(browser: Browser) -> None:
    reply = DOCUMENT + "\n\n" + "x" * 300 + "\n\n| a | b |\n|---|---|\n| " + "wide " * 60 + " | b |\n"
    overflow = {}
    async with running_service({"llm": ScriptedLLM(ScriptedReply((reply,)))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("y" * 300)
        for width in (320, 390, 1280):
            await chat.page.set_viewport_size({"width": width, "height": 700})
            overflow[width] = await chat.page.evaluate(
                "['scroller', 'main'].map(id => document.getElementById(id)).map(e => e.scrollWidth - e.clientWidth)"
            )

    assert overflow == {320: [0, 0], 390: [0, 0], 1280: [0, 0]}


async def test_conversations_can_be_reached_on_a_screen_as_low_as_an_enlarged_one(browser: Browser) -> None:
    """At 400 %, 1,280 x 1,024 pixels are 320 x 256: https://www.w3.org/TR/WCAG22/#reflow"""
    async with running_service({"llm": ScriptedLLM()}) as service:
        for number in range(3):
            body = {"user_id": USER, "conversation_id": f"c{number}", "message": f"Conversation {number}"}
            await service.client.post("/api/chat/simple", json=body)
        chat = await ChatPage.open(browser, service.url, viewport={"width": 320, "height": 256})
        await chat.page.get_by_role("button", name="Conversations", exact=True).click()
        await chat.conversations.last.scroll_into_view_if_needed()
        visible = await chat.page.evaluate("""() => {
            const clip = document.getElementById('sidebar').getBoundingClientRect();
            const list = document.getElementById('conversation-list').getBoundingClientRect();
            return Math.min(clip.bottom, list.bottom) - Math.max(clip.top, list.top);
        }""")
        await chat.conversations.last.click()
        await expect(chat.page.get_by_role("heading", level=1)).to_have_text("Conversation 0")

    assert visible > 120  # CSS pixels: some conversations at once


async def test_the_chosen_theme_is_kept(browser: Browser) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, color_scheme="light")
        light = await chat.page.evaluate(background)
        await chat.page.get_by_role("radio", name="Dark").check(force=True)
        dark = await chat.page.evaluate(background)
        await chat.reload()
        kept = await chat.page.evaluate(background)
        await chat.page.get_by_role("radio", name="System").check(force=True)

        assert light != dark == kept
        assert await chat.page.evaluate(background) == light
