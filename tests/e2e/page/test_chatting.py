"""Sending, streaming, stopping and repeating messages on the chat page."""

import anyio
import pytest
from playwright.async_api import Browser, Route, expect

from application.ports.llm import LLMAuthFailed, LLMRateLimited
from tests.harness.chat import until
from tests.harness.chat_page import USER, ChatPage
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.servers import running_service

STORY = tuple(f"word{number} " for number in range(400))


async def test_a_message_is_answered_and_both_are_there_after_a_reload(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi there")
        before = await chat.texts()
        await chat.reload()
        after = await chat.texts()

    assert before == after == [("Hi there", "Hello, world!")]
    assert chat.tab.origins == {service.url}
    assert chat.tab.errors == []


async def test_the_page_works_where_the_browser_keeps_nothing(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        context = await browser.new_context()
        await context.add_init_script("""
            const refuse = () => { throw new DOMException('Refused.', 'SecurityError'); };
            for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, { get: refuse });
            window.BroadcastChannel = function () { refuse(); };
        """)
        chat = await ChatPage.open(context, service.url)
        await chat.ask("Hello")

        await expect(chat.answers).to_have_text("Hello, world!")
        await expect(chat.conversations).to_have_count(1)
        assert chat.tab.errors == []


async def test_an_answer_appears_while_it_is_written(browser: Browser) -> None:
    async with running_service(
        {"llm": ScriptedLLM(ScriptedReply(("# Title\n\nfirst ", "words"), hangs=True))}
    ) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")

        await expect(chat.answers.get_by_role("heading", name="Title")).to_be_visible()
        await expect(chat.answers).to_contain_text("first words")
        await expect(chat.answers).to_have_attribute("aria-busy", "true")
        await chat.stop()
        await expect(chat.page.locator("#turns").get_by_text("Stopped.", exact=True)).to_be_visible()
        await expect(chat.answers).not_to_have_attribute("aria-busy", "true")
        stored = (await service.client.get(f"/api/chat/history/{USER}")).json()["history"]

    assert [(turn["status"], turn["reason"]) for turn in stored] == [("interrupted", "cancelled")]


async def test_an_answer_can_be_stopped_before_the_model_has_begun(browser: Browser) -> None:
    async def gate(step: str) -> None:
        await anyio.sleep_forever()

    async with running_service({"llm": GatedLLM(ScriptedLLM(), gate)}, header_hold=60) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await chat.stop()
        await chat.until_idle()
        await expect(chat.page.locator("#turns").get_by_text("Stopped.", exact=True)).to_be_visible()
        stored = (await service.client.get(f"/api/chat/history/{USER}")).json()["history"]

    assert [(turn["user_message"], turn["reason"]) for turn in stored] == [("Hi", "cancelled")]


async def test_an_answer_can_be_stopped_before_its_message_has_arrived(browser: Browser) -> None:
    arriving, refused = anyio.Event(), anyio.Event()
    statuses = []

    async def hold(route: Route) -> None:
        await arriving.wait()
        await route.continue_()

    async def hold_refusal(route: Route) -> None:
        response = await route.fetch()
        statuses.append(response.status)
        if not arriving.is_set():
            arriving.set()
            await refused.wait()
        await route.fulfill(response=response)

    async with running_service({"llm": ScriptedLLM(ScriptedReply(("begun",), hangs=True))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.route("**/api/chat", hold)
        await chat.page.route("**/stop", hold_refusal)
        await chat.send("Hi")
        await chat.stop()
        await expect(chat.answers).to_have_text("begun")
        refused.set()
        await chat.until_idle()

        await expect(chat.page.locator("#turns").get_by_text("Stopped.", exact=True)).to_be_visible()
        await until(lambda: len(statuses) == 2)  # the end of the stream may arrive first
        assert statuses == [404, 200]


async def test_escape_stops_an_answer(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(("begun",), hangs=True))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await chat.until_writing()
        await chat.field.dispatch_event("keydown", {"key": "Escape", "isComposing": True})
        await expect(chat.page.get_by_role("status")).to_have_text("Message sent. The answer is being written.")
        await chat.field.press("Escape")
        await chat.until_idle()

        await expect(chat.page.locator("#turns").get_by_text("Stopped.", exact=True)).to_be_visible()


async def test_a_failed_turn_says_why_and_is_replaced_when_it_is_tried_again(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMAuthFailed()), ScriptedReply())
    async with running_service({"llm": llm}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        await expect(chat.turns.locator(".failure")).to_contain_text("rejected the service’s API key")
        await chat.page.get_by_role("button", name="Try again").click()
        await expect(chat.answers).to_have_text("Hello, world!")
        stored = (await service.client.get(f"/api/chat/history/{USER}")).json()["history"]

    assert await chat.turns.count() == 1
    assert [turn["status"] for turn in stored] == ["completed"]


async def test_a_failed_turn_can_be_tried_again_after_a_reload(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(refusal=LLMRateLimited(retry_after=7)), ScriptedReply())
    async with running_service({"llm": llm}) as service:
        await service.client.post("/api/chat", json={"user_id": USER, "conversation_id": "c", "message": "Hi"})
        chat = await ChatPage.open(browser, service.url, conversation="c")
        await chat.page.get_by_role("button", name="Try again").click()

        await expect(chat.answers.last).to_have_text("Hello, world!")


async def test_an_interrupted_answer_stays_when_its_message_is_sent_again(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(("part",), failure=LLMRateLimited()), ScriptedReply())
    async with running_service({"llm": llm}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        await chat.page.get_by_role("button", name="Try again").click()
        await expect(chat.answers.last).to_have_text("Hello, world!")

        assert await chat.texts() == [("Hi", "part"), ("Hi", "Hello, world!")]


async def test_a_message_that_is_too_long_returns_to_the_field(browser: Browser) -> None:
    text = "long " * 8000  # 40,000 characters
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.field.focus()
        await chat.page.keyboard.insert_text(text)
        await chat.page.keyboard.press("Enter")
        await expect(chat.notice).to_contain_text("Shorten it")
        kept = await chat.field.input_value()
        await chat.reload()

        assert kept == text
        assert await chat.field.input_value() == text
        assert await chat.turns.count() == 0


async def test_a_double_click_neither_stops_what_it_sends_nor_sends_a_draft(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(("begun",), hangs=True))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.field.fill("Hi")
        await chat.page.locator("#send").dblclick()
        await expect(chat.answers).to_have_text("begun")
        await expect(chat.answers).to_have_attribute("aria-busy", "true")
        await chat.field.fill("A draft")
        stop = await chat.page.locator("#stop").bounding_box()
        assert stop is not None
        at = (stop["x"] + stop["width"] / 2, stop["y"] + stop["height"] / 2)
        await chat.page.mouse.click(*at)
        await chat.until_idle()
        await chat.page.mouse.down(click_count=2)  # the second one, after the answer has ended
        await chat.page.mouse.up(click_count=2)

        await expect(chat.field).to_have_value("A draft")
        await expect(chat.turns).to_have_count(1)


async def test_enter_sends_but_not_while_an_input_method_composes(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.field.fill("に")
        await chat.field.dispatch_event("keydown", {"key": "Enter", "isComposing": True})
        await chat.field.dispatch_event("keydown", {"key": "Enter", "keyCode": 229})
        composing = await chat.turns.count()
        await chat.field.press("Shift+Enter")
        await chat.field.press("x")
        await chat.field.press("Enter")
        await chat.until_idle()
        await expect(chat.answers).to_have_text("Hello, world!")

        assert composing == 0
        assert await chat.texts() == [("に\nx", "Hello, world!")]


async def test_on_a_touch_screen_enter_starts_a_new_line(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, has_touch=True, is_mobile=True)
        await chat.field.press("a")
        await chat.field.press("Enter")

        assert await chat.field.input_value() == "a\n"


async def test_on_a_touch_screen_a_button_does_not_open_the_keyboard(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(("begun",), hangs=True))}) as service:
        chat = await ChatPage.open(browser, service.url, has_touch=True, is_mobile=True)
        await chat.page.get_by_role("button", name="Ask a question").tap()
        await chat.until_writing()
        await chat.page.get_by_role("button", name="Stop the answer").tap()
        await chat.until_idle()

        await expect(chat.field).not_to_be_focused()


async def test_code_and_answers_can_be_copied(browser: Browser) -> None:
    answer = "Look:\n\n```python\nprint(1)\n```\n"
    async with running_service({"llm": ScriptedLLM(ScriptedReply((answer,)))}) as service:
        chat = await ChatPage.open(browser, service.url, permissions=["clipboard-read", "clipboard-write"])
        await chat.ask("Hi")
        await chat.page.locator(".copy-code").click()
        await expect(chat.page.locator(".copy-code")).to_have_text("Copied")
        code = await chat.page.evaluate("navigator.clipboard.readText()")
        await chat.page.get_by_role("button", name="Copy answer").click()
        await expect(chat.page.get_by_role("button", name="Copy answer")).to_have_text("Copied")
        whole = await chat.page.evaluate("navigator.clipboard.readText()")

    assert (code, whole) == ("print(1)", answer)


async def test_code_with_long_runs_is_copied_as_it_was_written(browser: Browser) -> None:
    codes = ["的一是" * 400, "e" + "\u0301" * 70 + " " + "🇫🇷" * 40, "的" * 300 + "\u200b的", "e\u0301 tiếng ไทย"]
    answer = "\n\n".join(f"```js\n{code}\n```" for code in codes)
    async with running_service({"llm": ScriptedLLM(ScriptedReply((answer,)))}) as service:
        chat = await ChatPage.open(browser, service.url, permissions=["clipboard-read", "clipboard-write"])
        await chat.ask("Hi")
        copied = []
        for button in await chat.page.locator(".copy-code").all():
            await button.click()
            await expect(button).to_have_text("Copied")
            copied.append(await chat.page.evaluate("navigator.clipboard.readText()"))

    assert copied == codes


async def test_answers_can_be_copied_where_the_browser_has_no_clipboard(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, permissions=["clipboard-read", "clipboard-write"])
        await chat.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # over plain http
        await chat.ask("Hi")
        await chat.page.get_by_role("button", name="Copy answer").click()
        await expect(chat.page.get_by_role("button", name="Copy answer")).to_have_text("Copied")
        await chat.field.press("Control+V")

        await expect(chat.field).to_have_value("Hello, world!")


async def test_a_selection_is_copied_without_labels_and_buttons(browser: Browser) -> None:
    answer = "Look:\n\n```python\nprint(1)\n```\n\nThat is all."
    async with running_service({"llm": ScriptedLLM(ScriptedReply((answer,)))}) as service:
        chat = await ChatPage.open(browser, service.url, permissions=["clipboard-read", "clipboard-write"])
        await chat.ask("Hi")
        await chat.page.evaluate("getSelection().selectAllChildren(document.getElementById('turns'))")
        await chat.page.evaluate("document.execCommand('copy')")
        copied = await chat.page.evaluate("navigator.clipboard.readText()")

    assert copied.split() == ["Hi", "Look:", "print(1)", "That", "is", "all."]


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "Reload the page"), (413, "Shorten it."), (429, "Wait a minute"), (500, "Try again")]
)
async def test_an_error_of_a_proxy_says_what_to_do(browser: Browser, status: int, advice: str) -> None:
    async def refuse(route: Route) -> None:
        await route.fulfill(status=status, content_type="text/html", body="<h1>Sorry</h1>")

    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.route("**/api/chat", refuse)
        await chat.send("Hi")

        await expect(chat.notice).to_contain_text(advice)
        await expect(chat.field).to_have_value("Hi")


async def test_a_suggestion_is_sent_with_one_click(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="Ask a question").click()
        await expect(chat.answers).to_have_text("Hello, world!")
        await expect(chat.page.locator("#empty")).to_be_hidden()


async def test_a_long_answer_is_followed_until_the_reader_scrolls_up(browser: Browser) -> None:
    distance = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.getElementById('scroller'))"
    llm = ScriptedLLM(ScriptedReply(tuple(f"{word}\n\n" for word in STORY), pause=0.002))
    async with running_service({"llm": llm}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await expect(chat.answers).to_contain_text("word50 ")
        assert await chat.page.evaluate(distance) <= 48
        await chat.page.locator("#scroller").hover()
        await chat.page.mouse.wheel(0, -400)
        await expect(chat.page.get_by_role("button", name="Newest")).to_be_visible()
        left_at = await chat.page.evaluate("document.getElementById('scroller').scrollTop")
        await chat.until_idle()

        assert await chat.page.evaluate("document.getElementById('scroller').scrollTop") == left_at
        await chat.page.get_by_role("button", name="Newest").click()
        assert await chat.page.evaluate(distance) <= 48


async def test_the_caret_shows_behind_the_last_word(browser: Browser) -> None:
    expected = {
        "one": "P one",
        "- one\n- two": "LI two",
        "- one\n  - a\n- two\n  - b\n    1. c": "LI c",
        "- one\n\n- two": "P two",
        "> one": "P one",
        "```python\nprint(1)": "CODE print(1)",
    }
    carets = """[...document.querySelectorAll('.writing *')]
                  .filter(e => getComputedStyle(e, '::after').content !== 'none')
                  .map(e => `${e.tagName} ${e.innerText}`)"""
    replies = [ScriptedReply((text,), hangs=True) for text in expected]
    async with running_service({"llm": ScriptedLLM(*replies)}) as service:
        chat = await ChatPage.open(browser, service.url)
        shown = []
        for text in expected:
            await chat.send(text)
            await chat.until_writing()
            shown.append(await chat.page.evaluate(carets))
            await chat.stop()
            await chat.until_idle()

    assert shown == [[caret] for caret in expected.values()]


async def test_quotes_and_tasks_in_lists_are_aligned_with_their_text(browser: Browser) -> None:
    reply = "- item\n  > quote\n\n- [ ] " + "a task that wraps " * 10
    lefts = """() => {
        const left = (node) => {
            const range = document.createRange();
            range.selectNodeContents(node);
            return [...range.getClientRects()].map(rect => Math.round(rect.left));
        };
        const [item, task] = document.querySelectorAll('.answer li');
        const quote = item.querySelector('blockquote').getBoundingClientRect().left;
        return [left(item.querySelector('p')), Math.round(quote), left(task.querySelector('p'))];
    }"""
    async with running_service({"llm": ScriptedLLM(ScriptedReply((reply,)))}) as service:
        chat = await ChatPage.open(browser, service.url, viewport={"width": 390, "height": 844})
        await chat.ask("Hi")
        [item], quote, task = await chat.page.evaluate(lefts)

    assert quote == item
    assert len(set(task)) == 2  # the checkbox, and all lines of text
