/** Who uses the page. */

import { browserStorage } from "./storage.js";
import { randomUUID } from "./ids.js";

const USER = "user";

/** The grammar of ids in the API. */
const ID = /^[A-Za-z0-9][A-Za-z0-9._:@|+=~-]{0,127}$/;

/**
 * Return `{ user, model }`. The user is the one of the token, if there is one that belongs to a user. Otherwise it is
 * the one in the page's address, `?user=ann`, or one that was made up for this browser. That id is no credential:
 * without authentication, everybody who reaches the service can read everything.
 */
export async function loadSession(api) {
  const session = await api.json("GET", "page/session");
  return { user: session.user_id ?? userInAddress() ?? userOfBrowser(), model: session.model };
}

/** Use this user id in this browser from now on, if it is one. */
export function chooseUser(id) {
  if (ID.test(id)) browserStorage.set(USER, id);
}

export function userOfBrowser() {
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
