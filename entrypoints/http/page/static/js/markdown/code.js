/** Blocks of code: a frame with the language and a copy button, and highlighting once the block is complete. */

import { element } from "../elements.js";
import { decodeEntities } from "./entities.js";
import { hasManyDirections } from "./runs.js";
import hljs from "../../vendor/highlight.js";

/** Longer code is not highlighted: it would block the page for too long. */
const MAX_HIGHLIGHTED_CHARS = 20_000;

/** Nor is code with a longer word: most grammars search it again from each of its letters, e.g. for the `(` after a name. */
const LONG_WORD = /[\w$-]{1001}/;

/** Grammars that also do so with words in a row, by the name that highlight.js gives them. */
const SLOW_WITH_WORDS = new Set(["C", "C++", "C#", "TOML, also INI"]);
const MANY_WORDS = /[\w\s.]{1001}/;

const MAX_LANGUAGE_CHARS = 30;

/** Return whether a fenced block has its closing fence. */
export function isClosedFence(raw) {
  const opening = /^ {0,3}(`{3,}|~{3,})/.exec(raw)?.[1];
  if (!opening) return false;
  const lastLine = raw.trimEnd().split("\n").slice(1).at(-1)?.trim() ?? "";
  return lastLine.length >= opening.length && lastLine === opening[0].repeat(lastLine.length);
}

/** Return the element of a code token. `isComplete`: nothing will be added to it. */
export function codeBlock(token, isComplete) {
  const language = languageOf(token);
  const code = element("code");
  code.textContent = token.text;
  code.classList.toggle("unmixed", hasManyDirections(token.text));
  if (isComplete) highlight(code, token.text, language);
  return element(
    "div",
    { class: "code-block", dir: "ltr" },
    element(
      "div",
      { class: "code-head" },
      element("span", {}, language || "text"),
      element("button", { type: "button", class: "copy-code" }, "Copy"),
    ),
    element("pre", { tabindex: 0, role: "group", "aria-label": `Code, ${language || "text"}` }, code),
  );
}

/** Change a block's code in place, so that its selection and its scroll position stay. */
export function updateCodeBlock(block, before, token, isComplete) {
  const code = block.querySelector("code");
  code.classList.toggle("unmixed", hasManyDirections(token.text));
  if (isComplete) {
    code.textContent = token.text;
    highlight(code, token.text, languageOf(token));
  } else if (code.firstChild && token.text.startsWith(before.text)) {
    code.firstChild.appendData(token.text.slice(before.text.length));
  } else {
    code.textContent = token.text;
  }
}

export function languageOf(token) {
  return decodeEntities(token.lang ?? "").trim().split(/\s+/)[0].slice(0, MAX_LANGUAGE_CHARS);
}

function highlight(code, text, language) {
  const grammar = language && hljs.getLanguage(language);
  if (!grammar || text.length > MAX_HIGHLIGHTED_CHARS || LONG_WORD.test(text)) return;
  if (SLOW_WITH_WORDS.has(grammar.name) && MANY_WORDS.test(text)) return;
  const result = hljs.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(result._emitter.root);
}

/** Receives the parts of highlighted code from highlight.js, and builds nodes instead of HTML. */
class NodeEmitter {
  constructor({ classPrefix }) {
    this.classPrefix = classPrefix;
    this.root = document.createDocumentFragment();
    this.open = [this.root];
  }

  addText(text) {
    if (text) this.open.at(-1).append(text);
  }

  /** Open a scope, e.g. `title.function`, which becomes the classes `hljs-title function_`. */
  startScope(scope) {
    const [first, ...others] = String(scope).split(".");
    const classes = [this.classPrefix + first, ...others.map((name, i) => name + "_".repeat(i + 1))];
    const created = element("span", { class: classes.join(" ") });
    this.open.at(-1).append(created);
    this.open.push(created);
  }

  endScope() {
    this.open.pop();
  }

  openNode(scope) {
    this.startScope(scope);
  }

  closeNode() {
    this.endScope();
  }

  __addSublanguage(other) {
    this.open.at(-1).append(other.root);
  }

  finalize() {}

  toHTML() {
    return "";
  }
}

hljs.configure({ __emitter: NodeEmitter });
