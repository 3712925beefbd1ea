// What the browser keeps for us. A blocked or full storage costs the memory of a reload, never the chat.

function area(name) {
  try {
    return globalThis[name];
  } catch {
    return null; // access itself throws where cookies are blocked
  }
}

function slot(name, prefix) {
  const storage = area(name);
  const unkept = new Map(); // what the browser would not take
  return {
    get(key, fallback = null) {
      if (unkept.has(key)) return unkept.get(key) ?? fallback;
      try {
        const text = storage?.getItem(prefix + key) ?? null;
        return text === null ? fallback : JSON.parse(text);
      } catch {
        return fallback;
      }
    },
    /** Returns false when the browser did not keep it. */
    set(key, value) {
      try {
        if (value === null) storage.removeItem(prefix + key);
        else storage.setItem(prefix + key, JSON.stringify(value));
        unkept.delete(key);
        return true;
      } catch {
        unkept.set(key, value);
        return false;
      }
    },
  };
}

/** For all tabs: the name, the rooms visited, the newest guest token. */
export const shared = slot("localStorage", "tornado-chat.");

/** For this tab alone, reloads included: what is not yet acknowledged, drafts, the token in use. */
export const tab = slot("sessionStorage", "tornado-chat.");

/** Who we say we are: a token that was pasted, else the guest token of this tab, else that of the last tab; a name. */
export class Credentials {
  /** "token" or "name": not sent for now, to see if the server takes us without it. Once it does, that is forgotten. */
  leftOut = null;

  constructor(ours = tab, everyones = shared) {
    this.tab = ours;
    this.shared = everyones;
  }

  get token() {
    return this.leftOut === "token" ? null : (this.tab.get("token") ?? this.shared.get("token"));
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

  /** A guest's welcome brings a new token. A tab keeps its own: another guest in another tab must not become this one. */
  welcomed(token) {
    if (this.leftOut === "name") this.name = "";
    this.leftOut = null;
    if (!token) return;
    this.tab.set("token", token);
    this.shared.set("token", token);
  }

  paste(token) {
    this.leftOut = null;
    this.tab.set("token", token);
    this.tab.set("pasted", true);
  }

  /** The token is no good. That of another tab, if there is one, is the next to be tried. */
  forget() {
    this.leftOut = null;
    if (this.shared.get("token") === this.token) this.shared.set("token", null);
    this.tab.set("token", null);
    this.tab.set("pasted", null);
  }
}
