// What an app gets of the client: the rooms that it has joined, what it says there, who it is. docs/javascript-client.md.

import { ChatRoom } from "./chat_room.js";
import { Connection } from "./connection.js";
import { Credentials } from "./credentials.js";
import { Engine } from "./engine.js";
import { ChatError } from "./errors.js";
import { Listeners } from "./listeners.js";
import { KINDS } from "./network.js";
import { news } from "./own.js";
import { slot } from "./slot.js";

const PREFIX = "tornado-chat.";
const WAITING = 1_000; // things said that are not acknowledged
const HEX = 13; // bytes in the name of a room that nobody can guess

/** @import { Answer, ChatEvents, ChatOptions, ChatRoom as Joined, Chat as Public, FollowedRoom, JoinOptions, Me, AskOptions, State } from "./index.d.ts" */
/** @import { Item, Publishing } from "./outbox.js" */
/** @import { Room } from "./room.js" */
/** @import { Kept, Slot } from "./slot.js" */

/** What was said, until it is known what came of it. @typedef {{ resolve: (seq: number) => void, reject: (error: ChatError) => void }} Waiter */

/** @implements {Public} */
export class Chat {
  #credentials;
  #engine;
  #listeners = /** @type {Listeners<ChatEvents>} */ (new Listeners());
  #rooms = /** @type {Map<Room, ChatRoom>} */ (new Map());
  #waiting = /** @type {Map<string, Waiter>} */ (new Map()); // by id
  #online = () => this.hasten(true);
  #visible = () => document.hidden || this.hasten();

