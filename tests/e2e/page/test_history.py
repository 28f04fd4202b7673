"""Long conversations and the list of conversations on the chat page."""

from datetime import timedelta
from uuid import uuid4

import anyio
import pytest
from playwright.async_api import Browser, Page, Route, expect

from adapters.history_in_memory import HistoryInMemory
from application.ports.history import TurnBegin, TurnEnd
from domain.conversation import ConversationId, Turn, TurnId, UserId
from tests.harness.browser import new_tab
from tests.harness.chat_page import USER, ChatPage
from tests.harness.fakes import ScriptedLLM
from tests.harness.script import NOW
from tests.harness.servers import Service, running_service

REPLY = "An answer with **some** text, a list:\n\n- one\n- two\n\nand `code`. "
MAX_IN_DOCUMENT = 400

JUMPS = """
async pages => {
  // Scroll to the top again and again, and measure how far the first visible turn moves when older ones are added.
  const scroller = document.getElementById('scroller'), turns = document.getElementById('turns');
  const frame = () => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
  const numbers = () => [...turns.children].map(turn => Number(turn.querySelector('.message').lastChild.textContent));
  scroller.style.overflowAnchor = 'none';  // as in browsers that do not keep the position by themselves
  let jump = 0, most = 0, page = 0;
  for (; page < pages; page += 1) {
    const first = turns.firstElementChild;
    if (numbers()[0] === 0) break;
    first.scrollIntoView();
    await frame();
    const before = first.getBoundingClientRect().top;
    for (let wait = 0; wait < 500 && turns.firstElementChild === first; wait += 1) await frame();
    jump = Math.max(jump, Math.abs(first.getBoundingClientRect().top - before));
    most = Math.max(most, turns.childElementCount);
  }
  const shown = numbers();
  return {page, jump, most, first: shown[0], ordered: shown.every((number, i) => number === shown[0] + i)};
}
"""


async def history_with(turns: int) -> HistoryInMemory:
    """Return a history with a conversation `long` whose messages are numbered from 0."""
    history = HistoryInMemory()
    for number in range(turns):
        turn = Turn(TurnId(str(uuid4())), UserId(USER), ConversationId("long"), NOW, str(number))
        await history.begin(TurnBegin(turn, timedelta(hours=1)))
        await history.finish(TurnEnd(turn.completed(REPLY * (1 + number % 3), "stop"), False))
    return history


async def history_with_conversations(count: int) -> HistoryInMemory:
    """Return a history whose conversations are numbered from 0, the oldest one."""
    history = HistoryInMemory()
    for number in range(count):
        at = NOW + timedelta(seconds=number)
        turn = Turn(TurnId(str(uuid4())), UserId(USER), ConversationId(f"c{number}"), at, f"Conversation {number}")
        await history.begin(TurnBegin(turn, timedelta(hours=1)))
        await history.finish(TurnEnd(turn.completed(REPLY, "stop"), False))
    return history


async def ask(service: Service, conversation: str, message: str) -> None:
    body = {"user_id": USER, "conversation_id": conversation, "message": message}
    await service.client.post("/api/chat/simple", json=body)


async def last_number(page: Page) -> int:
    return int(await page.evaluate("document.querySelector('.turn:last-child .message').lastChild.textContent"))


async def test_a_conversation_of_5000_turns_is_read_back_without_a_jump(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(), "store": await history_with(5000)}) as service:
        chat = await ChatPage.open(browser, service.url, conversation="long")
        assert await last_number(chat.page) == 4999
        read = await chat.page.evaluate(JUMPS, 30)
        await chat.page.get_by_role("button", name="Newest").click()
        newest = await last_number(chat.page)
        await chat.ask("5000")
        after = await last_number(chat.page)

    assert (read["first"], read["ordered"]) == (4950 - 30 * 50, True)
    assert read["jump"] <= 1  # CSS pixels
    assert read["most"] <= MAX_IN_DOCUMENT
    assert (newest, after) == (4999, 5000)


async def test_a_conversation_can_be_read_to_its_beginning_and_back(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(), "store": await history_with(600)}) as service:
        chat = await ChatPage.open(browser, service.url, conversation="long")
        read = await chat.page.evaluate(JUMPS, 20)
        at_the_top = await last_number(chat.page)
        scroll = "document.querySelector('.turn:last-child').scrollIntoView()"
        for _ in range(8):
            await chat.page.evaluate(scroll)
            await chat.page.wait_for_timeout(60)  # milliseconds

        at_the_end = await last_number(chat.page)
        shown = await chat.turns.count()
        again = await chat.page.evaluate(JUMPS, 20)

    assert (read["first"], read["ordered"]) == (0, True)
    assert read["jump"] <= 1  # CSS pixels
    assert at_the_top < at_the_end == 599
    assert shown <= MAX_IN_DOCUMENT
    assert (again["first"], again["ordered"]) == (0, True)


