/** Building the page's elements. No HTML is ever parsed, neither here nor anywhere else. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an element. Attributes that are null, undefined or false are left out, and true means an empty value. Children
 * may be lists: `...nodes` fails if there are more than a call can have arguments, e.g. in a reply of 60,000 items.
 *
 *     element("a", { href, class: "link" }, "text", icon("copy"))
 */
export function element(tag, attributes = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null && value !== false) created.setAttribute(name, value === true ? "" : value);
  }
  appendAll(created, children);
  return created;
}

/** Append nodes and strings, and those in lists. */
export function appendAll(parent, children) {
  for (const child of children.flat()) parent.append(child);
}

/** Show these nodes instead of what was shown. */
export function replaceAll(parent, children) {
  const fragment = document.createDocumentFragment();
  appendAll(fragment, children);
  parent.replaceChildren(fragment);
}

/** Create a button that calls `onClick` with its event. */
export function button(onClick, attributes, ...children) {
  const created = element("button", { type: "button", ...attributes }, ...children);
  created.addEventListener("click", onClick);
  return created;
}

/** Create an image of one of the symbols in index.html, e.g. `icon("copy")`. It is hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export function byId(id) {
  return document.getElementById(id);
}
