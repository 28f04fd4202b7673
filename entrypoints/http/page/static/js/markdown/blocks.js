/** Markdown blocks: from the tokens of marked's lexer to elements. */

import { element } from "../elements.js";
import { Lexer } from "../../vendor/marked.js";
import { codeBlock } from "./code.js";
import { decodeEntities } from "./entities.js";
import { inlineNodes } from "./inline.js";
import { BoundedTokenizer } from "./tokenizer.js";

const OPTIONS = { gfm: true, breaks: false };

/** The page has an h1, and each reply a hidden h2; headings in replies start below. */
const LEVEL_ABOVE_REPLY = 2;
const LOWEST_LEVEL = 6;

/** Quotes and lists inside of each other. What nests deeper is shown as it is written, before it exhausts the stack. */
const MAX_DEPTH = 50;

/**
 * Split Markdown into tokens. `links` are definitions that came before, `[name]: url`, by name. What cannot be split is
 * one token, shown as it is written: a thousand nested lists exhaust the lexer's stack.
 */
export function lex(markdown, links = {}) {
  const lexer = new Lexer({ ...OPTIONS, tokenizer: new BoundedTokenizer() });
  Object.assign(lexer.tokens.links, links);
  try {
    return lexer.lex(markdown);
  } catch (error) {
    console.warn("A reply cannot be parsed as Markdown.", error);
    return [{ type: "unparsed", raw: markdown, text: markdown }];
  }
}

/** Return the elements of a whole document. */
export function renderMarkdown(markdown) {
  const renderer = new BlockRenderer();
  return lex(markdown)
    .map((token) => renderer.block(token))
    .filter(Boolean);
}

/** Renders the blocks of one document, in their order: headings never skip a level downwards. */
export class BlockRenderer {
  headingLevel = LEVEL_ABOVE_REPLY;
  #depth = 0;

  /** Return the element of a block, or null if it has none. `isComplete`: nothing will be added to it. */
  block(token, isComplete = true) {
    if (this.#depth > MAX_DEPTH) return verbatim(token.raw);
    switch (token.type) {
      case "space":
      case "def":
        return null;
      case "heading":
        return this.#heading(token);
      case "paragraph":
        return element("p", {}, inlineNodes(token.tokens));
      case "text":
        return element("p", {}, textNodes(token));
      case "blockquote":
        return element("blockquote", { dir: "auto" }, this.#blocks(token.tokens));
      case "hr":
        return element("hr");
      case "code":
        return codeBlock(token, isComplete);
      case "list":
        return this.#list(token);
      case "table":
        return table(token);
      case "html": // shown as it is written
      case "unparsed":
        return verbatim(token.text);
      default:
        return element("p", {}, token.raw);
    }
  }

  listItem(item) {
    this.#depth += 1;
    const nodes = item.tokens.flatMap((token) => {
      if (token.type === "checkbox") return [...inlineNodes([token]), " "];
      if (token.type === "text" && !item.loose) return textNodes(token);
      return this.block(token) ?? [];
    });
    this.#depth -= 1;
    return element("li", { class: item.task ? "task" : null }, nodes);
  }

  #heading(token) {
    this.headingLevel = Math.min(LOWEST_LEVEL, token.depth + LEVEL_ABOVE_REPLY, this.headingLevel + 1);
    return element(`h${this.headingLevel}`, {}, inlineNodes(token.tokens));
  }

  #list(token) {
    const start = token.ordered && token.start !== 1 ? token.start : null;
    return element(token.ordered ? "ol" : "ul", { dir: "auto", start }, token.items.map((item) => this.listItem(item)));
  }

  #blocks(tokens) {
    this.#depth += 1;
    const blocks = tokens.map((token) => this.block(token)).filter(Boolean);
    this.#depth -= 1;
    return blocks;
  }
}

function verbatim(text) {
  return element("p", { class: "verbatim" }, text.trimEnd());
}

function textNodes(token) {
  return token.tokens ? inlineNodes(token.tokens) : [decodeEntities(token.text)];
}

function table(token) {
  const cells = token.header.map((cell, i) =>
    element("th", { scope: "col", class: alignment(token.align[i]) }, inlineNodes(cell.tokens)),
  );
  const head = element("thead", {}, element("tr", {}, cells));
  const body = element("tbody", {}, token.rows.map((row) => tableRow(row, token.align)));
  return element(
    "div",
    { class: "table", dir: "auto", tabindex: 0, role: "group", "aria-label": "Table" },
    element("table", {}, head, body),
  );
}

export function tableRow(row, align) {
  const cells = row.map((cell, i) => element("td", { class: alignment(align[i]) }, inlineNodes(cell.tokens)));
  return element("tr", {}, cells);
}

/** A class, because the policy of the page forbids `style` attributes. */
function alignment(align) {
  return align ? `align-${align}` : null;
}
