// What is known of the network: which transports it bears, and when the higher ones are worth another trial.

export const KINDS = /** @type {const} */ (["websocket", "stream", "poll"]); // from the best one down

const RISE = 600_000; // ms on a lower one, until the higher ones are tried again
const AGAIN = 5_000; // ms instead, where they are missed; each time that they fail, it is so many times longer, up to RISE:
const LONGER = 3;

/** @import { Slot } from "./slot.js" */

/** @typedef {typeof KINDS[number]} Kind */

export class Network {
  due = 0; // the next trial of the higher ones, in ms since 1970
  #best; // by its place in `all`, of those that worked in this visit
  #outage = false; // a moment ago, none of them did
  #again = AGAIN;

  /**
   * `memory` keeps for the visit what the network bears; `all`: those that we may use, from the best one down.
   * @param {Slot} memory @param {readonly Kind[]} all
   */
  constructor(memory, all = KINDS) {
    this.memory = memory;
    this.all = all;
    this.#best = all.length;
  }

  /** Those that are to be tried, in this order. */
  get kinds() {
    return this.all.slice(this.all.indexOf(this.#remembered().kind));
  }

  /** Those above `kind`. @param {Kind} kind */
  above(kind) {
    return this.all.slice(0, this.all.indexOf(kind));
  }

  /** The next one below `kind`, if there is one. @param {Kind} kind @returns {Kind | undefined} */
  below(kind) {
    return this.all[this.all.indexOf(kind) + 1];
  }

  /** `at`, in ms since 1970, the higher ones were tried last. @returns {{ kind: Kind, at: number }} */
  #remembered() {
    const best = { kind: this.all[0], at: 0 };
    const { kind, at } = this.memory.get("transport", null) ?? best;
    return this.all.includes(kind) && Math.abs(Date.now() - at) < RISE ? { kind, at } : best;
  }

  /** It bears `kind`, and none above. @param {Kind} kind */
  remember(kind) {
    this.memory.set("transport", kind === this.all[0] ? null : { kind, at: Date.now() });
    this.due = Date.now() + RISE;
  }

  /** Perhaps it is another network now. */
  forget() {
    this.memory.set("transport", null);
    this.#again = AGAIN;
  }

  /** None of all was to be had. */
  away() {
    this.#outage = true;
  }

  /** We go on with `kind`. @param {Kind} kind */
  took(kind) {
    const { kind: before, at } = this.#remembered();
    if (kind === before) this.due = at + RISE;
    else if (this.all.indexOf(kind) > this.all.indexOf(before)) this.stay(kind);
    else this.remember(kind);
    this.#outage = false;
  }

  /**
   * Those above `kind` are not to be had. After an outage, or where one of them worked before, that is no news of the
   * network: it is not remembered until they were tried again so often that it is.
   * @param {Kind} kind
   */
  stay(kind) {
    if (this.#again === RISE || !(this.#outage || this.#best < this.all.indexOf(kind))) {
      this.remember(kind);
    } else {
      this.due = Date.now() + this.#again;
      this.#again = Math.min(RISE, this.#again * LONGER);
    }
  }

  /** Something came and went by `kind`. @param {Kind} kind */
  worked(kind) {
    const place = this.all.indexOf(kind);
    if (place > this.#best) return;
    this.#best = place;
    this.#again = AGAIN;
  }
}
