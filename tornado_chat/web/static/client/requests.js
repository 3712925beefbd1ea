// Requests to the server: who we say we are, and what a refusal says.

import { report } from "./faults.js";
import { headerAsks } from "./retry.js";

/** @import { End } from "./connection.js" */
/** @import { Credentials } from "./credentials.js" */

/** An answer other than 200, or none (`status` 0). `error` is there where our server said it, not something between. */
export class Refusal extends Error {
  /** @param {number} status @param {Wire.Refusal["error"]} [error] @param {number | null} [wait] ms */
  constructor(status, error, wait = null) {
    super(error?.message ?? (status ? `An answer of status ${status}.` : "No answer."));
    this.status = status;
    this.error = error;
    this.wait = wait;
  }
}

/** How a transport ended by what was thrown. @param {unknown} error @returns {End} */
export function endedBy(error) {
  if (!(error instanceof Refusal)) {
    report(error);
    return { code: 1006 };
  }
  return { code: error.status, wait: error.wait, why: error.error?.message };
}

export class Requests {
  /**
   * `base` is the page's address: the server may be mounted below a path.
   * @param {{ base: URL, credentials: Credentials }} parts
   */
  constructor({ base, credentials }) {
    this.base = base;
    this.credentials = credentials;
  }

  /**
   * POST `body` as JSON to a path below /v1/, or GET without one. Resolves with the answer if it is a 200, else throws a
   * Refusal. `limit` in ms is that of the whole answer; without one only `signal` ends it.
   * @param {string} path
   * @param {unknown} body
   * @param {{ signal?: AbortSignal, limit?: number, accept?: string }} options
   */
  async request(path, body, { signal = new AbortController().signal, limit, accept = "application/json" }) {
    const url = new URL(`v1/${path}`, this.base);
    const { token, name } = this.credentials;
    if (name) url.searchParams.set("name", name);
    const headers = new Headers({ Accept: accept });
    if (body !== undefined) headers.set("Content-Type", "application/json");
    if (token) headers.set("Authorization", `Bearer ${token}`);
    const response = await answered(fetch(url, {
      method: body === undefined ? "GET" : "POST",
      body: JSON.stringify(body),
      headers,
      cache: "no-store",
      credentials: "same-origin",
      signal: limit === undefined ? signal : AbortSignal.any([signal, AbortSignal.timeout(limit)]),
    }));
    if (response.status === 200) return response;
    /** @type {Wire.Refusal | null} */
    const refusal = await response.json().catch(() => null);
    const asked = refusal?.error ? (headerAsks(response.headers) ?? secondsAsked(refusal.error)) : null;
    throw new Refusal(response.status, refusal?.error, asked);
  }

  /**
   * The same, and the JSON of the answer.
   * @param {string} path @param {unknown} body @param {{ signal?: AbortSignal, limit: number }} options
   */
  async ask(path, body, options) {
    const response = await this.request(path, body, options);
    return answered(response.json()); // a proxy's page is no answer of ours
  }

  /**
   * Who we are: by our token, by a cookie that a site has set, or as a new guest. No cookie is made of it: a WebSocket would
   * believe it before our token. @param {{ signal?: AbortSignal, limit: number }} options @returns {Promise<Wire.Session>}
   */
  session(options) {
    return this.ask("session", { cookie: false }, options);
  }
}

/** @param {{ retry_after?: number }} error */
function secondsAsked({ retry_after }) {
  return retry_after === undefined ? null : retry_after * 1_000;
}

/** @template T @param {Promise<T>} promise @returns {Promise<T>} */
async function answered(promise) {
  try {
    return await promise;
  } catch {
    throw new Refusal(0);
  }
}
