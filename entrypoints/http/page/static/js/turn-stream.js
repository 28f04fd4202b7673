/** Following a turn to its end, whatever the connection does. */

import { Disconnected, Problem } from "./api.js";
import { decodeEvents } from "./event-stream.js";

/**
 * Milliseconds without a byte after which a connection counts as lost. The service sends a comment every 15 seconds, and
 * keeps a response back for about 20 at most: until the turns before it have ended, and the model has begun.
 */
const MAX_SILENCE = 45_000;

const FIRST_DELAY = 300;
const MAX_DELAY = 10_000;

/**
 * Yield the events of a turn, each once and in order: `{ content, done }`, the last one with `done: true`.
 *
 * - `begin(signal)` sends the message and returns the response. It is called again if the connection breaks before the
 *   response has begun, so repeating it must be safe. Leave it out to follow a turn that is already running.
 * - `rejoin(after, signal)` requests the events after number `after`, and returns the response.
 * - `onBegun()` is called once the service has stored the message.
 * - `onConnection(isUp)` is called when the connection breaks, and when it is back.
 *
 * Throws a Problem unless it passes by itself; if `signal` is aborted, its reason.
 */
export async function* followTurn({ begin, rejoin, signal, onBegun, onConnection }) {
  let after = 0;
  let failures = 0;
  let isBegun = !begin;
  for (;;) {
    signal.throwIfAborted();
    try {
      const response = await responseOf((attempt) => (isBegun ? rejoin(after, attempt) : begin(attempt)), signal);
      if (!isBegun) {
        isBegun = true;
        onBegun();
      }
      onConnection(true);
      if (response.status === 204) return; // everything was received before
      for await (const event of eventsOf(response)) {
        failures = 0;
        if (event.id <= after) continue;
        after = event.id;
        if (event.data === "[DONE]") return;
        yield JSON.parse(event.data);
      }
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof Disconnected || (error instanceof Problem && error.isTransient))) throw error;
    }
    onConnection(false);
    await pause(delayAfter(failures++), signal);
  }
}

/** Return the response to a request, which gets a signal. Throws Disconnected if there is none for too long. */
async function responseOf(request, signal) {
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(), MAX_SILENCE);
  try {
    return await request(AbortSignal.any([signal, silence.signal]));
  } catch (error) {
    throw silence.signal.aborted ? new Disconnected("No response for too long.", { cause: error }) : error;
  } finally {
    clearTimeout(timer);
  }
}

/** Yield the events of a response until it ends. Throws Disconnected if the connection breaks. */
async function* eventsOf(response) {
  const onSilence = () => new Disconnected("Nothing arrived for too long.");
  try {
    yield* decodeEvents(response.body, { silence: MAX_SILENCE, onSilence });
  } catch (error) {
    throw error instanceof Disconnected ? error : new Disconnected("The connection broke.", { cause: error });
  }
}

function delayAfter(failures) {
  return Math.min(MAX_DELAY, FIRST_DELAY * 2 ** failures);
}

/** Wait, but not longer than until the browser is online again. Throws the reason of `signal` if it is aborted. */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const finished = new AbortController();
    const timer = setTimeout(finish, milliseconds, resolve);
    function finish(settle) {
      clearTimeout(timer);
      finished.abort();
      settle(signal.reason);
    }
    window.addEventListener("online", () => finish(resolve), { signal: finished.signal });
    signal.addEventListener("abort", () => finish(reject), { signal: finished.signal });
  });
}
