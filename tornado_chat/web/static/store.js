// What the browser keeps for us. A blocked or full storage costs the memory of a reload, never the chat.

/** @import { Kind } from "./network.js" */
/** @import { Item } from "./outbox.js" */

/** The rooms that a user followed. @typedef {{ user: string, rooms: string[] }} Rooms */

/**
 * What is kept, by its key. (`rooms`: those that were visited, where this page kept them itself, in former versions.)
 * @typedef {{
 *   followed: Rooms | null, rooms: string[], name: string, token: string | null, pasted: boolean, outbox: Item[],
 *   drafts: Record<string, string>, transport: { kind: Kind, at: number } | null, holders: Record<string, number>,
 * }} Kept
 */

/** @param {"localStorage" | "sessionStorage"} name */
function area(name) {
  try {
    return globalThis[name];
  } catch {
    return null; // access itself throws where cookies are blocked
  }
}

/** @typedef {ReturnType<typeof slot>} Slot */

/** @param {"localStorage" | "sessionStorage"} name @param {string} prefix */
function slot(name, prefix) {
  const storage = area(name);
  const unkept = new Map(); // what the browser would not take
  return {
    /** @template {keyof Kept} Key @param {Key} key @param {Kept[Key]} fallback @returns {Kept[Key]} */
    get(key, fallback) {
      if (unkept.has(key)) return unkept.get(key) ?? fallback;
      try {
        const text = storage?.getItem(prefix + key) ?? null;
        return text === null ? fallback : JSON.parse(text);
      } catch {
        return fallback;
      }
    },
    /**
     * Null removes it. Returns false when the browser did not keep it.
     * @template {keyof Kept} Key @param {Key} key @param {Kept[Key] | null} value
     */
    set(key, value) {
      unkept.set(key, value);
      try {
        if (value === null) storage?.removeItem(prefix + key);
        else storage?.setItem(prefix + key, JSON.stringify(value));
        if (storage) unkept.delete(key);
      } catch {
        // full, or blocked since
      }
      return !unkept.has(key);
    },
  };
}

/** For all tabs: the name, the rooms followed, the newest guest token, which of them hold a request open. */
export const shared = slot("localStorage", "tornado-chat.");

/** For this tab alone, reloads included: what is not yet acknowledged, drafts, the token in use, the transport. */
export const tab = slot("sessionStorage", "tornado-chat.");

/** Who we say we are: a token that was pasted, else the guest token of this tab, else that of the last tab; a name. */
export class Credentials {
  /** "token" or "name": not sent for now, to see if the server takes us without it. Once it does, that is forgotten. */
  leftOut = /** @type {"token" | "name" | null} */ (null);

  get token() {
    return this.leftOut === "token" ? null : (tab.get("token", null) ?? shared.get("token", null));
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
    return tab.get("pasted", false);
  }

  get name() {
    return this.leftOut === "name" ? "" : shared.get("name", "");
  }

  set name(name) {
    shared.set("name", name);
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
    tab.set("token", token);
    shared.set("token", token);
  }

  /** @param {string} token */
  paste(token) {
    this.leftOut = null;
    tab.set("token", token);
    tab.set("pasted", true);
  }

  /** The token is no good. That of another tab, if there is one, is the next to be tried. */
  forget() {
    this.leftOut = null;
    if (shared.get("token", null) === this.token) shared.set("token", null);
    tab.set("token", null);
    tab.set("pasted", null);
  }
}
