/** Splitting Markdown into tokens, with bounds on what a reply can cost. */

import { Lexer } from "../../vendor/marked.js";
import { hasManyDirections } from "./runs.js";
import { BoundedTokenizer } from "./tokenizer.js";

const OPTIONS = { gfm: true, breaks: false };

/** Quotes and lists inside of each other. */
const MAX_DEPTH = 20;

/** Emphasis, links and the like inside of each other. */
const MAX_INLINE_DEPTH = 20;

/** Length of the pieces in which a longer paragraph is parsed: in characters, and in `MARK`s. */
const MAX_PIECE_CHARS = 8_000;
const MAX_PIECE_MARKS = 1_000;

/** Punctuation and spaces that may be Markdown, without those that occur in the base64 of embedded images. */
const MARK = /[ -*,-.:-<>-@[-`{-~]/g;

const EMBEDDED_IMAGE = /[A-Za-z0-9+/=]*\)?/y;

const SENTENCE_ENDS = [". ", "! ", "? ", "。", "！", "？"];

/**
 * Split Markdown into tokens. `links` are definitions that came before, `[name]: url`, by name. What cannot be split is
 * one token, shown as it is written.
 */
export function lex(markdown, links = {}) {
  const lexer = new BoundedLexer({ ...OPTIONS, tokenizer: new BoundedTokenizer() });
  Object.assign(lexer.tokens.links, links);
  try {
    return lexer.lex(markdown);
  } catch (error) {
    console.warn("A reply cannot be parsed as Markdown.", error);
    return [unparsed(markdown)];
  }
}

/**
 * For one document. A reply is untrusted, and marked alone takes a time that grows with the square of some texts, or even
 * doubles with each of their lines. What exceeds a bound is text as it is written.
 */
class BoundedLexer extends Lexer {
  #depth = 0;
  #inlineDepth = 0;

  blockTokens(src, tokens = [], ...others) {
    if (this.#depth > MAX_DEPTH) {
      tokens.push(unparsed(src));
      return tokens;
    }
    this.#depth += 1;
    super.blockTokens(src, tokens, ...others);
    this.#depth -= 1;
    return tokens;
  }

  inlineTokens(src, tokens = []) {
    if (this.#inlineDepth > MAX_INLINE_DEPTH) {
      tokens.push({ type: "text", raw: src, text: src });
      return tokens;
    }
    if (this.#inlineDepth === 0 && hasManyDirections(src)) {
      tokens.push({ type: "unmixed", raw: src, text: src });
      return tokens;
    }
    this.#inlineDepth += 1;
    for (const piece of pieces(src)) super.inlineTokens(piece, tokens);
    this.#inlineDepth -= 1;
    return tokens;
  }
}

function unparsed(text) {
  return { type: "unparsed", raw: text, text };
}

/** Cut text that is too long or has too many marks: if possible at the end of a line, else of a sentence, else of a word. */
function* pieces(text) {
  let start = 0;
  while (start < text.length) {
    const end = start + pieceLength(start === 0 ? text : text.slice(start));
    yield text.slice(start, end);
    start = end;
  }
}

function pieceLength(text) {
  const limit = Math.min(MAX_PIECE_CHARS, lengthWithMarks(text));
  if (text.length <= limit) return text.length;
  const head = text.slice(0, limit);
  const ends = [
    head.search(/(?: +|\\)?\n[^\n]*$/),
    Math.max(...SENTENCE_ENDS.map((end) => head.lastIndexOf(end))) + 1,
    head.lastIndexOf(" "),
  ];
  EMBEDDED_IMAGE.lastIndex = limit;
  EMBEDDED_IMAGE.test(text);
  return ends.find((end) => end > limit / 2) ?? EMBEDDED_IMAGE.lastIndex;
}

function lengthWithMarks(text) {
  MARK.lastIndex = 0;
  for (let marks = 0; MARK.test(text); marks += 1) {
    if (marks === MAX_PIECE_MARKS) return MARK.lastIndex - 1;
  }
  return text.length;
}
