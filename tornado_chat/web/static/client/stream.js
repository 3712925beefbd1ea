// A stream of server-sent events as a transport, read with fetch; commands are requests of their own. A stream is of the
// rooms with which it was opened: where another room is joined, another stream takes its place.

import { endedBy } from "./requests.js";
import { EventStream } from "./sse.js";

export const ROOMS = 100; // of one stream or poll, at most
const LIFE = 200_000; // ms: a stream makes room for its successor before the server ends it (5 minutes, less a fifth)

/** @import { Commands } from "./commands.js" */
/** @import { Events } from "./connection.js" */
/** @import { Requests } from "./requests.js" */

/**
 * A room that the stream was opened with, and the command that asks for it.
 * @typedef {{ asked: Wire.Joining, join: Wire.Join | null, answered: boolean }} Joining
 */

export class StreamTransport {
  kind = /** @type {const} */ ("stream");
  #closed = new AbortController();
  #rooms;
  #welcomed = false;
  #heard = 0;
  #idle = 0;
  #watch = 0;
  #life = 0;

  /** @param {{ requests: Requests, commands: Commands, joins: () => Wire.Joining[], on: Events }} parts */
  constructor({ requests, commands, joins, on }) {
    this.requests = requests;
    this.commands = commands;
    this.on = on;
    const asked = joins().slice(-ROOMS);
    this.#rooms = /** @type {Map<string, Joining>} */ (new Map());
    for (const join of asked) this.#rooms.set(join.room, { asked: join, join: null, answered: false });
    this.#read(asked);
  }

  /** @param {Wire.Command} command */
  send(command) {
    if (command.type === "join") this.#join(command);
    else if (command.type === "leave") this.on.renew();
    else this.commands.send(command);
  }

  /** Nothing can be asked on a stream: one that should have been heard is replaced. */
  check() {
    if (Date.now() - this.#heard > this.#idle) this.on.renew();
  }

  close() {
    clearInterval(this.#watch);
    clearTimeout(this.#life);
    this.#closed.abort();
  }

  /** The command comes after the stream was opened with its room: `joined` is then its answer. @param {Wire.Join} join */
  #join(join) {
    const room = this.#rooms.get(join.room);
    if (room && !room.answered && (join.after ?? -1) >= (room.asked.after ?? -1)) room.join = join;
    else if (room || this.#rooms.size < ROOMS) this.on.renew();
    else this.on.frame({ type: "error", id: join.id, code: "too_large", message: `no more than ${ROOMS} rooms at once` });
  }

  /** @param {Wire.Joining[]} join */
  async #read(join) {
    const { signal } = this.#closed;
    try {
      const response = await this.requests.request("events", { join }, { signal, accept: "text/event-stream" });
      const events = new EventStream();
      const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const piece = await reader?.read().catch(() => null); // null: cut off
        if (!piece || piece.done || signal.aborted) break;
        this.#heard = Date.now();
        for (const { type, data } of events.feed(piece.value)) {
          if (type === "message" && !signal.aborted) this.#frame(JSON.parse(data));
        }
      }
      if (!signal.aborted) this.#end({ code: this.#welcomed ? 1006 : 0 });
    } catch (error) {
      if (!signal.aborted) this.#end(endedBy(error));
    }
  }

  /** @param {Wire.Frame} frame */
  #frame(frame) {
    if (frame.type === "welcome") this.#welcome(frame);
    else if (frame.type === "closing") this.#end({ code: frame.code, wait: frame.retry_after_ms, why: frame.reason });
    else if (frame.type === "joined") this.#joined(frame);
    else if (frame.type !== "error") this.on.frame(frame);
    else if (frame.room !== undefined) this.#answered(frame, frame.room);
    else this.#end({ code: 503, wait: (frame.retry_after ?? 1) * 1_000, why: frame.message });
  }

  /** @param {Wire.Welcome} frame */
  #welcome(frame) {
    this.#welcomed = true;
    const interval = frame.ping_interval || Infinity; // 0: the server has no heartbeat
    this.#idle = interval * 1_500;
    this.#watch = setInterval(() => {
      if (Date.now() - this.#heard > interval * 2_000) this.#end({ code: 1006, silent: true });
    }, 1_000);
    this.#life = setTimeout(() => this.on.renew(), LIFE * (1 - Math.random() / 5));
    this.on.welcome(frame);
    this.on.proven(); // by a request: nothing that we say goes through the stream
  }

  /**
   * What has been seen by another way since this stream was opened is not missing, but comes twice: the cursor is ours.
   * @param {Wire.Joined} frame
   */
  #joined(frame) {
    const room = this.#rooms.get(frame.room);
    const [opened, now] = [room?.asked.after, room?.join?.after];
    const cursor = now !== undefined && frame.cursor === opened ? now : frame.cursor;
    this.#answered({ ...frame, cursor }, frame.room);
  }

  /** @param {Wire.Joined | Wire.Failure} frame @param {string} name */
  #answered(frame, name) {
    const room = this.#rooms.get(name);
    if (room?.answered && frame.type === "error") this.on.frame(frame);
    if (!room || room.answered) return;
    room.answered = true;
    if (room.join) this.on.frame({ ...frame, id: room.join.id });
  }

  /** @param {import("./connection.js").End} end */
  #end(end) {
    this.close();
    this.on.ended(end);
  }
}
