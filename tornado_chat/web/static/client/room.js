// One room as it is known here: its messages by seq, what was done to them, and what of ours is on its way there.
// No socket and no page.

import { Log } from "./log.js";

const RECENT = 60; // events asked for when a room is first seen
const GAP = 2_000; // more missed than this: begin with the newest, the rest is there for scrolling back
const KEPT = 4_000; // messages held at most while nobody reads the old ones
const LAPSE = 6_000; // ms after which a typing or a status is over, if it is not said again
const STEPS = 50; // that are kept of one message: agents tell of no more

/** @import { JoinFrom } from "./log.js" */
/** @import { Changing, Item, Sending } from "./outbox.js" */

/**
 * A message as we hold it: as it is now. `version` counts its changes, `grown` those of a text that grows. `end`: what its
 * text must be in the end, until it is known to be.
 * @typedef {Wire.Message & {
 *   text: string, deleted: boolean, edited: number | null, reactions: Map<string, Set<string>>, version: number,
 *   streaming: boolean, grown: number, reason: string | null, end: { length: number, crc: number } | null,
 *   steps: Map<string, Wire.ToolRun>,
 * }} Message `steps`: of an agent that is at it, by their ids; those of a message that has ended are in its `meta`.
 */

/** What an agent says that it is doing, perhaps about the message `seq`. @typedef {{ user: string, name: string, seq?: number, text: string }} Doing */

/** @typedef {Exclude<Wire.RoomEvent, Wire.Message>} Change */

