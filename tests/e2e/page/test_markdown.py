"""The modules of the chat page that need no service: Markdown, server-sent events, links, ids."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from html.entities import html5, name2codepoint
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page

from tests.harness.chat_page import ChatPage
from tests.harness.chat_stream import ChatStream
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import running_service

DOCUMENT: Final = """\
# Paris

It has been the capital since the **late 10th century**, with *few* interruptions.\\
A [link](https://example.org/a?b=c&d "title"), `code`, ~~gone~~ &amp; &hellip; &#8364;.

1. one
2. two

   with a paragraph

3. three
   - nested
   - [x] done
   - [ ] open

| City | People |
|:-----|-------:|
| Paris | 2,102,650 |
| Lyon | 522,250 |

> quoted
> > twice

```python
def f(x: int) -> str:
    return f"{x}"
```

Setext
------

- a

- b

***

![remote](https://example.org/a.png) and ![embedded](data:image/png;base64,iVBORw0KGgo=)

    indented code

[later][ref] text<br>after

[ref]: https://example.org/ref
"""


CHECKBOX: Final = '<input type="checkbox" disabled="" checked="" aria-label="done">'


@pytest.fixture(scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """The page, with its modules as `modules`."""
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.evaluate("""async () => {
            const load = name => import(new URL(`page/js/${name}.js`, location.href.split('?')[0]));
            const names = ['blocks', 'streaming', 'code', 'entities'].map(name => `markdown/${name}`);
            names.push('event-stream', 'ids', 'turn-view');
            window.modules = Object.assign({}, ...await Promise.all(names.map(load)));
        }""")
        yield chat.page


async def render(page: Page, markdown: str) -> str:
    """Return the HTML of what is shown."""
    script = (
        "m => { const d = document.createElement('div'); d.append(...modules.renderMarkdown(m)); return d.innerHTML; }"
    )
    html: str = await page.evaluate(script, markdown)
    return html


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("**a** *b* `c` ~~d~~", '<p><strong>a</strong> <em>b</em> <code dir="ltr">c</code> <del>d</del></p>'),
        ("# a\n### b\n# c", "<h3>a</h3><h4>b</h4><h3>c</h3>"),
        ("###### a\n\n###### b", "<h3>a</h3><h4>b</h4>"),
        ("- [x] a\n- b", f'<ul dir="auto"><li class="task">{CHECKBOX} a</li><li>b</li></ul>'),
        ("3. a\n4. b", '<ol dir="auto" start="3"><li>a</li><li>b</li></ol>'),
        ("a &lt;b&gt; &amp;amp; &copy; &unknown; &#x41;", "<p>a &lt;b&gt; &amp;amp; © &amp;unknown; A</p>"),
        ("a<br>b <b>c</b>", "<p>a<br>b &lt;b&gt;c&lt;/b&gt;</p>"),
        ("<div>\nraw\n</div>", '<p class="verbatim">&lt;div&gt;\nraw\n&lt;/div&gt;</p>'),
        ("[a](/api/health)", '<p><span class="blocked-link">a</span></p>'),
        ("[a](//evil.test/x)", '<p><span class="blocked-link">a</span></p>'),
        ("[a](https://user:pw@evil.test/)", '<p><span class="blocked-link">a</span></p>'),
        ("&amp;lt; **&amp;amp;** \\&lt;", "<p>&amp;lt; <strong>&amp;amp;</strong> &amp;lt;</p>"),
        ("`&amp;lt;`", '<p><code dir="ltr">&amp;amp;lt;</code></p>'),
        ("\\*a\\*", "<p>*a*</p>"),
    ],
)
async def test_markdown_becomes_elements(page: Page, markdown: str, expected: str) -> None:
    assert await render(page, markdown) == expected


async def test_a_link_opens_elsewhere_and_tells_nothing(page: Page) -> None:
    assert await render(page, "[a](https://example.org/ 'x')") == (
        '<p><a href="https://example.org/" target="_blank" rel="noopener noreferrer nofollow" '
        'title="https://example.org/">a</a></p>'
    )


@pytest.mark.parametrize(
    ("markdown", "text", "target"),
    [
        ("[x](https://a.example/?a=1&amp;b=2)", "x", "https://a.example/?a=1&b=2"),
        ("[x](https&colon;//a.example/&#63;a=1&#x26;b=2 'a &amp; b')", "x", "https://a.example/?a=1&b=2"),
        ("[x](<https://a.example/?q=&quot;&uuml;&quot;>)", "x", "https://a.example/?q=%22%C3%BC%22"),
        ("[x](https://a.example/?a=1&amp;amp;b=2)", "x", "https://a.example/?a=1&amp;b=2"),
        ("[x](https://a.example/?a=1&b=2&copy=3)", "x", "https://a.example/?a=1&b=2&copy=3"),
        ("[x][y]\n\n[y]: https://a.example/?a=1&amp;b=2", "x", "https://a.example/?a=1&b=2"),
        ("![x &amp; *y*](https://a.example/?a=1&amp;b=2)", "Image: x & y", "https://a.example/?a=1&b=2"),
        ("<https://a.example/?a=1&amp;b=2>", "https://a.example/?a=1&amp;b=2", "https://a.example/?a=1&amp;b=2"),
        ("https://a.example/?a=1&amp;b=2 y", "https://a.example/?a=1&amp;b=2", "https://a.example/?a=1&amp;b=2"),
    ],
)
async def test_character_references_are_decoded_once_except_in_autolinks(
    page: Page, markdown: str, text: str, target: str
) -> None:
    [[shown, href]] = await page.evaluate(
        """m => modules.renderMarkdown(m).flatMap(block => [...block.querySelectorAll('a')])
               .map(a => [a.textContent, a.href])""",
        markdown,
    )

    assert (shown, href) == (text, target)


async def test_an_embedded_image_is_described_by_plain_text(page: Page) -> None:
    html = await render(page, "![a &amp; **b**](data&colon;image/png;base64,iVBORw0KGgo=)")

    assert html == '<p><img src="data:image/png;base64,iVBORw0KGgo=" alt="a &amp; b"></p>'


async def test_the_references_of_html_4_are_decoded_as_in_html(page: Page) -> None:
    names = [*name2codepoint, "apos", "check", "colon", "cross", "NewLine", "Tab"]
    decoded = await page.evaluate("names => names.map(name => modules.decodeEntities(`&${name};`))", names)

    assert dict(zip(names, decoded, strict=True)) == {name: html5[f"{name};"] for name in names}


async def test_a_remote_image_is_a_link(page: Page) -> None:
    html = await render(page, "![chart](https://example.org/a.png?leak=secret)")

    assert "<img" not in html
    assert 'class="remote-image">Image: chart</a>' in html


async def test_closed_code_is_highlighted_without_html(page: Page) -> None:
    html = await render(page, "```python\ndef f(): pass\n```")

    assert '<span class="hljs-keyword">def</span>' in html
    assert '<span class="hljs-title function_">f</span>' in html


@pytest.mark.parametrize(("mark", "times"), [("> ", 5000), ("- ", 5000), ("- > ", 300)])
async def test_what_nests_too_deeply_is_shown_as_it_is_written(page: Page, mark: str, times: int) -> None:
    text = "before\n\n" + mark * times + "deep"
    streamed, whole = await page.evaluate(
        """text => {
             const container = document.createElement('div');
             const streaming = new modules.StreamingMarkdown(container);
             for (let at = 0; at < text.length; at += 2000) {
               streaming.push(text.slice(at, at + 2000));
               streaming.flush();
             }
             streaming.end();
             const whole = document.createElement('div');
             whole.append(...modules.renderMarkdown(text));
             return [container, whole].map(root => [
               root.textContent, root.querySelectorAll('.verbatim').length, root.querySelectorAll('*').length
             ]);
           }""",
        text,
    )

    assert streamed == whole
    assert whole[0].endswith(mark * (times - 60) + "deep")
    assert whole[1] == 1
    assert whole[2] < 120


MANY: Final = {
    "line breaks": ("<br>" * 64_000, "br", 64_000),
    "code": ("`a` " * 62_000, "code", 62_000),
    "rows": ("|a|\n|-|\n" + "|b|\n" * 60_000, "tr", 60_001),
    "paragraphs": ("a\n\n" * 80_000, "p", 80_000),
    "cells that are left out": ("|" + "a|" * 2_000 + "\n|" + "-|" * 2_000 + "\n" + "|b|\n" * 5_000, "p", 1),
    "emphasis without an end": ("**a " * 10_000 + "x" + "** " * 10_000, "p", 1),
}
"""Replies of at most 256 kB, the number of elements of a kind that they have, and what shows in time."""


@pytest.mark.parametrize("kind", MANY)
async def test_a_long_reply_of_one_kind_of_element_can_be_read(page: Page, kind: str) -> None:
    text, selector, count = MANY[kind]
    async with asyncio.timeout(60):
        counts = await page.evaluate(
            """([text, selector]) => {
                 const streamed = document.createElement('div');
                 const streaming = new modules.StreamingMarkdown(streamed);
                 streaming.push(text);
                 streaming.end();
                 const whole = new modules.TurnView({ status: 'completed', reason: null, assistant_response: text });
                 return [streamed, whole.root.querySelector('.answer')].map(e => e.querySelectorAll(selector).length);
               }""",
            [text, selector],
        )

    assert [count, count] == counts


async def test_very_long_code_is_not_highlighted(page: Page) -> None:
    assert "hljs" not in await render(page, "```python\n" + "x = 1\n" * 4000 + "```")


async def test_a_document_looks_the_same_however_it_was_split(page: Page) -> None:
    generator = random.Random(7)
    blocks = DOCUMENT.split("\n\n")
    documents = [DOCUMENT, DOCUMENT.replace("\n", "\r\n")]
    documents += ["a [link][ref], defined\n\n> - inside\n>\n>   [ref]: https://example.org/"]
    documents += ["an empty block of code\n\n```\n"]
    documents += ["\n\n".join(generator.choices(blocks, k=6)) for _ in range(15)]
    documents += ["".join(generator.choices("a1. -#|`*>[]()\n\n\t~=", k=60)) for _ in range(150)]
    cases = [{"text": text, "cuts": sorted(generator.sample(range(len(text)), 25))} for text in documents]
    different = await page.evaluate(
        """cases => cases.filter(({text, cuts}) => {
             const [streamed, whole] = [document.createElement('div'), document.createElement('div')];
             const streaming = new modules.StreamingMarkdown(streamed);
             [...cuts, text.length].forEach((end, i) => {
               streaming.push(text.slice(cuts[i - 1] ?? 0, end));
               streaming.flush();
             });
             streaming.end();
             whole.append(...modules.renderMarkdown(text));
             return !streamed.isEqualNode(whole);
           })""",
        cases,
    )

    assert different == []


@pytest.mark.parametrize(
    ("kind", "chunk", "times"),
    [
        ("document", DOCUMENT, 30),
        ("list", "- an item of a **long** list with some words\n", 900),
        ("table", "| a cell | another one | 12 |\n", 700),
        ("code", "value = compute(1, 2)  # a line\n", 700),
    ],
)
async def test_a_stream_renders_only_what_has_changed(page: Page, kind: str, chunk: str, times: int) -> None:
    heads = {"table": "| A | B | C |\n|---|---|--:|\n", "code": "```python\n"}
    text = heads.get(kind, "") + chunk * times
    measured = await page.evaluate(
        """text => {
             const container = document.createElement('div');
             document.body.append(container);
             const create = document.createElement;
             let created = 0;
             document.createElement = function (...names) { created += 1; return create.apply(this, names); };
             const streaming = new modules.StreamingMarkdown(container);
             const flushes = 400, size = Math.ceil(text.length / flushes);
             const start = performance.now();
             for (let at = 0; at < text.length; at += size) {
               streaming.push(text.slice(at, at + size));
               streaming.flush();
             }
             streaming.end();
             delete document.createElement;
             const result = {created, present: container.querySelectorAll('*').length, flushes,
                             milliseconds: performance.now() - start};
             container.remove();
             return result;
           }""",
        text,
    )

    # Some tens for each flush, beside those that stay.
    assert measured["created"] < 1.5 * measured["present"] + 60 * measured["flushes"]
    assert measured["milliseconds"] < 30_000


@pytest.mark.parametrize(
    ("pieces", "blocks"),
    [
        (["1. a\n\n2", ". b\n\n", "3. c"], ["OL"]),
        (["| a |\n", "|---|\n", "| b |"], ["DIV"]),
        (["Title\n", "---\n\n", "text"], ["H3", "P"]),
        (["a\n\nb\n\n", "c\n\nd"], ["P", "P", "P", "P"]),
    ],
)
async def test_the_last_blocks_may_still_become_others(page: Page, pieces: list[str], blocks: list[str]) -> None:
    shown = await page.evaluate(
        """pieces => {
             const container = document.createElement('div');
             const streaming = new modules.StreamingMarkdown(container);
             for (const piece of pieces) { streaming.push(piece); streaming.flush(); }
             return [...container.children].map(block => block.tagName);
           }""",
        pieces,
    )

    assert shown == blocks


async def test_open_code_keeps_its_element_while_it_grows(page: Page) -> None:
    same = await page.evaluate("""() => {
        const container = document.createElement('div');
        const streaming = new modules.StreamingMarkdown(container);
        streaming.push('```js\\nlet a'); streaming.flush();
        const pre = container.querySelector('pre'), text = container.querySelector('code').firstChild;
        streaming.push(' = 1;\\n'); streaming.flush();
        return [pre === container.querySelector('pre'), text === container.querySelector('code').firstChild, text.data];
    }""")

    assert same == [True, True, "let a = 1;"]


async def test_events_are_decoded_wherever_the_bytes_are_split(page: Page) -> None:
    generator = random.Random(3)
    body = (
        ': keep-alive\nid: 1\ndata: {"content": "Grüße 👋", "done": false}\n\n'
        'id: 2\r\ndata: {"a":\r\ndata: 1}\r\n\r\n: x\rid: 3\rdata:no space\r\r'
        "id: 4\n\nid: 5\ndata: [DONE]\n\ndata: cut off"
    ).encode()
    cuts = [sorted(generator.sample(range(len(body)), 12)) for _ in range(40)]
    decoded: list[list[dict[str, Any]]] = await page.evaluate(
        """({bytes, cuts}) => Promise.all(cuts.map(async places => {
             const stream = new ReadableStream({start(controller) {
               [...places, bytes.length].forEach((end, i) =>
                 controller.enqueue(new Uint8Array(bytes.slice(places[i - 1] ?? 0, end))));
               controller.close();
             }});
             const events = [];
             for await (const event of modules.decodeEvents(stream)) events.push(event);
             return events;
           }))""",
        {"bytes": list(body), "cuts": cuts},
    )

    assert [json.dumps(events) for events in decoded] == [json.dumps(decoded[0])] * len(cuts)
    assert decoded[0] == [
        {"id": 1, "data": '{"content": "Grüße 👋", "done": false}'},
        {"id": 2, "data": '{"a":\n1}'},
        {"id": 3, "data": "no space"},
        {"id": 5, "data": "[DONE]"},
    ]


async def test_events_are_decoded_as_other_clients_do(page: Page) -> None:
    body = b'id: 1\ndata: {"content": "a", "done": false}\n\n: keep-alive\nid: 2\ndata: [DONE]\n\n'
    decoded = await page.evaluate(
        """async bytes => {
             const body = new Blob([new Uint8Array(bytes)]).stream(), events = [];
             for await (const event of modules.decodeEvents(body)) events.push(event);
             return events;
           }""",
        list(body),
    )
    expected = ChatStream.of(body)

    assert [event["id"] for event in decoded] == expected.numbers
    assert [event["data"] for event in decoded] == expected.data


async def test_a_silent_stream_counts_as_lost(page: Page) -> None:
    error = await page.evaluate("""async () => {
        const limits = {silence: 20, onSilence: () => new Error('silence')};
        try {
          for await (const event of modules.decodeEvents(new ReadableStream({}), limits)) ;
        } catch (error) { return error.message; }
    }""")

    assert error == "silence"


async def test_ids_are_uuids_without_the_browsers_own_function(page: Page) -> None:
    ids = await page.evaluate("Array.from({length: 100}, () => modules.randomUUID())")

    pattern = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert len(set(ids)) == 100
    assert await page.evaluate("([ids, p]) => ids.filter(id => !new RegExp(`^${p}$`).test(id))", [ids, pattern]) == []


@pytest.mark.parametrize(
    ("raw", "is_closed"),
    [
        ("```\na\n```", True),
        ("```\na\n", False),
        ("```\na\n``", False),
        ("~~~~js\na\n~~~", False),
        ("~~~~js\na\n~~~~~\n", True),
        ("```", False),
    ],
)
async def test_a_fence_is_closed_by_one_that_is_as_long(page: Page, raw: str, is_closed: bool) -> None:
    assert await page.evaluate("raw => modules.isClosedFence(raw)", raw) is is_closed
