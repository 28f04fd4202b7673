/** Inline Markdown: from the tokens of marked's lexer to nodes. */

import { appendAll, element } from "../elements.js";
import { decodeEntities } from "./entities.js";
import { isEmbeddedImage, linkTarget } from "./links.js";

const LINE_BREAK = /^<br\s*\/?>$/i;

/** Return the nodes and strings of a list of inline tokens. */
export function inlineNodes(tokens = []) {
  return tokens.map(inlineNode);
}

function inlineNode(token) {
  switch (token.type) {
    case "text":
      return token.tokens ? span(token.tokens) : decodeEntities(token.text);
    case "strong":
    case "em":
    case "del":
      return element(token.type, {}, inlineNodes(token.tokens));
    case "codespan":
      return element("code", { dir: "ltr" }, token.text);
    case "br":
      return element("br");
    case "escape":
      return token.text;
    case "link":
      return link(token);
    case "image":
      return image(token);
    case "checkbox":
      return checkbox(token);
    case "unmixed":
      return element("span", { class: "unmixed" }, token.text);
    case "html": // shown as it is written, but for the line breaks that models put into tables
      return LINE_BREAK.test(token.text.trim()) ? element("br") : token.text;
    default:
      return token.raw;
  }
}

function span(tokens) {
  const fragment = document.createDocumentFragment();
  appendAll(fragment, inlineNodes(tokens));
  return fragment;
}

function link(token) {
  const target = linkTarget(destination(token));
  const nodes = token.autolink ? [token.text] : inlineNodes(token.tokens);
  return target ? anchor(target, { title: target }, nodes) : element("span", { class: "blocked-link" }, nodes);
}

/** An image of another host becomes a link: loading it would tell that host whatever the model put into the URL. */
function image(token) {
  const source = destination(token);
  const description = span(token.tokens).textContent;
  if (isEmbeddedImage(source)) return element("img", { src: source, alt: description });
  const target = linkTarget(source);
  if (!target) return element("span", { class: "blocked-link" }, description || "image");
  const label = description || new URL(target).host || target;
  return anchor(target, { title: target, class: "remote-image" }, `Image: ${label}`);
}

/** Return the URL that is meant. It is decoded before it is checked. An autolink, `<https://…>`, is the URL as it is. */
function destination(token) {
  return token.autolink ? token.href : decodeEntities(token.href);
}

function anchor(target, attributes, children) {
  const safe = { href: target, target: "_blank", rel: "noopener noreferrer nofollow" };
  return element("a", { ...safe, ...attributes }, children);
}

function checkbox(token) {
  const label = token.checked ? "done" : "to do";
  return element("input", { type: "checkbox", disabled: true, checked: token.checked, "aria-label": label });
}
