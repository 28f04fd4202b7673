"""The dialog with memories on the chat page."""

from typing import Any

import anyio
import pytest
from playwright.async_api import Browser, Route, expect

from tests.harness.chat_page import USER, ChatPage
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, running_service


async def facts(service: Service) -> list[str]:
    memories = (await service.client.get(f"/api/memories/{USER}")).json()["memories"]
    return [memory["fact"] for memory in memories]


async def test_memories_are_added_corrected_and_deleted(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="What I remember").click()
        dialog = chat.page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Nothing yet.")

        await dialog.get_by_label("New fact").fill("I have a dog.")
        await chat.page.keyboard.press("Enter")
        await expect(dialog.locator("li")).to_have_text(["I have a dog."])
        await expect(dialog.get_by_role("status")).to_have_text("Remembered.")
        await dialog.get_by_label("New fact").fill("I live in Lisbon.")
        await dialog.get_by_role("button", name="Add").click()
        await expect(dialog.locator("li")).to_have_text(["I live in Lisbon.", "I have a dog."])

        await dialog.get_by_role("button", name="Edit: I have a dog.").click()
        await dialog.get_by_label("Fact", exact=True).fill("I have two dogs.")
        await dialog.get_by_role("button", name="Save").click()
        await expect(dialog.get_by_role("button", name="Edit: I have two dogs.")).to_be_focused()
        corrected = await facts(service)

        await dialog.get_by_role("button", name="Delete: I live in Lisbon.").click()
        await chat.page.get_by_role("button", name="Delete", exact=True).click()
        await expect(dialog.locator("li")).to_have_count(1)

        assert corrected == ["I live in Lisbon.", "I have two dogs."]
        assert await facts(service) == ["I have two dogs."]


async def test_escape_ends_the_correction_first_and_then_the_dialog(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await service.client.post(f"/api/memories/{USER}", json={"fact": "I have a dog."})
        chat = await ChatPage.open(browser, service.url)
        opener = chat.page.get_by_role("button", name="What I remember")
        await opener.click()
        dialog = chat.page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Edit: I have a dog.").click()
        await dialog.get_by_label("Fact", exact=True).fill("nonsense")
        await chat.page.keyboard.press("Escape")
        await expect(dialog.locator("li")).to_have_text(["I have a dog."])
        await chat.page.keyboard.press("Escape")

        await expect(dialog).to_be_hidden()
        await expect(opener).to_be_focused()
        assert await facts(service) == ["I have a dog."]


async def test_a_deletion_is_confirmed_and_enter_does_not_do_it(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        await service.client.post(f"/api/memories/{USER}", json={"fact": "I have a dog."})
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="What I remember").click()
        await chat.page.get_by_role("button", name="Delete: I have a dog.").click()
        await expect(chat.page.get_by_role("button", name="Cancel")).to_be_focused()
        await chat.page.keyboard.press("Enter")
        await expect(chat.page.get_by_role("dialog", name="Delete this memory?")).to_be_hidden()
        await expect(chat.page.get_by_role("button", name="Delete: I have a dog.")).to_be_focused()

        assert await facts(service) == ["I have a dog."]


async def test_a_fact_is_added_once_and_stays_if_it_cannot_be(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="What I remember").click()
        field = chat.page.get_by_label("New fact")
        await field.fill("I have a dog.")
        await chat.page.evaluate("for (const _ of [1, 2]) document.getElementById('new-memory').requestSubmit()")
        await expect(chat.page.locator("#memory-list li")).to_have_count(1)
        await chat.page.context.set_offline(True)
        await field.fill("I live in Lisbon.")
        await field.press("Enter")
        await expect(chat.page.locator("#memory-problem")).to_contain_text("You are offline")

        assert await field.input_value() == "I live in Lisbon."
        assert await facts(service) == ["I have a dog."]


async def test_the_dialog_closes_by_a_click_beside_it_and_only_there(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="What I remember").click()
        dialog = chat.page.locator("#memories")
        box = await dialog.bounding_box()
        assert box is not None
        edge, middle = box["x"] + 8, box["y"] + box["height"] / 2
        await chat.page.mouse.click(edge, middle)
        await chat.page.mouse.move(edge + 100, middle)
        await chat.page.mouse.down()  # a selection that ends outside
        await chat.page.mouse.move(edge - 100, middle, steps=3)
        await chat.page.mouse.up()
        await expect(dialog).to_be_visible()
        await chat.page.mouse.click(edge - 100, middle)

        await expect(dialog).to_be_hidden()


async def test_without_long_term_memory_the_dialog_says_so(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}, memory_backend="none") as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="What I remember").click()
        dialog = chat.page.get_by_role("dialog")
        await dialog.get_by_label("New fact").fill("I have a dog.")
        await chat.page.keyboard.press("Enter")

        await expect(dialog).to_contain_text("Long-term memory is switched off")
        assert await dialog.get_by_label("New fact").input_value() == "I have a dog."


