// An agent's answer to a question, as who asks it follows it: put together of what comes in the room. The answer to the
// message SEQ is the agent's message with the id `re:SEQ`, then `re:SEQ:2` and `re:SEQ:3` where one was cut off
// (docs/protocol.md, Agents). So whatever breaks, it can be followed.

import { ChatError } from "./errors.js";
import { report } from "./faults.js";

const SILENCE = 120_000; // ms without a sign of the agent in the room
const ATTEMPTS = 5; // an agent gives a reply that was cut off so many times
const ATTEMPT = /^re:(\d+)(?::(\d+))?$/;
const SIGNS = new Set(["typing", "status", "step"]);

/** @import { Answer as Public, Message } from "./index.d.ts" */
/** @import { ChatRoom } from "./chat_room.js" */

/** @implements {Public} */
export class Answer {
  question = 0;
  text = "";
  message = /** @type {Message | null} */ (null);
  reason = /** @type {string | null} */ (null);
  error = /** @type {ChatError | null} */ (null);
  #attempt = 0;
  #silence;
  #timer = 0;
  #offs;
  #stopping = false;
  #wakes = /** @type {(() => void)[]} */ ([]);

  /** @param {{ room: ChatRoom, agent: string, question: Promise<number>, silence?: number }} parts */
  constructor({ room, agent, question, silence = SILENCE }) {
    this.room = room;
    this.agent = agent;
    this.#silence = silence;
    this.#offs = [
      room.on("event", (event) => this.#event(event)),
      room.on("grown", (message) => message === this.message && this.#look()),
      room.on("signal", ({ type, user }) => user === agent && SIGNS.has(type) && this.#heard()),
      room.on("lost", (error) => this.#end(error)),
    ];
    question.then((seq) => this.#asked(seq), (error) => this.#end(error));
  }

  get ended() {
    return this.reason !== null || this.error !== null;
  }

  async whole() {
    while (!this.ended) await this.#change();
    if (this.error) throw this.error;
    return this.text;
  }

  async *[Symbol.asyncIterator]() {
    let told = ""; // what the pieces of the present attempt make together
    for (;;) {
      const { text } = this;
      if (text.startsWith(told)) {
        if (text !== told) yield text.slice(told.length);
        told = text;
      } else if (!told.startsWith(text)) {
        yield `\n\n${text}`;
        told = text;
      } // else it is given again, and has not come so far; or its end was cut
      if (text !== this.text) continue;
      if (this.error) throw this.error;
      if (this.ended) return;
      await this.#change();
    }
  }

  async stop() {
    this.#stopping = true;
    await this.#halt();
    while (!this.ended) await this.#change();
  }

  // How it is put together.

  /** @returns {Promise<void>} */
  #change() {
    return new Promise((resolve) => this.#wakes.push(resolve));
  }

  /** The question is there: from now on the silence counts. @param {number} seq */
  #asked(seq) {
    if (this.ended) return;
    this.question = seq;
    this.#heard();
    for (const message of this.room.messages) this.#begun(message);
  }

  #heard() {
    clearTimeout(this.#timer);
    if (this.ended || !this.question) return;
    const { agent, room, question } = this;
    const why = `no sign of ${agent} in #${room.name} within ${this.#silence / 1_000} s, to answer message ${question}`;
    this.#timer = setTimeout(() => this.#end(new ChatError("silent", why)), this.#silence);
  }

  /** @param {Wire.RoomEvent} event */
  #event(event) {
    if (!this.question || this.ended) return;
    if (event.type === "deleted" && event.target === this.question && !this.message) {
      return this.#end(new ChatError("failed", `message ${this.question} of #${this.room.name}, the question, was deleted`));
    }
    if (event.type === "message") this.#begun(/** @type {Message} */ (this.room.message(event.seq)));
    else if (event.target === this.message?.seq) this.#look();
  }

  /** Another attempt may have begun. @param {Message | null} message */
  #begun(message) {
    if (message?.user !== this.agent) return;
    this.#heard();
    const [, question, number = "1"] = ATTEMPT.exec(message.id ?? "") ?? [];
    if (Number(question) !== this.question || Number(number) < this.#attempt) return;
    this.#attempt = Number(number);
    this.message = message;
    if (this.#stopping) this.#halt().catch(report);
    this.#look();
  }

  /** What has come of it. */
  #look() {
    const { message } = this;
    if (!message || this.ended) return;
    this.#heard();
    this.text = message.text;
    const { agent, question, room: { name } } = this;
    const which = `message ${question} of #${name}`;
    if (message.deleted) this.#end(new ChatError("failed", `the answer of ${agent} to ${which} was deleted`));
    else if (message.streaming || message.end) this.#tell();
    else if (message.reason === "error") this.#end(new ChatError("failed", `${agent} could not answer ${which}`));
    else if (message.reason !== "interrupted") this.#end(null, message.reason ?? "done");
    else if (this.#attempt < ATTEMPTS && !this.#stopping) this.#tell(); // it is given again
    else this.#end(new ChatError("failed", `the answer of ${agent} to ${which} was cut off`));
  }

  async #halt() {
    if (this.message?.streaming) await this.room.stop(this.message.seq);
  }

  /** @param {ChatError | null} error @param {string | null} reason */
  #end(error, reason = null) {
    if (this.ended) return;
    this.error = error;
    this.reason = reason;
    clearTimeout(this.#timer);
    for (const off of this.#offs) off();
    this.#tell();
  }

  #tell() {
    const wakes = this.#wakes;
    this.#wakes = [];
    for (const wake of wakes) wake();
  }
}
