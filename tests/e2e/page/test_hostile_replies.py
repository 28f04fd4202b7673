"""Replies that a model was made to write in order to freeze the page are shown, and the page can still be used."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page

from tests.harness.chat_page import ChatPage
from tests.harness.exchange import TIMEOUT
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import running_service

LENGTH: Final = 64_000

ROOT: Final = Path(__file__).parents[3]


def filled(unit: str) -> str:
    return unit * (LENGTH // len(unit))


def stairs(depth: int, mark: str = "> ") -> str:
    """Lines in fewer and fewer quotes."""
    return "".join(mark * (depth - i) + "a\n" for i in range(depth))


MARKDOWN: Final = {
    "quotes that end line by line": stairs(40),
    "many quotes that end line by line": filled(stairs(20)),
    "lists in quotes without marks": filled("> - a\nb\n"),
    "lines of an item": "- a\n" + filled("b\n"),
    "heads without tables": filled("_a|a|\n|-|\na\n"),
    "emphasis": filled("*a)"),
    "strong emphasis": filled("a@**"),
    "emphasis in emphasis": filled("**_a "),
    "deletions": filled("~a)"),
    "brackets": filled("["),
    "links": filled("[a]("),
    "definitions": "[a]: b\n\n" + filled("\\["),
    "code": filled("`a``"),
    "addresses": filled("http://a("),
    "spaces": filled("a" + " " * 4_000),
}
"""For marked alone, the time for these grows with the square of their length, or even doubles with each line."""

TEXT: Final = {
    "accents": "a" + filled("\u0301"),
    "accents in code": "```\na" + filled("\u0301") + "\n```",
    "skin tones": filled("\U0001f3fb"),
    "flags": filled("\U0001f1e6"),
    "Arabic letters": filled("\u0628"),
    "Khmer letters": filled("\u1780\u17d2"),
    "changes of direction": filled("a\u05d0"),
    "changes of direction in code": "```\n" + filled("a\u05d0") + "\n```",
}
"""It takes Chromium up to minutes to lay these out as they are."""


@pytest.fixture(scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """The page, with its modules as `modules`."""
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = await ChatPage.open(browser, service.url)
        await chat.page.evaluate("""async () => {
            const load = path => import(new URL(`page/${path}.js`, location.href.split('?')[0]));
            const names = ['blocks', 'lexer', 'streaming'].map(name => `js/markdown/${name}`);
            names.push('js/turn-view', 'vendor/marked');
            window.modules = Object.assign({}, ...await Promise.all(names.map(load)));
        }""")
        yield chat.page


@pytest.mark.parametrize("kind", MARKDOWN)
async def test_markdown_is_not_searched_again_and_again(page: Page, kind: str) -> None:
    """Counts the characters that marked searches in vain, and those of quotes: billions without the bounds."""
    async with asyncio.timeout(TIMEOUT):
        searched = await page.evaluate(
            """text => {
                 const { Tokenizer, lex } = modules;
                 const rules = ['blockquote', 'lheading', 'link', 'reflink', 'emStrong', 'codespan', 'del'];
                 const original = rules.map(rule => Tokenizer.prototype[rule]);
                 let searched = 0;
                 rules.forEach((rule, i) => {
                   Tokenizer.prototype[rule] = function (src, ...others) {
                     const token = original[i].call(this, src, ...others);
                     if (!token && rule !== 'blockquote') searched += src.length;
                     if (token && rule === 'blockquote') searched += token.raw.length;
                     return token;
                   };
                 });
                 lex(text);
                 rules.forEach((rule, i) => { Tokenizer.prototype[rule] = original[i]; });
                 return searched;
               }""",
            MARKDOWN[kind],
        )

    assert searched < 2_000_000


@pytest.mark.parametrize("kind", [*MARKDOWN, *TEXT])
async def test_a_hostile_reply_is_shown_from_the_history_and_from_a_stream(page: Page, kind: str) -> None:
    """Takes up to a second on an idle machine, and up to minutes or years without the bounds."""
    text = {**MARKDOWN, **TEXT}[kind]
    async with asyncio.timeout(TIMEOUT):
        stored, streamed = await page.evaluate(
            """text => {
                 const turn = { reason: null, user_message: 'hello', assistant_response: '' };
                 const stored = new modules.TurnView({ ...turn, status: 'completed', assistant_response: text });
                 const streamed = new modules.TurnView({ ...turn, status: 'in_progress' });
                 const answers = [stored, streamed].map(view => view.root.querySelector('.answer'));
                 document.getElementById('turns').append(stored.root, streamed.root);
                 const streaming = new modules.StreamingMarkdown(answers[1]);
                 for (const part of [text.slice(0, 40_000), text.slice(40_000, 41_000), text.slice(41_000)]) {
                   streaming.push(part);
                   streaming.flush();
                   answers[1].getBoundingClientRect();
                 }
                 streaming.end();
                 const shown = answers.map(answer => [answer.getBoundingClientRect().height > 0, answer.innerHTML]);
                 stored.root.remove();
                 streamed.root.remove();
                 return shown;
               }""",
            text,
        )

    assert streamed == stored
    assert stored[0] is True


async def test_ordinary_documents_are_parsed_as_by_marked_alone(page: Page) -> None:
    texts = [path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    texts += [
        "".join(texts),
        "A *long* paragraph of **many words**, `code` and [links](https://example.org/a_b), in one line. " * 600,
        "- an **item**\n  with _three_\n  lines\n" * 2_000,
        "| a | **b** | `c` |\n|---|:-:|--:|\n" + "| 1 | [two](https://example.org/) | 3 |\n" * 1_000,
        "> A quote\nwhose second line has no mark.\n\n" * 60,
    ]
    different = await page.evaluate(
        """texts => {
             const written = tokens => JSON.stringify(tokens, (key, value) => key === 'escaped' ? undefined : value);
             const { lex, Lexer } = modules;
             return texts.filter(text => written(lex(text)) !== written(Lexer.lex(text, { gfm: true })));
           }""",
        texts,
    )

    assert different == []


SCRIPTS: Final = {
    "Thai": "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์ " * 40,
    "Vietnamese, decomposed": "Tiếng Việt " * 100,
    "Hebrew with points": "בְּרֵאשִׁ֖ית בָּרָ֣א אֱלֹהִ֑ים " * 100,
    "Hebrew with English": "הפקודה `make` (make) מריצה 3 בדיקות (tests) " * 100,
    "Arabic with vowels": "بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ٱلرَّحِيمِ " * 100,
    "Devanagari": "सभी मनुष्यों को गौरव और अधिकारों के मामले में " * 40,
    "Tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་" * 40,
    "Chinese": "人人生而自由，在尊严和权利上一律平等。" * 300,
    "emoji": "👨‍👩‍👧‍👦👍🏽🏳️‍🌈🇫🇷🏴󠁧󠁢󠁳󠁣󠁴󠁿" * 100,
    "a long word of ASCII": "0123456789abcdef" * 500,
}


@pytest.mark.parametrize("script", SCRIPTS)
async def test_no_script_is_changed(page: Page, script: str) -> None:
    shown = await page.evaluate(
        """text => {
             const root = document.createElement('div');
             root.append(...modules.renderMarkdown(text));
             return [root.textContent.trim(), root.querySelectorAll('.unmixed').length];
           }""",
        SCRIPTS[script],
    )

    assert shown == [SCRIPTS[script].replace("`", "").strip(), 0]


async def test_a_row_of_flags_may_be_broken_between_flags_only(page: Page) -> None:
    text: str = await page.evaluate("modules.renderMarkdown('🇫🇷'.repeat(100))[0].textContent")

    assert text.split("\u200b") == ["🇫🇷" * 15] * 6 + ["🇫🇷" * 10]


async def test_a_long_paragraph_is_parsed_to_its_end(page: Page) -> None:
    counts: Any = await page.evaluate(
        """() => ['**bold** text\\n', '*emphasis* '].map(text =>
             modules.renderMarkdown(text.repeat(5_000))[0].querySelectorAll('strong, em').length)"""
    )

    assert counts == [5_000, 5_000]


async def test_a_large_embedded_image_is_one_link_target(page: Page) -> None:
    sizes = await page.evaluate(
        """[100, 200_000].map(length => modules.renderMarkdown(
             `A *chart*: ![chart](data:image/png;base64,${'iVBORw0+/GgoAB'.repeat(length / 10)}=) and *more*.`)[0])
             .map(block => [block.querySelector('img').src.length, block.querySelectorAll('em').length])"""
    )

    assert sizes == [[140 + 23, 2], [280_000 + 23, 2]]


HIGHLIGHTED: Final = "code => modules.renderMarkdown(code)[0].querySelectorAll('[class^=hljs]').length > 0"

SENTENCE: Final = "the words of a text without any punctuation go on and on until the end of the paragraph "


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("json", "[" + '{"id": 1, "name": "one"},' * 400 + "]"),
        ("js", "!function(e){return e+1}(window);" * 300),
        ("js", f'const picture = "data:image/png;base64,{"iVBORw0KGgo+" * 300}";'),
        ("json", f'{{"modulus": "{"0fa7" * 250}"}}'),
        ("sql", f"SELECT 1 FROM t WHERE id IN ({', '.join(str(number) for number in range(1_000))});"),
        ("yaml", f"description: {SENTENCE * 30}"),
        ("python", f'TEXT = """{SENTENCE * 30}"""'),
        ("sh", f"cat > words <<'EOF'\n{SENTENCE * 30}\nEOF\necho 1"),
        ("csharp", f"/* {'Licensed under the Apache License, Version 2.0. ' * 40}*/ class A {{}}"),
        ("c", f'const char *text = "{SENTENCE * 10}";\nint matrix[] = {{{"1, " * 2_000}}};'),
    ],
)
async def test_ordinary_code_is_highlighted_though_it_has_long_lines_or_many_words(
    page: Page, language: str, code: str
) -> None:
    assert await page.evaluate(HIGHLIGHTED, f"```{language}\n{code}\n```") is True


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("java", "a" * 1_001),
        ("js", "$" * 1_001),
        ("ini", "a-" * 501),
        ("csharp", "a " * 501),
        ("cpp", ("a" * 500 + "\n") * 3),
        ("toml", "a." * 501),
    ],
)
async def test_code_that_grammars_search_again_and_again_is_not_highlighted(
    page: Page, language: str, code: str
) -> None:
    first = {"ini": "a = 1", "toml": "a = 1"}.get(language, "int a = 1;")

    assert await page.evaluate(HIGHLIGHTED, f"```{language}\n{first}\n```") is True
    assert await page.evaluate(HIGHLIGHTED, f"```{language}\n{first}\n{code}\n```") is False


async def test_text_with_long_runs_looks_the_same_however_it_was_split(page: Page) -> None:
    generator = random.Random(5)
    units = [
        "\u0301",
        "e\u0301",
        "\U0001f1eb\U0001f1f7",
        "\U0001f3fd",
        "\u0628",
        "\u05d0",
        "\u4e2d",
        " ",
        "**",
        "> ",
        "\n",
    ]
    texts = ["".join(generator.choice(units) * generator.randint(1, 700) for _ in range(12)) for _ in range(60)]
    cases = [{"text": text, "cuts": sorted(generator.sample(range(len(text)), 20))} for text in texts]
    different = await page.evaluate(
        """cases => cases.filter(({text, cuts}) => {
             const [streamed, whole] = [document.createElement('div'), document.createElement('div')];
             const streaming = new modules.StreamingMarkdown(streamed);
             const characters = [...text];
             [...cuts, characters.length].forEach((end, i) => {
               streaming.push(characters.slice(cuts[i - 1] ?? 0, end).join(''));
               streaming.flush();
             });
             streaming.end();
             whole.append(...modules.renderMarkdown(text));
             return !streamed.isEqualNode(whole);
           })""",
        cases,
    )

    assert different == []
