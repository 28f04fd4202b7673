/** The dialog that asks for a token or an API key. It is held in memory until the tab is closed or reloaded. */

import { byId } from "./elements.js";
import { chooseUser, userOfBrowser } from "./session.js";

const KEY_PREFIX = "ck_";

export class SignIn {
  #dialog = byId("sign-in");
  #onCredential;

  /** `onCredential(credential)` is called when the user has entered one. */
  constructor(onCredential) {
    this.#onCredential = onCredential;
    byId("credential").addEventListener("input", () => this.#showUserField());
    byId("sign-in-form").addEventListener("submit", () => this.#submit());
  }

  /** Ask for a credential. `isRejected`: the one that was sent is not valid. */
  ask({ isRejected }) {
    byId("sign-in-problem").hidden = !isRejected;
    if (this.#dialog.open) return;
    byId("key-user").value = userOfBrowser();
    this.#showUserField();
    this.#dialog.showModal();
    byId("credential").focus();
  }

  /** An API key may be used for several users. */
  #showUserField() {
    byId("key-user-field").hidden = !byId("credential").value.trim().startsWith(KEY_PREFIX);
  }

  #submit() {
    const credential = byId("credential").value.trim();
    if (credential.startsWith(KEY_PREFIX)) chooseUser(byId("key-user").value.trim());
    byId("credential").value = "";
    if (credential) this.#onCredential(credential);
  }
}
