// What was said and is not acknowledged yet, in order. Each tab has its own: two tabs never send for one another.

/** The time, so that the log keeps ids in order, and 64 random bits; randomUUID would need https. */
export function newId() {
  const random = crypto.getRandomValues(new Uint8Array(8));
  return `${Date.now().toString(16)}-${Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** @import { Slot } from "./slot.js" */

/** @typedef {Wire.Send | Wire.Edit | Wire.Delete | Wire.React | Wire.Stop | Wire.Follow | Wire.Unfollow | Wire.Invite} Publishing */

/**
 * `command` is the frame without its id; `at` is ms since 1970. `user` is whom it was first sent as: the server knows a
 * resend by (room, user, id), so as another user it would come twice. `error` is why the server will not have it.
 * `seq` is what its `ack` said.
 * @typedef {{ id: string, command: Publishing, at: number, user?: string, error?: string, seq?: number }} Item
 */

/** @typedef {Item & { command: Wire.Send }} Sending */
/** @typedef {Item & { command: Wire.Edit | Wire.Delete | Wire.React | Wire.Stop }} Changing */
/** @typedef {Item & { command: Wire.Follow | Wire.Unfollow | Wire.Invite }} Following */

/** Whether it is about which rooms somebody follows, and not about what is in one. @param {Item} item */
export const isFollowing = ({ command: { type } }) => type === "follow" || type === "unfollow" || type === "invite";

/** Whether it waits for nothing that is said, and nothing for it. @param {Item} item */
const isAside = (item) => isFollowing(item) || item.command.type === "stop";

export class Outbox {
  /** @param {Slot} store */
  constructor(store) {
    this.store = store;
    this.items = store.get("outbox", []);
    this.kept = true; // false: the browser has no room, a reload would lose them
  }

  /** @param {Publishing} command */
  add(command) {
    /** @type {Item} */
    const item = { id: newId(), command, at: Date.now() };
    this.items.push(item);
    this.save();
    return item;
  }

  /** The next to be sent as `user`, marked as such before it leaves. @param {string} user @param {boolean} [aside] */
  next(user, aside = false) {
    const item = this.items.find((item) => isAside(item) === aside && !item.error && (item.user ?? user) === user);
    if (item && item.user !== user) {
      item.user = user;
      this.save();
    }
    return item ?? null;
  }

  /** @param {string} id */
  find(id) {
    return this.items.find((item) => item.id === id) ?? null;
  }

  /** Forget the item, if it is one of ours. @param {string} id */
  take(id) {
    const item = this.find(id);
    if (item) {
      this.items.splice(this.items.indexOf(item), 1);
      this.save();
    }
  }

  /**
   * The server will not have it: out of the queue, but kept for whoever wrote it.
   * @param {Item} item @param {string} error
   */
  refuse(item, error) {
    item.error = error;
    this.save();
  }

  /**
   * Sent as someone whom we no longer are, and never acknowledged: whether it arrived is not known.
   * @param {Item} item @param {string} user
   */
  unsure(item, user) {
    return item.user !== undefined && item.user !== user;
  }

  save() {
    this.kept = this.store.set("outbox", this.items.length ? this.items : null);
  }
}
