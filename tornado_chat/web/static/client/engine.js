// The rooms, the outbox and the connection made one: what the server says goes to its room, what we say waits for its
// ack. No page: `on.changed(room, event?)` says what to look at again.

import { isFollowing, newId } from "./outbox.js";
import { OwnLog } from "./own.js";
import { Room } from "./room.js";
import { ONCE_MORE, REPLY_LIMIT, Sending } from "./sending.js";

const PAGE = 50; // messages of one history
const TYPING_EVERY = 3_000;
const READ_EVERY = 500;
const PRESENT_EVERY = 10_000;
const STALE = 1_000; // ms until our own log is asked for its state again
const SIGNALS = new Set(["typing", "status", "step", "read"]);
const EVENT_FIELDS = ["seq", "user", "ts"]; // docs/protocol.md: every event has them, and nothing else has all three

/** @import { Callbacks, Connection } from "./connection.js" */
/** @import { Item } from "./outbox.js" */
/** @import { Growth } from "./growth.js" */
/** @import { Message } from "./room.js" */
/** @import { Slot } from "./slot.js" */

/** @typedef {{ user: string, name: string, guest: boolean, moderator: boolean }} Me */
/**
 * `changed`: look again at the room, or (null) at all; `grown`: at a message whose text grows or has ended.
 * `told`: an event came in our own log. `signal`: one came from a room. `done`: as in sending.js.
 * @typedef {{
 *   changed: (room: Room | null, event?: Wire.RoomEvent) => void, grown: (room: Room, message: Message) => void, told: (event: Wire.OwnEvent) => void,
 *   notice: (text: string) => void, signal?: (room: Room, frame: Wire.Signal) => void,
 *   done?: (item: Item, outcome: number | Wire.Failure | null) => void,
 * }} On
 */
/** @typedef {Wire.Joined | Wire.History | Wire.Presence | Wire.Grown | Wire.Failure | null} Answer The last: the connection was lost. */

export class Engine {
  rooms = /** @type {Map<string, Room>} */ (new Map());
  own = new OwnLog();
  me = /** @type {Me | null} */ (null);
  limits = /** @type {Wire.Limits} */ ({ text_chars: 8000, frame_bytes: 65536 });
  // By id: the joins and histories of this connection.
  #requests = /** @type {Map<string, { type: string, room: Room | OwnLog | null, answer: (frame: Answer) => void, timer: number }>} */ (new Map());
  #typingSent = 0;
  #unsaid = /** @type {Set<Room>} */ (new Set()); // rooms whose read mark the server does not know
  #saying = 0;
  #stale = 0;
  #growth = /** @type {Growth | null} */ (null);
  #growing = 0; // ms since 1970: when it was last tried to load it
  #closed = false;

  /**
   * `connect` makes the connection, not connected yet, from the callbacks for what comes of it.
   * @param {{ store: Slot, connect: (on: Omit<Callbacks, "state">) => Connection, on: On }} parts
   */
  constructor({ store, connect, on }) {
    this.on = on;
    this.sending = new Sending({
      store,
      connection: () => this.connection,
      place: (item) => (isFollowing(item) ? this.own : this.rooms.get(item.command.room)),
      changed: (item) => on.changed(this.rooms.get(item.command.room) ?? null),
      notice: on.notice,
      done: on.done,
    });
    this.connection = connect({
      welcome: (frame) => this.#welcome(frame),
      frame: (frame) => this.#frame(frame),
      moved: () => this.#moved(),
      closed: (code) => this.#lost(code),
      joins: () => this.#logs.map((log) => ({ room: log.name, ...log.joinFrom })),
    });
    for (const item of this.sending.outbox.items) if (isFollowing(item)) this.own.queued(item);
  }

