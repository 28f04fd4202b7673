/** News between the tabs of one browser. */

export class Tabs {
  #channel;

  /** `onNews({ conversation })` is called when another tab of this user has changed a conversation. */
  constructor(user, onNews) {
    this.#channel = new BroadcastChannel(`smart-chatbot:${new URL(".", location.href).pathname}:${user}`);
    this.#channel.addEventListener("message", ({ data }) => onNews(data));
  }

  tell(conversation) {
    this.#channel.postMessage({ conversation });
  }

  close() {
    this.#channel.close();
  }
}