/** A room's name as the protocol has it, made from what a person typed; null if that cannot be. @param {string} typed */
export function roomName(typed) {
  const name = typed.trim().toLowerCase().replace(/^#/, "").replace(/\s+/g, "-");
  return /^[a-z0-9][a-z0-9._-]{0,63}$/.test(name) ? name : null;
}

export class Room extends Log {
  resets = 0; // times that what was held was of no use any more
  messages = /** @type {Message[]} */ ([]); // ascending seq
  oldest = 1; // the history of everything below is not held
  more = false; // ... and there is some
  read = 0; // our mark
  loading = /** @type {Promise<boolean> | null} */ (null); // the promise of a page of history
  failed = /** @type {string | null} */ (null); // why the last one did not come
  pending = /** @type {Sending[]} */ ([]); // those acknowledged too (`seq` set) whose event is still to come
  changes = /** @type {Changing[]} */ ([]);
  trimmable = true; // nobody reads old messages just now
  asked = 0; // ms since 1970: when it was asked for who is here
  present = /** @type {Promise<unknown>} */ (Promise.resolve()); // ... and told
  marks = /** @type {Map<string, number>} */ (new Map()); // user -> seq read, as far as signals told us
  names = /** @type {Map<string, string>} */ (new Map()); // by user
  agents = /** @type {Set<string>} */ (new Set()); // users: those of whom it was seen that they are
  #typing = /** @type {Map<string, number>} */ (new Map()); // user -> lapses at, ms
  #doing = /** @type {Map<string, Doing & { until: number }>} */ (new Map()); // by user and seq
  // By seq: a message not in `messages` that a reply refers to; null while it is asked for.
  #quoted = /** @type {Map<number, Message | null>} */ (new Map());
  // Changes since a history was asked for: its answer may be older than they are.
  #edits = /** @type {Change[] | null} */ (null);
  #waiting = 0; // histories asked for

  /**
   * `last`: so many events are asked for at first; `after`: or those after this one. `gap`: where more were missed than so
   * many, it begins with the newest again.
   * @param {string} name @param {{ last?: number, after?: { seq: number, epoch: string }, gap?: number }} options
   */
  constructor(name, { last = RECENT, after, gap = GAP } = {}) {
    super(name);
    this.last = last;
    this.gap = gap;
    if (!after) return;
    this.cursor = after.seq;
    this.epoch = after.epoch;
    this.oldest = after.seq + 1;
    this.more = after.seq > 0;
  }

  /** The fields of the `join` that brings us up to date. @returns {JoinFrom} */
  get joinFrom() {
    return this.cursor === null ? { last: this.last } : { after: this.cursor };
  }

  /**
   * Take in the answer to a join with `from`. False: what we held is of no use, it is forgotten, join again.
   * @param {Wire.Joined} frame @param {JoinFrom} from
   */
  joined(frame, from) {
    this.problem = null;
    if (from.after !== undefined) {
      const foreign = this.foreign(frame, from.after);
      if (foreign || frame.head - frame.cursor > this.gap) {
        this.#forget(foreign);
        return false;
      }
    } else {
      this.#forget(this.epoch !== null && frame.epoch !== this.epoch);
      this.begin(frame);
      this.oldest = frame.cursor + 1;
      this.more = frame.cursor > 0;
    }
    this.read = Math.max(this.read, frame.read);
    return true;
  }

  /** @param {boolean} foreign */
  #forget(foreign) {
    if (this.cursor !== null) this.resets++;
    this.messages = [];
    this.cursor = null;
    this.more = false;
    this.synced = false;
    this.#quoted.clear();
    if (!foreign) return;
    this.read = 0; // another log: its numbers mean other things
    this.marks.clear();
    this.pending = this.pending.filter((item) => item.seq === undefined);
  }

  /** Take in an event, if it is new. @param {Wire.RoomEvent} event @param {string} [me] */
  event(event, me) {
    const counted = this.count(event.seq);
    if (counted !== "new") return counted;
    if (event.type === "message") {
      this.named(event.user, event.name);
      if (event.agent) this.agents.add(event.user);
      this.#typing.delete(event.user);
      this.messages.push(message(event));
      if (event.user === me && !event.streaming) this.read = Math.max(this.read, event.seq); // as the server does: one's own words are read
      if (this.messages.length > KEPT && this.trimmable) this.#trim();
    } else {
      this.#edits?.push(event);
      this.#apply(event);
    }
    if (this.pending.length) this.pending = this.pending.filter(({ seq }) => seq === undefined || seq > event.seq);
    return counted;
  }

  #trim() {
    this.messages.splice(0, this.messages.length - KEPT / 2);
    this.oldest = this.messages[0].seq;
    this.more = true;
  }

  /** @param {Change} event */
  #apply(event) {
    const target = this.find(event.target);
    if (!target) return;
    target.version++;
    if (event.type === "finished") {
      if (event.text !== undefined) target.text = event.text;
      else if (event.crc !== undefined && target.streaming) target.end = { length: event.length, crc: event.crc };
      target.streaming = false;
      target.reason = event.reason;
      target.meta = event.meta ?? target.meta;
      target.steps.clear();
    }
    if (event.type === "deleted" || ("deleted" in event && event.deleted)) {
      target.deleted = true;
      target.streaming = false;
      target.end = null;
      target.text = "";
      target.reactions.clear();
    } else if (target.deleted) {
      return;
    } else if (event.type === "edited") {
      target.text = event.text ?? "";
      target.end = null;
      target.edited = event.ts;
    } else if (event.type === "reacted") {
      const users = target.reactions.get(event.emoji) ?? new Set();
      if (event.on) users.add(event.user);
      else users.delete(event.user);
      if (users.size) target.reactions.set(event.emoji, users);
      else target.reactions.delete(event.emoji);
    }
  }

  /** The index of the first message whose seq is at least `seq`. @param {number} seq */
  index(seq) {
    let low = 0;
    let high = this.messages.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.messages[middle].seq < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** @param {number} seq */
  find(seq) {
    const found = this.messages[this.index(seq)];
    return found?.seq === seq ? found : (this.#quoted.get(seq) ?? null);
  }

  /** Whether the message that a reply quotes must be fetched; says so once. @param {number} seq */
  wants(seq) {
    if (this.cursor === null || seq >= this.oldest || this.#quoted.has(seq)) return false;
    this.#quoted.set(seq, null);
    return true;
  }

  awaits() {
    this.#waiting++;
    this.#edits ??= [];
  }

  /**
   * Take in the answer to a `history` (null: none came): the page before `before`, or (`quoted`) one message.
   * @param {Wire.History | null} frame @param {{ before?: number, quoted?: number }} as
   */
  history(frame, { before, quoted }) {
    const edits = this.#edits ?? [];
    this.#waiting--;
    if (this.#waiting === 0) this.#edits = null;
    if (quoted !== undefined) {
      const found = frame?.messages.at(-1);
      if (found?.seq === quoted) this.#quoted.set(quoted, message(found));
      else if (!frame) this.#quoted.delete(quoted);
    } else if (frame && before === this.oldest) { // else the page no longer fits on what we hold: forgotten, trimmed
      const older = frame.messages.map(message);
      for (const { seq, user, name, agent } of older) {
        this.#quoted.delete(seq);
        if (agent) this.agents.add(user);
        if (!this.names.has(user)) this.names.set(user, name);
      }
      this.messages.unshift(...older);
      this.more = frame.more;
      if (older.length) this.oldest = older[0].seq;
    }
    // In order and to the end they give what stands now, whichever of them the answer had already.
    for (const event of edits) this.#apply(event);
  }

  /** @param {Item} item @param {number} seq */
  acked(item, seq) {
    if (item.command.type === "send" && (this.cursor === null || seq > this.cursor)) item.seq = seq;
    else this.settled(item);
  }

  /** @param {Item} item */
  settled(item) {
    this.pending = this.pending.filter((other) => other !== item);
    this.changes = this.changes.filter((other) => other !== item);
  }

  /** @param {Item} item */
  queued(item) {
    if (item.command.type === "send") this.pending.push(/** @type {Sending} */ (item));
    else this.changes.push(/** @type {Changing} */ (item));
  }

  /** @param {string} user @param {string} name */
  named(user, name) {
    if (this.names.get(user) !== name) this.names.set(user, name);
  }

  /** @param {Wire.Typing} frame */
  typing(frame, now = Date.now()) {
    this.named(frame.user, frame.name);
    if (frame.on) this.#typing.set(frame.user, now + LAPSE);
    else this.#typing.delete(frame.user);
  }

  /** Those who type at this moment. @param {string} [me] */
  typists(me, now = Date.now()) {
    const people = [];
    for (const [user, until] of this.#typing) {
      if (until <= now) this.#typing.delete(user);
      else if (user !== me) people.push(this.person(user));
    }
    return people;
  }

  /** @param {Wire.Status} frame */
  status({ user, name, seq, text }, now = Date.now()) {
    this.named(user, name);
    this.#doing.delete(`${user} ${seq}`);
    if (text) this.#doing.set(`${user} ${seq}`, { user, name, seq, text, until: now + LAPSE });
  }

  /** What agents are doing at this moment. @returns {Doing[]} */
  doing(now = Date.now()) {
    for (const [key, { until }] of this.#doing) if (until <= now) this.#doing.delete(key);
    return [...this.#doing.values()].map(({ until: _, ...doing }) => doing);
  }

  /** Only its author tells what is done for a message. @param {Wire.Step} frame */
  step({ user, seq, step }) {
    const target = this.find(seq);
    if (!target?.streaming || target.user !== user || (target.steps.size >= STEPS && !target.steps.has(step.id))) return;
    target.steps.set(step.id, step);
    target.version++;
  }

  /** Those who were seen here, who spoke last first. @param {string} [me] */
  people(me) {
    const users = new Set([...this.messages.map(({ user }) => user).reverse(), ...this.names.keys()]);
    return [...users].filter((user) => user !== me).map((user) => this.person(user));
  }

  /** A user by the name last seen. @param {string} user */
  person(user) {
    return { user, name: this.names.get(user) ?? user, agent: this.agents.has(user) };
  }

  /** Nobody can be known to type after a pause of ours. */
  left() {
    super.left();
    this.#typing.clear();
    this.#doing.clear();
  }

  /** @param {Wire.Read} frame @param {string} [me] */
  readBy(frame, me) {
    this.named(frame.user, frame.name);
    if (frame.user === me) this.read = Math.max(this.read, frame.seq);
    else this.marks.set(frame.user, frame.seq);
  }

  /** Whether all that came after our mark is held. */
  get #whole() {
    return !this.more || this.read >= this.oldest - 1;
  }

  /**
   * The messages past our mark, by subtraction of their numbers; `least` when older ones that are not held count too.
   * `mark`: the number of the last one that is read, where that is known otherwise. Null where no message is held.
   * @param {number | null} mark
   */
  unread(mark) {
    const last = this.messages.at(-1);
    if (!last) return null;
    const first = this.messages[this.index(this.read + 1)];
    if (!first) return { count: 0, least: false };
    const whole = this.#whole || first !== this.messages[0];
    return { count: last.n - (whole ? first.n - 1 : (mark ?? first.n - 1)), least: !whole && mark === null };
  }

  /** How many messages past our mark name us; null where some are not held. @param {string} [me] */
  mentions(me) {
    if (!this.#whole) return null;
    let count = 0;
    for (let at = this.index(this.read + 1); at < this.messages.length; at++) if (names(this.messages[at], me)) count++;
    return count;
  }
}

/** Whether `message` names a user. @param {Wire.Message} message @param {string} [user] */
export const names = ({ mentions = [] }, user = "") => mentions.includes(user);

/** @param {Wire.Past} data From the event, or from a history. @returns {Message} */
function message(data) {
  return {
    ...data,
    text: data.text ?? "",
    deleted: data.deleted ?? false,
    edited: data.edited ?? null,
    reactions: new Map(Object.entries(data.reactions ?? {}).map(([emoji, users]) => [emoji, new Set(users)])),
    version: 0,
    streaming: data.streaming ?? false,
    grown: 0,
    reason: null,
    end: null,
    steps: new Map(),
  };
}
