/** Marked's tokenizer, with bounds on what a short text can cost. */

import { Tokenizer } from "../../vendor/marked.js";

/** Cells of a table, unless it is written with at least as many characters: a row is filled up to the width of the head. */
const MAX_ADDED_CELLS = 10_000;

/** Limit of characters searched for ends of emphasis that do not exist: for each `**`, the whole rest is searched. */
const MAX_SEARCHED_CHARS = 5_000_000;

/** For one document. What exceeds a bound is text as it is written. */
export class BoundedTokenizer extends Tokenizer {
  #searched = 0;

  table(src) {
    const [raw, head, , rows = ""] = this.rules.block.table.exec(src) ?? [""];
    const cells = raw && head.split("|").length * rows.split("\n").length;
    return cells > Math.max(MAX_ADDED_CELLS, raw.length) ? undefined : super.table(src);
  }

  emStrong(src, ...context) {
    if (this.#searched > MAX_SEARCHED_CHARS || !this.rules.inline.emStrongLDelim.test(src)) return undefined;
    const token = super.emStrong(src, ...context);
    if (!token) this.#searched += src.length;
    return token;
  }
}
