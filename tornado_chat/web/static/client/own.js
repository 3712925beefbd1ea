// The log of one's own, `~`: the rooms that we follow, what of them is read, who has named us; the same on all devices.

import { Log } from "./log.js";

/** @import { JoinFrom } from "./log.js" */
/** @import { Following, Item } from "./outbox.js" */
/** @import { Room } from "./room.js" */

/**
 * A room that we follow. `head` to `mentions` are as the last state had them; `unread` is null where our mark has moved
 * since to a place of which only the server knows the number. `named`: messages that named us since.
 * @typedef {Omit<Wire.FollowedRoom, "room" | "unread"> & { unread: number | null, named: Set<number> }} Followed
 */

/** @param {Wire.Level} level @param {string} [by] @returns {Followed} */
const fresh = (level, by) => ({ level, by, head: 0, messages: 0, read: 0, unread: null, mentions: 0, named: new Set() });

export class OwnLog extends Log {
  known = false; // the server has said which rooms we follow
  rooms = /** @type {Map<string, Followed>} */ (new Map());
  pending = /** @type {Following[]} */ ([]);
  names = /** @type {Map<string, string>} */ (new Map()); // by user: of those who named us

  constructor() {
    super("~");
  }

  /** @returns {JoinFrom} */
  get joinFrom() {
    return this.cursor === null ? { last: 0 } : { after: this.cursor };
  }

  /** We are another user: the next join brings the state. */
  forget() {
    this.cursor = null;
    this.known = false;
    this.rooms.clear();
  }

  /** Take in the answer to a join with `from`. False: join again. @param {Wire.Joined} frame @param {JoinFrom} from */
  joined(frame, from) {
    this.problem = null;
    if (frame.state) {
      this.begin(frame);
      this.known = true;
      this.rooms = new Map(frame.state.rooms.map(({ room, ...about }) => [room, { ...about, named: new Set() }]));
    } else if (from.after === undefined || this.foreign(frame, from.after)) {
      this.cursor = null;
      return false;
    }
    return true;
  }

  /** Take in an event, if it is new. @param {Wire.OwnEvent} event */
  event(event) {
    const counted = this.count(event.seq);
    if (counted !== "new") return counted;
    const known = this.rooms.get(event.about);
    if (event.type === "followed") this.#follow(event.about, event.level, event.by);
    else if (event.type === "unfollowed") this.rooms.delete(event.about);
    else if (event.type === "marked" && known) this.marked(known, event.read);
    else if (event.type === "mentioned") this.names.set(event.user, event.name);
    if (event.type === "mentioned" && known && event.target > known.read) known.named.add(event.target);
    return counted;
  }

  /** @param {Followed} room @param {number} read */
  marked(room, read) {
    if (read <= room.read) return;
    room.unread = read >= room.head ? 0 : null;
    if (room.unread === 0) room.mentions = 0;
    room.read = read;
    for (const seq of room.named) if (seq <= read) room.named.delete(seq);
  }

  /** @param {string} name @param {Wire.Level} level @param {string} [by] */
  #follow(name, level, by) {
    const room = this.rooms.get(name);
    if (room) Object.assign(room, { level, by });
    else this.rooms.set(name, fresh(level, by));
  }

  /** @param {Item} item */
  queued(item) {
    this.pending.push(/** @type {Following} */ (item));
  }

  /** It is so, whether or not it was so before. @param {Item} item */
  acked(item) {
    const { command } = item;
    if (command.type === "follow") this.#follow(command.room, command.level);
    else if (command.type === "unfollow") this.rooms.delete(command.room);
    this.settled(item);
  }

  /** @param {Item} item */
  settled(item) {
    this.pending = this.pending.filter((other) => other !== item);
  }

  /** The rooms with what of ours is on its way. */
  get followed() {
    const rooms = new Map(this.rooms);
    for (const { command } of this.pending) {
      if (command.type === "unfollow") rooms.delete(command.room);
      else if (command.type === "follow") rooms.set(command.room, { ...(rooms.get(command.room) ?? fresh(command.level)), level: command.level, by: undefined });
    }
    return rooms;
  }
}

/**
 * What is to be told of a room that we follow, by what is held of it if it is joined. `least`: there may be more.
 * @param {Followed | undefined} followed @param {Room | undefined} room @param {string} [me]
 */
export function news(followed, room, me) {
  const all = { count: followed?.unread ?? 0, least: false };
  const mentions = (followed?.mentions ?? 0) + (followed?.named.size ?? 0);
  if (!room || room.cursor === null) return { unread: all, mentions };
  const since = followed && followed.unread !== null && followed.read === room.read ? followed.messages - followed.unread : null;
  return { unread: room.unread(since) ?? all, mentions: room.mentions(me) ?? mentions };
}
