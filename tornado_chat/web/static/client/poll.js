// Long polls as a transport, where neither a WebSocket nor a stream gets through. The server keeps nothing for us: each
// poll says where we are. What a poll does not have (`welcome`, `joined`, `synced`) is made from the answers.

import { endedBy, Refusal } from "./requests.js";
import { ROOMS } from "./stream.js";

const WAIT = 25; // s that the server may hold an answer back, a tenth more or less
const UNHELD = 5_000; // ms between two that are not held back
const LIMIT = 15_000; // ms that an answer may take beyond that
const LEAST = 1_000; // ms that a poll takes at least which brings nothing
const OWN = "~";
const BEYOND = Number.MAX_SAFE_INTEGER; // a cursor beyond every head: the answer has the head in its place

/** @import { Commands } from "./commands.js" */
/** @import { Events } from "./connection.js" */
/** @import { Holders } from "./holders.js" */
/** @import { Requests } from "./requests.js" */

/**
 * A room, from a `join` on; `cursor` counts once `joined` was handed on.
 * @typedef {{ join: Wire.Join, joined: boolean, synced: boolean, cursor: number }} Followed
 */

export class PollTransport {
  kind = /** @type {const} */ ("poll");
  #closed = new AbortController();
  #rooms = /** @type {Map<string, Followed>} */ (new Map());
  #epoch = /** @type {string | null} */ (null);
  #marks = /** @type {Map<string, number>} */ (new Map()); // seqs that we have read, by room, as our own log said
  #news = new AbortController(); // aborted when the rooms are others, or someone wants to know now

  /** @param {{ requests: Requests, commands: Commands, holders: Holders, on: Events }} parts */
  constructor({ requests, commands, holders, on }) {
    this.requests = requests;
    this.commands = commands;
    this.holders = holders;
    this.on = on;
    this.#run();
  }

  /** @param {Wire.Command} command */
  send(command) {
    if (command.type === "leave") this.#rooms.delete(command.room);
    else if (command.type === "join") this.#join(command);
    else this.commands.send(command);
  }

  check() {
    this.#news.abort();
  }

  close() {
    this.#closed.abort();
    this.#news.abort();
  }

