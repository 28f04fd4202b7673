/** One turn: the user's message, the reply, and what can be done with it. */

import { copyText } from "./clipboard.js";
import { button, element, icon, replaceAll } from "./elements.js";
import { explainReason } from "./explain.js";
import { renderMarkdown } from "./markdown/blocks.js";
import { joinRuns } from "./markdown/runs.js";
import { StreamingMarkdown } from "./markdown/streaming.js";
import { announce, showNotice } from "./notices.js";

const COPIED_MILLISECONDS = 1500;

/** Shown as information. All other reasons are failures. */
const HARMLESS = new Set(["cancelled", "superseded", "length"]);

export class TurnView {
  #streaming = null;
  #answer = element("div", { class: "answer" });
  #tools = element("div", { class: "tools" });
  /** Why the reply ended as it did; empty if there is nothing to say about it. */
  #why = "";
  #onRetry;

  /** `turn` as the API returns it. `onRetry(turn)` sends its message again. */
  constructor(turn, onRetry) {
    this.turn = { ...turn };
    this.#onRetry = onRetry;
    const message = element("div", { class: "message" }, turn.user_message);
    message.prepend(element("span", { class: "visually-hidden" }, "You: "));
    this.root = element(
      "article",
      { class: "turn", "aria-label": "Message and answer" },
      message,
      element("h2", { class: "visually-hidden" }, "Answer"),
      this.#answer,
      this.#tools,
    );
    if (turn.status === "in_progress") this.restart();
    else this.#showStored();
  }

  /** How the reply ended, for those who do not see it. */
  get outcome() {
    return this.#why || "Answer complete.";
  }

  /** Wait for the reply from its first event. */
  restart() {
    this.turn.assistant_response = "";
    this.#answer.replaceChildren();
    this.#answer.classList.add("writing");
    this.#answer.setAttribute("aria-busy", "true");
    this.#tools.replaceChildren();
    this.#streaming = new StreamingMarkdown(this.#answer);
  }

  append(text) {
    this.turn.assistant_response += text;
    this.#streaming.push(text);
  }

  /** Show that the reply has ended, with all of its text. `reason` is a code of the API, or null. */
  end(status, reason, detail) {
    this.#streaming.end();
    Object.assign(this.turn, { status, reason });
    this.#showEnd(detail);
  }

  /** Show that the message was not accepted: this turn is not stored. */
  refuse(reason, detail) {
    this.turn.isRefused = true;
    this.end("failed", reason, detail);
  }

  /** Show the turn as it is stored, whatever was received before. */
  replace(turn) {
    this.turn = { ...turn };
    this.#showStored();
  }

  #showStored() {
    replaceAll(this.#answer, renderMarkdown(this.turn.assistant_response));
    this.#showEnd();
  }

  #showEnd(detail) {
    const { status, reason, assistant_response: text } = this.turn;
    this.#streaming = null;
    this.#answer.classList.remove("writing");
    this.#answer.removeAttribute("aria-busy");
    const isCut = status !== "completed";
    this.#why = explainReason(reason, detail) || (isCut ? "The answer is incomplete." : "");
    const isFailure = isCut && !HARMLESS.has(reason);
    this.#tools.replaceChildren();
    if (text) this.#tools.append(copyButton("Copy answer", () => this.turn.assistant_response));
    if (isCut) this.#tools.append(button(() => this.#onRetry(this.turn), { class: "tool" }, icon("retry"), "Try again"));
    if (this.#why) this.#tools.append(element("span", { class: isFailure ? "reason failure" : "reason" }, this.#why));
  }
}

function copyButton(label, text) {
  const caption = element("span", {}, "Copy");
  return button(() => copy(text(), caption), { class: "tool", "aria-label": label }, icon("copy"), caption);
}

/** Copy the code of a block when its button is clicked. One listener for all, because blocks come and go. */
export function copyCodeOnClick(container) {
  container.addEventListener("click", (event) => {
    const clicked = event.target.closest(".copy-code");
    if (clicked) copy(joinRuns(clicked.closest(".code-block").querySelector("code").textContent), clicked);
  });
}

async function copy(text, caption) {
  const isCopied = await copyText(text);
  if (isCopied) announce("Copied.");
  else showNotice("The browser did not allow copying. Select the text, and copy it with the keyboard or its menu.");
  caption.textContent = isCopied ? "Copied" : "Not copied";
  setTimeout(() => {
    caption.textContent = "Copy";
  }, COPIED_MILLISECONDS);
}
