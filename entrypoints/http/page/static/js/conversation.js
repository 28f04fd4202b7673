/** The conversation that is open: its turns, the reply that is being written, and messages on their way. */

import { Disconnected, Problem } from "./api.js";
import { byId } from "./elements.js";
import { explain, explainReason } from "./explain.js";
import { randomUUID } from "./ids.js";
import { announce, hideNotice, showNotice } from "./notices.js";
import { Scrolling } from "./scrolling.js";
import { TurnList } from "./turn-list.js";
import { copyCodeOnClick } from "./turn-view.js";
import { dropUnsent, keepUnsent, unsentOf } from "./unsent.js";

/** Milliseconds between looks at a running turn whose events are not kept. */
const POLL_INTERVAL = 1500;

/** Milliseconds after which stopping is tried again, if the service does not know the turn yet. */
const STOP_RETRY_INTERVAL = 250;

export class Conversation {
  id = null;
  /** The ChatService of the user whose conversations are opened. */
  service = null;
  #composer;
  #onChange;
  #onEmpty;
  #scrolling;
  #turns;
  #cursor = null;
  #isLoadingOlder = false;
  /** The reply that is being written: `{ view, turnId, controller, isBegun, isStopping, isLeft }`. */
  #run = null;
  /** Increased whenever another conversation is opened, so that late responses are recognised. */
  #visit = 0;

