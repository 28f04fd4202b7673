"""The chat page on paper, on screens with cut-outs, on very low screens, and where its scripts do not start."""

from typing import Any

from playwright.async_api import Browser, expect

from tests.harness.browser import new_tab
from tests.harness.chat_page import ChatPage
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import running_service

OUTSIDE = """
([left, right]) => [...document.querySelectorAll('button, textarea, h1, .message, .answer, label, #user')]
  .filter(element => element.checkVisibility({visibilityProperty: true}))
  .map(element => ({name: element.id || element.className, box: element.getBoundingClientRect()}))
  .filter(({box}) => box.width > 1 && (box.left < left || box.right > innerWidth - right))
  .map(({name}) => name)
"""


async def test_the_whole_conversation_is_printed_and_nothing_else(browser: Browser) -> None:
    long = "\n\n".join(f"Paragraph {number}" for number in range(100))
    async with running_service({"llm": ScriptedLLM(ScriptedReply((long,)))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.get_by_role("radio", name="Dark").check(force=True)
        await chat.ask("Hi")
        await chat.page.emulate_media(media="print")

        for part in ("#sidebar", "#composer", "#delete", ".tools"):
            await expect(chat.page.locator(part)).to_be_hidden()
        heights: Any = await chat.page.evaluate("""() => [
          document.documentElement.scrollHeight, document.getElementById('turns').getBoundingClientRect().height]""")
        assert heights[0] >= heights[1] > 3000  # CSS pixels: nothing scrolls on paper
        assert await chat.page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 35, 33)"


async def test_nothing_is_behind_the_cut_outs_of_a_phone_on_its_side(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        for width in (844, 740):
            chat = await ChatPage.open(
                browser, service.url, viewport={"width": width, "height": 390}, is_mobile=True, has_touch=True
            )
            session = await chat.page.context.new_cdp_session(chat.page)
            insets = {"left": 47, "right": 47, "bottom": 21}
            await session.send("Emulation.setSafeAreaInsetsOverride", {"insets": insets})
            await chat.ask("A message that is long enough for more than one line of a phone that lies on its side.")

            assert await chat.page.evaluate(OUTSIDE, [47, 47]) == []


async def test_the_message_field_stays_in_view_below_a_notice_on_a_very_low_screen(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, viewport={"width": 320, "height": 256})
        await chat.page.route("**/api/chat", lambda route: route.fulfill(status=500, body="A proxy is in trouble."))
        await chat.send("Hi")
        await expect(chat.notice).to_contain_text("look at its log")

        await expect(chat.field).to_be_in_viewport(ratio=1)
        await expect(chat.page.get_by_role("button", name="Send", exact=True)).to_be_in_viewport(ratio=1)


async def test_code_in_a_table_is_not_broken_between_letters_on_a_phone(browser: Browser) -> None:
    cells = ["Sprachfamilie", "`code`", "Mehrsprachigkeit", "![chart](https://example.org/a.png)", "1,234.50"]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (cells, ["---"] * 5, cells))
    async with running_service({"llm": ScriptedLLM(ScriptedReply((table,)))}) as service:
        chat = await ChatPage.open(browser, service.url, viewport={"width": 390, "height": 844})
        await chat.ask("Hi")
        lines: Any = await chat.page.evaluate("""() => [...document.querySelectorAll('.table :is(code, .remote-image)')]
          .map(cell => { const range = document.createRange(); range.selectNodeContents(cell); return range; })
          .map(range => range.getClientRects().length)""")

        assert len(lines) == 4
        assert max(lines) <= 2  # one for each word
        assert await chat.page.evaluate("document.documentElement.scrollWidth") == 390  # only the table scrolls


async def test_a_column_in_chinese_is_as_wide_as_its_head_on_a_phone(browser: Browser) -> None:
    rows = [
        ["Sprachfamilie", "首都城市", "Mehrsprachigkeit", "价格"],
        ["---"] * 4,
        ["a", "人人生而自由" * 9, "b " * 40, "1"],
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    async with running_service({"llm": ScriptedLLM(ScriptedReply((table,)))}) as service:
        chat = await ChatPage.open(browser, service.url, viewport={"width": 390, "height": 844})
        await chat.ask("Hi")
        lines: Any = await chat.page.evaluate("""() => [...document.querySelectorAll('th')]
          .map(cell => { const range = document.createRange(); range.selectNodeContents(cell); return range; })
          .map(range => range.getClientRects().length)""")

        assert lines == [1, 1, 1, 1]


async def test_a_page_whose_scripts_do_not_start_says_so(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        tab = await new_tab(browser)
        await tab.page.route("**/js/clipboard.js", lambda route: route.fulfill(status=503))
        await tab.page.goto(service.url)
        problem = tab.page.get_by_text("This page has not loaded completely.")
        await expect(problem).to_be_hidden()
        await problem.evaluate("problem => problem.getAnimations().forEach(animation => animation.finish())")  # 10 s

        await expect(problem).to_be_visible()


async def test_the_bars_of_the_browser_have_the_colour_of_the_chosen_theme(browser: Browser) -> None:
    colours = """[...document.querySelectorAll('meta[name=theme-color]')]
      .filter(meta => matchMedia(meta.media).matches).map(meta => meta.content)"""
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, color_scheme="light")
        light = await chat.page.evaluate(colours)
        await chat.page.get_by_role("radio", name="Dark").check(force=True)
        dark = await chat.page.evaluate(colours)
        await chat.reload()

        assert (light, dark) == (["#f4f3ef"], ["#101413"])
        assert await chat.page.evaluate(colours) == dark
