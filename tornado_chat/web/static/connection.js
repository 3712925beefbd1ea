// The socket: connects, notices that it died, comes back. Knows nothing of rooms or of the page.

import { backoff, closeAsks, headerAsks } from "./retry.js";

const SUBPROTOCOL = "chat.v1.json";
const WELCOME_LIMIT = 15_000; // ms from the attempt to the first frame
const PONG_LIMIT = 10_000;
const PROBE_LIMIT = 5_000;
const STABLE = 10_000; // a connection that lasted this long starts the back-off anew
const FLOODED = 10_000; // at least this long away after 1008
const REFUSED = 10_000; // ... and after 403

/** @import { Credentials } from "./store.js" */

/**
 * `until` is in ms since 1970, `why` a sentence; `refused`: perhaps for who we are.
 * @typedef {{ name: "idle" | "connecting" | "open" }
 *   | { name: "waiting", until: number, why?: string, refused?: boolean }
 *   | { name: "signed-out", why?: string }} State
 */

/**
 * What comes of a connection; `closed` with a close code, and only after a `welcome`.
 * @typedef {{
 *   welcome: (frame: Wire.Welcome) => void, frame: (frame: Wire.Frame) => void, closed: (code: number) => void,
 *   state: (state: State) => void,
 * }} Callbacks
 */

export class Connection {
  state = /** @type {State} */ ({ name: "idle" });
  #socket = /** @type {WebSocket | null} */ (null);
  #welcomed = false;
  #attempts = 0;
  #refusals = 0; // handshakes in a row that failed although the server answers
  #asked = false; // the server named the time of the next attempt: only a person may hasten it
  #timer = 0; // the next attempt, or the limit of this one
  #watch = 0;
  #pong = 0;
  #heard = 0;
  #opened = 0;

  /**
   * `base` is the page's address: the server may be mounted below a path.
   * @param {{ base: URL, credentials: Credentials, on: Callbacks }} parts
   */
  constructor({ base, credentials, on }) {
    this.base = base;
    this.credentials = credentials;
    this.on = on;
  }

  get live() {
    return this.#welcomed;
  }

  /**
   * Hand a command to the socket, if there is one; else whoever cares sends it again after `welcome`.
   * @param {Wire.Command} command
   */
  send(command) {
    if (this.live && this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(command));
  }

  /** Connect now, whatever stands: the first time, after a change of name or token, or when a person asks for it. */
  connect() {
    this.#drop();
    this.#open();
  }

  /** Something says that it may work now (network back, page in front): try at once, or see if the socket lives. */
  hasten() {
    if (this.state.name === "waiting" && !this.#asked) this.connect();
    else if (this.live) this.#check();
  }

  stop() {
    this.#drop();
    this.#become({ name: "idle" });
  }

  /** @param {State} state */
  #become(state) {
    this.state = state;
    this.on.state(state);
  }

