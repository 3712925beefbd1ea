// What is kept for us beyond a reload, by its key, and who we say we are. A blocked or full storage costs the memory of a
// reload, never the chat.

/** @import { Kind } from "./network.js" */
/** @import { Item } from "./outbox.js" */

/**
 * What the client keeps, by its key. An app may keep more in the same slots.
 * @typedef {{
 *   name: string, token: string | null, pasted: boolean, outbox: Item[], transport: { kind: Kind, at: number } | null,
 *   holders: Record<string, number>,
 * }} Kept
 */

/**
 * `set` with null removes; it returns false when nothing was kept.
 * @template {object} [K=Kept]
 * @typedef {{
 *   get: <Key extends keyof K>(key: Key, fallback: K[Key]) => K[Key],
 *   set: <Key extends keyof K>(key: Key, value: K[Key] | null) => boolean,
 * }} Slot
 */

/** A slot in `storage`; null: it is blocked. @param {Storage | null} storage @param {string} prefix @returns {Slot<any>} */
export function slot(storage, prefix) {
  const unkept = new Map(); // what the browser would not take
  return {
    get(key, fallback) {
      if (unkept.has(key)) return unkept.get(key) ?? fallback;
      try {
        const text = storage?.getItem(prefix + String(key)) ?? null;
        return text === null ? fallback : JSON.parse(text);
      } catch {
        return fallback;
      }
    },
    set(key, value) {
      unkept.set(key, value);
      try {
        if (value === null) storage?.removeItem(prefix + String(key));
        else storage?.setItem(prefix + String(key), JSON.stringify(value));
        if (storage) unkept.delete(key);
      } catch {
        // full, or blocked since
      }
      return !unkept.has(key);
    },
  };
}

/** Who we say we are: a token that was pasted, else the guest token of this tab, else that of the last tab; a name. */
export class Credentials {
  /** "token" or "name": not sent for now, to see if the server takes us without it. Once it does, that is forgotten. */
  leftOut = /** @type {"token" | "name" | null} */ (null);

  /** `tab` is kept for this tab alone, `shared` for all tabs. @param {{ tab: Slot, shared: Slot }} parts */
  constructor({ tab, shared }) {
    this.tab = tab;
    this.shared = shared;
  }

  get token() {
    return this.leftOut === "token" ? null : (this.tab.get("token", null) ?? this.shared.get("token", null));
  }

  /** What the token in use says, as far as it can be read. @returns {{ sub?: unknown, rooms?: unknown, moderator?: unknown }} */
  get claims() {
    const claims = this.token?.split(".")[1] ?? "";
    try {
      return JSON.parse(atob(claims.replaceAll("-", "+").replaceAll("_", "/"))) ?? {};
    } catch {
      return {};
    }
  }

  /** The patterns of the rooms that it is for; none: the server will tell. */
  get rooms() {
    const { rooms } = this.claims;
    return Array.isArray(rooms) ? rooms.map(String) : [];
  }

  get signedIn() {
    return this.tab.get("pasted", false);
  }

  get name() {
    return this.leftOut === "name" ? "" : this.shared.get("name", "");
  }

  set name(name) {
    this.shared.set("name", name);
  }

  /**
   * A guest's welcome brings a new token. A tab keeps its own: another guest in another tab must not become this one.
   * One that brings none to who did not sign in here tells of a cookie: a request must not be the guest's of before.
   * @param {string | null} token
   */
  welcomed(token) {
    if (this.leftOut === "name") this.name = "";
    this.leftOut = null;
    if (!token && !this.signedIn) this.forget();
    if (!token) return;
    this.tab.set("token", token);
    this.shared.set("token", token);
  }

  /** @param {string} token */
  paste(token) {
    this.leftOut = null;
    this.tab.set("token", token);
    this.tab.set("pasted", true);
  }

  /** The token is no good. That of another tab, if there is one, is the next to be tried. */
  forget() {
    this.leftOut = null;
    if (this.shared.get("token", null) === this.token) this.shared.set("token", null);
    this.tab.set("token", null);
    this.tab.set("pasted", null);
  }
}
