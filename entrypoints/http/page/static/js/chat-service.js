/** What the page asks of the service for one user. */

import { followTurn } from "./turn-stream.js";

const PAGE_SIZE = 50;
const MAX_PAGE_SIZE = 200;

export class ChatService {
  #api;

  /** `user` is the id of the user whose conversations are shown. */
  constructor(api, user) {
    this.#api = api;
    this.user = user;
  }

  /** Return a page of turns: the newest ones, or those before `cursor`. */
  turns(conversation, cursor = null) {
    return this.#api.json("GET", this.#path("chat/history", { conversation_id: conversation, limit: PAGE_SIZE, cursor }));
  }

  turn(id) {
    return this.#api.json("GET", `api/chat/turns/${id}`);
  }

  stop(id) {
    return this.#api.json("POST", `api/chat/turns/${id}/stop`);
  }

  /** Return `{ conversations, hasMore }`: the `count` latest ones, and whether there are others. */
  async conversations(count) {
    const conversations = [];
    let page = { next_cursor: null };
    do {
      const limit = Math.min(count - conversations.length, MAX_PAGE_SIZE);
      page = await this.#api.json("GET", this.#path("chat/conversations", { limit, cursor: page.next_cursor }));
      conversations.push(...page.conversations);
    } while (page.next_cursor !== null && page.count > 0 && conversations.length < count);
    return { conversations, hasMore: page.next_cursor !== null };
  }

  /** Return a conversation, wherever it is in the list; undefined if it is not there. */
  async conversation(id) {
    let cursor = null;
    do {
      const page = await this.#api.json("GET", this.#path("chat/conversations", { limit: MAX_PAGE_SIZE, cursor }));
      const found = page.conversations.find((conversation) => conversation.id === id);
      if (found || page.count === 0) return found;
      cursor = page.next_cursor;
    } while (cursor !== null);
    return undefined;
  }

  /** Set the title of a conversation, and return the conversation. */
  rename(conversation, title) {
    const path = this.#path("chat/conversations", {}, conversation);
    return this.#api.json("PATCH", path, { body: { title } });
  }

  deleteConversation(conversation) {
    return this.#api.json("DELETE", this.#path("chat/history", { conversation_id: conversation }));
  }

  /** Return a page of memories, the newest first. */
  memories(cursor = null) {
    return this.#api.json("GET", this.#path("memories", { limit: PAGE_SIZE, cursor }));
  }

  remember(fact) {
    return this.#api.json("POST", this.#path("memories"), { body: { fact } });
  }

  correct(memory, fact) {
    return this.#api.json("PATCH", this.#path("memories", {}, memory), { body: { fact } });
  }

  forget(memory) {
    return this.#api.json("DELETE", this.#path("memories", {}, memory));
  }

  /**
   * Send a message and yield the events of its turn. The reply goes on if this page is closed. Sending the same message
   * again, with the same `turnId`, does not ask twice: it follows the turn that there is. See followTurn.
   */
  send({ conversation, turnId, text }, { signal, onBegun, onConnection }) {
    const body = {
      user_id: this.user,
      message: text,
      conversation_id: conversation,
      on_disconnect: "continue",
      turn_id: turnId,
    };
    const begin = (attempt) => this.#api.request("POST", "api/chat", { body, signal: attempt });
    return followTurn({ begin, rejoin: this.#rejoin(turnId), signal, onBegun, onConnection });
  }

  /** Yield the events of a running turn, from the first one. */
  follow(turnId, { signal, onConnection }) {
    return followTurn({ rejoin: this.#rejoin(turnId), signal, onConnection });
  }

  #rejoin(turnId) {
    return (after, signal) =>
      this.#api.request("GET", `api/chat/turns/${turnId}/stream`, { headers: { "Last-Event-ID": String(after) }, signal });
  }

  #path(kind, query = {}, id = null) {
    const found = Object.entries(query).filter(([, value]) => value !== null);
    const path = ["api", kind, encodeURIComponent(this.user), ...(id === null ? [] : [encodeURIComponent(id)])].join("/");
    return found.length ? `${path}?${new URLSearchParams(found)}` : path;
  }
}
