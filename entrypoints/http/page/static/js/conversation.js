/** The conversation that is open: its turns, and the reply that is being written. */

import { byId } from "./elements.js";
import { explain, explainReason } from "./explain.js";
import { randomUUID } from "./ids.js";
import { announce, hideNotice, showNotice } from "./notices.js";
import { Reply } from "./reply.js";
import { Scrolling } from "./scrolling.js";
import { TurnList } from "./turn-list.js";
import { copyCodeOnClick } from "./turn-view.js";
import { dropUnsent, keepUnsent, unsentOf } from "./unsent.js";

export class Conversation {
  id = null;
  /** The ChatService of the user whose conversations are opened. */
  service = null;
  #composer;
  #onChange;
  #onEmpty;
  #scrolling;
  #turns;
  #reply = null;
  /** Where the next older page of turns begins; null if there is none. */
  #cursor = null;
  #isLoaded = false;
  #isLoadingOlder = false;
  /** How many replies were read, and whether something happened elsewhere meanwhile. */
  #reads = 0;
  #isStale = false;
  /** Increased whenever a conversation is opened, so that late responses are recognised. */
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
      onRetry: (turn) => this.#retry(turn),
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

  /** Whether it has no turn yet, i.e. does not exist yet, or not any more. */
  get isNew() {
    return this.#isLoaded && this.#turns.isEmpty;
  }

