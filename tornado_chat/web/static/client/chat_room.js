// A room as an app has it: what is in it, what is told of it, what one can say there.

import { Answer } from "./answer.js";
import { ChatError } from "./errors.js";
import { Listeners } from "./listeners.js";

/** @import { AskOptions, ChatRoom as Public, RoomEvents, SendOptions } from "./index.d.ts" */
/** @import { Engine } from "./engine.js" */
/** @import { Publishing } from "./outbox.js" */
/** @import { Message, Room } from "./room.js" */

/** @typedef {{ say: (command: Publishing) => Promise<number>, left: () => void }} On */

/** @implements {Public} */
export class ChatRoom {
  version = 0;
  ready;
  #engine;
  #room;
  #on;
  #listeners = /** @type {Listeners<RoomEvents>} */ (new Listeners());
  #resets;
  #ended = /** @type {WeakSet<Message>} */ (new WeakSet());
  #settle = { resolve: () => {}, reject: (/** @type {Error} */ _) => {} };

  /** @param {Engine} engine @param {Room} room @param {On} on */
  constructor(engine, room, on) {
    this.#engine = engine;
    this.#room = room;
    this.#on = on;
    this.#resets = room.resets;
    this.ready = /** @type {Promise<void>} */ (new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    }));
    this.ready.catch(() => {}); // nobody has to wait for it
  }

  get name() {
    return this.#room.name;
  }

  get messages() {
    return this.#room.messages;
  }

  get pending() {
    return this.#room.pending.filter(({ seq }) => seq === undefined).map(({ id, at, error, command }) => ({ id, at, error, text: command.text }));
  }

  get cursor() {
    const { cursor, epoch } = this.#room;
    return cursor === null || epoch === null ? null : { seq: cursor, epoch };
  }

  get synced() {
    return this.#room.synced;
  }

  get more() {
    return this.#room.more;
  }

  get problem() {
    return this.#room.problem;
  }

  get read() {
    return this.#room.read;
  }

  get unread() {
    return this.#room.unread(null) ?? { count: 0, least: false };
  }

  get typists() {
    return this.#room.typists(this.#engine.me?.user);
  }

  get doing() {
    return this.#room.doing();
  }

  /** @template {keyof RoomEvents} Name @param {Name} name @param {(...args: RoomEvents[Name]) => void} listener */
  on(name, listener) {
    return this.#listeners.on(name, listener);
  }

  /** @param {number} seq */
  message(seq) {
    return this.#room.find(seq);
  }

  /** @param {string} text @param {SendOptions} options */
  send(text, { replyTo, mentions, meta } = {}) {
    return this.#on.say({ type: "send", room: this.name, text, reply_to: replyTo, mentions, meta });
  }

  /** @param {string} agent @param {string} text @param {AskOptions} options */
  ask(agent, text, { silence, mentions = [], ...options } = {}) {
    const question = this.send(text, { ...options, mentions: [agent, ...mentions] });
    return new Answer({ room: this, agent, question, silence });
  }

  /** @param {number} seq @param {string} text */
  edit(seq, text) {
    return this.#on.say({ type: "edit", room: this.name, seq, text });
  }

  /** @param {number} seq */
  delete(seq) {
    return this.#on.say({ type: "delete", room: this.name, seq });
  }

  /** @param {number} seq @param {string} emoji @param {boolean} on */
  react(seq, emoji, on = true) {
    return this.#on.say({ type: "react", room: this.name, seq, emoji, on });
  }

  /** @param {number} seq */
  stop(seq) {
    return this.#on.say({ type: "stop", room: this.name, seq });
  }

  /** @param {string} id */
  retry(id) {
    const item = this.#engine.sending.outbox.find(id);
    if (item) this.#engine.retry(item);
  }

  /** @param {string} id */
  discard(id) {
    const item = this.#engine.sending.outbox.find(id);
    if (item) this.#engine.discard(item);
  }

  /** @param {number} [limit] */
  older(limit) {
    return this.#engine.older(this.#room, limit);
  }

  typing(on = true) {
    this.#engine.typing(this.#room, on);
  }

  seen() {
    this.#engine.seen(this.#room);
  }

  leave() {
    this.#engine.leave(this.name);
    this.#on.left();
    this.fail(new ChatError("left", `#${this.name} was left`));
  }

  // What the engine tells. @internal

  /** @param {Wire.RoomEvent} [event] */
  changed(event) {
    const room = this.#room;
    this.version++;
    if (room.resets !== this.#resets) {
      this.#resets = room.resets;
      this.#listeners.tell("reset");
    }
    if (room.synced) this.#settle.resolve();
    else if (room.refused) this.#settle.reject(new ChatError("forbidden", `#${room.name} cannot be joined: ${room.problem}`));
    if (event) this.#listeners.tell("event", event);
    const message = event?.type === "message" ? room.find(event.seq) : null;
    if (message) this.#listeners.tell("message", message);
    this.#listeners.tell("changed");
  }

  /** @param {Message} message */
  grown(message) {
    this.version++;
    this.#listeners.tell("grown", message);
    if (!message.streaming && !message.end && !this.#ended.has(message)) {
      this.#ended.add(message);
      this.#listeners.tell("ended", message);
    }
    this.#listeners.tell("changed");
  }

  /** @param {Wire.Signal} frame */
  signal(frame) {
    this.#listeners.tell("signal", frame);
  }

  /** @param {ChatError} error */
  fail(error) {
    this.#settle.reject(error);
    this.#listeners.tell("lost", error);
  }
}
