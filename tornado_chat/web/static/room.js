// One room as it is known here: its messages by seq, what was done to them, and what of ours is on its way there.
// No socket and no page. Every event counts once: `cursor` is the last one taken in.

const RECENT = 60; // events asked for when a room is first seen
const GAP = 2_000; // more missed than this: begin with the newest, the rest is there for scrolling back
const KEPT = 4_000; // messages held at most while nobody reads the old ones
const TYPING = 6_000;

/** @import { Changing, Item, Sending } from "./outbox.js" */

/**
 * A message as we hold it: as it is now. `version` counts its changes.
 * @typedef {Wire.Message & {
 *   text: string, deleted: boolean, edited: number | null, reactions: Map<string, Set<string>>, version: number,
 * }} Message
 */

/** @typedef {Exclude<Wire.Event, Wire.Message>} Change */

/** @typedef {{ last: number, after?: undefined } | { after: number }} JoinFrom */

/** A room's name as the protocol has it, made from what a person typed; null if that cannot be. @param {string} typed */
export function roomName(typed) {
  const name = typed.trim().toLowerCase().replace(/^#/, "").replace(/\s+/g, "-");
  return /^[a-z0-9][a-z0-9._-]{0,63}$/.test(name) ? name : null;
}

export class Room {
  messages = /** @type {Message[]} */ ([]); // ascending seq
  cursor = /** @type {number | null} */ (null); // null: nothing held yet
  epoch = /** @type {string | null} */ (null);
  oldest = 1; // the history of everything below is not held
  more = false; // ... and there is some
  read = 0; // our mark
  joining = false;
  member = false; // joined on this connection: events count
  synced = false; // ... and nothing is missing
  problem = /** @type {string | null} */ (null); // why it could not be joined
  again = 0; // timer of the next attempt to
  loading = /** @type {Promise<boolean> | null} */ (null); // the promise of a page of history
  failed = /** @type {string | null} */ (null); // why the last one did not come
  pending = /** @type {Sending[]} */ ([]); // those acknowledged too (`seq` set) whose event is still to come
  changes = /** @type {Changing[]} */ ([]);
  trimmable = true; // nobody reads old messages just now
  version = 0; // counts every change, so that a view knows when to look again
  marks = /** @type {Map<string, number>} */ (new Map()); // user -> seq read, as far as signals told us
  names = /** @type {Map<string, string>} */ (new Map()); // by user
  #typing = /** @type {Map<string, number>} */ (new Map()); // user -> lapses at, ms
  // By seq: a message not in `messages` that a reply refers to; null while it is asked for.
  #quoted = /** @type {Map<number, Message | null>} */ (new Map());
  // Changes since a history was asked for: its answer may be older than they are.
  #edits = /** @type {Change[] | null} */ (null);
  #waiting = 0; // histories asked for
  #gap = /** @type {number | null} */ (null); // the cursor at which a hole was seen

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  /** The fields of the `join` that brings us up to date. @returns {JoinFrom} */
  get joinFrom() {
    return this.cursor === null ? { last: RECENT } : { after: this.cursor };
  }

  /**
   * Take in the answer to a join with `from`. False: what we held is of no use, it is forgotten, join again.
   * @param {Wire.Joined} frame @param {JoinFrom} from
   */
  joined(frame, from) {
    this.problem = null;
    this.version++;
    if (from.after !== undefined) {
      const foreign = frame.epoch !== this.epoch || from.after > frame.cursor;
      if (foreign || frame.head - frame.cursor > GAP) {
        this.#forget(foreign);
        return false;
      }
    } else {
      this.#forget(this.epoch !== null && frame.epoch !== this.epoch);
      this.epoch = frame.epoch;
      this.cursor = frame.cursor;
      this.oldest = frame.cursor + 1;
      this.more = frame.cursor > 0;
    }
    this.read = Math.max(this.read, frame.read);
    return true;
  }

  /** @param {boolean} foreign */
  #forget(foreign) {
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

  /** Take in an event. False: some before it are missing, join again from the cursor. @param {Wire.Event} event */
  event(event) {
    if (this.cursor === null || event.seq <= this.cursor) return true;
    if (event.seq > this.cursor + 1 && this.#gap !== this.cursor) {
      this.#gap = this.cursor; // a second time at the same place: the log itself has the hole
      return false;
    }
    this.cursor = event.seq;
    this.version++;
    if (event.type === "message") {
      this.#named(event.user, event.name);
      this.#typing.delete(event.user);
      this.messages.push(message(event));
      if (this.messages.length > KEPT && this.trimmable) this.#trim();
    } else {
      this.#edits?.push(event);
      this.#apply(event);
    }
    if (this.pending.length) this.pending = this.pending.filter(({ seq }) => seq === undefined || seq > event.seq);
    return true;
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
    if (event.type === "deleted" || (event.type === "edited" && event.deleted)) {
      target.deleted = true;
      target.text = "";
      target.reactions.clear();
    } else if (target.deleted) {
      return;
    } else if (event.type === "edited") {
      target.text = event.text ?? "";
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

  asked() {
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
    this.version++;
    if (quoted !== undefined) {
      const found = frame?.messages.at(-1);
      if (found?.seq === quoted) this.#quoted.set(quoted, message(found));
      else if (!frame) this.#quoted.delete(quoted);
    } else if (frame && before === this.oldest) { // else the page no longer fits on what we hold: forgotten, trimmed
      const older = frame.messages.map(message);
      for (const { seq, user, name } of older) {
        this.#quoted.delete(seq);
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
    this.version++;
    if (item.command.type === "send" && (this.cursor === null || seq > this.cursor)) item.seq = seq;
    else this.settled(item);
  }

  /** @param {Item} item */
  settled(item) {
    this.version++;
    this.pending = this.pending.filter((other) => other !== item);
    this.changes = this.changes.filter((other) => other !== item);
  }

  /** @param {Item} item */
  queued(item) {
    this.version++;
    if (item.command.type === "send") this.pending.push(/** @type {Sending} */ (item));
    else this.changes.push(/** @type {Changing} */ (item));
  }

  /** @param {string} user @param {string} name */
  #named(user, name) {
    if (this.names.get(user) !== name) this.names.set(user, name);
  }

  /** @param {Wire.Typing} frame */
  typing(frame, now = Date.now()) {
    this.version++;
    this.#named(frame.user, frame.name);
    if (frame.on) this.#typing.set(frame.user, now + TYPING);
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

  /** A user by the name last seen. @param {string} user */
  person(user) {
    return { user, name: this.names.get(user) ?? user };
  }

  /** Nobody can be known to type after a pause of ours. */
  left() {
    this.member = this.synced = false;
    this.#typing.clear();
    this.version++;
  }

  /** @param {Wire.Read} frame @param {string} [me] */
  readBy(frame, me) {
    this.version++;
    this.#named(frame.user, frame.name);
    if (frame.user === me) this.read = Math.max(this.read, frame.seq);
    else this.marks.set(frame.user, frame.seq);
  }

  /** Messages of others past our mark; `least` when older ones that are not held may count too. @param {string} [me] */
  unread(me) {
    let count = 0;
    for (let at = this.messages.length - 1; at >= 0 && this.messages[at].seq > this.read; at--) {
      if (this.messages[at].user !== me && !this.messages[at].deleted) count++;
    }
    return { count, least: this.more && this.oldest > this.read + 1 };
  }
}

/** @param {Wire.Past} data From the event, or from a history. @returns {Message} */
function message(data) {
  return {
    ...data,
    text: data.text ?? "",
    deleted: data.deleted ?? false,
    edited: data.edited ?? null,
    reactions: new Map(Object.entries(data.reactions ?? {}).map(([emoji, users]) => [emoji, new Set(users)])),
    version: 0,
  };
}
