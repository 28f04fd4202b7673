/** Rendering Markdown while it arrives. */

import { replaceAll } from "../elements.js";
import { BlockRenderer, renderMarkdown, tableRow } from "./blocks.js";
import { isClosedFence, languageOf, updateCodeBlock } from "./code.js";
import { lex } from "./lexer.js";
import { divideAddedRuns } from "./runs.js";

/** Blocks at the end that may still change: `2` becomes part of the list above it, and a paragraph becomes a table. */
const LIVE_BLOCKS = 2;

/** A flush takes at most a fifth of the time, with layout and paint: the next one waits four times as long as it took. */
const PAUSE_PER_FLUSH = 4;

/** Milliseconds from a flush to the next one: text need not grow with every frame, each of which costs layout and paint. */
const MIN_INTERVAL = 33;

/** Milliseconds between flushes of a tab in the background, where no frames are drawn. */
const HIDDEN_INTERVAL = 500;

/**
 * Shows a growing Markdown text in `container`.
 *
 * At most thirty times a second, the last blocks are lexed and rendered again; those before stay as they are. Of a list or a
 * table only the items or rows that changed are rendered, and code only grows.
 */
export class StreamingMarkdown {
  #container;
  #renderer = new BlockRenderer();
  #text = "";
  #endsWithCR = false;
  /** Where the blocks begin that may still change, in the text, and the blocks from there on. */
  #settledChars = 0;
  #live = [];
  /** The tokens before that, as `type:raw`, and the link definitions among them. */
  #settled = [];
  #links = {};
  #frame = 0;
  #timer = 0;
  #nextFlush = 0;

  constructor(container) {
    this.#container = container;
  }

  push(text) {
    // The lexer does the same; only then are its tokens as long as the text that they come from.
    if (this.#endsWithCR && text.startsWith("\n")) text = text.slice(1);
    this.#endsWithCR = text.endsWith("\r");
    this.#text += divideAddedRuns(this.#text, text.replace(/\r\n?/g, "\n"));
    if (!this.#frame && !this.#timer) this.#schedule();
  }

  /** Show the complete text: afterwards the elements are the same as if it had been rendered at once. */
  end() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = this.#timer = 0;
    this.flush(true);
    const whole = lex(this.#text);
    // A definition, e.g. in a list, may follow the links that use it, and a block may have been settled too early.
    const hasDefinitions = Object.keys(whole.links ?? {}).length > 0;
    if (hasDefinitions || whole.map(identity).join() !== this.#settled.join()) {
      replaceAll(this.#container, renderMarkdown(this.#text));
    }
  }

  #schedule() {
    const wait = document.hidden ? HIDDEN_INTERVAL : this.#nextFlush - performance.now();
    if (wait > 0) {
      this.#timer = setTimeout(() => {
        this.#timer = 0;
        if (document.hidden) this.#timedFlush();
        else this.#schedule();
      }, wait);
    } else {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#timedFlush();
      });
    }
  }

  #timedFlush() {
    const start = performance.now();
    this.flush();
    this.#nextFlush = start + MIN_INTERVAL;
    setTimeout(() => {
      const end = performance.now(); // after layout and paint, which may take longer than the flush
      this.#nextFlush = Math.max(this.#nextFlush, end + PAUSE_PER_FLUSH * (end - start));
    });
  }

  /** Show the text received so far. `isFinal`: there is no more. */
  flush(isFinal = false) {
    const tokens = lex(this.#text.slice(this.#settledChars), this.#links);
    const settledCount = isFinal ? tokens.length : countSettled(tokens);
    const before = this.#live;
    const live = [];
    let position = 0; // of the next block in `before`
    tokens.forEach((token, i) => {
      const isSettled = i < settledCount;
      if (isSettled) this.#settle(token);
      const shown = this.#show(token, before[position], isSettled);
      if (shown) {
        position += 1;
        if (!isSettled) live.push(shown);
      }
    });
    for (const block of before.slice(position)) block.node.remove();
    if (live.length) this.#renderer.headingLevel = live[0].levelBefore;
    this.#live = live;
  }

  #settle(token) {
    this.#settledChars += token.raw.length;
    this.#settled.push(identity(token));
    if (token.type === "def") this.#links[token.tag] ??= { href: token.href, title: token.title };
  }

  /** Show a block in the place of `old`, the block that was there, if any. Returns null for tokens without a block. */
  #show(token, old, isSettled) {
    const isComplete = isSettled || token.type !== "code" || isClosedFence(token.raw);
    const levelBefore = this.#renderer.headingLevel;
    if (old && old.levelBefore === levelBefore) {
      if (old.token.raw === token.raw && old.token.type === token.type && old.isComplete === isComplete) {
        this.#renderer.headingLevel = old.levelAfter;
        return old;
      }
      if (this.#update(old, token, isComplete)) {
        return { ...old, token, isComplete, levelAfter: this.#renderer.headingLevel };
      }
    }
    this.#renderer.headingLevel = levelBefore;
    const node = this.#renderer.block(token, isComplete);
    if (!node) return null;
    if (old) old.node.replaceWith(node);
    else this.#container.append(node);
    return { token, node, isComplete, levelBefore, levelAfter: this.#renderer.headingLevel };
  }

  /** Change the element of `old` to show `token`, and return true; false if it has to be replaced. */
  #update(old, token, isComplete) {
    const before = old.token;
    if (before.type !== token.type) return false;
    switch (token.type) {
      case "code":
        if (old.isComplete || languageOf(before) !== languageOf(token)) return false;
        updateCodeBlock(old.node, before, token, isComplete);
        return true;
      case "list":
        return this.#updateList(old.node, before, token);
      case "table":
        return updateTable(old.node, before, token);
      default:
        return false;
    }
  }

  #updateList(list, before, token) {
    const isSameKind =
      before.ordered === token.ordered && before.start === token.start && before.items.length <= token.items.length;
    // Headings inside of items depend on those before them.
    if (!isSameKind || /^\s*(?:[-*+]|\d+[.)])?\s*#/m.test(token.raw)) return false;
    token.items.forEach((item, i) => {
      const old = before.items[i];
      if (old && old.raw === item.raw && old.loose === item.loose) return;
      const rendered = this.#renderer.listItem(item);
      if (old) list.children[i].replaceWith(rendered);
      else list.append(rendered);
    });
    return true;
  }
}

function updateTable(wrapper, before, token) {
  const isSameHead =
    before.header.length === token.header.length &&
    before.header.every((cell, i) => cell.text === token.header[i].text && before.align[i] === token.align[i]);
  if (!isSameHead || before.rows.length > token.rows.length) return false;
  const body = wrapper.querySelector("tbody");
  token.rows.forEach((row, i) => {
    const old = before.rows[i];
    if (old && row.every((cell, k) => cell.text === old[k]?.text)) return;
    const rendered = tableRow(row, token.align);
    if (old) body.children[i].replaceWith(rendered);
    else body.append(rendered);
  });
  return true;
}

/** Return how many tokens at the beginning will not change any more. */
function countSettled(tokens) {
  let settled = tokens.length;
  for (let live = 0; settled > 0 && live < LIVE_BLOCKS; ) {
    settled -= 1;
    if (tokens[settled].type !== "space") live += 1;
  }
  return settled;
}

function identity(token) {
  return `${token.type}:${token.raw}`;
}