async def test_the_focus_goes_to_the_first_new_memory_when_all_are_listed(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        for number in range(52):
            await service.client.post(f"/api/memories/{USER}", json={"fact": f"Fact {number}"})
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("button", name="What I remember").click()
        await chat.page.get_by_role("dialog").get_by_role("button", name="Show more").press("Enter")

        await expect(chat.page.get_by_role("button", name="Edit: Fact 1", exact=True)).to_be_focused()


async def open_list(browser: Browser, service: Service, count: int, **options: Any) -> ChatPage:
    """Remember facts from `Fact 0` on, and open the list, which shows the newest first."""
    for number in range(count):
        await service.client.post(f"/api/memories/{USER}", json={"fact": f"Fact {number}"})
    chat = await ChatPage.open(browser, service.url, **options)
    await chat.page.get_by_role("button", name="What I remember").click()
    await expect(chat.page.locator("#memory-list li").first).to_be_visible()
    return chat


async def test_a_double_click_on_show_more_shows_each_memory_once(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await open_list(browser, service, 120)
        more = chat.page.get_by_role("dialog").get_by_role("button", name="Show more")
        await more.dblclick()
        await expect(chat.page.locator("#memory-list li")).to_have_count(100)
        await more.click()
        await expect(chat.page.locator("#memory-list li")).to_have_count(120)

        shown = await chat.page.locator("#memory-list p").all_text_contents()
        assert shown == [f"Fact {number}" for number in reversed(range(120))]


async def test_the_reader_of_a_long_list_stays_in_place_when_a_memory_is_deleted(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await open_list(browser, service, 50, viewport={"width": 1280, "height": 800})
        for doomed, neighbour in (("Fact 10", "Fact 9"), ("Fact 0", "Fact 1")):
            await chat.page.get_by_role("button", name=f"Delete: {doomed}", exact=True).click()
            await chat.page.get_by_role("button", name="Delete", exact=True).click()
            edit = chat.page.get_by_role("button", name=f"Edit: {neighbour}", exact=True)
            await expect(edit).to_be_focused()
            await expect(edit).to_be_in_viewport()


@pytest.mark.parametrize("height", [800, 256])
async def test_a_failure_far_down_the_list_is_in_view_and_the_text_stays(browser: Browser, height: int) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await open_list(browser, service, 50, viewport={"width": 800, "height": height})
        await chat.page.get_by_role("button", name="Edit: Fact 10", exact=True).click()
        await chat.page.context.set_offline(True)
        field = chat.page.get_by_label("Fact", exact=True)
        await field.fill("I have a dog.")
        await field.press("Enter")

        await expect(chat.page.locator("#memory-problem")).to_contain_text("You are offline")
        await expect(chat.page.locator("#memory-problem")).to_be_in_viewport(ratio=1)
        await expect(field).to_be_in_viewport()
        assert await field.input_value() == "I have a dog."


async def test_a_click_beside_the_dialog_does_not_lose_a_correction(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await open_list(browser, service, 1, viewport={"width": 1280, "height": 800})
        await chat.page.get_by_role("button", name="Edit: Fact 0").click()
        field = chat.page.get_by_label("Fact", exact=True)
        await field.fill("I have a dog.")
        await chat.page.mouse.click(5, 5)
        await expect(field).to_have_value("I have a dog.")
        await field.press("Enter")
        await expect(chat.page.locator("#memory-list li")).to_have_text(["I have a dog."])
        await chat.page.mouse.click(5, 5)

        await expect(chat.page.locator("#memories")).to_be_hidden()


async def test_the_list_says_that_it_is_being_loaded(browser: Browser) -> None:
    arrived = anyio.Event()

    async def hold(route: Route) -> None:
        await arrived.wait()
        await route.continue_()

    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.route("**/api/memories/**", hold)
        await chat.page.get_by_role("button", name="What I remember").click()
        await expect(chat.page.locator("#loading-memories")).to_be_visible()
        arrived.set()

        await expect(chat.page.get_by_role("dialog")).to_contain_text("Nothing yet.")
        await expect(chat.page.locator("#loading-memories")).to_be_hidden()
