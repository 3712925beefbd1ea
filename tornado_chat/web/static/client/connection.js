// The connection: by which transport, notices that it died, comes back. Knows nothing of rooms or of the page.
//
// The WebSocket is tried first. Where it lets us wait, a stream is begun beside it, and beside that long polls: the first
// that is welcomed is ours. On a lower one, the higher ones are tried again now and then, beside the one that runs. Whoever
// listens drops by `seq` what two of them bring, so that a change loses and doubles nothing.

import { Network } from "./network.js";
import { Refusal, Requests } from "./requests.js";
import { backoff } from "./retry.js";
import { WebSocketTransport } from "./websocket.js";

const PATIENCE = { websocket: 2_500, stream: 5_000, poll: 15_000 }; // ms until the next lower one is begun beside
const SOON = 1_000;
const LOADING = 10_000; // ms after which a page that stays loads the lower ones, while it can: it may need them in a bad moment
const RENEWAL = 50; // ms: several rooms that are entered or left at once need one new stream
const LONGEST = 300_000; // ms until another stream is tried: the server ends the one in use by then
const STABLE = 10_000; // ms: a connection that lasted this long starts the back-off anew
const OLD = 300_000; // ms: one that ends after this time is no fault of its transport; the machine may have slept
const FAULTS = 3; // one that is cut off young is one, one that falls silent counts half as much again: a step down
const FLOODED = 10_000; // ms: at least this long away after 1008
const REFUSED = 10_000; // ... and after 403

/** @import { Commands } from "./commands.js" */
/** @import { Holders } from "./holders.js" */
/** @import { Kind } from "./network.js" */
/** @import { Credentials, Slot } from "./store.js" */

/**
 * `until` is in ms since 1970, `why` a sentence; `refused`: perhaps for who we are. `crowded`: other tabs have the streams.
 * @typedef {{ name: "idle" | "connecting" }
 *   | { name: "open", kind: Kind, crowded: boolean }
 *   | { name: "waiting", until: number, why?: string, refused?: boolean }
 *   | { name: "signed-out", why?: string }} State
 */

/**
 * What comes of a connection. `moved`: another transport goes on where one is welcomed already; rooms are to be joined on
 * it. `closed` with a close code (0: unknown), and only after a `welcome`. `joins` is asked for what a stream begins with.
 * @typedef {{
 *   welcome: (frame: Wire.Welcome) => void, moved: () => void, frame: (frame: Wire.Frame) => void,
 *   closed: (code: number) => void, state: (state: State) => void, joins: () => Wire.Joining[],
 * }} Callbacks
 */

/**
 * How a transport ended: with a close code, the status of an answer, or 0 where nobody answered. `wait`: ms that the
 * server asks us to stay away; `silent`: it was not cut off, nothing came any more.
 * @typedef {{ code: number, wait?: number | null, why?: string, silent?: boolean }} End
 */

/**
 * What comes of a transport. `proven`: what we say arrives, too. `renew`: it needs to be replaced by one of its kind.
 * @typedef {{
 *   welcome: (frame: Wire.Welcome) => void, proven: () => void, frame: (frame: Wire.Frame) => void,
 *   ended: (end: End) => void, renew: () => void,
 * }} Events
 */

/**
 * `send` hands a command on, `check` looks whether anyone is there, after `close` nothing comes.
 * @typedef {{ kind: Kind, send: (command: Wire.Command) => void, check: () => void, close: () => void }} Transport
 */

/**
 * A transport that is tried, or is ours; since when, in ms since 1970.
 * @typedef {{ transport: Transport, welcome: Wire.Welcome | null, proven: boolean, since: number }} Candidate
 */

export class Connection {
  state = /** @type {State} */ ({ name: "idle" });
  #current = /** @type {Candidate | null} */ (null);
  #user = "";
  #tried = /** @type {Candidate[]} */ ([]); // beside the current one, or until there is one
  #left = /** @type {Kind[]} */ ([]); // those to be tried after these
  #ends = /** @type {End[]} */ ([]); // of those that were tried
  #attempts = 0;
  #refusals = 0; // in a row
  #faults = 0;
  #crowded = false; // no stream was tried, for the sake of other tabs
  #asked = false; // the server named the time of the next attempt: only a person may hasten it
  #timer = 0; // the next attempt
  #step = 0; // the next of #left
  #loading = 0; // the lower ones
  #rise = 0;
  #renewal = 0;
  #renewAt = 0; // when it is due, in ms since 1970
  #renewFrom = 0; // not before that: the server has asked for it
  #renewing = false; // what is tried is one of the same kind
  #unrenewed = 0; // trials in a row that have not brought the one that is wanted

