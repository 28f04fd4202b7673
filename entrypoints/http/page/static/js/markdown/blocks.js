/** Markdown blocks: from the tokens of marked's lexer to elements. */

import { element } from "../elements.js";
import { codeBlock } from "./code.js";
import { decodeEntities } from "./entities.js";
import { inlineNodes } from "./inline.js";
import { lex } from "./lexer.js";
import { divideRuns, hasManyDirections } from "./runs.js";

/** The page has an h1, and each reply a hidden h2; headings in replies start below. */
const LEVEL_ABOVE_REPLY = 2;
const LOWEST_LEVEL = 6;

/** Return the elements of a whole document. */
export function renderMarkdown(markdown) {
  const renderer = new BlockRenderer();
  return lex(divideRuns(markdown))
    .map((token) => renderer.block(token))
    .filter(Boolean);
}

/** Renders the blocks of one document, in their order: headings never skip a level downwards. */
export class BlockRenderer {
  headingLevel = LEVEL_ABOVE_REPLY;

  /** Return the element of a block, or null if it has none. `isComplete`: nothing will be added to it. */
  block(token, isComplete = true) {
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
    const nodes = item.tokens.flatMap((token) => {
      if (token.type === "checkbox") return [...inlineNodes([token]), " "];
      if (token.type === "text" && !item.loose) return textNodes(token);
      return this.block(token) ?? [];
    });
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
    return tokens.map((token) => this.block(token)).filter(Boolean);
  }
}

function verbatim(text) {
  return element("p", { class: hasManyDirections(text) ? "verbatim unmixed" : "verbatim" }, text.trimEnd());
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
