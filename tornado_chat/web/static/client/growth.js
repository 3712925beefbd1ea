// The texts of messages that grow. Loaded with the first of them: a text that was missed meanwhile is asked for, as any gap
// is. Places in a text are code points, as the server counts them.

const POLL = 2_000; // ms between two looks at what grows, where the server tells nothing by itself; or at what did not come
const AT_ONCE = 4; // messages that are looked at: the newest

/** @import { Message, Room } from "./room.js" */

/**
 * How much of a text is there, in code points, and of which writing of it. `missed`: how far chunks reach that came while
 * an answer was on its way, which was perhaps made before them.
 * @typedef {{ gen: number, points: number, asked: boolean, missed: number }} Known
 */

export class Growth {
  #known = /** @type {WeakMap<Message, Known>} */ (new WeakMap());
  #timers = /** @type {Set<number>} */ (new Set());
  #closed = false;

  /**
   * `fetch` asks for the text from a place on, `grown`: look again at a message. `rooms` gives those that are open;
   * `polls`: nothing comes but what is asked for.
   * @param {{
   *   rooms: () => Iterable<Room>, polls: () => boolean, grown: (room: Room, message: Message) => void,
   *   fetch: (room: Room, seq: number, offset: number) => Promise<Wire.Grown | null>,
   * }} on
   */
  constructor(on) {
    this.on = on;
    for (const room of on.rooms()) this.look(room);
    this.polling = setInterval(() => this.#poll(), POLL);
  }

  close() {
    this.#closed = true;
    clearInterval(this.polling);
    for (const timer of this.#timers) clearTimeout(timer);
  }

  #poll() {
    if (!this.on.polls()) return;
    for (const room of this.on.rooms()) {
      const growing = room.messages.filter(({ streaming }) => streaming);
      for (const message of growing.slice(-AT_ONCE)) this.#ask(room, message);
    }
  }

  /** Bring to an end what has ended, and ask for what was missed. @param {Room} room */
  look(room) {
    for (const message of room.messages) {
      if (message.end) this.end(room, message);
      else if (message.streaming && !this.#known.has(message)) this.#ask(room, message);
    }
  }

  /** @param {Room} room @param {Wire.Appended} frame */
  appended(room, { chunks }) {
    for (const [seq, gen, offset, text] of chunks) this.#add(room, room.find(seq), gen, offset, text);
  }

  /** @param {Room} room @param {Wire.Grown} frame */
  grown(room, { seq, gen, offset, text }) {
    this.#add(room, room.find(seq), gen, offset, text);
  }

  /** @param {Message} message */
  #of(message) {
    const known = this.#known.get(message) ?? { gen: 0, points: 0, asked: false, missed: 0 };
    this.#known.set(message, known);
    return known;
  }

  /** @param {Room} room @param {Message | null} message @param {number} gen @param {number} offset @param {string} text */
  #add(room, message, gen, offset, text) {
    if (!message || message.deleted || (!message.streaming && !message.end)) return;
    const known = this.#of(message);
    if (gen < known.gen) return;
    if (gen > known.gen && offset === 0) {
      Object.assign(known, { gen, points: 0 });
      message.text = "";
    }
    if (gen > known.gen || offset > known.points) {
      if (gen > known.gen) known.gen = 0; // all of it is asked for
      known.missed = Math.max(known.missed, offset + length(text));
      return this.#ask(room, message);
    }
    const fresh = offset < known.points ? after(text, known.points - offset) : text;
    message.text += fresh;
    known.points += length(fresh);
    if (message.end) this.end(room, message);
    else if (fresh) this.#shown(room, message);
  }

  /** @param {Room} room @param {Message} message */
  #shown(room, message) {
    message.grown++;
    this.on.grown(room, message);
  }

  /** It has ended: the text is whole, or asked for once more. @param {Room} room @param {Message} message */
  end(room, message) {
    const { end } = message;
    if (!end) return;
    const known = this.#of(message);
    if (known.points > end.length) {
      message.text = message.text.slice(0, message.text.length - after(message.text, end.length).length);
      known.points = end.length;
    }
    if (known.points < end.length || crc32(message.text) !== end.crc) {
      if (known.points >= end.length) known.gen = 0; // not what was said: all of it again
      return this.#ask(room, message);
    }
    message.end = null;
    message.version++;
    this.#shown(room, message);
  }

  /** @param {Room} room @param {Message} message */
  async #ask(room, message) {
    const known = this.#of(message);
    if (known.asked) return;
    known.asked = true;
    known.missed = 0;
    const answer = await this.on.fetch(room, message.seq, known.gen ? known.points : 0);
    if (answer) {
      if (answer.offset === 0) known.gen = 0; // it is all of it, whatever we had
      else if (answer.done) known.gen = answer.gen; // of what has ended not everybody knows it
      this.#add(room, message, answer.gen, answer.offset, answer.text);
    }
    known.asked = false;
    if (!answer || message.end) this.#later(room, message);
    else if (known.points < known.missed) this.#ask(room, message);
  }

  /** No other chunk may come for long. @param {Room} room @param {Message} message */
  #later(room, message) {
    if (this.#closed) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (![...this.on.rooms()].includes(room) || room.find(message.seq) !== message) return;
      if (message.end) this.end(room, message);
      else if (message.streaming) this.#ask(room, message);
    }, POLL);
    this.#timers.add(timer);
  }
}

/** @param {string} text */
function length(text) {
  let pairs = 0;
  for (let at = 0; at < text.length; at++) if ((text.charCodeAt(at) & 0xfc00) === 0xd800) pairs++;
  return text.length - pairs;
}

/** What comes after so many code points. @param {string} text @param {number} points */
function after(text, points) {
  let at = 0;
  for (; points > 0 && at < text.length; points--) at += (text.charCodeAt(at) & 0xfc00) === 0xd800 ? 2 : 1;
  return text.slice(at);
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

/** That of the text in UTF-8. @param {string} text */
export function crc32(text) {
  let crc = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
