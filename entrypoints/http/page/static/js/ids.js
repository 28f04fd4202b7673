/** Ids of users, conversations and turns. */

/** The grammar of ids in the API. */
export const ID = /^[A-Za-z0-9][A-Za-z0-9._:@\|+=~\-]{0,127}$/;

/** Return a random UUID (version 4), in lower case. `crypto.randomUUID` is missing on plain-http hosts except localhost. */
export function randomUUID() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
