"""Text that is written from right to left, on a page that is written from left to right."""

from playwright.async_api import Browser, expect

from tests.harness.chat_page import USER, ChatPage
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import running_service

REPLY = """\
1. ראשון
   - `f(x)` שני

> ציטוט

| עיר | אנשים |
|:----|------:|
| פריז | 2 |

```python
print("שלום")
```

- English
"""

DIRECTIONS = """
() => [...document.querySelectorAll('.answer :is(ol, ul, blockquote, .table, .code-block, code)')]
        .map(e => `${e.tagName} ${getComputedStyle(e).direction}`)
"""


async def test_lists_quotes_and_tables_have_the_direction_of_their_text_and_code_has_none(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM(ScriptedReply((REPLY,)))}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.ask("Hi")
        directions = await chat.page.evaluate(DIRECTIONS)
        first, second = await chat.page.evaluate(
            "[...document.querySelectorAll('.answer th')].map(cell => cell.getBoundingClientRect().left)"
        )

    assert directions == [
        *("OL rtl", "UL rtl", "CODE ltr", "BLOCKQUOTE rtl", "DIV rtl", "DIV ltr", "CODE ltr", "UL ltr"),
    ]
    assert first > second


async def test_titles_fields_and_memories_have_the_direction_of_their_text(browser: Browser) -> None:
    direction = "e => getComputedStyle(e).direction"
    async with running_service({"llm": ScriptedLLM()}) as service:
        await service.client.post(f"/api/memories/{USER}", json={"fact": "אני גר בתל אביב"})
        chat = await ChatPage.open(browser, service.url)
        empty = await chat.field.evaluate(direction)
        await chat.field.fill("שלום")
        filled = await chat.field.evaluate(direction)
        await chat.ask("שלום " * 20)
        await expect(chat.conversations).to_have_count(1)
        title = await chat.page.get_by_role("heading", level=1).evaluate(direction)
        listed = await chat.conversations.evaluate(direction)
        await chat.page.get_by_role("button", name="What I remember").click()
        fact = await chat.page.locator("#memory-list p").evaluate(direction)

    assert (empty, filled) == ("ltr", "rtl")
    assert (title, listed, fact) == ("rtl", "rtl", "rtl")