  /** @param {Wire.Join} join */
  #join(join) {
    if (this.#rooms.has(join.room) || this.#rooms.size < ROOMS) {
      const cursor = (join.room === OWN && join.after) || BEYOND;
      this.#rooms.set(join.room, { join, joined: false, synced: false, cursor });
      this.#news.abort();
    } else {
      this.on.frame({ type: "error", id: join.id, code: "too_large", message: `no more than ${ROOMS} rooms at once` });
    }
  }

  async #run() {
    const { signal } = this.#closed;
    try {
      const { user, name, token } = await this.requests.session({ signal, limit: LIMIT });
      const guest = user.startsWith("guest-");
      this.on.welcome({ type: "welcome", user, name, token: guest ? token : undefined, limits: {}, ping_interval: WAIT });
      this.on.proven();
      while (!signal.aborted) await this.#turn();
    } catch (error) {
      if (!signal.aborted) {
        this.close();
        this.on.ended(endedBy(error));
      }
    }
  }

  /** One poll: of the heads of rooms that are new, or else of all rooms, and held back if all of them are up to date. */
  async #turn() {
    this.#news = new AbortController();
    const all = [...this.#rooms.values()];
    const own = this.#rooms.get(OWN);
    if (own && !own.joined && own.join.after === undefined) await this.#state(own);
    const fresh = all.filter(({ joined }) => !joined);
    if (!all.length) return this.#pause(WAIT * 1_000);
    const current = all.every(({ synced }) => synced);
    const wait = current && this.holders.take() ? Math.round(WAIT * (0.9 + Math.random() / 5)) : 0;
    const begun = Date.now();
    const answer = await this.#ask(fresh.length ? fresh : all, wait);
    if (!answer || this.#closed.signal.aborted) return;
    if (fresh.length) this.#joined(fresh, answer);
    else this.#heard(all, answer);
    if (current && !(wait && answer.events.length)) await this.#pause((wait ? LEAST : UNHELD) - (Date.now() - begun));
  }

  /** What our own log leads to is not in a poll that has no cursor. @param {Followed} own */
  async #state(own) {
    const { cursor, epoch, state } = await this.requests.ask(`rooms/${OWN}/events?last=0`, undefined, { signal: this.#closed.signal, limit: LIMIT });
    if (this.#rooms.get(OWN) === own) this.#stated(own, cursor, epoch, state);
  }

  /** @param {Followed} own @param {number} cursor @param {string} epoch @param {Wire.OwnState} state */
  #stated(own, cursor, epoch, state) {
    this.#epoch ??= epoch;
    Object.assign(own, { cursor, joined: true });
    for (const { room, read } of state.rooms) this.#marks.set(room, read);
    this.on.frame({ type: "joined", id: own.join.id, room: OWN, head: cursor, cursor, read: 0, epoch, state });
  }

  /** Null if `#news` came first. @param {Followed[]} followed @param {number} wait @returns {Promise<Wire.Polled | null>} */
  async #ask(followed, wait) {
    const news = this.#news.signal;
    const rooms = Object.fromEntries(followed.map(({ join, cursor }) => [join.room, cursor]));
    try {
      return await this.requests.ask("poll", { rooms, wait }, { signal: news, limit: wait * 1_000 + LIMIT });
    } catch (error) {
      if (news.aborted) return null;
      if (!(error instanceof Refusal) || error.error?.code !== "forbidden" || followed.length > 1) throw error;
      return { epoch: "", events: [], cursors: {}, more: false, errors: { [followed[0].join.room]: error.error } };
    }
  }

  /** @param {number} ms */
  #pause(ms) {
    const { signal } = this.#news;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, signal.aborted ? 0 : ms); // what an answer told may have led to another room
      signal.addEventListener("abort", () => resolve(clearTimeout(timer)));
    });
  }

  /** Tell that rooms are joined, from the heads in `answer`. @param {Followed[]} fresh @param {Wire.Polled} answer */
  #joined(fresh, { epoch, cursors, errors, state }) {
    for (const followed of fresh) {
      const { id, room, after, last } = followed.join;
      const head = cursors[room];
      if (this.#rooms.get(room) !== followed) continue;
      if (errors?.[room] || head === undefined) {
        this.#refused(followed, errors?.[room]);
        continue;
      }
      if (state && room === OWN) {
        this.#stated(followed, head, epoch, state);
        continue;
      }
      this.#epoch ??= epoch;
      followed.joined = true;
      followed.cursor = after === undefined ? Math.max(0, head - (last ?? 0)) : Math.min(after, head);
      // The mark of a room that we do not follow is not told: what was there when we came first counts as read.
      const read = this.#marks.get(room) ?? (after === undefined ? head : 0);
      this.on.frame({ type: "joined", id, room, head, cursor: followed.cursor, read, epoch });
    }
  }

  /** @param {Followed[]} all @param {Wire.Polled} answer */
  #heard(all, { epoch, events, cursors, more, errors, state }) {
    for (const followed of all) {
      const { room } = followed.join;
      if (this.#rooms.get(room) !== followed) continue;
      if (errors?.[room] || cursors[room] === undefined) this.#refused(followed, errors?.[room]);
      else if (epoch !== this.#epoch || cursors[room] < followed.cursor || (state && room === OWN)) throw new Refusal(1006); // another log, or too old a cursor: join anew
      else followed.cursor = cursors[room];
    }
    for (const event of events) this.on.frame(event);
    if (more) return;
    for (const followed of all) {
      if (followed.synced || this.#rooms.get(followed.join.room) !== followed) continue;
      followed.synced = true;
      this.on.frame({ type: "synced", room: followed.join.room, seq: followed.cursor });
    }
  }

  /** @param {Followed} followed @param {{ code: string, message: string, retry_after?: number }} [error] */
  #refused({ join: { id, room } }, error = { code: "unavailable", message: "The server did not answer for this room." }) {
    this.#rooms.delete(room);
    this.on.frame({ ...error, type: "error", id, room });
  }
}
