// Who we say we are, and where that is kept.

/** @import { Slot } from "./slot.js" */

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
