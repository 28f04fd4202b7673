/** The list of conversations. On narrow screens it slides in over the page. */

import { button, byId, element, icon } from "./elements.js";
import { explain } from "./explain.js";
import { showNotice } from "./notices.js";

const DAY = 24 * 60 * 60 * 1000;
const NARROW = matchMedia("(max-width: 760px)");

export class Sidebar {
  #service;
  #onDelete;
  #onTitles;
  #conversations = [];
  #cursor = null;
  #current = null;
  #loads = 0;

  /** `onDelete(conversation)` is called for the user, `onTitles()` when titles have been loaded. */
  constructor({ onDelete, onTitles }) {
    this.#onDelete = onDelete;
    this.#onTitles = onTitles;
    byId("more-conversations").onclick = () => this.load({ more: true });
  }

  /** List the conversations of this ChatService's user from the next load on. */
  set service(service) {
    this.#service = service;
    this.#conversations = [];
    this.#cursor = null;
    this.#loads += 1;
    byId("conversations").replaceChildren();
    byId("more-conversations").hidden = true;
  }

  /** Return the title of a conversation, or undefined if it is not listed. */
  title(id) {
    return this.#conversations.find((conversation) => conversation.id === id)?.title;
  }

  /** Load the latest conversations, as many as before, or further ones. Of several loads at once, the last one counts. */
  async load({ more = false } = {}) {
    const load = (this.#loads += 1);
    try {
      const page = more
        ? await this.#service.conversations(this.#cursor)
        : await this.#service.conversations(null, this.#conversations.length);
      if (load !== this.#loads) return;
      this.#conversations = more ? [...this.#conversations, ...page.conversations] : page.conversations;
      this.#cursor = page.next_cursor;
      this.#show();
      this.#onTitles();
    } catch (error) {
      if (load === this.#loads && more) showNotice(explain(error));
    }
  }

  mark(id) {
    this.#current = id;
    for (const link of byId("conversations").querySelectorAll("a")) {
      if (link.dataset.conversation === id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  #show() {
    const groups = new Map();
    for (const conversation of this.#conversations) {
      const name = period(conversation);
      groups.set(name, [...(groups.get(name) ?? []), conversation]);
    }
    const sections = [...groups].map(([name, conversations]) =>
      element(
        "section",
        {},
        element("h2", { class: "period" }, name),
        element("ul", {}, ...conversations.map((conversation) => this.#row(conversation))),
      ),
    );
    const focused = focusedRow();
    byId("conversations").replaceChildren(...sections);
    if (focused) this.#focusRow(focused);
    byId("more-conversations").hidden = this.#cursor === null;
    byId("no-conversations").hidden = this.#conversations.length > 0;
    this.mark(this.#current);
  }

  #focusRow({ conversation, tag }) {
    const link = [...byId("conversations").querySelectorAll("a")].find((a) => a.dataset.conversation === conversation);
    link?.closest("li").querySelector(tag).focus({ preventScroll: true });
  }

  #row(conversation) {
    const title = conversation.title || conversation.id;
    const link = element("a", { href: `#${encodeURIComponent(conversation.id)}`, title }, title);
    link.dataset.conversation = conversation.id;
    const attributes = { class: "icon-button small", "aria-label": `Delete “${title}”` };
    return element("li", {}, link, button(() => this.#onDelete(conversation), attributes, icon("trash")));
  }
}

/** Return which row of the list has the focus, and which of its elements; null if none has. */
function focusedRow() {
  const row = document.activeElement.closest("#conversations li");
  return row && { conversation: row.querySelector("a").dataset.conversation, tag: document.activeElement.tagName };
}

function period({ updated_at: updatedAt }) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const time = Date.parse(updatedAt);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  if (time >= midnight - 7 * DAY) return "Last seven days";
  return "Earlier";
}

/** Set up how the sidebar opens and closes on narrow screens. */
export function setUpDrawer() {
  const isOpen = () => document.body.classList.contains("drawer-open");
  byId("open-drawer").addEventListener("click", () => setDrawer(true));
  for (const id of ["close-drawer", "scrim"]) byId(id).addEventListener("click", () => closeDrawer());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isOpen() && !document.querySelector("dialog[open]")) closeDrawer();
  });
  NARROW.addEventListener("change", () => setDrawer(false));
}

/** Close the sidebar, and return the focus to the button that opened it. */
export function closeDrawer() {
  if (!document.body.classList.contains("drawer-open")) return;
  setDrawer(false);
  byId("open-drawer").focus();
}

function setDrawer(isOpen) {
  document.body.classList.toggle("drawer-open", isOpen);
  byId("open-drawer").setAttribute("aria-expanded", String(isOpen));
  byId("main").inert = isOpen && NARROW.matches;
  if (isOpen) byId("close-drawer").focus();
}
