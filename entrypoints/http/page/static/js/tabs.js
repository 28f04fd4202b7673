/** News between the tabs of one browser. */

export class Tabs {
  /** Null if the browser refuses channels, as it may where it blocks storage. */
  #channel = null;

  /** `onNews({ conversation })` is called when another tab of this user has changed a conversation. */
  constructor(user, onNews) {
    try {
      this.#channel = new BroadcastChannel(`smart-chatbot:${new URL(".", location.href).pathname}:${user}`);
    } catch {
      return; // the tab learns of changes elsewhere when it is shown again
    }
    this.#channel.addEventListener("message", ({ data }) => onNews(data));
  }

  tell(conversation) {
    this.#channel?.postMessage({ conversation });
  }

  close() {
    this.#channel?.close();
  }
}
