/** Messages whose arrival the service has not confirmed yet. They survive a reload of the tab, which sends them again. */

import { tabStorage } from "./storage.js";

const KEY = "unsent";

function all() {
  return tabStorage.get(KEY) ?? {};
}

/** Keep `{ user, conversation, turnId, text }`. */
export function keepUnsent(message) {
  tabStorage.set(KEY, { ...all(), [message.turnId]: message });
}

export function dropUnsent(turnId) {
  const { [turnId]: _, ...others } = all();
  tabStorage.set(KEY, Object.keys(others).length ? others : null);
}

export function dropAllUnsent() {
  tabStorage.set(KEY, null);
}

export function unsentOf(user, conversation) {
  return Object.values(all()).filter((message) => message.user === user && message.conversation === conversation);
}
