/** The list of conversations. On narrow screens it slides in over the page. */

import { button, byId, element, icon } from "./elements.js";
import { explain } from "./explain.js";
import { showNotice } from "./notices.js";

/** How many more conversations are listed at once. */
const PAGE_SIZE = 50;

const DAY = 24 * 60 * 60 * 1000;
const NARROW = matchMedia("(max-width: 760px)");

export class Sidebar {
  #service;
  #onDelete;
  #onTitles;
  #conversations = [];
  /** How many conversations to list, at most. */
  #count = PAGE_SIZE;
  #isLoaded = false;
  #current = null;
  /** The open conversation if it is not listed: it has just begun, or is further down. */
  #unlisted = null;
  /** The open conversation if it was looked for further down, else null. */
  #lookedFor = null;
  #loads = 0;

  /** `onDelete(conversation)` is called for the user, `onTitles()` when titles have been loaded. */
  constructor({ onDelete, onTitles }) {
    this.#onDelete = onDelete;
    this.#onTitles = onTitles;
    byId("more-conversations").onclick = () => this.#loadMore();
    byId("retry-conversations").onclick = () => this.#retry();
  }

  /** List the conversations of this ChatService's user from the next load on. */
  set service(service) {
    this.#service = service;
    this.#conversations = [];
    this.#unlisted = null;
    this.#count = PAGE_SIZE;
    this.#isLoaded = false;
    this.#loads += 1;
    byId("conversations").replaceChildren();
    byId("more-conversations").hidden = true;
    this.#showProblem(null);
  }

  /** Return the title of a conversation, or undefined if it is neither listed nor the open one. */
  title(id) {
    return [...this.#conversations, this.#unlisted].find((conversation) => conversation?.id === id)?.title;
  }

  /** Take note of the open conversation, which may not be listed. */
  learn(conversation) {
    if (conversation.id === this.#current) this.#unlisted = conversation;
  }

  /**
   * Load the latest conversations, as many as before. Of several loads at once, the last one counts. Returns the error if
   * this one did and failed; it is shown if there is no list yet.
   */
  async load() {
    const load = (this.#loads += 1);
    try {
      const { conversations, hasMore } = await this.#service.conversations(this.#count);
      if (load !== this.#loads) return null;
      this.#conversations = conversations;
      this.#isLoaded = true;
      this.#show(hasMore);
      this.#onTitles();
      this.#lookUpCurrent();
      return null;
    } catch (error) {
      if (load !== this.#loads) return null;
      if (!this.#isLoaded) this.#showProblem(explain(error));
      return error;
    }
  }

  /** List more. The whole list is loaded, so that it does not matter what else loads it at the same time. */
  async #loadMore() {
    const listed = this.#conversations.length;
    this.#count = listed + PAGE_SIZE;
    const error = await this.load();
    if (error) showNotice(explain(error), { actions: [{ label: "Try again", run: () => this.#loadMore() }] });
    // The button, which had the focus, is gone when everything is listed.
    else if (byId("more-conversations").hidden) this.#focusRow({ conversation: this.#conversations[listed]?.id, tag: "a" });
  }

  async #retry() {
    await this.load();
    if (byId("conversations-problem").hidden) byId("new-conversation").focus(); // the button is gone
  }

  /** Mark a conversation as the open one; null if that does not exist yet. `title` is that of one that has just begun. */
  mark(id, title = null) {
    this.#showCurrent(id);
    this.#lookedFor = null;
    if (title !== null) this.#unlisted = { id, title };
    else if (this.#unlisted?.id !== id) this.#unlisted = null;
    this.#lookUpCurrent();
  }

  /** Look for the open conversation if there are others than those that are listed. */
  async #lookUpCurrent() {
    const id = this.#current;
    if (id === this.#lookedFor || byId("more-conversations").hidden || this.title(id) !== undefined) return;
    this.#lookedFor = id;
    const service = this.#service;
    const found = await service.conversation(id).catch(() => undefined); // its title is not worth a notice
    if (!found || service !== this.#service) return;
    this.learn(found);
    this.#onTitles();
  }

  #showCurrent(id) {
    this.#current = id;
    for (const link of byId("conversations").querySelectorAll("a")) {
      if (link.dataset.conversation === id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  #show(hasMore) {
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
    withoutMoving(() => byId("conversations").replaceChildren(...sections));
    if (focused) this.#focusRow(focused);
    this.#showProblem(null);
    byId("more-conversations").hidden = !hasMore;
    byId("no-conversations").hidden = this.#conversations.length > 0;
    this.#showCurrent(this.#current);
  }

  /** Show why there is no list; null hides the problem. */
  #showProblem(text) {
    byId("conversations-problem").hidden = text === null;
    byId("conversations-problem-text").replaceChildren(text ?? ""); // announced again if it is the same
  }

  /** Focus an element of a conversation's row, if it is listed. */
  #focusRow({ conversation, tag }) {
    rowOf(conversation)?.querySelector(tag).focus({ preventScroll: true });
  }

  #row(conversation) {
    const title = conversation.title || conversation.id;
    const link = element("a", { href: `#${encodeURIComponent(conversation.id)}`, title, dir: "auto" }, title);
    link.dataset.conversation = conversation.id;
    const attributes = { class: "icon-button small", "aria-label": `Delete “${title}”` };
    return element("li", {}, link, button(() => this.#onDelete(conversation), attributes, icon("trash")));
  }
}

function rowOf(id) {
  const links = [...byId("conversations").querySelectorAll("a")];
  return links.find((link) => link.dataset.conversation === id)?.closest("li");
}

/** Replace the rows. If the list is scrolled, the first one in view stays where it is, also if others were added above. */
function withoutMoving(replace) {
  const scroller = byId("conversation-list");
  const top = scroller.scrollTop;
  if (top === 0) return replace();
  const edge = scroller.getBoundingClientRect().top;
  const rows = [...scroller.querySelectorAll("li")];
  const first = rows.find((row) => row.getBoundingClientRect().bottom > edge);
  const before = first?.getBoundingClientRect().top;
  replace();
  const after = first && rowOf(first.querySelector("a").dataset.conversation)?.getBoundingClientRect().top;
  scroller.scrollTop = after === undefined ? top : scroller.scrollTop + after - before;
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
