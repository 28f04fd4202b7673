"""Script injection through messages, answers and memories: nothing runs, calls another host, or leaves the page."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page

from tests.harness.chat_page import USER, ChatPage
from tests.harness.elsewhere import Elsewhere
from tests.harness.fakes import ScriptedLLM, ScriptedReply
from tests.harness.servers import Service, running_service

PAYLOADS: Final[dict[str, str]] = json.loads((Path(__file__).parents[2] / "xss.json").read_text(encoding="utf-8"))[
    "payloads"
]

CONTENT: Final = "#turns .message, #turns .answer"

FOUND_IN_CONTENT: Final = """
async selector => {
  const tags = new Set(['A', 'BLOCKQUOTE', 'BR', 'BUTTON', 'CODE', 'DEL', 'DIV', 'EM', 'H3', 'H4', 'H5', 'H6', 'HR',
    'IMG', 'INPUT', 'LI', 'OL', 'P', 'PRE', 'SPAN', 'STRONG', 'TABLE', 'TBODY', 'TD', 'TH', 'THEAD', 'TR', 'UL']);
  const attributes = new Set(['alt', 'aria-label', 'checked', 'class', 'dir', 'disabled', 'href', 'rel', 'role',
    'scope', 'src', 'start', 'tabindex', 'target', 'title', 'type']);
  const found = [];
  for (const root of document.querySelectorAll(selector)) {
    for (const node of root.querySelectorAll('*')) {
      if (!tags.has(node.tagName)) found.push(node.tagName);
      for (const {name} of node.attributes) if (!attributes.has(name)) found.push(`${node.tagName} ${name}`);
      if (node.tagName === 'A' && !/^(https?|mailto|tel):/.test(node.href)) found.push(node.href);
      if (node.tagName === 'A' && (node.username || node.password)) found.push(node.href);
      if (node.tagName === 'A' && node.rel !== 'noopener noreferrer nofollow') found.push('A rel');
      if (node.tagName === 'A' && node.target !== '_blank') found.push('A target');
      if (node.tagName === 'IMG' && !/^data:image\\/(png|jpeg|gif|webp|avif);/.test(node.src)) found.push(node.src);
      if (node.tagName === 'INPUT' && !(node.type === 'checkbox' && node.disabled)) found.push('INPUT');
      if (node.tagName === 'BUTTON' && node.className !== 'copy-code') found.push('BUTTON');
    }
  }
  return found;
}
"""

STREAM_AT_RANDOM: Final = """
async ({payloads, cuts}) => {
  const {StreamingMarkdown} = await import(new URL('page/js/markdown/streaming.js', location.href.split(/[?#]/)[0]));
  const {renderMarkdown} = await import(new URL('page/js/markdown/blocks.js', location.href.split(/[?#]/)[0]));
  const different = [];
  payloads.forEach((payload, i) => cuts[i].forEach(places => {
    const answer = document.createElement('div');
    answer.className = 'answer';
    document.getElementById('turns').append(answer);
    const streaming = new StreamingMarkdown(answer);
    for (let k = 0; k <= places.length; k += 1) {
      streaming.push(payload.slice(places[k - 1] ?? 0, places[k]));
      streaming.flush();
    }
    streaming.end();
    const whole = document.createElement('div');
    whole.className = 'answer';
    whole.append(...renderMarkdown(payload));
    if (!answer.isEqualNode(whole)) different.push(payload);
  }));
  return different;
}
"""


VIOLATE: Final = """
async () => {
  // Try what a reply could contain if it were parsed, e.g. an image of this service, which is a request to its API.
  const violated = new Set();
  document.addEventListener('securitypolicyviolation', event => violated.add(event.effectiveDirective));
  const add = (tag, attributes) => {
    const added = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) added.setAttribute(name, value);
    document.body.append(added);
    return added;
  };
  add('img', {src: '/api/health'});
  add('iframe', {src: '/'});
  add('video', {src: '/api/health'});
  add('base', {href: '/elsewhere/'});
  add('style', {}).textContent = 'p { color: red }';
  add('p', {style: 'color: red'});
  add('form', {action: '/'}).submit();
  new FontFace('x', 'url(/api/health)').load().catch(() => {});
  await fetch('http://evil.test/').catch(() => {});
  await new Promise(resolve => setTimeout(resolve, 300));
  return [...violated].sort();
}
"""


async def is_untouched(page: Page, address: str, elsewhere: Elsewhere) -> bool:
    await page.wait_for_timeout(300)  # milliseconds: time for requests and handlers to run
    pwned = await page.evaluate("[window.pwned, top.pwned]")
    return pwned == [None, None] and page.url == address and elsewhere.requests == []


async def fill_history(service: Service) -> dict[str, int]:
    """Send the payloads, and return how many turns each conversation has: no more than the page shows at first."""
    turns: dict[str, int] = {}
    for number, payload in enumerate(PAYLOADS.values()):
        conversation = f"c{number // 50}"
        body = {"user_id": USER, "conversation_id": conversation, "message": payload}
        await service.client.post("/api/chat/simple", json=body)
        turns[conversation] = turns.get(conversation, 0) + 1
    return turns


def pieces(text: str, generator: random.Random) -> Sequence[str]:
    places = sorted(generator.sample(range(1, len(text)), min(len(text) - 1, 12)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with its policy", "without its policy"])
async def test_nothing_in_the_history_runs(browser: Browser, elsewhere: Elsewhere, bypass_csp: bool) -> None:
    scripts = [ScriptedReply((payload,)) for payload in PAYLOADS.values()]
    async with running_service({"llm": ScriptedLLM(*scripts)}) as service:
        for conversation, turns in (await fill_history(service)).items():
            chat = await ChatPage.open(browser, service.url, conversation=conversation, bypass_csp=bypass_csp)
            address = chat.page.url

            assert await chat.turns.count() == turns
            assert await is_untouched(chat.page, address, elsewhere)
            assert await chat.page.evaluate(FOUND_IN_CONTENT, CONTENT) == []
            assert chat.tab.origins == {service.url}
            assert chat.tab.errors == []


@pytest.mark.parametrize("bypass_csp", [False, True], ids=["with its policy", "without its policy"])
async def test_nothing_in_a_stream_runs_wherever_it_is_split(
    browser: Browser, elsewhere: Elsewhere, bypass_csp: bool
) -> None:
    generator = random.Random(15)
    payloads = list(PAYLOADS.values())
    cuts = [[sorted(generator.sample(range(1, len(p)), min(len(p) - 1, 9))) for _ in range(5)] for p in payloads]
    answer = "\n\n".join(payloads)
    reply = ScriptedReply(tuple(pieces(answer, generator)), pause=0.002)
    async with running_service({"llm": ScriptedLLM(reply)}) as service:
        chat = await ChatPage.open(browser, service.url, bypass_csp=bypass_csp)
        await chat.ask("Go on")
        address = chat.page.url
        different = await chat.page.evaluate(STREAM_AT_RANDOM, {"payloads": payloads, "cuts": cuts})

        assert different == []
        assert await is_untouched(chat.page, address, elsewhere)
        assert await chat.page.evaluate(FOUND_IN_CONTENT, CONTENT + ", #turns > .answer") == []
        assert chat.tab.origins == {service.url}
        assert chat.tab.errors == []


async def test_nothing_in_titles_and_memories_runs(browser: Browser, elsewhere: Elsewhere) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        for number, payload in enumerate(PAYLOADS.values()):
            body = {"user_id": USER, "conversation_id": f"c{number}", "message": payload}
            await service.client.post("/api/chat/simple", json=body)
            await service.client.post(f"/api/memories/{USER}", json={"fact": payload})
        chat = await ChatPage.open(browser, service.url, conversation="c0", bypass_csp=True)
        await chat.page.get_by_role("button", name="What I remember").click()
        await chat.page.locator("#memory-list li").last.wait_for()
        inside = "#memory-list *, #conversations *"

        assert await is_untouched(chat.page, chat.page.url, elsewhere)
        assert set(await chat.page.evaluate("s => [...document.querySelectorAll(s)].map(e => e.tagName)", inside)) == {
            *("A", "BUTTON", "H2", "LI", "P", "SECTION", "UL", "svg", "use")
        }
        assert chat.tab.origins == {service.url}


async def test_the_checks_find_what_they_look_for(browser: Browser, elsewhere: Elsewhere) -> None:
    """Parse the payloads as HTML, which the page never does."""
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url, bypass_csp=True)
        payloads: Any = [PAYLOADS["img onerror"], PAYLOADS["phishing form"], '<img src="http://evil.test/x.png">']
        script = "html => document.getElementById('turns').innerHTML = `<div class=answer>${html}</div>`"
        await chat.page.evaluate(script, "".join(payloads))
        untouched = await is_untouched(chat.page, chat.page.url, elsewhere)
        requests = list(elsewhere.requests)
        elsewhere.requests.clear()

        assert not untouched
        assert await chat.page.evaluate("window.pwned") == 1
        assert requests == ["GET /x.png HTTP/1.1"]
        assert {"IMG onerror", "FORM", "INPUT"} <= set(await chat.page.evaluate(FOUND_IN_CONTENT, CONTENT))
        assert "http://evil.test" in chat.tab.origins


async def test_the_policy_stops_what_would_be_parsed_or_loaded(browser: Browser, elsewhere: Elsewhere) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        refused = await chat.page.evaluate(
            "try { document.body.innerHTML = '<p>'; false } catch (error) { error instanceof TypeError }"
        )
        violated = await chat.page.evaluate(VIOLATE)

        assert refused
        assert violated == [
            *("base-uri", "connect-src", "font-src", "form-action", "frame-src", "img-src", "media-src"),
            *("style-src-attr", "style-src-elem"),
        ]
        assert elsewhere.requests == []