  /**
   * `base` is the address of the server's page; `memory` keeps the transport that worked, `shared` is that of all tabs;
   * `kinds`: the transports that may be used, from the best one down; `WebSocket`: where the platform has none of its own.
   * @param {{
   *   base: URL, credentials: Credentials, memory: Slot, shared: Slot, kinds?: readonly Kind[],
   *   WebSocket?: new (url: string, protocols?: string[]) => WebSocket, on: Callbacks,
   * }} parts
   */
  constructor({ base, credentials, memory, shared, kinds, WebSocket = globalThis.WebSocket, on }) {
    this.credentials = credentials;
    this.network = new Network(memory, kinds);
    this.WebSocket = WebSocket;
    this.shared = shared;
    this.on = on;
    this.requests = new Requests({ base, credentials });
    this.commands = /** @type {Commands | null} */ (null); // as the next, only below the WebSocket
    this.holders = /** @type {Holders | null} */ (null);
  }

  get live() {
    return this.#current !== null;
  }

  /**
   * Hand a command to the transport, if there is one; else whoever cares sends it again after `welcome`.
   * @param {Wire.Command} command
   */
  send(command) {
    this.#current?.transport.send(command);
  }

  /** Whether nobody is let in without a token; false, too, if that is not to be learnt soon. */
  async isClosed() {
    try {
      await this.requests.session({ limit: SOON });
    } catch (error) {
      return error instanceof Refusal && error.status === 401;
    }
    return false;
  }

  /** Connect now, whatever stands: the first time, after a change of name or token, or when a person asks for it. */
  connect() {
    this.#drop(1006);
    this.#become({ name: "connecting" });
    this.#try(this.network.kinds);
  }

