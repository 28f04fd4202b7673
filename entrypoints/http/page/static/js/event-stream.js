/** Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). */

/**
 * Yield the events of a response's body as `{ id, data }`; `id` is a number. An event whose blank line is missing, i.e.
 * that was cut off, is dropped.
 *
 * Throws `onSilence()` if nothing, not even a keep-alive comment, arrives for `silence` milliseconds.
 */
export async function* decodeEvents(body, { silence = Infinity, onSilence } = {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  let id = 0;
  let data = [];
  try {
    for (;;) {
      const { value, done } = await withTimeout(reader.read(), silence, onSilence);
      if (done) return;
      buffer += decoder.decode(value, { stream: true });
      const { lines, rest } = completeLines(buffer);
      buffer = rest;
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { id, data: data.join("\n") };
          data = [];
          continue;
        }
        const [name, text] = field(line);
        if (name === "data") data.push(text);
        else if (name === "id") id = Number(text);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already
  }
}

/** Split text into complete lines and the rest. A line ends with LF, CR LF or CR; a CR at the end may be half of one. */
function completeLines(text) {
  const lines = [];
  let start = 0;
  for (const end of text.matchAll(/\r\n|\n|\r(?!$)/g)) {
    lines.push(text.slice(start, end.index));
    start = end.index + end[0].length;
  }
  return { lines, rest: text.slice(start) };
}

/** Return the name and the value of a line. A comment has an empty name. */
function field(line) {
  const colon = line.indexOf(":");
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
}

async function withTimeout(promise, milliseconds, onTimeout) {
  if (milliseconds === Infinity) return promise;
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(onTimeout()), milliseconds);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
