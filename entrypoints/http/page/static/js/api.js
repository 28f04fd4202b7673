/** Requests to the service. Their URLs are relative to the page's, which may be below a prefix that a proxy removes. */

const ROOT = new URL("../../", import.meta.url);

/** Codes of problems that pass by themselves, e.g. while the service is restarted. */
const TRANSIENT = new Set(["history_unavailable", "live_turns_unavailable", "server_shutting_down"]);

/** Statuses of proxies that do not reach the service. */
const GATEWAY_ERRORS = new Set([502, 503, 504]);

/** A response of the service, or of a proxy, that reports a failure. */
export class Problem extends Error {
  /** `body` is the problem as described by RFC 9457; empty if it is a proxy's. `retryAfter` is in seconds, or null. */
  constructor(status, body, retryAfter) {
    super(body.detail || body.title || `The service responded with status ${status}.`);
    this.status = status;
    this.code = body.code ?? null;
    this.turnId = body.turn_id ?? null;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request will work soon, without the user's doing. */
  get isTransient() {
    return this.code === null ? GATEWAY_ERRORS.has(this.status) : TRANSIENT.has(this.code);
  }
}

/** The service could not be reached, or the connection broke. */
export class Disconnected extends Error {}

export class Api {
  #credential = null;
  #onUnauthenticated;

  /** `onUnauthenticated` is called whenever the service asks for a (valid) credential. */
  constructor(onUnauthenticated) {
    this.#onUnauthenticated = onUnauthenticated;
  }

  get hasCredential() {
    return this.#credential !== null;
  }

  /** Send this token or API key with every request. It is only ever held here, i.e. until the tab is reloaded. */
  set credential(value) {
    this.#credential = value || null;
  }

  /**
   * Send a request, and return its successful response. `path` has no leading slash.
   *
   * Throws a Problem or Disconnected; if `signal` is aborted, its reason.
   */
  async request(method, path, { body, headers = {}, signal } = {}) {
    const init = { method, headers: { ...headers }, signal };
    const credential = this.#credential;
    if (credential) init.headers.Authorization = `Bearer ${credential}`;
    if (body !== undefined) {
      init.headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    let response;
    try {
      response = await fetch(new URL(path, ROOT), init);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Disconnected("The service could not be reached.", { cause: error });
    }
    if (response.ok) return response;
    const problem = await readProblem(response);
    // Unless this is a late response to a request with an earlier credential.
    if (problem.code === "unauthenticated" && credential === this.#credential) this.#onUnauthenticated();
    throw problem;
  }

  /** Send a request, and return the JSON of its response. */
  async json(method, path, options) {
    const response = await this.request(method, path, options);
    try {
      return await response.json();
    } catch (error) {
      if (options?.signal?.aborted) throw error;
      throw new Disconnected("The connection broke.", { cause: error });
    }
  }
}

async function readProblem(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const body = await response.json().catch(() => ({}));
  return new Problem(response.status, body ?? {}, retryAfter);
}