  #url() {
    const url = new URL("ws", this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.credentials.name) url.searchParams.set("name", this.credentials.name);
    return url.href;
  }

  #open() {
    const protocols = [SUBPROTOCOL];
    // As a sub-protocol, for a URL ends up in logs. A browser cannot set Authorization.
    if (this.credentials.token) protocols.push(`bearer.${this.credentials.token}`);
    const socket = new WebSocket(this.#url(), protocols);
    this.#socket = socket;
    this.#opened = Date.now();
    this.#timer = setTimeout(() => this.#lost(), WELCOME_LIMIT);
    socket.onmessage = (event) => this.#message(JSON.parse(event.data));
    socket.onclose = (event) => this.#closed(event.code, event.reason);
    this.#become({ name: "connecting" });
  }

  /** Let go of the socket without waiting for its close event, which a dead network delays by minutes. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    clearTimeout(this.#timer);
    clearTimeout(this.#pong);
    clearInterval(this.#watch);
    this.#pong = 0;
    if (socket === null) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
    if (this.live) {
      this.#welcomed = false;
      this.on.closed(1006);
    }
  }

  /** @param {Wire.Frame} frame */
  #message(frame) {
    this.#heard = Date.now();
    clearTimeout(this.#pong);
    this.#pong = 0;
    if (frame.type !== "welcome") {
      this.on.frame(frame);
      return;
    }
    clearTimeout(this.#timer);
    this.#welcomed = true;
    this.#refusals = 0;
    this.credentials.welcomed(frame.token ?? null);
    const idle = frame.ping_interval * 2_000;
    this.#watch = setInterval(() => Date.now() - this.#heard > idle && this.#check(), Math.min(5_000, idle));
    this.#become({ name: "open" });
    this.on.welcome(frame);
  }

  /** Browsers hide ping frames, so the page asks by itself whether anyone is there. */
  #check() {
    if (this.#pong) return;
    this.#pong = setTimeout(() => this.#lost(), PONG_LIMIT);
    this.send({ type: "ping" });
  }

  /** No close event came, but there is nobody there. */
  #lost() {
    if (this.#socket) {
      this.#socket.onclose = null;
      this.#socket.close();
    }
    this.#closed(1006, "");
  }

  /** @param {number} code @param {string} reason */
  #closed(code, reason) {
    const welcomed = this.live;
    this.#welcomed = false;
    this.#socket = null; // it is closed: #drop has only timers to clear
    this.#drop();
    if (welcomed) this.on.closed(code);
    if (welcomed && Date.now() - this.#opened > STABLE) this.#attempts = 0;
    if (code === 4001 || code === 4002) {
      this.#unauthorized(code === 4001 ? "Your sign-in has expired." : "Your session was ended.");
    } else {
      const asked = code === 1012 || code === 1013 ? closeAsks(reason) : null;
      const wait = asked ?? backoff(this.#attempts++);
      this.#wait(code === 1008 ? Math.max(wait, FLOODED) : wait, asked !== null || code === 1008);
      if (!welcomed) this.#probe();
    }
  }

  /** @param {number} delay @param {boolean} asked @param {string} [why] */
  #wait(delay, asked, why) {
    clearTimeout(this.#timer);
    this.#asked = asked;
    this.#timer = setTimeout(() => this.connect(), delay);
    this.#become({ name: "waiting", until: Date.now() + delay, why });
  }

  /** A refused handshake tells a page nothing, so plain HTTP is asked for the reason. */
  async #probe() {
    const waiting = this.state;
    const { token } = this.credentials;
    const response = await this.#ask("ws", token ? { Authorization: `Bearer ${token}` } : {});
    /** @type {Wire.Refusal | null} */
    const body = await response?.json().catch(() => null); // it may be a proxy that answers
    const status = response?.status ?? 0;
    const delay = new Map([[403, REFUSED], [429, 1_000], [503, 1_000]]).get(status);
    const ready = status === 0 || status === 401 || delay ? null : await this.#ask("readyz");
    if (this.state !== waiting && this.state.name !== "connecting") return; // overtaken
    const why = body?.error?.message;
    if (status === 401) {
      this.#drop();
      this.#unauthorized(why);
    } else if (response && delay) {
      const asked = headerAsks(response.headers) ?? delay;
      this.#drop();
      this.#wait(asked + backoff(this.#attempts), true, why);
    } else if (status === 0 || status >= 500 || !ready || ready.status >= 500) {
      this.#refusals = 0; // the server is away, or on its way out: no verdict on who we are
      this.credentials.leftOut = null;
    } else {
      this.#suspect();
    }
  }

  /** @param {string} path @param {Record<string, string>} headers */
  async #ask(path, headers = {}) {
    try {
      return await fetch(new URL(path, this.base), { cache: "no-store", headers, signal: AbortSignal.timeout(PROBE_LIMIT) });
    } catch {
      return null; // nobody there
    }
  }

  /**
   * The server answers, refuses, and does not say why. Now and then one attempt leaves out what may be the matter:
   * a name with characters that the server does not know; a guest's token that it did not sign.
   */
  #suspect() {
    this.#refusals += 1;
    if (this.state.name !== "waiting") return; // the next attempt is on its way: its outcome first
    const { credentials } = this;
    credentials.leftOut = null;
    /** @type {("token" | "name")[]} */
    const doubtful = [];
    if (credentials.token && !credentials.signedIn) doubtful.push("token");
    if (credentials.name) doubtful.push("name");
    const trial = (this.#refusals - 3) / 2; // the third attempt from now, the fifth ...
    if (trial >= 0 && doubtful.length) credentials.leftOut = doubtful[trial % doubtful.length] ?? null;
    if (this.#refusals < 3) return;
    const why = "The server answers, but refuses the connection. If it lets in only whom it knows, sign in.";
    this.#become({ ...this.state, why, refused: true });
  }

  /** @param {string} [why] */
  #unauthorized(why) {
    const had = this.credentials.token !== null && !this.credentials.signedIn;
    this.credentials.forget();
    if (had) this.#wait(backoff(this.#attempts++), false); // as a new guest, if guests are let in
    else this.#become({ name: "signed-out", why });
  }
}
