// A WebSocket as a transport: what is said and what is heard go through one socket.

import { closeAsks } from "./retry.js";

const SUBPROTOCOL = "chat.v1.json";
const PONG_LIMIT = 10_000; // ms
const OPEN = 1;
const USUAL = 25; // s between heartbeats, where the server has none

/** @import { Events } from "./connection.js" */
/** @import { Requests } from "./requests.js" */

export class WebSocketTransport {
  kind = /** @type {const} */ ("websocket");
  #socket;
  #welcomed = false;
  #proven = false;
  #heard = 0;
  #watch = 0;
  #pong = 0;

  /** @param {{ WebSocket: new (url: string, protocols?: string[]) => globalThis.WebSocket, requests: Requests, on: Events }} parts */
  constructor({ WebSocket, requests: { base, credentials }, on }) {
    this.on = on;
    const url = new URL("ws", base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (credentials.name) url.searchParams.set("name", credentials.name);
    const protocols = [SUBPROTOCOL];
    // As a sub-protocol, for a URL ends up in logs. A browser cannot set Authorization.
    if (credentials.token) protocols.push(`bearer.${credentials.token}`);
    this.#socket = new WebSocket(url.href, protocols);
    this.#socket.onmessage = (event) => this.#message(JSON.parse(event.data));
    this.#socket.onerror = () => {}; // a close follows; some implementations throw what nobody listens to
    this.#socket.onclose = ({ code, reason }) => this.#end(this.#welcomed ? code : 0, reason);
  }

  /** @param {Wire.Command} command */
  send(command) {
    if (this.#socket.readyState === OPEN) this.#socket.send(JSON.stringify(command));
  }

  /** Browsers hide ping frames, so the page asks by itself whether anyone is there. */
  check() {
    if (this.#pong) return;
    this.#pong = setTimeout(() => this.#end(1006, "", true), PONG_LIMIT);
    this.send({ type: "ping" });
  }

  /** Without waiting for the close event, which a dead network delays by minutes. */
  close() {
    clearTimeout(this.#pong);
    clearInterval(this.#watch);
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  /** @param {Wire.Frame} frame */
  #message(frame) {
    this.#heard = Date.now();
    clearTimeout(this.#pong);
    this.#pong = 0;
    if (frame.type === "welcome") {
      this.#welcomed = true;
      const idle = (frame.ping_interval || USUAL) * 2_000;
      this.#watch = setInterval(() => Date.now() - this.#heard > idle && this.check(), Math.min(5_000, idle));
      this.check(); // a proxy may let the server's frames through, and not ours
      this.on.welcome(frame);
      return;
    }
    if (!this.#proven) {
      this.#proven = true;
      this.on.proven();
    }
    this.on.frame(frame);
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason, silent = false) {
    this.close();
    this.on.ended({ code, wait: code === 1012 || code === 1013 ? closeAsks(reason) : null, silent });
  }
}