async def test_a_reader_stays_in_place_when_another_tab_adds_a_turn(browser: Browser) -> None:
    top = """(turn => [turn.querySelector('.message').lastChild.textContent, turn.getBoundingClientRect().top])(
               [...document.querySelectorAll('.turn')].find(turn => turn.getBoundingClientRect().top > 50))"""
    async with running_service({"llm": ScriptedLLM(), "store": await history_with(450)}) as service:
        chat = await ChatPage.open(browser, service.url, conversation="long")
        await chat.page.evaluate(JUMPS, 20)
        await chat.page.evaluate("document.querySelectorAll('.turn')[200].scrollIntoView()")
        other = await ChatPage.open(chat.page.context, service.url, conversation="long")
        before = await chat.page.evaluate(top)
        await other.ask("450")
        await expect(chat.conversations.first).to_have_attribute("aria-current", "page")
        await chat.page.wait_for_timeout(500)  # milliseconds: time to go elsewhere
        after = await chat.page.evaluate(top)
        await chat.page.get_by_role("button", name="Newest").click()
        newest = await last_number(chat.page)

    assert before == after
    assert newest == 450


MERGED = """
async () => {
  const {TurnList} = await import(new URL('page/js/turn-list.js', location.href.split(/[?#]/)[0]));
  const [scroller, container, older, newer] = Array.from({length: 4}, () => document.createElement('div'));
  document.body.append(scroller, container, older, newer);
  const list = new TurnList({scroller, container, older, newer, onRetry() {}, onOlderNeeded() {}});
  const turn = (id, status) => ({id, user_message: id, assistant_response: '', status, reason: null});
  list.replace([turn('first', 'completed')]);
  list.append(turn('refused', 'in_progress')).refuse('turn_in_progress', '');
  const stored = [turn('second', 'completed'), turn('third', 'completed')];
  for (const one of stored) list.append(one);
  list.merge(stored);
  const merged = [...container.querySelectorAll('.message')].map(message => message.lastChild.textContent);
  list.remove('refused');
  return [merged, list.hasStored, list.has('refused')];
}
"""


