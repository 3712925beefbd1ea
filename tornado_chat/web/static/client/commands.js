// Commands by request, for who listens otherwise than by a WebSocket: in the order given, one request under way at a time.
// A request without an answer is sent again as it was: the ids make that harmless, and nothing overtakes it.

import { report } from "./faults.js";
import { endedBy, Refusal } from "./requests.js";
import { backoff } from "./retry.js";

const AT_ONCE = 64; // what one request may carry; a single message at most, so its bytes are no matter
const LIMIT = 10_000; // ms for one request: one that hangs would keep one of the six connections that a browser opens
const TRIES = 3;

/** @import { End } from "./connection.js" */
/** @import { Requests } from "./requests.js" */

export class Commands {
  #waiting = /** @type {Wire.Command[]} */ ([]);
  #sending = /** @type {AbortController | null} */ (null);

  /** @param {{ requests: Requests, on: { frame: (frame: Wire.Frame) => void, ended: (end: End) => void } }} parts */
  constructor({ requests, on }) {
    this.requests = requests;
    this.on = on;
  }

  /**
   * The newest of its kind replaces one that waits still, so there are never more than was asked for at once.
   * @param {Wire.Command} command
   */
  send(command) {
    const same = this.#waiting.findIndex((other) => replaces(command, other));
    if (same < 0) this.#waiting.push(command);
    else if (command.id === undefined) this.#waiting[same] = command;
    if (!this.#sending) this.#send();
  }

  /** Forget what is not answered: whoever cares sends it again. */
  clear() {
    this.#sending?.abort();
    this.#sending = null;
    this.#waiting = [];
  }

  async #send() {
    const sending = new AbortController();
    this.#sending = sending;
    for (let tries = 0; this.#waiting.length && tries < TRIES; tries++) {
      const batch = this.#waiting.slice(0, AT_ONCE);
      const answers = await this.#ask(batch, sending.signal);
      if (sending.signal.aborted) return;
      if (answers === null) {
        await new Promise((resolve) => setTimeout(resolve, backoff(tries)));
        continue;
      }
      tries = -1;
      this.#waiting = this.#waiting.filter((command) => !batch.includes(command));
      for (const answer of answers) if (answer) this.#tell(answer);
      if (sending.signal.aborted) return;
    }
    if (sending.signal.aborted) return;
    this.#sending = null;
    if (this.#waiting.length) this.on.ended({ code: 1006, silent: true });
  }

  /** A fault of who hears it is no reason to say nothing more. @param {Wire.Frame} answer */
  #tell(answer) {
    try {
      this.on.frame(answer);
    } catch (error) {
      report(error);
    }
  }

  /**
   * What the server says to each command; what it says to all of them is said to each. Null: no answer of its own.
   * @param {Wire.Command[]} batch @param {AbortSignal} signal @returns {Promise<(Wire.Frame | null)[] | null>}
   */
  async #ask(batch, signal) {
    try {
      const answers = await this.requests.ask("commands", batch, { signal, limit: LIMIT });
      return Array.isArray(answers) ? answers : null; // a network that wants a sign-in answers for everybody
    } catch (error) {
      if (signal.aborted) return null;
      const end = endedBy(error);
      if (end.code === 401) this.on.ended(end);
      if (!(error instanceof Refusal) || !error.error) return null;
      const { error: said } = error;
      return batch.map(({ id }) => (id === undefined ? null : { ...said, type: "error", id }));
    }
  }
}

/** Whether one need not send both. @param {Wire.Command} command @param {Wire.Command} other */
function replaces(command, other) {
  if (command.id !== undefined) return command.id === other.id;
  return command.type === other.type && "room" in command && "room" in other && command.room === other.room;
}
