// Server-sent events out of the text of a stream, as it comes in pieces (WHATWG HTML, 9.2.6). EventSource would parse them
// by itself, but sends no Authorization, and ends for ever at any status but 200.

/** `type` is "message" where the stream names none. @typedef {{ type: string, data: string }} StreamEvent */

export class EventStream {
  #rest = ""; // the line that has no end yet
  #type = "";
  #data = /** @type {string[]} */ ([]);

  /** The events that end in this piece. @param {string} text @returns {StreamEvent[]} */
  feed(text) {
    const whole = this.#rest + text;
    // A CR at the very end may be half of a CR LF.
    const lines = (whole.endsWith("\r") ? whole.slice(0, -1) : whole).split(/\r\n|\n|\r/);
    this.#rest = (lines.pop() ?? "") + (whole.endsWith("\r") ? "\r" : "");
    return lines.flatMap((line) => this.#line(line));
  }

  /** @param {string} line @returns {StreamEvent[]} */
  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    return [];
  }

  #dispatch() {
    const event = { type: this.#type || "message", data: this.#data.join("\n") };
    const empty = this.#data.length === 0;
    this.#type = "";
    this.#data = [];
    return empty ? [] : [event];
  }
}