  /** @param {ChatOptions} options */
  constructor({ url = new URL("../..", import.meta.url), token, name, transports, WebSocket = globalThis.WebSocket, storage, shared } = {}) {
    const base = new URL(url);
    if (!/^https?:$/.test(base.protocol)) throw new TypeError(`url: the address of the server, http://… or https://…, and not ${base.href}`);
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    const tab = kept(storage);
    const all = kept(shared);
    this.#credentials = new Credentials({ tab, shared: all });
    if (token) this.#credentials.paste(checked(token));
    if (name) this.#credentials.name = name;
    const kinds = KINDS.filter((kind) => (transports?.includes(kind) ?? true) && (kind !== "websocket" || WebSocket));
    if (!kinds.length) throw new TypeError(`transports: some of ${KINDS.join(", ")}`);
    this.#engine = new Engine({
      store: tab,
      connect: (on) => new Connection({
        base, credentials: this.#credentials, memory: tab, shared: all, kinds, WebSocket, on: { ...on, state: (state) => this.#state(state) },
      }),
      on: {
        changed: (room, event) => this.#changed(room, event),
        grown: (room, message) => this.#rooms.get(room)?.grown(message),
        signal: (room, frame) => this.#rooms.get(room)?.signal(frame),
        told: (event) => this.#listeners.tell("own", event),
        notice: (text) => this.#listeners.tell("notice", text),
        done: (item, outcome) => this.#done(item, outcome),
      },
    });
    globalThis.addEventListener?.("online", this.#online);
    globalThis.document?.addEventListener("visibilitychange", this.#visible);
    this.#engine.connection.connect();
  }

  get state() {
    return this.#engine.connection.state;
  }

  get me() {
    return this.#engine.me;
  }

  /** @returns {FollowedRoom[]} */
  get rooms() {
    const { own, rooms, me } = this.#engine;
    return [...own.followed].map(([name, { level, by }]) => ({ name, level, by, ...news(own.rooms.get(name), rooms.get(name), me?.user) }));
  }

  /** @template {keyof ChatEvents} Name @param {Name} name @param {(...args: ChatEvents[Name]) => void} listener */
  on(name, listener) {
    return this.#listeners.on(name, listener);
  }

  /** @param {string} name @param {JoinOptions} [options] */
  join(name, options) {
    const room = this.#engine.enter(name, options);
    let joined = this.#rooms.get(room);
    if (!joined) {
      joined = new ChatRoom(this.#engine, room, { say: (command) => this.#say(command), left: () => this.#rooms.delete(room) });
      this.#rooms.set(room, joined);
      joined.changed();
    }
    return joined;
  }

  /** @param {string} agent @param {string} text @param {AskOptions & { room?: string }} options */
  ask(agent, text, { room = roomFor(agent), ...options } = {}) {
    return this.join(room).ask(agent, text, options);
  }

  /** @param {string} room @param {Wire.Level} level */
  follow(room, level = "everything") {
    return this.#say({ type: "follow", room, level });
  }

  /** @param {string} room */
  unfollow(room) {
    return this.#say({ type: "unfollow", room });
  }

  /** @param {string} room @param {string} user */
  invite(room, user) {
    return this.#say({ type: "invite", room, user });
  }

  /** @param {string} token */
  signIn(token) {
    this.#credentials.paste(checked(token));
    this.#engine.connection.connect();
  }

  hasten(network = false) {
    this.#engine.connection.hasten(network);
  }

  close() {
    globalThis.removeEventListener?.("online", this.#online);
    globalThis.document?.removeEventListener("visibilitychange", this.#visible);
    this.#engine.close();
    this.#fail(new ChatError("closed", "the chat was closed"));
  }

  /** Say it now, or as soon as there is a connection. @param {Publishing} command @returns {Promise<number>} */
  #say(command) {
    if (this.#waiting.size >= WAITING) return Promise.reject(new ChatError("overloaded", `${WAITING} things wait to be acknowledged already`));
    const item = this.#engine.sending.queue(command);
    return new Promise((resolve, reject) => this.#waiting.set(item.id, { resolve, reject }));
  }

  /** @param {Item} item @param {number | Wire.Failure | null} outcome */
  #done(item, outcome) {
    const waiter = this.#waiting.get(item.id);
    this.#waiting.delete(item.id);
    if (!waiter) return;
    if (typeof outcome === "number") return waiter.resolve(outcome);
    this.#engine.discard(item); // whoever waits is told, and may say it again
    waiter.reject(outcome ? new ChatError(outcome.code, outcome.message) : new ChatError("discarded", "it was given up"));
  }

  /** @param {ChatError} error */
  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    for (const joined of this.#rooms.values()) joined.fail(error);
  }

  /** @param {State} state */
  #state(state) {
    // Who never was let in waits for nothing. Who was may come back with another token, and what is said then goes on.
    if (state.name === "signed-out" && !this.me) this.#fail(new ChatError("unauthorized", state.why ?? "the server lets nobody in without a token"));
    this.#listeners.tell("state", state);
  }

  /** @param {Room | null} room @param {Wire.RoomEvent} [event] */
  #changed(room, event) {
    if (room) this.#rooms.get(room)?.changed(event);
    this.#listeners.tell("changed");
  }
}

/** @param {Storage | undefined} storage @returns {Slot} */
function kept(storage) {
  if (storage) return slot(storage, PREFIX);
  const all = /** @type {Partial<Kept>} */ ({});
  return {
    get: (key, fallback) => all[key] ?? fallback,
    set(key, value) {
      all[key] = value ?? undefined;
      return true;
    },
  };
}

/** A token out of a file has a newline behind it. @param {string} token */
function checked(token) {
  const bare = token.trim();
  if (!/^[\w.-]+$/.test(bare)) throw new TypeError("token: letters, digits and - _ . make one, as `tornado-chat token` prints it");
  return bare;
}

/** The name of a new room, which nobody can guess. @param {string} agent */
function roomFor(agent) {
  const name = agent.toLowerCase().replace(/[^a-z0-9._-]/g, "").replace(/^[._-]+/, "").slice(0, 37) || "agent";
  const random = crypto.getRandomValues(new Uint8Array(HEX));
  return `${name}-${Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
