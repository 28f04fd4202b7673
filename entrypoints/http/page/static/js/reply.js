/** A reply that is being written. */

import { Disconnected, Problem } from "./api.js";
import { explain } from "./explain.js";
import { announce, hideNotice, showNotice } from "./notices.js";

/** Milliseconds between looks at a running turn whose events are not kept. */
const POLL_INTERVAL = 1500;

/** Milliseconds after which stopping is tried again, if the service does not know the turn yet. */
const STOP_RETRY_INTERVAL = 250;

export class Reply {
  #service;
  #view;
  #message;
  #controller = new AbortController();
  #isBegun;
  #isStopping = false;
  #hasEnded = false;
  #isLeft = false;
  /** Whether the notice is about the connection. */
  #hasNotice = false;

  /** `view` shows the turn with the id `turnId`. `message` has to be sent first, unless the turn is already running. */
  constructor({ service, view, turnId, message = null }) {
    this.#service = service;
    this.#view = view;
    this.turnId = turnId;
    this.#message = message;
    this.#isBegun = message === null;
  }

  /**
   * Show the reply until its end. Returns null, or the error because of which the message was not accepted. `onBegun()`
   * is called when it was. If the reply is left meanwhile, nothing more is shown.
   */
  async read(onBegun) {
    const { signal } = this.#controller;
    const hooks = { signal, onConnection: (isUp) => this.#showConnection(isUp), onBegun: () => this.#begin(onBegun) };
    let end = null;
    let failure = null;
    try {
      const events = this.#message
        ? this.#service.send(this.#message, hooks)
        : this.#service.follow(this.turnId, hooks);
      for await (const event of events) {
        if (event.content) this.#view.append(event.content);
        if (event.done) end = event;
      }
    } catch (error) {
      if (!signal.aborted) failure = error;
    }
    this.#isBegun ||= Boolean(failure?.turnId); // a turn that failed before the response began
    if (end) this.#showEnd(end);
    else if (this.#isBegun) await this.#showStored();
    this.#showConnection(true);
    this.#hasEnded = true;
    return this.#isBegun ? null : failure;
  }

  /** Stop the reply. Returns when the service has done so. */
  async stop() {
    if (this.#isStopping) return;
    this.#isStopping = true;
    announce("Stopping.");
    while (!this.#hasEnded) {
      const wasBegun = this.#isBegun;
      try {
        await this.#service.stop(this.turnId);
        return;
      } catch (error) {
        // The message was still on its way, and then the service does not know its turn.
        const isUnknown = error instanceof Problem && error.code === "turn_not_found" && !wasBegun;
        if (!isUnknown && !this.#hasEnded) {
          this.#isStopping = false;
          showNotice(`The answer was not stopped. ${explain(error)}`);
          return;
        }
      }
      await pause(STOP_RETRY_INTERVAL);
    }
  }

  /** Stop reading, while the reply goes on. A message that is on its way still arrives. */
  leave() {
    this.#isLeft = true;
    if (this.#isBegun) this.#controller.abort();
  }

  #begin(onBegun) {
    this.#isBegun = true;
    onBegun();
    if (this.#isLeft) this.#controller.abort();
  }

  #showConnection(isUp) {
    if (this.#isLeft) return;
    if (!isUp) showNotice(this.#isBegun ? lostConnection() : noResponse(), { isProblem: false });
    else if (this.#hasNotice) hideNotice();
    this.#hasNotice = !isUp;
  }

  #showEnd({ error, finish_reason: finishReason }) {
    const status = error ? (this.#view.turn.assistant_response ? "interrupted" : "failed") : "completed";
    this.#view.end(status, error?.code ?? finishReason ?? null, error?.detail);
    announce(this.#view.outcome);
  }

  /** Show the turn as it is stored until it has ended, because its events are no longer kept, or are too many. */
  async #showStored() {
    while (!this.#controller.signal.aborted) {
      try {
        const turn = await this.#service.turn(this.turnId);
        this.#showConnection(true);
        if (turn.status !== "in_progress") {
          this.#view.replace(turn);
          announce(this.#view.outcome);
          return;
        }
        const shown = this.#view.turn.assistant_response;
        const stored = turn.assistant_response;
        if (stored.startsWith(shown)) this.#view.append(stored.slice(shown.length));
      } catch (error) {
        if (!(error instanceof Disconnected || error.isTransient)) {
          this.#view.end("interrupted", null, explain(error));
          announce(this.#view.outcome);
          return;
        }
      }
      await pause(POLL_INTERVAL);
    }
  }
}

function lostConnection() {
  return navigator.onLine
    ? "The connection was lost. Reconnecting …"
    : "You are offline. The answer goes on; it appears here when you are back.";
}

function noResponse() {
  return navigator.onLine
    ? "The service does not respond. Trying again …"
    : "You are offline. Your message will be sent when you are back.";
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
