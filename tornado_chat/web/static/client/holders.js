// Which tabs hold a request open, a stream or a long poll. Over HTTP/1.1 a browser opens six connections to a server, for
// all of its tabs: were each to hold one, the seventh would hear nothing, and none could say anything.

import { newId } from "./outbox.js";

const MOST = 4; // the other two are for what passes: commands, short polls, files
const LEASE = 90_000; // ms: a tab in the background may run once a minute
const RENEWAL = 30_000;

/** @import { Slot } from "./slot.js" */

export class Holders {
  #id = newId();
  #timer = 0;
  #shared; // HTTP/2 and 3 have one connection for all requests
  #hidden = () => this.release();

  /** `store` is that of all tabs, `base` the server's address. @param {Slot} store @param {URL} base */
  constructor(store, base) {
    this.store = store;
    this.#shared = /^h[23]/.test(protocol(base));
  }

  /** Whether this tab may hold requests open; if so, others see it until `release`. */
  take() {
    if (this.#shared) return true;
    const others = this.#others();
    if (Object.keys(others).length >= MOST) return false;
    this.store.set("holders", { ...others, [this.#id]: Date.now() + LEASE });
    if (!this.#timer) globalThis.addEventListener?.("pagehide", this.#hidden);
    this.#timer ||= setInterval(() => this.take(), RENEWAL);
    return true;
  }

  release() {
    if (!this.#timer) return;
    globalThis.removeEventListener?.("pagehide", this.#hidden);
    clearInterval(this.#timer);
    this.#timer = 0;
    this.store.set("holders", this.#others());
  }

  #others() {
    const now = Date.now();
    const all = Object.entries(this.store.get("holders", {}));
    return Object.fromEntries(all.filter(([id, until]) => id !== this.#id && until > now && until <= now + LEASE));
  }
}

/** By which a page of the server's own came; of another server nothing is known. @param {URL} base */
function protocol(base) {
  const [entry] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
  return entry?.name.startsWith(`${base.origin}/`) ? entry.nextHopProtocol : "";
}