  /** All that is to be joined. The last of them is what a transport takes for sure. */
  get #logs() {
    return [...this.rooms.values(), this.own];
  }

  /** For good. What is not acknowledged stays in the store. */
  close() {
    this.#say();
    this.#closed = true;
    this.connection.close();
    clearTimeout(this.#saying);
    clearTimeout(this.#stale);
    this.#growth?.close();
  }

  /**
   * The room of that name; it is joined as soon as there is a connection, and stays so. `options`: see Room.
   * @param {string} name @param {ConstructorParameters<typeof Room>[1]} [options]
   */
  enter(name, options) {
    let room = this.rooms.get(name);
    if (!room) {
      room = new Room(name, options);
      this.rooms.set(name, room);
      for (const item of this.sending.outbox.items) if (item.command.room === name && !isFollowing(item)) room.queued(item);
    }
    if (!room.member && !room.joining) this.#join(room);
    return room;
  }

  /** @param {string} name */
  leave(name) {
    this.rooms.delete(name);
    this.connection.send({ type: "leave", room: name });
  }

  // What a person does. Each goes through the outbox, so that it outlives the connection and a reload.

  /** @param {Room} room @param {string} text @param {number} [replyTo] @param {string[]} [mentions] Ids of users. */
  post(room, text, replyTo, mentions = []) {
    this.sending.queue({ type: "send", room: room.name, text, reply_to: replyTo, mentions: mentions.length ? mentions : undefined });
    this.typing(room, false);
  }

  /** @param {Room} room @param {number} seq @param {string} text */
  edit(room, seq, text) {
    this.sending.queue({ type: "edit", room: room.name, seq, text });
  }

  /** @param {Room} room @param {number} seq */
  delete(room, seq) {
    this.sending.queue({ type: "delete", room: room.name, seq });
  }

  /** @param {Room} room @param {number} seq @param {string} emoji @param {boolean} on */
  react(room, seq, emoji, on) {
    this.sending.queue({ type: "react", room: room.name, seq, emoji, on });
  }

  /** End a message that grows. @param {Room} room @param {number} seq */
  stop(room, seq) {
    this.sending.queue({ type: "stop", room: room.name, seq });
  }

  /** @param {string} name @param {Wire.Level} level */
  follow(name, level) {
    this.sending.queue({ type: "follow", room: name, level });
  }

  /** @param {string} name */
  unfollow(name) {
    this.sending.queue({ type: "unfollow", room: name });
  }

  /** @param {string} name @param {string} user */
  invite(name, user) {
    this.sending.queue({ type: "invite", room: name, user });
  }

  /** Another attempt for an item that was refused, or whose fate is not known. @param {Item} item */
  retry(item) {
    this.discard(item);
    this.sending.queue(item.command);
  }

  /** @param {Item} item */
  discard(item) {
    this.sending.discard(item);
  }

  // What is said in passing.

  /** @param {Room} room @param {boolean} on */
  typing(room, on) {
    const now = Date.now();
    if (on ? now - this.#typingSent < TYPING_EVERY : this.#typingSent === 0) return;
    this.#typingSent = on ? now : 0;
    this.connection.send({ type: "typing", room: room.name, on });
  }

  /** All of `room` that we hold was seen. The server is told, twice a second at most. @param {Room} room */
  seen(room) {
    if (!room.synced || room.cursor === null || room.read >= room.cursor) return;
    room.read = room.cursor;
    this.on.changed(room);
    this.#mark(room);
  }

  /** @param {Room} room */
  #mark(room) {
    this.#unsaid.add(room);
    if (!this.#saying) this.#say();
  }

  #say() {
    this.#saying = this.#unsaid.size ? setTimeout(() => this.#say(), READ_EVERY) : 0;
    for (const { name, read } of this.#unsaid) this.connection.send({ type: "read", room: name, seq: read });
    this.#unsaid.clear();
  }

  /** Resolves when the page before the oldest message held is there; false if it did not come. @param {Room} room */
  older(room, limit = PAGE) {
    if (!room.more || !room.synced) return Promise.resolve(false);
    room.failed = null;
    const before = room.oldest;
    room.loading ??= this.#history(room, { before, limit }, { before }).then((reply) => {
      room.loading = null;
      room.failed = reply?.type === "error" ? reply.message : null;
      this.on.changed(room);
      return reply?.type === "history";
    });
    return room.loading;
  }

  /** Resolves when the room has the names of those who are there now, or the server did not tell. @param {Room} room */
  present(room) {
    if (this.connection.live && Date.now() - room.asked >= PRESENT_EVERY) {
      room.asked = Date.now();
      room.present = new Promise((resolve) => {
        this.#request(room, { type: "presence", room: room.name }, (frame) => {
          if (frame?.type === "presence") for (const { user, name } of frame.users ?? []) room.named(user, name);
          resolve(null);
        });
      });
    }
    return room.present;
  }

  /** A user by the name that was last seen of them, in whichever room. @param {string} user */
  person(user) {
    for (const { names } of this.#logs) if (names.has(user)) return { user, name: names.get(user) ?? user };
    return { user, name: user };
  }

  /** The last messages of a room that one need not be in; none, if one may not see it; null if the connection was lost. @param {string} name @returns {Promise<Wire.Past[] | null>} */
  last(name, limit = PAGE) {
    if (!this.connection.live) return Promise.resolve(null);
    return new Promise((resolve) => {
      this.#request(null, { type: "history", room: name, limit }, (frame) => resolve(frame?.type === "history" ? frame.messages : frame && []));
    });
  }

  /** One message that a reply refers to, once. @param {Room} room @param {number} seq */
  quoted(room, seq) {
    if (this.connection.live && room.synced && room.wants(seq)) {
      this.#history(room, { before: seq + 1, limit: 1 }, { quoted: seq });
    }
  }

  /**
   * @param {Room} room
   * @param {{ before: number, limit: number }} fields
   * @param {{ before?: number, quoted?: number }} as
   * @returns {Promise<Answer>}
   */
  #history(room, fields, as) {
    room.awaits();
    return new Promise((resolve) => {
      this.#request(room, { type: "history", room: room.name, ...fields }, (frame) => {
        room.history(frame?.type === "history" ? frame : null, as);
        if (frame?.type === "history" && frame.messages.some(({ streaming }) => streaming)) this.#grow(room);
        this.on.changed(room);
        resolve(frame);
      });
    });
  }

  /** Something is to be done about messages that grow. @param {Room} room */
  async #grow(room) {
    if (this.#growth) return this.#growth.look(room);
    if (Date.now() - this.#growing < STALE) return;
    this.#growing = Date.now();
    const loaded = await import("./growth.js").catch(() => null);
    if (!loaded || this.#growth || this.#closed) return;
    this.#growth = new loaded.Growth({
      rooms: () => this.rooms.values(),
      polls: () => this.connection.state.name === "open" && this.connection.state.kind === "poll",
      grown: (room, message) => this.on.grown(room, message),
      fetch: (room, seq, offset) => new Promise((resolve) => {
        if (!this.connection.live) return resolve(null);
        this.#request(room, { type: "fetch", room: room.name, seq, offset }, (frame) => resolve(frame?.type === "stream" ? frame : null));
      }),
    });
  }

  // The connection.

  /**
   * `answer` gets the reply, an error (silence is one too), or null when the connection is lost.
   * It is of no use where `room`, which it is about, was left meanwhile.
   * @param {Room | OwnLog | null} room @param {Wire.Join | Wire.GetHistory | Wire.GetPresence | Wire.Fetch} frame @param {(frame: Answer) => void} answer
   */
  #request(room, frame, answer) {
    const id = newId();
    /** @type {Wire.Failure} */
    const silence = { id, type: "error", code: "unavailable", message: "The server did not answer." };
    const timer = setTimeout(() => this.#answered(silence), REPLY_LIMIT);
    this.#requests.set(id, { type: frame.type, room, answer, timer });
    this.connection.send({ ...frame, id });
  }

  /** `going`: on another transport, beside which nothing of the one before comes any more. @param {Room | OwnLog} room */
  #join(room, going = false) {
    if (!this.connection.live) return;
    clearTimeout(room.again);
    const from = room.joinFrom;
    room.joining = true;
    room.refused = false;
    if (!going) room.member = room.synced = false; // what comes before `joined` belongs to an earlier join
    this.#request(room, { type: "join", room: room.name, ...from }, (frame) => {
      room.joining = false;
      if (frame?.type === "error") this.#unjoined(room, frame);
      else if (frame?.type === "joined" && room.joined(frame, from)) this.#joined(room, frame);
      else if (frame) this.#join(room);
      this.on.changed(room instanceof OwnLog ? null : room);
    });
  }

  /** @param {Room | OwnLog} room @param {Wire.Joined} frame */
  #joined(room, frame) {
    room.member = true;
    if (room instanceof OwnLog) this.#told();
    else if (room.read > frame.read) this.#mark(room); // said to a connection that was lost
  }

  /** What the state of our own log says is true of the rooms that are open. */
  #told() {
    for (const [name, { read }] of this.own.rooms) {
      const room = this.rooms.get(name);
      if (room && room.read < read) room.read = read;
    }
  }

  /** @param {Room | OwnLog} room @param {Wire.Failure} error */
  #unjoined(room, error) {
    room.member = room.synced = false;
    room.problem = error.message;
    room.refused = !ONCE_MORE.has(error.code);
    if (!room.refused) room.again = setTimeout(() => this.#join(room), this.sending.pause(error));
  }

  /** @param {Wire.Welcome} frame */
  #welcome(frame) {
    if (this.me && this.me.user !== frame.user) this.own.forget();
    this.me = { user: frame.user, name: frame.name, guest: Boolean(frame.token), moderator: this.connection.credentials.claims.moderator === true };
    this.limits = { ...this.limits, ...frame.limits };
    for (const log of this.#logs) this.#join(log);
    this.sending.begin(frame.user);
    this.on.changed(null);
  }

  /** The rooms go on where they are, on another transport: a person sees nothing of it. What is asked is still answered. */
  #moved() {
    for (const [id, { type, timer }] of this.#requests) {
      if (type !== "join") continue;
      clearTimeout(timer);
      this.#requests.delete(id);
    }
    for (const log of this.#logs) this.#join(log, true);
    this.sending.again();
  }

  /** @param {number} code */
  #lost(code) {
    this.sending.end(code);
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const { answer, timer } of requests) {
      clearTimeout(timer);
      answer(null);
    }
    for (const log of this.#logs) {
      clearTimeout(log.again);
      log.left();
    }
    if ([...this.own.rooms.keys()].some((name) => !this.rooms.has(name))) this.own.cursor = null; // as in #again
    this.on.changed(null);
  }

  /** @param {Wire.Frame} frame */
  #frame(frame) {
    const name = "room" in frame ? (frame.room ?? "") : "";
    const room = this.rooms.get(name);
    const log = name === this.own.name ? this.own : room;
    if (isEvent(frame)) {
      if (!log?.member) return;
      if (room) this.#event(room, /** @type {Wire.RoomEvent} */ (frame));
      else this.#ownEvent(/** @type {Wire.OwnEvent} */ (frame));
      return;
    }
    if (room && SIGNALS.has(frame.type)) this.on.signal?.(room, /** @type {Wire.Signal} */ (frame));
    switch (frame.type) {
      case "ack":
        this.sending.acked(frame);
        return;
      case "joined":
      case "history":
      case "presence":
        this.#answered(frame);
        return;
      case "error":
        this.#error(frame);
        return;
      case "synced":
      case "behind":
        if (!log?.member) return;
        log.synced = frame.type === "synced";
        break;
      case "stream":
        if (this.#answered(frame) || !room?.member) return;
        if (this.#growth) this.#growth.grown(room, frame);
        else this.#grow(room);
        return;
      case "appended":
        if (!room?.member) return;
        if (this.#growth) this.#growth.appended(room, frame);
        else this.#grow(room);
        return;
      case "typing":
        room?.typing(frame);
        break;
      case "status":
        room?.status(frame);
        break;
      case "step":
        room?.step(frame);
        break;
      case "read":
        room?.readBy(frame, this.me?.user);
        break;
      default:
        return; // additions of later versions
    }
    if (room) this.on.changed(room);
  }

  /** @param {Wire.OwnEvent} event */
  #ownEvent(event) {
    const { own } = this;
    const counted = own.event(event);
    if (counted === "missing") this.#join(own);
    if (counted !== "new") return;
    const room = this.rooms.get(event.about);
    if (event.type === "marked") {
      if (room) room.read = Math.max(room.read, event.read);
      else this.#stale ||= setTimeout(() => this.#again(), STALE);
    }
    this.on.told(event);
    this.on.changed(room ?? null);
  }

  /** How much is unread of rooms that are not joined, only the state tells. */
  #again() {
    this.#stale = 0;
    this.own.cursor = null;
    this.#join(this.own);
  }

  /** @param {Room} room @param {Wire.RoomEvent} event */
  #event(room, event) {
    const counted = room.event(event, this.me?.user);
    if (counted === "missing") return this.#join(room); // whatever is missing comes again, this event too
    const ended = event.type === "finished" ? room.find(event.target) : null;
    if (ended && this.#growth) this.#growth.end(room, ended);
    else if (ended?.end || (event.type === "message" && event.streaming && !this.#growth)) this.#grow(room);
    if (ended) this.on.grown(room, ended);
    this.sending.seen(event);
    this.on.changed(room, counted === "new" ? event : undefined);
  }

  /** False if it answers no request. @param {NonNullable<Answer>} frame */
  #answered(frame) {
    const id = frame.id ?? "";
    const request = this.#requests.get(id);
    if (!request) return false;
    this.#requests.delete(id);
    clearTimeout(request.timer);
    if (!request.room || this.#logs.includes(request.room)) request.answer(frame);
    return true;
  }

  /** @param {Wire.Failure} frame */
  #error(frame) {
    if (this.#answered(frame)) return;
    if (!this.sending.failed(frame)) this.on.notice(frame.message);
  }
}

/** Events of types that we do not know count too. @param {Wire.Frame} frame @returns {frame is Wire.Event} */
function isEvent(frame) {
  return EVENT_FIELDS.every((field) => field in frame);
}