  /** Come to an end, and back only by `connect`. */
  close() {
    clearTimeout(this.#loading);
    this.#loading = 0;
    this.#drop(1000);
    this.#become({ name: "idle" });
  }

  /**
   * Something says that it may work now (network back, page in front): try at once, or see if anyone is there. On another
   * `network` a better transport may work, too.
   */
  hasten(network = false) {
    if (network) this.network.forget();
    if (this.state.name === "waiting" && !this.#asked) this.connect();
    this.#current?.transport.check();
    if (network && this.#current) this.#upward();
  }

  /** @param {State} state */
  #become(state) {
    this.state = state;
    this.on.state(state);
  }

  // Which transport.

  /** Begin the first of `kinds`; each next one when the one before failed, or let us wait. @param {Kind[]} kinds */
  #try(kinds) {
    this.#halt();
    clearTimeout(this.#renewal);
    this.#renewal = 0;
    this.#renewing = kinds[0] === this.#current?.transport.kind;
    if (this.#renewing) this.#unrenewed += 1;
    this.#ends = [];
    this.#left = kinds;
    this.#next();
  }

  /** @returns {void} */
  #next() {
    clearTimeout(this.#step);
    const kind = this.#left.shift();
    if (!kind) return this.#failed();
    this.#step = setTimeout(() => this.#next(), PATIENCE[kind]);
    const candidate = /** @type {Candidate} */ ({ welcome: null, proven: false, since: Date.now() });
    this.#tried.push(candidate);
    /** @type {Events} */
    const on = {
      welcome: (frame) => this.#welcomed(candidate, frame),
      proven: () => this.#proven(candidate),
      frame: (frame) => candidate === this.#current && this.on.frame(frame),
      ended: (end) => this.#ended(candidate, end),
      renew: () => candidate === this.#current && this.#renew(),
    };
    if (kind === "websocket") candidate.transport = new WebSocketTransport({ WebSocket: this.WebSocket, requests: this.requests, on });
    else this.#begin(kind, candidate, on);
  }

  /** A lower transport, as soon as it is loaded. @param {"stream" | "poll"} kind @param {Candidate} candidate @param {Events} on */
  async #begin(kind, candidate, on) {
    candidate.transport = { kind, send() {}, check() {}, close() {} };
    const lower = await import("./lower.js").catch(() => null);
    if (!this.#tried.includes(candidate)) return;
    if (!lower) return this.#ended(candidate, { code: 0 });
    const { requests } = this;
    this.holders ??= new lower.Holders(this.shared, requests.base);
    this.commands ??= new lower.Commands({
      requests,
      on: { frame: (frame) => this.on.frame(frame), ended: (end) => this.#unheard(end) },
    });
    if (kind === "stream") {
      this.#crowded = !this.holders.take();
      if (this.#crowded) return this.#ended(candidate, { code: 0 });
    }
    const parts = { requests, commands: this.commands, joins: this.on.joins, holders: this.holders, on };
    candidate.transport = kind === "stream" ? new lower.StreamTransport(parts) : new lower.PollTransport(parts);
  }

  /** Let go of those that are tried. */
  #halt() {
    clearTimeout(this.#step);
    clearTimeout(this.#rise);
    for (const { transport } of this.#tried) transport.close();
    this.#tried = [];
    this.#left = [];
  }

  /** @param {Candidate} candidate @param {Wire.Welcome} frame */
  #welcomed(candidate, frame) {
    candidate.welcome = frame;
    if (!this.#current) this.#take(candidate, frame);
  }

  /** @param {Candidate} candidate */
  #proven(candidate) {
    candidate.proven = true;
    this.network.worked(candidate.transport.kind);
    // As another user it cannot go on for us: a cookie and a token, or two new guests.
    if (candidate !== this.#current && candidate.welcome?.user === this.#user) this.#take(candidate, candidate.welcome);
    this.#halt();
    this.#renewLater();
    this.#plan();
  }

  /** @param {Candidate} candidate @param {Wire.Welcome} frame */
  #take(candidate, frame) {
    const before = this.#current;
    this.#tried = this.#tried.filter((other) => other !== candidate);
    this.#current = candidate;
    this.#user = frame.user;
    this.#refusals = this.#unrenewed = this.#renewFrom = 0;
    before?.transport.close();
    const { kind } = candidate.transport;
    if (kind === "websocket") this.holders?.release();
    if (before?.transport.kind !== kind) this.network.took(this.#borne(kind));
    this.credentials.welcomed(frame.token ?? null);
    this.#become({ name: "open", kind, crowded: this.#crowded });
    if (kind === "websocket") this.#loading ||= setTimeout(() => import("./lower.js").catch(() => null), LOADING);
    if (before) this.on.moved();
    else this.on.welcome(frame);
  }

  /** What the network may bear: where other tabs have the streams, it was not asked. @param {Kind} kind */
  #borne(kind) {
    return kind === "poll" && this.#crowded ? "stream" : kind;
  }

  /** Another of the same kind, beside the one that runs; in so many ms, or earlier. @param {number} delay */
  #renew(delay = RENEWAL) {
    const at = Math.max(Date.now() + delay, this.#renewFrom);
    if (this.#renewal && this.#renewAt <= at) return;
    clearTimeout(this.#renewal);
    this.#renewAt = at;
    this.#renewal = setTimeout(() => this.#current && this.#try([this.#current.transport.kind]), at - Date.now());
  }

  /** Again, if the last trial has not brought it. */
  #renewLater() {
    if (this.#unrenewed) this.#renew(Math.max(SOON, backoff(this.#unrenewed)));
  }

  /** Try the higher ones in so many ms. @param {number} delay */
  #plan(delay = this.network.due - Date.now()) {
    clearTimeout(this.#rise);
    this.#rise = setTimeout(() => this.#upward(), Math.max(delay, SOON));
  }

  #upward() {
    const kind = this.#current?.transport.kind;
    const above = kind ? this.network.above(kind) : [];
    if (!above.length) return;
    if (this.#tried.length || (this.#renewal && !this.#unrenewed)) this.#plan(SOON); // a room waits for it
    else this.#try(above);
  }

  /** @param {Candidate} candidate @param {End} end */
  #ended(candidate, end) {
    if (candidate === this.#current) {
      this.#lost(end);
      return;
    }
    const newest = candidate === this.#tried.at(-1);
    this.#tried = this.#tried.filter((other) => other !== candidate);
    this.#ends.push(end);
    // The server has spoken: by another transport it would say the same.
    if (!this.#current && (end.code === 401 || typeof end.wait === "number")) this.#lost(end);
    else if (newest || !this.#tried.length) this.#next();
  }

  /** Commands do not get through. Those of before a WebSocket was ours are no matter. @param {End} end */
  #unheard(end) {
    if (this.#current && this.#current.transport.kind !== "websocket") this.#lost(end);
  }

  /** None of those that were tried is ours. */
  #failed() {
    this.#halt();
    if (this.#current) {
      const { kind } = this.#current.transport;
      if (this.#renewing) this.#renewFrom = Date.now() + Math.min(LONGEST, Math.max(0, ...this.#ends.map(({ wait }) => wait ?? 0)));
      else this.network.stay(this.#borne(kind));
      this.#renewLater();
      this.#plan();
      this.#become({ name: "open", kind, crowded: this.#crowded });
    } else {
      this.network.away();
      this.#faults = 0; // what was cut off before an outage was no fault of its transport
      this.#lost(this.#ends.findLast(({ code }) => code > 0) ?? { code: 0 });
    }
  }

  // How it ends, and comes back.

  /** @param {number} code */
  #drop(code) {
    clearTimeout(this.#timer);
    clearTimeout(this.#renewal);
    this.#renewal = 0;
    this.#halt();
    this.commands?.clear();
    this.holders?.release();
    const before = this.#current;
    this.#current = null;
    this.#unrenewed = this.#renewFrom = 0;
    before?.transport.close();
    if (before) this.on.closed(code);
  }

  /** @param {End} end */
  #lost(end) {
    const { code, why } = end;
    const before = this.#current;
    this.#drop(code);
    if (before) this.#judge(before, end);
    if (code === 4001 || code === 4002) {
      this.#unauthorized(code === 4001 ? "Your sign-in has expired." : "Your session was ended.");
    } else if (code === 401) {
      this.#unauthorized(why);
    } else if (code >= 400 && code < 500 && typeof end.wait !== "number") {
      this.#refused(code, why);
    } else {
      const asked = typeof end.wait === "number";
      let wait = end.wait ?? backoff(this.#attempts++);
      if (code === 1008) wait = Math.max(wait, FLOODED);
      else if (asked && code < 1000) wait += backoff(this.#attempts); // others are told the same
      this.#wait(wait, asked || code === 1008, why);
    }
  }

  /** A transport that the network does not bear is left for a lower one. @param {Candidate} candidate @param {End} end */
  #judge({ transport: { kind }, proven, since }, { code, silent }) {
    const lasted = Date.now() - since;
    if (lasted > STABLE) this.#attempts = 0;
    if (lasted > (silent ? OLD : STABLE)) this.#faults = 0;
    else if (silent) this.#faults += FAULTS / 2;
    else if (code === 1006) this.#faults += 1;
    const lower = this.network.below(kind);
    if (!lower || (this.#faults < FAULTS && (proven || !silent))) return;
    this.#faults = 0;
    this.network.remember(lower);
  }

  /** @param {number} delay @param {boolean} asked @param {string} [why] */
  #wait(delay, asked, why, refused = false) {
    this.#asked = asked;
    this.#timer = setTimeout(() => this.connect(), delay);
    this.#become({ name: "waiting", until: Date.now() + delay, why, refused });
  }

  /**
   * Somebody answers, and does not let us in. One attempt leaves out what may be the matter: a name with characters that
   * the server does not know; a guest's token that it did not sign.
   * @param {number} code @param {string} [why] The server's own words.
   */
  #refused(code, why) {
    const { credentials } = this;
    credentials.leftOut = null;
    /** @type {("token" | "name" | null)[]} */
    const trials = [null];
    if (credentials.token && !credentials.signedIn) trials.unshift("token");
    if (credentials.name) trials.unshift("name");
    if (code === 400) credentials.leftOut = trials[this.#refusals++ % trials.length];
    this.network.forget();
    const between = `Something between here and the server refuses the connection (status ${code}).`;
    this.#wait(backoff(this.#attempts++) + (code === 403 ? REFUSED : 0), code === 403, why ?? between, why !== undefined);
  }

  /** @param {string} [why] It is about the token: who had none is not to hear of it. */
  #unauthorized(why) {
    const { token, signedIn } = this.credentials;
    this.credentials.forget();
    if (token !== null && !signedIn) this.#wait(backoff(this.#attempts++), false); // as a new guest, if guests are let in
    else this.#become({ name: "signed-out", why: token === null ? undefined : why });
  }
}
