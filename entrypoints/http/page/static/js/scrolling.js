/** Keeps the end of a conversation in view while it grows, unless the reader has scrolled away from it. */

/** Distance from the end that still counts as the end, in CSS pixels. */
const TOLERANCE = 48;

export class Scrolling {
  #scroller;
  #jump;
  #isFollowing = true;
  #lastTop = 0;

  /** `jump` is a button that is shown while the end is out of view; `onJump()` is called before it scrolls there. */
  constructor({ scroller, content, jump, onJump }) {
    this.#scroller = scroller;
    this.#jump = jump;
    scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    jump.addEventListener("click", () => {
      onJump();
      this.toEnd();
      scroller.focus({ preventScroll: true }); // the button is gone
    });
    const resized = new ResizeObserver(() => this.#isFollowing && this.toEnd());
    resized.observe(content);
    resized.observe(scroller);
  }

  /** Scroll to the end, and stay there. */
  toEnd() {
    this.#isFollowing = true;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#lastTop = this.#scroller.scrollTop;
    this.#jump.hidden = true;
  }

  /** Only the reader scrolls up: a reply that grows leaves the position as it is. */
  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < TOLERANCE;
    if (isAtEnd) this.#isFollowing = true;
    else if (scrollTop < this.#lastTop) this.#isFollowing = false;
    this.#lastTop = scrollTop;
    this.#jump.hidden = isAtEnd || this.#isFollowing;
  }
}
