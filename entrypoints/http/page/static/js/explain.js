/** What went wrong, in words that tell the user what to do about it. */

import { Disconnected, Problem } from "./api.js";

const OPERATOR = "Whoever runs this service has to look at its log.";

const SENTENCES = {
  auth_not_configured:
    "This service answers only on its own machine. To use it from elsewhere, its operator has to set AUTH_MODE.",
  body_too_large: "The message is too long for this service. Shorten it.",
  cancelled: "Stopped.",
  client_disconnected: "Stopped when its reader left.",
  content_filter: "Cut short by the model’s content filter.",
  content_refused: "The model’s provider refused this message. Try to put it differently.",
  context_too_long: "The message does not fit into the model’s context. Shorten it.",
  conversation_not_found: "This conversation was deleted.",
  forbidden: "Your credential does not give access to this user’s conversations. Sign in as somebody else.",
  history_unavailable: "The service cannot reach its database. Try again in a moment.",
  history_write_failed: "The answer could not be stored. Try again in a moment.",
  identity_provider_unavailable: "Your credential cannot be checked at the moment. Try again in a moment.",
  internal_error: `Something went wrong in the service. Try again; if it stays, ${lowered(OPERATOR)}`,
  length: "Cut at the length limit. Ask it to go on.",
  live_turns_unavailable: "The service cannot reach its database. Try again in a moment.",
  memory_disabled: "Long-term memory is switched off on this service.",
  memory_not_found: "This memory was deleted elsewhere. Close the list and open it again.",
  memory_refused: `The memory service rejected this. ${OPERATOR}`,
  memory_unavailable: "Memories cannot be reached at the moment. Try again later; answers go on without them.",
  message_too_long: "The message is too long for this service. Shorten it.",
  server_shutting_down: "The service was stopped. Try again when it is back.",
  superseded: "Stopped, because another message was sent.",
  turn_deadline: "The answer took too long. Try again, or ask for less at once.",
  turn_in_progress: "Another answer of this conversation is still being written. Wait for it, or stop it.",
  too_many_attempts: "Too many wrong credentials. Wait a minute, then try again.",
  turn_not_found: "This answer was deleted elsewhere.",
  unauthenticated: "Sign in to go on.",
  output_limit: "The answer exceeded the size limit.",
  upstream_auth: `The model’s provider rejected the service’s API key. ${OPERATOR}`,
  upstream_disconnected: "The connection to the model broke. Try again.",
  upstream_error: `The model’s provider reported an error. Try again; if it stays, ${lowered(OPERATOR)}`,
  upstream_idle: "The model stopped answering. Try again.",
  upstream_invalid: `The model sent something unreadable. ${OPERATOR}`,
  upstream_quota: `The account with the model’s provider has no credit left. ${OPERATOR}`,
  upstream_rate_limited: "The model is busy. Wait a few seconds, then try again.",
  upstream_timeout: "The model did not answer in time. Try again.",
  upstream_truncated: "The model’s answer was cut off. Try again.",
  upstream_unreachable: `The model cannot be reached. Try again; if it stays, ${lowered(OPERATOR)}`,
  worker_lost: "The service was interrupted here. Try again.",
};

/** For responses of a proxy in front of the service, which have no code. */
const SENTENCES_BY_STATUS = {
  401: "Your login has ended. Reload the page to log in again.",
  403: "Access was refused. Reload the page to log in again.",
  413: SENTENCES.body_too_large,
  429: "Too many requests were sent. Wait a minute, then try again.",
};

/** Describe why a turn ended as it did. `detail` is the service's own description, for codes that are new. */
export function explainReason(code, detail = "") {
  return SENTENCES[code] ?? detail;
}

/** Describe an error of a request. */
export function explain(error) {
  if (error instanceof Problem) {
    if (error.code === null) {
      return SENTENCES_BY_STATUS[error.status] ?? `${error.message} Try again; if it stays, ${lowered(OPERATOR)}`;
    }
    const sentence = SENTENCES[error.code] ?? error.message;
    return error.code === "upstream_rate_limited" && error.retryAfter > 1
      ? `The model is busy. Try again in ${error.retryAfter} seconds.`
      : sentence;
  }
  if (error instanceof Disconnected) {
    return navigator.onLine
      ? "The service cannot be reached. Check that it is running, then try again."
      : "You are offline. Try again when the connection is back.";
  }
  console.error(error);
  return "Something went wrong on this page. Reload it to go on; your conversations are kept.";
}

function lowered(sentence) {
  return sentence[0].toLowerCase() + sentence.slice(1);
}
