// A log as it is followed here: up to where, and whether we are in it now. Each event counts once.

/** @typedef {{ last: number, after?: undefined } | { after: number }} JoinFrom */

export class Log {
  cursor = /** @type {number | null} */ (null); // null: nothing held yet
  epoch = /** @type {string | null} */ (null);
  joining = false;
  member = false; // joined on this connection: events count
  synced = false; // ... and nothing is missing
  problem = /** @type {string | null} */ (null); // why it could not be joined
  refused = false; // ... and is not tried again on this connection
  again = 0; // timer of the next attempt to
  #gap = /** @type {number | null} */ (null); // the cursor at which a hole was seen

  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  /** Nothing is held of what came before. @param {Wire.Joined} frame */
  begin({ epoch, cursor }) {
    this.epoch = epoch;
    this.cursor = cursor;
  }

  /** Whether what we hold, up to `from`, is of another log than the one that was joined. @param {Wire.Joined} frame @param {number} from */
  foreign(frame, from) {
    return frame.epoch !== this.epoch || from > frame.cursor;
  }

  /** Count an event: "new", or "known" already, or some before it are "missing". @param {number} seq */
  count(seq) {
    if (this.cursor === null || seq <= this.cursor) return "known";
    if (seq > this.cursor + 1 && this.#gap !== this.cursor) {
      this.#gap = this.cursor; // a second time at the same place: the log itself has the hole
      return "missing";
    }
    this.cursor = seq;
    return "new";
  }

  left() {
    this.member = this.synced = false;
  }
}
