/** The turns of a conversation. All that were loaded are kept as data; a part of them is in the document. */

import { TurnView } from "./turn-view.js";

/** How many turns are added at once, and how many are in the document at most. */
const PAGE = 50;
const MAX_SHOWN = 400;

/** How close to an edge of what is shown the reader gets before more is added, in CSS pixels. */
const MARGIN = "1200px 0px";

export class TurnList {
  #scroller;
  #container;
  #older;
  #newer;
  #onRetry;
  #onOlderNeeded;
  #observer;
  /** `{ turn, view }` of every loaded turn, oldest first. Those from `#first` to before `#end` are in the document. */
  #items = [];
  #first = 0;
  #end = 0;
  #isComplete = true;

  /**
   * `older` and `newer` are elements before and after the turns; when they come near, more turns are shown. If all that
   * were loaded are shown, `onOlderNeeded()` is called to load some. `onRetry(turn)` sends a turn's message again.
   */
  constructor({ scroller, container, older, newer, onRetry, onOlderNeeded }) {
    this.#scroller = scroller;
    this.#container = container;
    this.#older = older;
    this.#newer = newer;
    this.#onRetry = onRetry;
    this.#onOlderNeeded = onOlderNeeded;
    this.#observer = new IntersectionObserver((entries) => this.#onNear(entries), { root: scroller, rootMargin: MARGIN });
  }

  get isEmpty() {
    return this.#items.length === 0;
  }

  /** Whether the newest turn is in the document. */
  get isAtNewest() {
    return this.#end === this.#items.length;
  }

  /** Whether the oldest turn was loaded. */
  set isComplete(isComplete) {
    this.#isComplete = isComplete;
    this.#observe();
  }

  has(id) {
    return this.#find(id) !== undefined;
  }

  /** Return the view of a turn, or undefined if it is not in the document. */
  view(id) {
    return this.#find(id)?.view;
  }

  /** Show these turns, and nothing else. */
  replace(turns) {
    this.#items = turns.map((turn) => ({ turn, view: null }));
    this.showNewest();
  }

  /** Show the newest turns. */
  showNewest() {
    this.#first = this.#end = this.#items.length;
    this.#first = Math.max(0, this.#first - PAGE);
    this.#container.replaceChildren(...this.#render(this.#first, this.#end));
    this.#observe();
  }

  /** Add a turn as the newest one, and return its view. */
  append(turn) {
    const item = { turn, view: new TurnView(turn, this.#onRetry) };
    if (!this.isAtNewest) this.showNewest();
    this.#items.push(item);
    this.#end += 1;
    this.#container.append(item.view.root);
    this.#trimStart();
    return item.view;
  }

  remove(id) {
    const index = this.#items.findIndex(({ turn }) => turn.id === id);
    if (index < 0) return;
    const [{ view }] = this.#items.splice(index, 1);
    view?.root.remove();
    if (index < this.#first) this.#first -= 1;
    if (index < this.#end) this.#end -= 1;
  }

  /** Replace a turn by what is stored of it now. */
  update(turn) {
    const item = this.#find(turn.id);
    item.turn = turn;
    item.view?.replace(turn);
  }

  /** Add turns that are older than all others, and show them. */
  prepend(turns) {
    this.#items.unshift(...turns.map((turn) => ({ turn, view: null })));
    this.#first += turns.length;
    this.#end += turns.length;
    this.showOlder();
  }

  /** Show more turns at the top, and fewer at the bottom. What the reader sees stays where it is. */
  showOlder() {
    const from = Math.max(0, this.#first - PAGE);
    this.#withoutMoving(() => {
      this.#container.prepend(...this.#render(from, this.#first));
      this.#first = from;
      while (this.#end - this.#first > MAX_SHOWN) this.#hide((this.#end -= 1));
    });
    this.#observe();
  }

  #showNewer() {
    const to = Math.min(this.#items.length, this.#end + PAGE);
    this.#withoutMoving(() => {
      this.#container.append(...this.#render(this.#end, to));
      this.#end = to;
      this.#trimStart();
    });
    this.#observe();
  }

  #trimStart() {
    while (this.#end - this.#first > MAX_SHOWN) this.#hide(this.#first++);
  }

  #find(id) {
    return this.#items.findLast(({ turn, view }) => (view?.turn ?? turn).id === id);
  }

  #render(from, to) {
    return this.#items.slice(from, to).map((item) => {
      item.view ??= new TurnView(item.turn, this.#onRetry);
      return item.view.root;
    });
  }

  /** Take a turn out of the document. The view of one that is still being written is kept. */
  #hide(index) {
    const item = this.#items[index];
    item.view.root.remove();
    if (item.view.turn.status === "in_progress") return;
    item.turn = item.view.turn;
    item.view = null;
  }

  /** Make a change above or below what is visible. Not every browser keeps the position by itself. */
  #withoutMoving(change) {
    const top = this.#scroller.getBoundingClientRect().top;
    const anchor = [...this.#container.children].find((turn) => turn.getBoundingClientRect().bottom > top);
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (anchor?.isConnected) this.#scroller.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  #onNear(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      if (target === this.#newer && !this.isAtNewest) this.#showNewer();
      else if (target === this.#older && this.#first > 0) this.showOlder();
      else if (target === this.#older && !this.#isComplete) this.#onOlderNeeded();
    }
  }

  /** Observe the edges anew: an observer only reports changes, and an edge may still be near. */
  #observe() {
    this.#older.hidden = this.#isComplete && this.#first === 0;
    for (const edge of [this.#older, this.#newer]) {
      this.#observer.unobserve(edge);
      this.#observer.observe(edge);
    }
  }
}
