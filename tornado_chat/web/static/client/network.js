// What is known of the network: which transports it bears, and when the higher ones are worth another trial.

export const KINDS = /** @type {const} */ (["websocket", "stream", "poll"]); // from the best one down

const RISE = 600_000; // ms on a lower one, until the higher ones are tried again
const AGAIN = 5_000; // ms instead, where they are missed; each time that they fail, it is so many times longer, up to RISE:
const LONGER = 3;

/** @import { Slot } from "./slot.js" */

/** @typedef {typeof KINDS[number]} Kind */

export class Network {
  due = 0; // the next trial of the higher ones, in ms since 1970
  #best = /** @type {number} */ (KINDS.length); // by its place in KINDS, of those that worked in this visit
  #outage = false; // a moment ago, none of them did
  #again = AGAIN;

  /** `memory` keeps for the visit what the network bears. @param {Slot} memory */
  constructor(memory) {
    this.memory = memory;
  }

  /** Those that are to be tried, in this order. */
  get kinds() {
    return KINDS.slice(KINDS.indexOf(this.#remembered().kind));
  }

  /** `at`, in ms since 1970, the higher ones were tried last. @returns {{ kind: Kind, at: number }} */
  #remembered() {
    const { kind, at } = this.memory.get("transport", null) ?? { kind: KINDS[0], at: 0 };
    return KINDS.includes(kind) && Math.abs(Date.now() - at) < RISE ? { kind, at } : { kind: KINDS[0], at: 0 };
  }

  /** It bears `kind`, and none above. @param {Kind} kind */
  remember(kind) {
    this.memory.set("transport", kind === KINDS[0] ? null : { kind, at: Date.now() });
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
    else if (KINDS.indexOf(kind) > KINDS.indexOf(before)) this.stay(kind);
    else this.remember(kind);
    this.#outage = false;
  }

  /**
   * Those above `kind` are not to be had. After an outage, or where one of them worked before, that is no news of the
   * network: it is not remembered until they were tried again so often that it is.
   * @param {Kind} kind
   */
  stay(kind) {
    if (this.#again === RISE || !(this.#outage || this.#best < KINDS.indexOf(kind))) {
      this.remember(kind);
    } else {
      this.due = Date.now() + this.#again;
      this.#again = Math.min(RISE, this.#again * LONGER);
    }
  }

  /** Something came and went by `kind`. @param {Kind} kind */
  worked(kind) {
    const place = KINDS.indexOf(kind);
    if (place > this.#best) return;
    this.#best = place;
    this.#again = AGAIN;
  }
}
