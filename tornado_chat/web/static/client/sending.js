// What of the outbox is on its way, until it is acknowledged or refused. Silence repeats it, with the same id.

import { Outbox } from "./outbox.js";
import { backoff, errorAsks } from "./retry.js";

export const REPLY_LIMIT = 15_000; // ms without any answer: ask again
export const ONCE_MORE = new Set(["rate_limited", "overloaded", "unavailable"]);
const NOT_TO_BE_REPEATED = new Set([1002, 1003, 1007, 1009]);
/** @type {Wire.Failure} */
const CLOSED_OVER_IT = { type: "error", code: "bad_request", message: "The server closed the connection over this." };

/** @import { Connection } from "./connection.js" */
/** @import { Item, Publishing } from "./outbox.js" */
/** @import { OwnLog } from "./own.js" */
/** @import { Room } from "./room.js" */
/** @import { Slot } from "./slot.js" */

/**
 * One item at a time, or a refused one would be overtaken by the next. What we follow and stop is no part of what we say:
 * neither waits for the other.
 * @typedef {{ aside: boolean, sending: Item | null, resend: number }} Lane
 */

export class Sending {
  user = /** @type {string | null} */ (null); // whom we send as
  #lanes = [false, true].map((aside) => /** @type {Lane} */ ({ aside, sending: null, resend: 0 }));
  #tries = 0;

  /**
   * `place`: where an item is seen while it is on its way; `changed`: look there again. `done`: what came of it, the seq
   * of its event (0: it has none) or why it is refused; null: it is given up.
   * @param {{
   *   store: Slot, connection: () => Connection, place: (item: Item) => Room | OwnLog | undefined,
   *   changed: (item: Item) => void, notice: (text: string) => void,
   *   done?: (item: Item, outcome: number | Wire.Failure | null) => void,
   * }} parts
   */
  constructor({ store, connection, place, changed, notice, done = () => {} }) {
    this.outbox = new Outbox(store);
    this.connection = connection;
    this.place = place;
    this.changed = changed;
    this.notice = notice;
    this.done = done;
  }

  /** @param {Publishing} command */
  queue(command) {
    const item = this.outbox.add(command);
    this.place(item)?.queued(item);
    if (!this.outbox.kept) this.notice("Your browser keeps nothing more: what is not sent yet would not survive a reload.");
    this.changed(item);
    this.#pump();
    return item;
  }

  /** @param {Item} item @param {number | null} [seq] Of its event, where it is in the log. */
  discard(item, seq = null) {
    this.outbox.take(item.id);
    this.place(item)?.settled(item);
    this.changed(item);
    this.done(item, seq);
    this.#passed(item);
  }

  /** There is a connection, on which we are `user`. @param {string} user */
  begin(user) {
    this.user = user;
    this.#tries = 0;
    // Edits and reactions as someone whom we no longer are mean nothing now; messages are left for a person to judge.
    for (const item of [...this.outbox.items]) {
      if (item.command.type !== "send" && this.outbox.unsure(item, user)) this.discard(item);
    }
    this.#pump();
  }

  /** It goes on by another transport: an item on its way may have got lost, and its id makes a resend harmless. */
  again() {
    for (const lane of this.#lanes) this.#next(lane);
  }

  /** The connection was lost, with a close code. @param {number} code */
  end(code) {
    for (const lane of this.#lanes) {
      clearTimeout(lane.resend);
      if (lane.sending && NOT_TO_BE_REPEATED.has(code)) this.#refused(lane.sending, CLOSED_OVER_IT);
      lane.sending = null;
    }
  }

  /** An event came: if it is ours, seen before its ack, it is in the log, which is all that an ack says. @param {Wire.RoomEvent} event */
  seen(event) {
    const item = event.type === "message" && event.id !== undefined ? this.outbox.find(event.id) : null;
    if (item && item.user === event.user && item.command.room === event.room) this.discard(item, event.seq);
  }

  /** @param {Wire.Ack} frame */
  acked(frame) {
    const item = this.outbox.find(frame.id);
    if (!item || item.user !== this.user) return;
    this.outbox.take(item.id);
    this.place(item)?.acked(item, frame.seq ?? 0);
    this.#tries = 0;
    this.changed(item);
    this.done(item, frame.seq ?? 0);
    this.#passed(item);
  }

  /** False if it is about none of these. @param {Wire.Failure} frame */
  failed(frame) {
    const item = this.outbox.find(frame.id ?? "");
    if (!item) return false;
    if (ONCE_MORE.has(frame.code)) {
      const wait = this.pause(frame);
      for (const lane of this.#lanes) if (lane.sending === item) this.#repeat(lane, wait);
    } else {
      this.#refused(item, frame);
      this.#passed(item);
    }
    return true;
  }

  /** @param {Wire.Failure} error */
  pause(error) {
    return errorAsks(error) ?? backoff(this.#tries++);
  }

  /** @param {Item} item @param {Wire.Failure} failure */
  #refused(item, failure) {
    if (item.command.type === "send") {
      this.outbox.refuse(item, failure.message);
    } else {
      this.notice(failure.message);
      this.outbox.take(item.id);
      this.place(item)?.settled(item);
    }
    this.changed(item);
    this.done(item, failure);
  }

  /** The next of its lane may be sent. @param {Item} item */
  #passed(item) {
    for (const lane of this.#lanes) if (lane.sending === item) this.#next(lane);
  }

  /** @param {Lane} lane */
  #next(lane) {
    clearTimeout(lane.resend);
    lane.sending = null;
    this.#pump();
  }

  /** An answer, or a lost connection, moves on from here. */
  #pump() {
    const connection = this.connection();
    if (!connection.live || this.user === null) return;
    for (const lane of this.#lanes) {
      const item = lane.sending ? null : this.outbox.next(this.user, lane.aside);
      if (!item) continue;
      lane.sending = item;
      connection.send({ ...item.command, id: item.id });
      this.#repeat(lane, REPLY_LIMIT);
    }
  }

  /** @param {Lane} lane @param {number} wait ms */
  #repeat(lane, wait) {
    clearTimeout(lane.resend);
    lane.resend = setTimeout(() => this.#next(lane), wait);
  }
}
