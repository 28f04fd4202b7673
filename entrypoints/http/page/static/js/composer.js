/** The field for messages, with the buttons that send one or stop the reply. */

import { byId } from "./elements.js";
import { tabStorage } from "./storage.js";

const DRAFT = "draft";

export class Composer {
  #field = byId("message");
  #send = byId("send");
  #stop = byId("stop");
  #isBusy = false;
  #user = null;
  #onSend;

  /** `onSend(text)` and `onStop()` are called for the user. */
  constructor({ onSend, onStop }) {
    this.#onSend = onSend;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.#field.addEventListener("keydown", (event) => {
      if (isSendKey(event)) {
        event.preventDefault();
        this.submit();
      } else if (event.key === "Escape" && this.#isBusy && !isComposing(event)) {
        onStop();
      }
    });
    this.#field.addEventListener("input", () => this.#onChange());
    this.#send.addEventListener("click", (event) => {
      if (isRepeated(event)) event.preventDefault();
    });
    this.#stop.addEventListener("click", (event) => {
      if (isRepeated(event)) return;
      onStop();
      this.focus();
    });
    this.text = "";
  }

  /** Whose draft is in the field. It is kept if the tab is reloaded, but never shown to another user. */
  set user(user) {
    const isOther = this.#user !== null && this.#user !== user;
    this.#user = user;
    const draft = tabStorage.get(DRAFT);
    if (isOther || !this.text) this.text = draft?.user === user ? draft.text : "";
    else this.#onChange();
  }

  get text() {
    return this.#field.value;
  }

  /** Replace what is written in the field. */
  set text(text) {
    this.#field.value = text;
    this.#onChange();
  }

  /** Whether a reply is being written: the button stops it instead of sending a message. */
  set isBusy(isBusy) {
    this.#isBusy = isBusy;
    this.#stop.hidden = !isBusy;
    this.#send.hidden = isBusy;
  }

  /** Send what is written in the field, unless a reply is being written. */
  submit() {
    const text = this.text;
    if (this.#isBusy || !text.trim()) return;
    this.text = "";
    this.#onSend(text);
  }

  focus() {
    focusMessageField();
  }

  #onChange() {
    if (this.#user !== null) tabStorage.set(DRAFT, this.text ? { user: this.#user, text: this.text } : null);
    this.#send.disabled = !this.#field.value.trim();
    if (!CSS.supports("field-sizing", "content")) {
      this.#field.style.height = "auto";
      this.#field.style.height = `${this.#field.scrollHeight}px`;
    }
  }
}

/** Focus the field; not on touch screens, where that would open the keyboard. */
export function focusMessageField() {
  if (matchMedia("(pointer: fine)").matches) byId("message").focus({ preventScroll: true });
}

/** On touch screens, Enter starts a new line. */
function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !isComposing(event) && !matchMedia("(pointer: coarse)").matches;
}

/** Whether this is the second click of a double click: the first one has put the other button in this place. */
function isRepeated(event) {
  return event.detail > 1;
}

/** Whether the key belongs to an input method that composes a word: Enter accepts it, and Escape drops it. */
function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}
