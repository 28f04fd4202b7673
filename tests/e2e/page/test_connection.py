"""The chat page while its connection breaks, and with several tabs: nothing is lost, and nothing is asked twice."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from playwright.async_api import Browser, Route, expect

from tests.harness.chat_page import USER, ChatPage
from tests.harness.completions import complete, messages
from tests.harness.cutting_proxy import CuttingProxy
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.gated_llm import GatedLLM
from tests.harness.servers import Service, running_service

WORDS = tuple(f"word{number} " for number in range(200))
TEXT = "".join(WORDS)
HALVES = ScriptedReply(("first half, ", "second half"))


def gate_at(step: str) -> tuple[Callable[[str], Awaitable[None]], anyio.Event]:
    """Return a gate that is closed at a step until the event is set."""
    opened = anyio.Event()

    async def gate(reached: str) -> None:
        if reached == step:
            await opened.wait()

    return gate, opened


async def show_again(chat: ChatPage) -> None:
    """Behave as if the tab had been hidden, and wait until the page has looked for news."""
    async with chat.page.expect_response("**/api/chat/history/**"):
        await chat.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


async def stored(service: Service) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = (await service.client.get(f"/api/chat/history/{USER}")).json()["history"]
    return history


async def test_a_refresh_in_mid_answer_shows_the_rest(browser: Browser) -> None:
    gate, opened = gate_at("texts")
    llm = ScriptedLLM(HALVES)
    async with running_service({"llm": GatedLLM(llm, gate)}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await chat.page.wait_for_url("**/*#*")
        await expect(chat.turns).to_have_count(1)
        await chat.reload()
        opened.set()
        await expect(chat.answers).to_have_text("first half, second half")
        await chat.until_idle()

        assert len(llm.asked) == 1
        assert await chat.texts() == [("Hi", "first half, second half")]


async def test_a_refresh_before_the_response_has_begun_loses_nothing(browser: Browser) -> None:
    gate, opened = gate_at("reply")
    llm = ScriptedLLM()
    async with running_service({"llm": GatedLLM(llm, gate)}, header_hold=60) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await expect(chat.turns).to_have_count(1)
        await chat.reload()
        await expect(chat.turns).to_have_count(1)
        opened.set()
        await expect(chat.answers).to_have_text("Hello, world!")

        assert len(llm.asked) == 1
        assert [turn["status"] for turn in await stored(service)] == ["completed"]


async def test_a_message_that_never_arrived_is_sent_again_after_a_reload(browser: Browser) -> None:
    llm = ScriptedLLM()
    async with running_service({"llm": llm}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.context.route("**/api/chat", lambda route: route.abort())
        await chat.send("Hi")
        await expect(chat.notice).to_contain_text("The service does not respond.")
        await chat.reload()
        await chat.page.context.unroute("**/api/chat")
        await expect(chat.answers).to_have_text("Hello, world!")
        await chat.until_idle()
        await chat.reload()

        assert await chat.texts() == [("Hi", "Hello, world!")]
        assert len(llm.asked) == 1


async def test_a_message_that_is_refused_after_its_conversation_was_left_is_not_lost(browser: Browser) -> None:
    refused = anyio.Event()

    async def refuse(route: Route) -> None:
        await refused.wait()
        problem = '{"code": "too_many_requests", "detail": "Too many requests."}'
        await route.fulfill(status=429, content_type="application/problem+json", body=problem)

    async with running_service({"llm": ScriptedLLM()}) as service:
        body = {"user_id": USER, "conversation_id": "other", "message": "Before"}
        await service.client.post("/api/chat/simple", json=body)
        chat = await ChatPage.open(browser, service.url)
        await chat.page.route("**/api/chat", refuse)
        await chat.send("Precious")
        await chat.conversations.first.click()
        await expect(chat.answers).to_have_text("Hello, world!")
        refused.set()
        await expect(chat.notice).to_contain_text("not sent. Too many requests.")
        await chat.page.unroute("**/api/chat")
        await chat.notice.get_by_role("button", name="Open it").click()
        await expect(chat.page.locator(".message")).to_contain_text("Precious")
        await chat.until_idle()

        assert await chat.texts() == [("Precious", "Hello, world!")]


async def test_a_message_whose_response_was_lost_is_not_asked_twice(browser: Browser) -> None:
    llm = ScriptedLLM()
    async with running_service({"llm": llm}) as service, CuttingProxy(service.url) as proxy:
        chat = await ChatPage.open(browser, proxy.url)
        proxy.holds_responses = True
        await chat.send("Hi")
        with anyio.fail_after(10):
            while not [turn for turn in await stored(service) if turn["status"] == "completed"]:
                await anyio.sleep(0.01)
        proxy.holds_responses = False
        proxy.cut()
        await expect(chat.answers).to_have_text("Hello, world!")
        await chat.until_idle()

        assert len(llm.asked) == 1
        assert [turn["user_message"] for turn in await stored(service)] == ["Hi"]


async def test_a_silent_connection_is_replaced_before_and_after_the_response_has_begun(browser: Browser) -> None:
    gate, opened = gate_at("texts done")
    llm = ScriptedLLM(HALVES)
    async with running_service({"llm": GatedLLM(llm, gate)}) as service, CuttingProxy(service.url) as proxy:
        chat = await ChatPage.open(browser, proxy.url)
        await chat.page.clock.install()
        proxy.holds_responses = True
        await chat.send("Hi")
        with anyio.fail_after(10):
            while b"second half" not in proxy.held:
                await anyio.sleep(0.01)
        await lose_patience(chat, proxy, "The service does not respond.")
        await expect(chat.answers).to_have_text("first half, second half")
        proxy.holds_responses = True
        opened.set()
        with anyio.fail_after(10):
            while b"[DONE]" not in proxy.held:
                await anyio.sleep(0.01)
        await lose_patience(chat, proxy, "The connection was lost.")
        await chat.until_idle()

        assert await chat.texts() == [("Hi", "first half, second half")]
        assert len(llm.asked) == 1


async def lose_patience(chat: ChatPage, proxy: CuttingProxy, notice: str) -> None:
    """Let so much time pass that the page gives a silent connection up, and let the next one work."""
    proxy.holds_responses = False
    await chat.page.clock.fast_forward(44_000)  # milliseconds
    await expect(chat.notice).to_be_hidden()
    await chat.page.clock.fast_forward(2_000)
    await expect(chat.notice).to_contain_text(notice)


async def test_an_answer_survives_a_proxy_that_cuts_every_connection(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(WORDS, pause=0.01))
    async with running_service({"llm": llm}) as service, CuttingProxy(service.url) as proxy:
        chat = await ChatPage.open(browser, proxy.url)
        proxy.lifetime = 0.3
        proxy.cut()
        await chat.send("Hi")
        await expect(chat.answers).to_contain_text(WORDS[-1].strip())
        await chat.until_idle()
        proxy.lifetime = None
        before = await chat.texts()
        await chat.reload()

        assert proxy.cuts > 3
        assert len(llm.asked) == 1
        assert before == await chat.texts() == [("Hi", TEXT)]


async def test_an_answer_with_too_many_events_is_shown_as_it_is_stored(browser: Browser) -> None:
    gate, opened = gate_at("texts done")
    limits = {"live_turns": {"max_events": 3}}
    async with running_service({"llm": GatedLLM(ScriptedLLM(), gate)}, limits) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await expect(chat.answers).to_have_text("Hello, world!")
        await chat.reload()
        await expect(chat.answers).to_have_text("Hello, world!")
        await expect(chat.page.get_by_role("button", name="Stop the answer")).to_be_visible()
        opened.set()
        await chat.until_idle()

        assert await chat.texts() == [("Hi", "Hello, world!")]


async def test_the_page_says_that_the_connection_is_lost_and_goes_on_when_it_is_back(browser: Browser) -> None:
    gate, opened = gate_at("texts done")
    async with (
        running_service({"llm": GatedLLM(ScriptedLLM(HALVES), gate)}) as service,
        CuttingProxy(service.url) as proxy,
    ):
        chat = await ChatPage.open(browser, proxy.url)
        await chat.send("Hi")
        await expect(chat.answers).to_contain_text("second half")
        proxy.is_down = True
        proxy.cut()
        await expect(chat.notice).to_contain_text("The connection was lost")
        opened.set()
        proxy.is_down = False
        await chat.until_idle()

        await expect(chat.notice).to_be_hidden()
        assert await chat.texts() == [("Hi", "first half, second half")]


async def test_a_lost_connection_is_no_longer_shown_when_only_the_stored_answer_is_left(browser: Browser) -> None:
    gate, opened = gate_at("texts done")
    limits = {"live_turns": {"max_events": 3}}
    async with (
        running_service({"llm": GatedLLM(ScriptedLLM(), gate)}, limits) as service,
        CuttingProxy(service.url) as proxy,
    ):
        chat = await ChatPage.open(browser, proxy.url)
        await chat.send("Hi")
        await expect(chat.answers).to_have_text("Hello, world!")
        proxy.is_down = True
        proxy.cut()
        await expect(chat.notice).to_contain_text("The connection was lost")
        proxy.is_down = False
        await expect(chat.notice).to_be_hidden()
        opened.set()
        await chat.until_idle()

        assert await chat.texts() == [("Hi", "Hello, world!")]


async def test_a_message_that_was_sent_offline_is_sent_once_when_the_connection_is_back(browser: Browser) -> None:
    llm = ScriptedLLM()
    async with running_service({"llm": llm}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.context.set_offline(True)
        await chat.send("Hi")
        await expect(chat.notice).to_have_text("You are offline. Your message will be sent when you are back.")
        await chat.page.context.set_offline(False)
        await expect(chat.answers).to_have_text("Hello, world!")

        await expect(chat.notice).to_be_hidden()
        assert len(llm.asked) == 1


async def test_a_second_tab_follows_and_stops_the_answer(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply(("begun",), hangs=True))}) as service:
        first = await ChatPage.open(browser, service.url)
        await first.send("Hi")
        await expect(first.answers).to_have_text("begun")
        conversation = first.page.url.rpartition("#")[2]
        second = await ChatPage.open(first.page.context, service.url, conversation=conversation)
        await expect(second.answers).to_have_text("begun")
        await second.stop()

        for chat in (first, second):
            await chat.until_idle()
            await expect(chat.page.locator("#turns").get_by_text("Stopped.", exact=True)).to_be_visible()


async def test_a_message_and_a_deletion_show_in_another_tab(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        first = await ChatPage.open(browser, service.url)
        await first.ask("One")
        conversation = first.page.url.rpartition("#")[2]
        second = await ChatPage.open(first.page.context, service.url, conversation=conversation)
        await second.ask("Two")
        await expect(first.answers).to_have_count(2)
        await expect(first.answers.last).to_have_text("Hello, world!")
        await first.page.get_by_role("button", name="Delete this conversation").click()
        await first.page.get_by_role("button", name="Delete", exact=True).click()

        for chat in (first, second):
            await expect(chat.turns).to_have_count(0)
            await expect(chat.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
            await expect(chat.conversations).to_have_count(0)
        await expect(second.notice).to_have_text("This conversation was deleted.")
        await expect(first.notice).to_be_hidden()


async def test_a_notice_about_something_else_stays_when_an_answer_begins(browser: Browser) -> None:
    gate, opened = gate_at("reply")
    async with running_service({"llm": GatedLLM(ScriptedLLM(), gate)}, header_hold=60) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.send("Hi")
        await expect(chat.turns).to_have_count(1)
        await chat.page.route("**/api/chat/conversations/**", lambda route: route.abort())
        await chat.page.get_by_role("button", name="Rename this conversation").click()
        await chat.page.keyboard.press("Enter")
        await expect(chat.notice).to_contain_text("The service cannot be reached.")
        opened.set()
        await expect(chat.answers).to_have_text("Hello, world!")
        await chat.until_idle()

        await expect(chat.notice).to_contain_text("The service cannot be reached.")


async def test_turns_of_another_tab_during_an_answer_show_after_it_in_the_stored_order(browser: Browser) -> None:
    arriving = anyio.Event()

    async def hold(route: Route) -> None:
        await arriving.wait()
        await route.continue_()

    async with running_service({"llm": ScriptedLLM()}) as service:
        first = await ChatPage.open(browser, service.url, conversation="shared")
        second = await ChatPage.open(first.page.context, service.url, conversation="shared")
        await first.page.route("**/api/chat", hold)
        await first.send("Two")
        await second.ask("One")
        arriving.set()

        for chat in (first, second):
            await expect(chat.page.locator(".message")).to_have_text(["You: One", "You: Two"])
            await expect(chat.answers).to_have_text(["Hello, world!"] * 2)


async def test_a_turn_that_was_replaced_elsewhere_disappears_when_the_tab_is_shown_again(browser: Browser) -> None:
    llm = ScriptedLLM(*(ScriptedReply((text,)) for text in ("A1", "A2", "A3")))
    async with running_service({"llm": llm}) as service:
        await complete(service, messages("Q1"), "trees", user=USER)
        await complete(service, messages("Q1", "A1", "Q2"), "trees", user=USER)
        chat = await ChatPage.open(browser, service.url, conversation="trees")
        await expect(chat.answers).to_have_text(["A1", "A2"])
        await complete(service, messages("Q1", "A1", "Q2"), "trees", user=USER)
        await show_again(chat)

        await expect(chat.answers).to_have_text(["A1", "A3"])


async def test_a_refused_message_stays_when_the_tab_is_shown_again(browser: Browser) -> None:
    refused = anyio.Event()

    async def refuse(route: Route) -> None:
        await refused.wait()
        await route.fulfill(status=429, json={"code": "too_many_requests", "detail": "Too many requests."})

    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.route("**/api/chat", refuse)
        await chat.send("Hi")
        await chat.field.fill("the next message")
        refused.set()
        await expect(chat.turns.locator(".failure")).to_have_text("Too many requests.")
        await show_again(chat)

        assert await chat.texts() == [("Hi", "")]


async def test_two_tabs_that_ask_at_once_get_their_own_answers(browser: Browser) -> None:
    llm = ScriptedLLM(ScriptedReply(("to the one",), pause=0.1), ScriptedReply(("to the other",)))
    async with running_service({"llm": llm}) as service:
        first = await ChatPage.open(browser, service.url, conversation="shared")
        second = await ChatPage.open(first.page.context, service.url, conversation="shared")
        await first.send("One")
        await second.send("Two")
        for chat in (first, second):
            await chat.until_idle()
            await expect(chat.turns).to_have_count(2)
        turns = await stored(service)

        assert [turn["user_message"] for turn in turns] in (["One", "Two"], ["Two", "One"])
        assert sorted(turn["assistant_response"] for turn in turns) == ["to the one", "to the other"]
