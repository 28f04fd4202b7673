/** The dialog that asks for a token or an API key. It is held in memory until the tab is closed or reloaded. */

import { byId } from "./elements.js";
import { ID } from "./ids.js";
import { chooseUser, proposedUser } from "./session.js";

const KEY_PREFIX = "ck_";

export class SignIn {
  #dialog = byId("sign-in");
  #onCredential;

  /** `onCredential(credential)` is called when the user has entered one, `onDismiss()` when the dialog was closed instead. */
  constructor({ onCredential, onDismiss }) {
    this.#onCredential = onCredential;
    byId("key-user").pattern = ID.source;
    byId("credential").addEventListener("input", () => this.#showUserField());
    this.#dialog.addEventListener("cancel", onDismiss);
    byId("sign-in-form").addEventListener("submit", () => this.#submit());
  }

  /** Ask for a credential. `isRejected`: the one that was sent is not valid. */
  ask({ isRejected }) {
    byId("sign-in-problem").hidden = !isRejected;
    if (this.#dialog.open) return;
    byId("key-user").value = proposedUser();
    this.#showUserField();
    this.#dialog.showModal();
    byId("credential").focus();
  }

  /** An API key may be used for several users. */
  #showUserField() {
    const isKey = byId("credential").value.trim().startsWith(KEY_PREFIX);
    byId("key-user-field").hidden = !isKey;
    byId("key-user").disabled = !isKey; // so that it is not required either
  }

  #submit() {
    const credential = byId("credential").value.trim();
    if (credential.startsWith(KEY_PREFIX)) chooseUser(byId("key-user").value);
    byId("credential").value = "";
    this.#onCredential(credential);
  }
}