async def test_a_refused_message_before_the_newest_turns_is_shown_once(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        merged, has_stored, has_refused = await chat.page.evaluate(MERGED)

    assert ["first", "second", "third", "refused"] == merged
    assert (True, False) == (has_stored, has_refused)


async def test_what_loads_late_does_not_show_in_the_conversation_that_was_opened_meanwhile(browser: Browser) -> None:
    late, held = anyio.Event(), []

    async def hold(route: Route) -> None:
        held.append(route.request.url)
        await late.wait()
        await route.continue_()

    async with running_service({"llm": ScriptedLLM(), "store": await history_with(150)}) as service:
        await ask(service, "short", "Short")
        chat = await ChatPage.open(browser, service.url, conversation="long")
        await chat.page.route("**/history/*?*cursor=*", hold)
        await chat.page.evaluate("document.getElementById('scroller').scrollTop = 0")
        await expect(chat.page.locator("#older")).to_be_visible()
        await chat.page.route("**/history/*?conversation_id=long&limit=50", hold)
        await chat.conversations.filter(has_text="Short").click()
        await expect(chat.turns).to_have_count(1)
        await chat.page.go_back()
        await chat.page.go_forward()
        await expect(chat.turns).to_have_count(1)
        late.set()
        await chat.page.wait_for_timeout(300)  # milliseconds: time to show what it should not

        assert len(held) == 2
        assert await chat.texts() == [("Short", "Hello, world!")]


async def test_conversations_are_listed_with_their_titles_and_opened_by_their_links(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await ask(service, "one", "First conversation")
        await ask(service, "two", "Second conversation " + "x" * 100)
        chat = await ChatPage.open(browser, service.url)
        titles = await chat.conversations.all_inner_texts()
        await chat.conversations.filter(has_text="First").click()
        await expect(chat.answers).to_have_text("Hello, world!")
        await expect(chat.page.get_by_role("heading", level=1)).to_have_text("First conversation")
        await expect(chat.conversations.filter(has_text="First")).to_have_attribute("aria-current", "page")
        await chat.conversations.filter(has_text="Second").click()
        await expect(chat.page.locator(".message")).to_contain_text("Second")
        await chat.page.go_back()
        await expect(chat.page.locator(".message")).to_contain_text("First")

    assert titles == ["Second conversation " + "x" * 60, "First conversation"]


async def test_a_new_conversation_is_listed_and_can_be_renamed_and_deleted(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("My question")
        await expect(chat.conversations).to_have_text(["My question"])
        await chat.page.get_by_role("button", name="Rename this conversation").click()
        await chat.page.get_by_role("textbox", name="Rename this conversation").fill("A better title")
        await chat.page.keyboard.press("Enter")
        await expect(chat.conversations).to_have_text(["A better title"])
        await expect(chat.page).to_have_title("A better title · Smart Chatbot")

        await chat.page.get_by_role("button", name="New conversation").click()
        await chat.ask("Another one")
        await expect(chat.conversations).to_have_text(["Another one", "A better title"])
        await chat.conversations.last.hover()
        await chat.page.get_by_role("button", name="Delete “A better title”").click()
        await chat.page.keyboard.press("Escape")
        await expect(chat.page.get_by_role("dialog")).to_be_hidden()
        await expect(chat.conversations).to_have_count(2)
        await chat.page.get_by_role("button", name="Delete “A better title”").click()
        await chat.page.get_by_role("button", name="Delete", exact=True).click()
        await expect(chat.conversations).to_have_text(["Another one"])

        assert (await service.client.get(f"/api/chat/conversations/{USER}")).json()["count"] == 1
        assert await chat.texts() == [("Another one", "Hello, world!")]


async def test_what_is_not_or_no_longer_a_conversation_is_a_new_one(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, conversation="never-begun")
        await expect(chat.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
        await expect(chat.page.get_by_role("heading", level=1)).to_have_text("New conversation")
        await expect(chat.page.get_by_role("button", name="Delete this conversation")).to_be_hidden()
        await chat.page.goto(f"{service.url}/?user={USER}#not%20an%20id")
        await chat.until_ready()
        await expect(chat.notice).to_be_hidden()

        await chat.ask("Hi")
        deleted = chat.page.url
        await chat.page.get_by_role("button", name="Delete this conversation").click()
        await chat.page.get_by_role("button", name="Delete", exact=True).click()
        await expect(chat.turns).to_have_count(0)
        await chat.page.go_back()
        await expect(chat.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()

        assert chat.page.url != deleted


async def test_each_browser_has_a_user_of_its_own_that_stays(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, user="")
        user = await chat.page.locator("#user").inner_text()
        await chat.reload()
        kept = await chat.page.locator("#user").inner_text()
        other = await ChatPage.open(browser, service.url, user="")

        assert user == kept
        assert user != await other.page.locator("#user").inner_text()


async def test_a_conversation_that_cannot_be_loaded_is_loaded_when_it_is_tried_again(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await ask(service, "one", "First conversation")
        chat = await ChatPage.open(browser, service.url)
        await chat.page.context.set_offline(True)
        await chat.conversations.first.click()
        await expect(chat.notice).to_contain_text("You are offline")
        await chat.page.context.set_offline(False)
        await chat.notice.get_by_role("button", name="Try again").click()
        await expect(chat.answers).to_have_text("Hello, world!")
        await expect(chat.notice).to_be_hidden()


async def test_the_list_stays_as_long_and_in_place_whatever_happens_elsewhere(browser: Browser) -> None:
    top = "document.querySelector('[href=\"#c240\"]').getBoundingClientRect().top"
    scrolled = "document.querySelector('[href=\"#c250\"]').scrollIntoView()"
    async with running_service({"llm": ScriptedLLM(), "store": await history_with_conversations(460)}) as service:
        chat = await ChatPage.open(browser, service.url)
        for listed in range(100, 451, 50):
            await chat.page.get_by_role("button", name="Show more").click()
            await expect(chat.conversations).to_have_count(listed)
        await chat.page.evaluate(scrolled)
        before = await chat.page.evaluate(top)
        await chat.page.evaluate("document.querySelector('#conversations li').dataset.isOld = true")
        await chat.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await expect(chat.page.locator("[data-is-old]")).to_have_count(0)
        again = (await chat.conversations.count(), await chat.page.evaluate(top))
        other = await ChatPage.open(chat.page.context, service.url)
        await other.ask("Elsewhere")
        await expect(chat.conversations.first).to_have_text("Elsewhere")
        after = (await chat.conversations.count(), await chat.page.evaluate(top))

    assert again == (450, before)
    assert after == (450, pytest.approx(before, abs=1))  # CSS pixels


async def test_more_conversations_can_be_shown_while_the_list_is_loaded(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(), "store": await history_with_conversations(60)}) as service:
        chat = await ChatPage.open(browser, service.url)
        more = chat.page.get_by_role("button", name="Show more")
        await more.focus()
        await chat.page.evaluate("""() => {
            document.activeElement.click();
            document.dispatchEvent(new Event('visibilitychange'));
        }""")
        await expect(chat.conversations).to_have_count(60)
        await expect(more).to_be_hidden()


async def test_the_focus_goes_to_the_first_new_conversation_when_all_are_listed(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(), "store": await history_with_conversations(60)}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="Show more").press("Enter")

        await expect(chat.conversations.nth(50)).to_be_focused()


async def test_a_list_that_cannot_be_loaded_says_what_to_do(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await ask(service, "one", "First conversation")
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.route("**/chat/conversations/*", lambda route: route.abort())
        await chat.page.goto(f"{service.url}/?user={USER}#one")
        await chat.until_ready()
        problem = chat.page.get_by_role("alert").filter(has_text="Try again")
        await expect(problem).to_contain_text("The service cannot be reached. Check that it is running")
        await expect(chat.answers).to_have_text("Hello, world!")
        await chat.page.route(
            "**/chat/conversations/*", lambda route: route.fulfill(status=503, json={"code": "history_unavailable"})
        )
        await problem.get_by_role("button", name="Try again").press("Enter")
        await expect(problem).to_contain_text("The service cannot reach its database. Try again in a moment.")
        await expect(problem.get_by_role("button", name="Try again")).to_be_focused()
        await chat.page.unroute("**/chat/conversations/*")
        await problem.get_by_role("button", name="Try again").press("Enter")

        await expect(chat.conversations).to_have_text(["First conversation"])
        await expect(problem).to_be_hidden()
        await expect(chat.page.get_by_role("button", name="New conversation")).to_be_focused()


async def test_a_list_that_cannot_be_loaded_again_stays(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(), "store": await history_with_conversations(60)}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.context.set_offline(True)
        await chat.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await chat.page.get_by_role("button", name="Show more").click()
        await expect(chat.notice).to_contain_text("You are offline")
        await expect(chat.page.locator("#conversations-problem")).to_be_hidden()
        await expect(chat.conversations).to_have_count(50)
        await chat.page.context.set_offline(False)
        await chat.notice.get_by_role("button", name="Try again").click()

        await expect(chat.conversations).to_have_count(60)


async def test_a_message_to_a_conversation_that_could_not_be_loaded_shows_it_all(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await ask(service, "one", "First message")
        context = await browser.new_context()
        await context.route("**/api/chat/history/**", lambda route: route.abort())
        chat = await ChatPage.open(context, service.url, conversation="one")
        await expect(chat.notice).to_contain_text("The service cannot be reached.")
        await context.unroute("**/api/chat/history/**")
        await chat.send("Second message")

        await expect(chat.page.locator(".message")).to_have_text(["You: First message", "You: Second message"])
        await expect(chat.notice).to_be_hidden()


async def test_a_conversation_that_is_too_old_to_be_listed_has_its_title(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(), "store": await history_with_conversations(460)}) as service:
        chat = await ChatPage.open(browser, service.url, conversation="c0")
        title = chat.page.get_by_role("heading", level=1)
        await expect(title).to_have_text("Conversation 0")
        await chat.page.get_by_role("button", name="Rename this conversation").click()
        await chat.page.get_by_role("textbox", name="Rename this conversation").fill("A better title")
        await chat.page.keyboard.press("Enter")
        await expect(title).to_have_text("A better title")
        await chat.conversations.first.click()
        await expect(title).to_have_text("Conversation 459")
        await chat.page.go_back()
        await expect(title).to_have_text("A better title")


async def test_a_title_that_could_not_be_set_is_set_when_it_is_tried_again(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await ask(service, "one", "First conversation")
        chat = await ChatPage.open(browser, service.url, conversation="one")
        await chat.page.get_by_role("button", name="Rename this conversation").click()
        await chat.page.get_by_role("textbox", name="Rename this conversation").fill("A better title")
        await chat.page.context.set_offline(True)
        await chat.page.keyboard.press("Enter")
        await expect(chat.notice).to_contain_text("You are offline")
        await chat.page.context.set_offline(False)
        await chat.notice.get_by_role("button", name="Try again").click()

        await expect(chat.conversations).to_have_text(["A better title"])


async def test_a_title_is_not_cut_within_an_emoji(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.route("**/api/chat/conversations/**", lambda route: route.abort())
        await chat.ask("x" * 79 + "\U0001f600" * 2)

        await expect(chat.page.get_by_role("heading", level=1)).to_have_text("x" * 79 + "\U0001f600")


async def test_back_leads_to_the_last_conversation_however_often_a_new_one_is_asked_for(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        for _ in range(3):
            await chat.page.get_by_role("button", name="New conversation").click()
        await expect(chat.turns).to_have_count(0)
        await chat.page.go_back()

        await expect(chat.answers).to_have_text("Hello, world!")
