/** Marked's tokenizer, with bounds on what a short text can cost. */

import { Tokenizer } from "../../vendor/marked.js";

/** Cells of a table, unless it is written with at least as many characters: a row is filled up to the width of the head. */
const MAX_ADDED_CELLS = 10_000;

/** Limit of characters searched in vain, e.g. for the end of `**`, which is looked for in the whole rest. */
const MAX_SEARCHED_CHARS = 1_000_000;

/** How much more it costs to split text again than to search it. */
const COST_OF_SPLITTING = 10;

/** A line of a quote, and then one without its mark that goes on with the paragraph. */
const LAZY_LINE = /^ {0,3}>.*\n(?! {0,3}>)/gm;

/** For one document. What exceeds a bound is text as it is written. */
export class BoundedTokenizer extends Tokenizer {
  #searched = 0;

  table(src) {
    const [raw, head, , rows = ""] = this.rules.block.table.exec(src) ?? [""];
    const cells = raw && head.split("|").length * rows.split("\n").length;
    if (cells > Math.max(MAX_ADDED_CELLS, raw.length)) return undefined;
    const token = raw && super.table(src);
    if (!raw || token) return token || undefined;
    this.#searched += raw.length;
    return this.#isExhausted ? { type: "unparsed", raw, text: raw } : undefined;
  }

  /** For a line without the mark, marked splits those before it again, at each level: 550 characters took 7 seconds. */
  blockquote(src) {
    const [raw] = this.rules.block.blockquote.exec(src) ?? [""];
    const lazyLines = raw.match(LAZY_LINE)?.length ?? 0;
    this.#searched += COST_OF_SPLITTING * raw.length * lazyLines;
    if (lazyLines && this.#isExhausted) return { type: "unparsed", raw, text: raw };
    return super.blockquote(src);
  }

  /** A heading that is underlined. In a list, it is looked for from each line, up to the next empty one. */
  lheading(src) {
    if (this.lexer.state.top) return super.lheading(src);
    return this.#bounded(src, () => super.lheading(src), "\n\n");
  }

  link(src) {
    return /^!?\[/.test(src) ? this.#bounded(src, () => super.link(src)) : undefined;
  }

  reflink(src, links) {
    return /^!?\[/.test(src) ? this.#bounded(src, () => super.reflink(src, links)) : undefined;
  }

  emStrong(src, ...context) {
    if (!this.rules.inline.emStrongLDelim.test(src)) return undefined;
    return this.#bounded(src, () => super.emStrong(src, ...context));
  }

  codespan(src) {
    return src.startsWith("`") ? this.#bounded(src, () => super.codespan(src)) : undefined;
  }

  del(src, ...context) {
    return src.startsWith("~") ? this.#bounded(src, () => super.del(src, ...context)) : undefined;
  }

  get #isExhausted() {
    return this.#searched > MAX_SEARCHED_CHARS;
  }

  /** Call `tokenize`, which searches `src` for the end of a token, up to `limit` or its end. */
  #bounded(src, tokenize, limit = null) {
    if (this.#isExhausted) return undefined;
    const token = tokenize();
    if (!token) this.#searched += limit && src.includes(limit) ? src.indexOf(limit) : src.length;
    return token;
  }
}
