/** Who uses the page. */

import { browserStorage } from "./storage.js";
import { ID, randomUUID } from "./ids.js";

const USER = "user";

/**
 * Return `{ user, model }`. The user is the one of the token, if there is one that belongs to a user. Otherwise it is
 * the one in the page's address, `?user=ann`, or one that was made up for this browser. That id is no credential:
 * without authentication, anyone who can reach the service can read everything.
 */
export async function loadSession(api) {
  const session = await api.json("GET", "page/session");
  return { user: session.user_id ?? proposedUser(), model: session.model };
}

/** Return the user whom the page would choose. */
export function proposedUser() {
  return userInAddress() ?? userOfBrowser();
}

/** Use this user id in this browser from now on, instead of one in the page's address. */
export function chooseUser(id) {
  browserStorage.set(USER, id);
  const address = new URL(location.href);
  address.searchParams.delete("user");
  history.replaceState(null, "", address);
}

function userOfBrowser() {
  const kept = browserStorage.get(USER);
  if (typeof kept === "string" && ID.test(kept)) return kept;
  const user = `web-${randomUUID().slice(0, 13)}`;
  browserStorage.set(USER, user);
  return user;
}

function userInAddress() {
  const user = new URLSearchParams(location.search).get("user");
  return user !== null && ID.test(user) ? user : null;
}