  /**
   * `onChange(id)` is called when a turn of conversation `id` has begun or ended, `onEmpty()` when the open conversation
   * turns out to have been deleted.
   */
  constructor({ composer, onChange, onEmpty }) {
    this.#composer = composer;
    this.#onChange = onChange;
    this.#onEmpty = onEmpty;
    const scroller = byId("scroller");
    const container = byId("turns");
    this.#turns = new TurnList({
      scroller,
      container,
      older: byId("older"),
      newer: byId("newer"),
      onRetry: (turn) => this.retry(turn),
      onOlderNeeded: () => this.#loadOlder(),
    });
    this.#scrolling = new Scrolling({
      scroller,
      content: container,
      jump: byId("jump"),
      onJump: () => this.#turns.isAtNewest || this.#turns.showNewest(),
    });
    copyCodeOnClick(container);
  }

  get isRunning() {
    return this.#run !== null;
  }

  /** Show a conversation; null is one that does not exist yet. */
  async open(id) {
    const visit = this.#leave();
    this.id = id;
    this.#showTurns([], null);
    byId("empty").hidden = id !== null;
    if (id === null) return;
    byId("loading").hidden = false;
    try {
      const page = await this.service.turns(id);
      if (visit !== this.#visit) return;
      this.#showTurns(page.history, page.next_cursor);
      this.#continue(page.history);
    } catch (error) {
      if (visit !== this.#visit) return;
      showNotice(explain(error), { actions: [{ label: "Try again", run: () => this.open(id) }] });
    } finally {
      if (visit === this.#visit) byId("loading").hidden = true;
    }
  }

  /** Send a message. The first one of a new conversation creates it; its id is returned. */
  send(text) {
    this.id ??= randomUUID();
    this.#send({ user: this.service.user, conversation: this.id, turnId: randomUUID(), text });
    return this.id;
  }

  /**
   * Send the message of a turn again. A failed turn, which has no text, is replaced by the new attempt; a reply that was
   * interrupted stays.
   */
  retry(turn) {
    if (this.isRunning) {
      showNotice(explainReason("turn_in_progress"));
      return;
    }
    const isReplaced = turn.status === "failed";
    if (isReplaced) this.#turns.remove(turn.id);
    const turnId = isReplaced ? turn.id : randomUUID();
    this.#send({ user: this.service.user, conversation: this.id, turnId, text: turn.user_message });
  }

  /** Stop the reply that is being written. */
  async stop() {
    const run = this.#run;
    if (!run || run.isStopping) return;
    run.isStopping = true;
    announce("Stopping.");
    while (this.#run === run) {
      try {
        await this.service.stop(run.turnId);
        return;
      } catch (error) {
        // The message may still be on its way, and then the service does not know its turn.
        const isUnknown = error instanceof Problem && error.code === "turn_not_found" && !run.isBegun;
        if (!isUnknown && this.#run === run) {
          run.isStopping = false;
          showNotice(`The answer was not stopped. ${explain(error)}`);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, STOP_RETRY_INTERVAL));
      }
    }
  }

  /** Show what has happened elsewhere, e.g. in another tab or on another device. */
  async refresh() {
    if (this.id === null || this.isRunning) return;
    const visit = this.#visit;
    let page;
    try {
      page = await this.service.turns(this.id);
    } catch {
      return; // nobody has asked for it
    }
    if (visit !== this.#visit || this.isRunning) return;
    if (page.count === 0) {
      if (!this.#turns.isEmpty) this.#onEmpty();
      return;
    }
    if (!page.history.some((turn) => this.#turns.has(turn.id))) {
      this.#showTurns(page.history, page.next_cursor);
    } else {
      for (const turn of page.history) {
        if (!this.#turns.has(turn.id)) this.#turns.append(turn);
        else if (this.#turns.view(turn.id)?.turn.status !== turn.status) this.#turns.update(turn);
      }
    }
    byId("empty").hidden = true;
    this.#continue(page.history);
  }

  #showTurns(turns, cursor) {
    this.#cursor = cursor;
    byId("older").hidden = cursor === null;
    this.#turns.replace(turns);
    this.#scrolling.toEnd();
  }

  /** Go on with what was interrupted: the reply that is being written, or messages that may not have arrived. */
  #continue(history) {
    const last = history.at(-1);
    for (const message of unsentOf(this.service.user, this.id)) {
      if (this.#turns.has(message.turnId)) dropUnsent(message.turnId);
      else if (!this.isRunning) this.#send(message);
    }
    if (last?.status === "in_progress" && !this.isRunning) this.#follow(last);
  }

  #send(message) {
    hideNotice();
    byId("empty").hidden = true;
    keepUnsent(message);
    const view = this.#turns.append({
      id: message.turnId,
      user_message: message.text,
      assistant_response: "",
      status: "in_progress",
      reason: null,
    });
    view.root.classList.add("arriving");
    this.#scrolling.toEnd();
    announce("Message sent. The answer is being written.");
    this.#read(view, { message });
  }

  #follow(turn) {
    const view = this.#turns.view(turn.id);
    view.restart();
    this.#read(view, { turnId: turn.id });
  }

  /** Show the events of a turn in `view` until it ends: that of a `message` to be sent, or a running one. */
  async #read(view, { message, turnId = message.turnId }) {
    const run = { view, turnId, controller: new AbortController(), isBegun: !message, isStopping: false, isLeft: false };
    const conversation = this.id;
    const { signal } = run.controller;
    this.#run = run;
    this.#composer.isBusy = true;
    const onConnection = (isUp) => this.#run === run && showConnection(isUp);
    const onBegun = (id) => {
      Object.assign(run, { turnId: id, isBegun: true });
      Object.assign(view.turn, { id });
      view.root.dataset.turn = id;
      dropUnsent(message.turnId);
      this.#onChange(conversation);
      if (run.isLeft) run.controller.abort();
    };
    let end = null;
    let failure = null;
    try {
      const events = message
        ? this.service.send(message, { signal, onBegun, onConnection })
        : this.service.follow(turnId, { signal, onConnection });
      for await (const event of events) {
        if (event.content) view.append(event.content);
        if (event.done) end = event;
      }
    } catch (error) {
      if (signal.aborted) return;
      failure = error;
    }
    run.isBegun ||= failure?.turnId != null;
    if (!end && run.isBegun) await this.#showStored(view, failure?.turnId ?? run.turnId, signal);
    if (signal.aborted) return;
    if (this.#run === run) {
      this.#run = null;
      this.#composer.isBusy = false;
    }
    if (message) dropUnsent(message.turnId);
    if (end) this.#showEnd(view, end);
    else if (!run.isBegun) this.#showUnsent(view, message, failure);
    this.#onChange(conversation);
  }

  #showEnd(view, { error, finish_reason: finishReason }) {
    const status = error ? (view.turn.assistant_response ? "interrupted" : "failed") : "completed";
    view.end(status, error?.code ?? finishReason ?? null, error?.detail);
    announce(error ? `${error.title}.` : "Answer complete.");
  }

  /** Show a turn as it is stored until it has ended, because its events are no longer kept, or are too many. */
  async #showStored(view, id, signal) {
    while (!signal.aborted) {
      try {
        const turn = await this.service.turn(id);
        if (turn.status !== "in_progress") {
          view.replace(turn);
          announce(turn.status === "completed" ? "Answer complete." : "The answer is incomplete.");
          return;
        }
        const shown = view.turn.assistant_response;
        if (turn.assistant_response.startsWith(shown)) view.append(turn.assistant_response.slice(shown.length));
      } catch (error) {
        if (!(error instanceof Disconnected || error.isPassing)) {
          view.end("interrupted", null, explain(error));
          return;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL));
    }
  }

  /** A message that the service has not accepted goes back to the field, unless another one is being written there. */
  #showUnsent(view, message, failure) {
    const why = explain(failure);
    const isRepeated = failure.code === "idempotency_key_reused"; // a failed turn whose id was not chosen by a page
    if (isRepeated && this.id === message.conversation) {
      this.#turns.remove(message.turnId);
      this.#send({ ...message, turnId: randomUUID() });
      return;
    }
    announce("The message was not sent.");
    if (this.id !== message.conversation || this.#composer.text.trim()) {
      view.end("failed", failure.code, why);
      return;
    }
    this.#turns.remove(view.turn.id);
    this.#composer.text = message.text;
    this.#composer.focus();
    byId("empty").hidden = !this.#turns.isEmpty;
    showNotice(why, { actions: [{ label: "Send again", run: () => this.#sendField() }] });
  }

  #sendField() {
    const text = this.#composer.text;
    this.#composer.text = "";
    if (text.trim()) this.send(text);
  }

  async #loadOlder() {
    if (this.#cursor === null || this.#isLoadingOlder) return;
    this.#isLoadingOlder = true;
    const visit = this.#visit;
    try {
      const page = await this.service.turns(this.id, this.#cursor);
      if (visit !== this.#visit) return;
      this.#cursor = page.next_cursor;
      byId("older").hidden = this.#cursor === null;
      this.#turns.prepend(page.history);
    } catch (error) {
      if (visit !== this.#visit) return;
      showNotice(explain(error), { actions: [{ label: "Try again", run: () => this.#loadOlder() }] });
    } finally {
      this.#isLoadingOlder = false;
    }
  }

  /** Stop reading the conversation that is open. A message that is on its way still arrives. */
  #leave() {
    const run = this.#run;
    this.#run = null;
    this.#composer.isBusy = false;
    hideNotice();
    if (run?.isBegun) run.controller.abort();
    else if (run) run.isLeft = true;
    this.#visit += 1;
    return this.#visit;
  }
}

function showConnection(isUp) {
  if (isUp) {
    hideNotice();
  } else {
    const why = navigator.onLine ? "The connection was lost. Reconnecting …" : "You are offline. The answer goes on; it appears here when you are back.";
    showNotice(why, { isProblem: false });
  }
}
