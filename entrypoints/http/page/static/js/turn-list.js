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

  /** Whether there is any turn that was not refused. */
  get hasStored() {
    return this.#items.some(({ turn, view }) => !(view?.turn ?? turn).isRefused);
  }

  /** Whether the newest turn is in the document. */
  get isAtNewest() {
    return this.#end === this.#items.length;
  }

  /** Whether the oldest turn was loaded. */
  set isComplete(isComplete) {
    this.#isComplete = isComplete;
    this.#withoutMoving(() => this.#hideOlderAtTheBeginning());
    this.#observe();
  }

  has(id) {
    return this.#find(id) !== undefined;
  }

  /** Return the view of a turn, which may be outside of the document. */
  view(id) {
    return this.#viewOf(this.#find(id));
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
    const shown = this.#render(this.#first, this.#end);
    this.#container.replaceChildren(...shown);
    this.#fixHeights(shown);
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

  /**
   * Bring the end of the list up to date with `turns`, the newest ones that are stored, of which one is known. Those that are
   * not stored any more disappear; refused ones stay, at the end. What the reader sees stays where it is.
   */
  merge(turns) {
    const stored = new Set(turns.map(({ id }) => id));
    const known = new Map(this.#items.map((item) => [item.turn.id, item]));
    const [isAtNewest, first, last] = [this.isAtNewest, this.#items[this.#first], this.#items[this.#end - 1]];
    const isRefused = ({ turn, view }) => (view?.turn ?? turn).isRefused;
    const refused = this.#items.filter(isRefused);
    const before = this.#items.slice(0, this.#items.findIndex(({ turn }) => stored.has(turn.id)));
    const older = before.filter((item) => !isRefused(item));
    this.#items = [...older, ...turns.map((turn) => updated(known.get(turn.id), turn)), ...refused];
    this.#end = isAtNewest ? this.#items.length : this.#items.indexOf(last) + 1;
    this.#first = this.#items.indexOf(first);
    if (this.#first < 0) this.#first = Math.min(older.length, this.#end);
    this.#first = Math.max(this.#first, this.#end - MAX_SHOWN);
    this.#withoutMoving(() => this.#arrange(this.#render(this.#first, this.#end)));
    this.#observe();
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
      const shown = this.#render(from, this.#first);
      this.#container.prepend(...shown);
      this.#fixHeights(shown);
      this.#first = from;
      while (this.#end - this.#first > MAX_SHOWN) this.#hide((this.#end -= 1));
      this.#hideOlderAtTheBeginning();
    });
    this.#observe();
  }

  #hideOlderAtTheBeginning() {
    this.#older.hidden = this.#isComplete && this.#first === 0;
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
    return this.#items.slice(from, to).map((item) => this.#viewOf(item).root);
  }

  #viewOf(item) {
    item.view ??= new TurnView(item.turn, this.#onRetry);
    return item.view;
  }

  /** Have these elements in the document, in this order. Those that are there already are not touched, e.g. a selection. */
  #arrange(roots) {
    const wanted = new Set(roots);
    for (const present of [...this.#container.children]) if (!wanted.has(present)) present.remove();
    roots.forEach((root, i) => {
      const present = this.#container.children[i];
      if (present !== root) this.#container.insertBefore(root, present ?? null);
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

  /**
   * Lay turns out that were added above what is visible. Otherwise they have an estimated height until they come near, and
   * move what the reader sees when they get their own, unless the browser keeps the position by itself: Safari does not.
   */
  #fixHeights(roots) {
    if (getComputedStyle(this.#scroller).overflowAnchor === "auto") return;
    for (const root of roots) root.style.contentVisibility = "visible";
    const heights = roots.map((root) => contentHeight(root));
    roots.forEach((root, i) => {
      root.style.contentVisibility = "";
      root.style.containIntrinsicHeight = `auto ${heights[i]}px`;
    });
  }

  /** Make a change above or below what is visible, which stays where it is. */
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
    this.#hideOlderAtTheBeginning();
    for (const edge of [this.#older, this.#newer]) {
      this.#observer.unobserve(edge);
      this.#observer.observe(edge);
    }
  }
}

/** Return the item of a stored turn. `item` is the one that was there, if any. */
function updated(item, turn) {
  if (!item) return { turn, view: null };
  const isChanged = (item.view?.turn ?? item.turn).status !== turn.status;
  item.turn = turn;
  if (isChanged) item.view?.replace(turn);
  return item;
}

/** Return the height of an element without its padding, in CSS pixels. */
function contentHeight(root) {
  const { paddingTop, paddingBottom } = getComputedStyle(root);
  return root.getBoundingClientRect().height - Number.parseFloat(paddingTop) - Number.parseFloat(paddingBottom);
}