  /** Show a conversation; null is one that does not exist yet. */
  async open(id) {
    const visit = this.#leave();
    this.id = id;
    this.#showTurns([], null);
    byId("empty").hidden = id !== null;
    byId("loading").hidden = id === null;
    this.#isLoaded = id === null;
    if (id === null) return;
    try {
      const page = await this.service.turns(id);
      if (visit !== this.#visit) return;
      if (this.#reply) this.#addOlder(page); // a message was sent meanwhile
      else this.#showTurns(page.history, page.next_cursor);
      this.#isLoaded = true;
      this.#continue(page.history);
      byId("empty").hidden = !this.#turns.isEmpty;
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

  /** Stop the reply that is being written. */
  stop() {
    this.#reply?.stop();
  }

  /** Show what has happened elsewhere, e.g. in another tab or on another device. */
  async refresh() {
    if (this.id === null) return;
    this.#isStale = this.#reply !== null;
    if (this.#isStale) return; // until the reply has ended
    if (!this.#isLoaded) return this.open(this.id); // loading it has failed before
    const visit = this.#visit;
    const reads = this.#reads;
    let page;
    try {
      page = await this.service.turns(this.id);
    } catch {
      return; // the user has not asked for this
    }
    if (visit !== this.#visit) return;
    if (reads !== this.#reads) return this.refresh(); // a message was sent meanwhile
    if (page.count === 0) {
      if (this.#turns.hasStored) this.#onEmpty();
      return;
    }
    if (page.history.some((turn) => this.#turns.has(turn.id))) this.#turns.merge(page.history);
    else this.#showTurns(page.history, page.next_cursor);
    byId("empty").hidden = true;
    this.#continue(page.history);
  }

  #showTurns(turns, cursor) {
    this.#turns.replace(turns);
    this.#setCursor(cursor);
    this.#scrolling.toEnd();
  }

  #addOlder(page) {
    this.#turns.prepend(page.history.filter((turn) => !this.#turns.has(turn.id)));
    this.#setCursor(page.next_cursor);
  }

  #setCursor(cursor) {
    this.#cursor = cursor;
    this.#turns.isComplete = cursor === null;
  }

  /** Go on with what was interrupted: messages that may not have arrived, or the reply that is being written. */
  #continue(history) {
    for (const message of unsentOf(this.service.user, this.id)) {
      if (this.#turns.has(message.turnId)) dropUnsent(message.turnId);
      else if (!this.#reply) this.#send(message);
    }
    const last = history.at(-1);
    if (last?.status === "in_progress" && !this.#reply) {
      const view = this.#turns.view(last.id);
      view.restart();
      this.#read(view, { turnId: last.id });
    }
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
    this.#composer.focus(); // the button that was pressed is gone
    announce("Message sent. The answer is being written.");
    this.#read(view, { turnId: message.turnId, message });
  }

  /**
   * Send the message of a turn again. A failed turn, which has no text, is replaced by the new attempt; a reply that was
   * interrupted stays.
   */
  #retry(turn) {
    if (this.#reply) {
      showNotice(explainReason("turn_in_progress"));
      return;
    }
    const isReplaced = turn.status === "failed";
    if (isReplaced) this.#turns.remove(turn.id);
    const turnId = isReplaced ? turn.id : randomUUID();
    this.#send({ user: this.service.user, conversation: this.id, turnId, text: turn.user_message });
  }

  async #read(view, { turnId, message }) {
    const conversation = this.id;
    const reply = new Reply({ service: this.service, view, turnId, message });
    this.#reply = reply;
    this.#reads += 1;
    this.#composer.isBusy = true;
    const refusal = await reply.read(() => {
      dropUnsent(turnId);
      this.#onChange(conversation);
    });
    const isOpen = this.#reply === reply;
    if (isOpen) {
      this.#reply = null;
      this.#composer.isBusy = false;
    }
    if (!refusal) dropUnsent(turnId);
    else if (this.#isOpen(message)) this.#showRefusal(view, message, refusal);
    else this.#showRefusalElsewhere(message, refusal);
    this.#onChange(conversation);
    if (this.#isStale || (isOpen && !refusal && !this.#isLoaded)) this.refresh();
  }

  #isOpen({ user, conversation }) {
    return this.id === conversation && this.service.user === user;
  }

  /** A message that was not accepted goes back to the field, unless another one is being written there. */
  #showRefusal(view, message, refusal) {
    if (this.#reply?.turnId === message.turnId) return; // its conversation was left and opened again, and it is sent again
    dropUnsent(message.turnId);
    if (refusal.code === "idempotency_key_reused") {
      // The turn that was tried again has an id that no client has chosen. It stays, and this is a new one.
      this.#turns.remove(message.turnId);
      this.#send({ ...message, turnId: randomUUID() });
      return;
    }
    announce("The message was not sent.");
    if (this.#composer.text.trim()) {
      view.refuse(refusal.code, explain(refusal));
      return;
    }
    this.#turns.remove(message.turnId);
    this.#composer.text = message.text;
    this.#composer.focus();
    byId("empty").hidden = !this.#turns.isEmpty;
    showNotice(explain(refusal), { actions: [{ label: "Send again", run: () => this.#composer.submit() }] });
  }

  /** The message is kept, and sent again when its conversation is opened. */
  #showRefusalElsewhere({ user, conversation }, refusal) {
    if (user !== this.service.user) return;
    const open = () => {
      location.hash = encodeURIComponent(conversation);
    };
    showNotice(`A message in another conversation was not sent. ${explain(refusal)}`, {
      actions: [{ label: "Open it", run: open }],
    });
  }

  async #loadOlder() {
    if (this.#cursor === null || this.#isLoadingOlder) return;
    this.#isLoadingOlder = true;
    const visit = this.#visit;
    try {
      const page = await this.service.turns(this.id, this.#cursor);
      if (visit === this.#visit) this.#addOlder(page);
    } catch (error) {
      if (visit !== this.#visit) return;
      showNotice(explain(error), { actions: [{ label: "Try again", run: () => this.#loadOlder() }] });
    } finally {
      if (visit === this.#visit) this.#isLoadingOlder = false;
    }
  }

  #leave() {
    this.#reply?.leave();
    this.#reply = null;
    this.#isLoadingOlder = this.#isStale = false;
    this.#composer.isBusy = false;
    hideNotice();
    this.#visit += 1;
    return this.#visit;
  }
}
