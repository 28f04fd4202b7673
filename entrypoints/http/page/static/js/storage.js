/** The browser's storage, if it may be used. Nothing secret goes here: credentials stay in memory. */

/** Wrap `localStorage` or `sessionStorage`: if it is blocked or full, values are not kept. */
class Storage {
  #area;

  constructor(name) {
    try {
      this.#area = window[name];
    } catch {
      this.#area = null;
    }
  }

  get(key) {
    try {
      return JSON.parse(this.#area.getItem(key));
    } catch {
      return null;
    }
  }

  /** Store a value; null removes it. */
  set(key, value) {
    try {
      if (value === null) this.#area.removeItem(key);
      else this.#area.setItem(key, JSON.stringify(value));
    } catch {
      // The page works without it.
    }
  }
}

export const browserStorage = new Storage("localStorage");
export const tabStorage = new Storage("sessionStorage");
