// The messages on the screen: a window of at most MOST of those that the room holds, which follows the scrolling.

import { around, el, icon } from "./dom.js";
import { continues, day, dayName } from "./format.js";
import { fill, grow, shown, signature } from "./row.js";

/** @import { Attempts } from "./attempts.js" */
/** @import { Me } from "./client/engine.js" */
/** @import { Said } from "./format.js" */
/** @import { Message, Room } from "./client/room.js" */
/** @import { MessageRow, PendingRow, Row, Seen } from "./row.js" */
/** @import { Texts } from "./texts.js" */

/** @typedef {{ node: HTMLLIElement, signature: string, grown: number }} Drawn */
/** @typedef {Pick<Elements, "scroller" | "list" | "top" | "jump">} Parts */

/**
 * `quoted`: a reply quotes a message that is not held. `act`: a button on a row was pressed. `allowed`: the patterns of
 * the rooms that we may enter, as far as they are known. `greeting`: what stands where nothing was said, if not the usual.
 * @typedef {{
 *   allowed: () => string[], greeting: () => (string | HTMLElement)[] | undefined, older: () => void, quoted: (seq: number) => void, seen: () => void,
 *   act: (action: string, row: Acted, button: HTMLElement) => void,
 * }} On
 */

/** @typedef {MessageRow & { seen: Seen } | PendingRow} Acted */

const PAGE = 80; // messages by which the window grows
const MOST = 400;
const NEAR = 700; // px from an edge at which more is fetched
const NAMED = 10; // of the rooms that a token is for
const AGAIN = 30_000; // ms after which it is tried once more to load the tools
const BOTTOM = 48; // px that still count as being at the end

export class MessageList {
  stuck = true; // at the end, and staying there
  #me = /** @type {Me | null} */ (null);
  #live = false;
  #first = 0; // seq of the window's first message, or any below it
  #last = /** @type {number | null} */ (null); // seq of its last; null: follows the newest
  #epoch = /** @type {string | null} */ (null);
  #rows = /** @type {Map<string, Row & Drawn>} */ (new Map()); // by key
  #newAfter = /** @type {number | null} */ (null); // the line "New" stands below this seq
  #opening = true;
  #left = 0; // the newest seq when the end was scrolled away from
  #toolbar = el("div", { class: "toolbar", role: "group", "aria-label": "What to do with this message" });
  #furnished = false; // or about to be
  #focus = ""; // key of the row that the arrow keys start from
  #stop = /** @type {HTMLElement | null} */ (null); // its node
  #topWords = "";
  #attempts = /** @type {Attempts | null} */ (null); // where there are agents
  #at = 0; // px: where we were last

  /** @param {Parts} parts @param {Room} room @param {Texts} texts @param {On} on */
  constructor({ scroller, list, top, jump }, room, texts, on) {
    this.scroller = scroller;
    this.list = list;
    this.top = top;
    this.jump = jump;
    this.room = room;
    this.texts = texts;
    this.on = on;
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.jump.addEventListener("click", () => this.toEnd());
    // A keyboard that opens or a line that wraps must not push the newest message out of sight.
    const settle = new ResizeObserver(() => {
      if (this.stuck) this.#bottom();
    });
    settle.observe(this.scroller);
    settle.observe(this.list);
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.list.addEventListener("keydown", (event) => this.#key(event));
    this.list.addEventListener("focusin", (event) => this.#equip(around(event, "li")));
    const hovers = matchMedia("(hover: hover)"); // a touch screen's made-up mouse does not count
    this.list.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse" && hovers.matches) this.#equip(around(event, "li"));
    });
    this.scroller.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !this.#toolbar.contains(document.activeElement)) this.#equip(null);
    });
  }

  /** @param {Room} room */
  open(room) {
    this.room = room;
    this.#epoch = null;
    this.#reset();
    this.#opening = true;
    this.#newAfter = null;
    this.#equip(null);
    this.#rows.clear();
    this.list.replaceChildren();
  }

  #reset() {
    this.#first = 0;
    this.#last = null;
    this.stuck = true;
    this.#epoch = this.room.epoch;
  }

  /** Whoever looks away finds the line above what came meanwhile. */
  away() {
    if (this.stuck) this.#newAfter = this.room.cursor;
  }

  toEnd() {
    this.#first = 0;
    this.#last = null;
    this.stuck = true;
    this.#render();
    this.on.seen();
  }

  /** @param {Me | null} me @param {boolean} live */
  render(me, live) {
    this.#me = me;
    this.#live = live;
    this.#render();
  }

  #render() {
    const { room } = this;
    if (room.epoch !== this.#epoch) this.#reset();
    const opened = this.#opening && room.synced;
    if (opened && room.read > 0 && room.messages.some(({ seq, user }) => seq > room.read && user !== this.#me?.user)) this.#newAfter = room.read;
    this.#window();
    const anchor = this.stuck ? null : this.#anchor();
    this.#reconcile(this.#model());
    this.#edges();
    if (this.stuck) this.#bottom();
    else if (anchor?.node.isConnected) this.scroller.scrollTop += anchor.node.offsetTop - anchor.offset;
    if (opened) {
      this.#opening = false;
      this.#toNew();
    }
    this.#more();
    room.trimmable = this.stuck;
  }

  #bottom() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#at = this.scroller.scrollTop;
  }

  /** Begin reading at the line, when more than a screen is new. */
  #toNew() {
    const line = this.#rows.get("new")?.node;
    if (!line || line.offsetTop >= this.scroller.scrollTop) return;
    this.stuck = false;
    this.#left = this.room.cursor ?? 0;
    this.scroller.scrollTop = line.offsetTop - 80;
  }

  // The window.

  #window() {
    const { messages } = this.room;
    const gone = this.#last !== null && (!messages.length || this.#last < messages[0].seq);
    if (gone) this.#reset();
    const start = this.room.index(this.#first);
    const end = this.#end();
    if (end - start <= MOST) return;
    if (this.stuck) this.#first = messages[end - PAGE].seq;
    else this.#last = messages[start + MOST - 1].seq; // someone reads above: what is new stays off the page
  }

  #end() {
    return this.#last === null ? this.room.messages.length : this.room.index(this.#last + 1);
  }

  /** @param {boolean} [away] The end has moved away from us, by our own doing. */
  #scrolled(away = false) {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const below = scrollHeight - scrollTop - clientHeight;
    const left = away || scrollTop < this.#at; // else the end has moved, and will be followed
    this.#at = scrollTop;
    const stuck = this.#last === null && (below < BOTTOM || (this.stuck && !left));
    if (stuck !== this.stuck) {
      this.stuck = stuck;
      this.room.trimmable = stuck;
      this.#left = this.room.cursor ?? 0;
      this.#edges();
      if (stuck) this.on.seen();
    }
    const { messages } = this.room;
    const start = this.room.index(this.#first);
    if (scrollTop < NEAR && start > 0) {
      const first = Math.max(0, start - PAGE);
      this.#first = messages[first].seq;
      if (this.#end() - first > MOST) this.#last = messages[first + MOST - 1].seq;
      this.#render();
    } else if (below < NEAR && this.#last !== null) {
      const end = Math.min(messages.length, this.#end() + PAGE);
      this.#last = end === messages.length ? null : messages[end - 1].seq;
      if (end - start > MOST) this.#first = messages[end - MOST].seq;
      this.#render();
    } else {
      this.#more();
    }
  }

  /** Near the top of what is held: ask for what is above. */
  #more() {
    const { room } = this;
    if (this.scroller.scrollTop < NEAR && this.room.index(this.#first) === 0 && room.more && !room.failed) this.on.older();
  }

  /** The first message in sight, and where it stands. (A day's row goes when earlier messages come above it.) */
  #anchor() {
    const top = this.scroller.scrollTop;
    for (const node of this.#nodes()) {
      if (node.classList.contains("message") && node.offsetTop + node.offsetHeight > top) return { node, offset: node.offsetTop };
    }
    return null;
  }

  #nodes() {
    return /** @type {HTMLElement[]} */ ([...this.list.children]);
  }

  // The rows.

  #model() {
    const { room } = this;
    const me = this.#me;
    /** @type {Row[]} */
    const rows = [];
    const from = room.index(this.#first);
    const end = this.#end();
    const answers = room.agents.size ? this.texts.answers() : null;
    if (answers) this.#attempts ??= new answers.Attempts();
    const attempts = answers?.Attempts.in(room.messages);
    let line = this.#line();
    let last = /** @type {Said & { seq?: number } | null} */ (null);
    for (let at = from; at < end; at++) {
      const asked = answers?.answering(room.messages[at]) ?? "";
      const all = attempts?.get(asked) ?? [];
      if (all.length && room.messages[at] !== all[all.length - 1]) {
        if (at === line) line++; // the others stand where the newest is
        continue;
      }
      const message = this.#attempts?.shown(all) ?? room.messages[at];
      if (message.reply_to && !room.find(message.reply_to)) this.on.quoted(message.reply_to);
      const turned = last === null || day(last.ts) !== day(message.ts);
      if (turned) rows.push({ key: `d${day(message.ts)}.${message.seq}`, kind: "day", ts: message.ts, label: dayName(message.ts) });
      if (at === line) rows.push({ key: "new", kind: "new" });
      const first = last === null || turned || at === line || !continues(last, message);
      // Under the key that it had while it was on its way, so that its row stays.
      const own = message.user === me?.user && message.id ? `i${message.id}` : `s${message.seq}`;
      const key = all.length ? `r${asked}` : own;
      const quotes = !message.agent || last?.seq !== message.reply_to;
      rows.push({ key, kind: "message", seq: message.seq, message, attempts: all, first, quotes });
      last = message;
    }
    if (this.#last !== null) return rows;
    for (const item of room.pending) {
      const unsure = item.user !== undefined && item.user !== me?.user && me !== null;
      const as = { user: me?.user, name: me?.name, ts: Math.max(item.at, last?.ts ?? 0), reply_to: item.command.reply_to };
      rows.push({ key: `i${item.id}`, kind: "pending", item, unsure, first: last === null || !continues(last, as) });
      last = as;
    }
    return rows;
  }

  /** The index of the first message of others that is new; -1 if there is none, or it is not held. */
  #line() {
    const { room } = this;
    if (this.#newAfter === null) return -1;
    let at = room.index(this.#newAfter + 1);
    while (at < room.messages.length && room.messages[at].user === this.#me?.user) at++;
    return at < room.messages.length && (at > 0 || !room.more) ? at : -1;
  }

  /** @param {Row[]} model */
  #reconcile(model) {
    const { room } = this;
    const me = this.#me;
    const live = this.#live;
    /** @type {Map<string, Row & Drawn>} */
    const kept = new Map();
    let next = this.list.firstChild;
    let last = /** @type {HTMLLIElement | null} */ (null); // that can have the focus
    for (const row of model) {
      const old = this.#rows.get(row.key);
      const node = old?.node ?? el("li", { "data-key": row.key });
      const grown = row.kind === "message" ? row.message.grown : 0;
      const drawn = { ...row, node, grown, signature: `${row.kind}|${this.texts.ready}|${signature(row, room, me, live)}` };
      if (drawn.signature !== old?.signature) fill(node, row, room, me, live, this.texts);
      else if (row.kind === "message" && grown !== old.grown) grow(node, row, room, me, this.texts);
      if (node === next) next = node.nextSibling;
      else this.list.insertBefore(node, next);
      if (row.kind === "message" || row.kind === "pending") last = node;
      kept.set(row.key, drawn);
      this.#rows.delete(row.key);
    }
    for (const { node } of this.#rows.values()) node.remove();
    this.#rows = kept;
    if (last) this.#furnish();
    if (this.#toolbar.parentElement?.classList.contains("gone")) this.#toolbar.remove();
    else this.#suit();
    this.#tabStop(kept.get(this.#focus)?.node ?? last);
  }

  #edges() {
    const { room } = this;
    const greeting = this.on.greeting();
    /** @type {(string | HTMLElement)[]} */
    let top = [];
    if (room.loading) top = ["Loading earlier messages…"];
    else if (room.failed) top = [`Earlier messages did not come: ${room.failed} `, this.#again()];
    else if (room.problem && !room.member) top = [`You are not in this room: ${room.problem}.`, ...this.#allowed()];
    else if (!room.synced && !room.messages.length) top = [""];
    else if (!room.more && !room.messages.length && !room.pending.length) {
      top = greeting ?? [el("b", {}, "Nobody has said anything here yet."), el("br"), "Write the first message, or send this page’s address to someone."];
    } else if (!greeting && !room.more && room.index(this.#first) === 0) top = [el("b", {}, `This is the beginning of #${room.name}.`)];
    const words = top.map((part) => (typeof part === "string" ? part : part.textContent)).join("");
    if (words !== this.#topWords) this.top.replaceChildren(...top);
    this.#topWords = words;
    this.top.classList.toggle("empty", !room.messages.length && !room.pending.length);

    this.jump.hidden = this.stuck;
    const fresh = room.messages.length - room.index(this.#left + 1);
    if (!this.stuck) this.jump.replaceChildren(icon("down"), fresh > 0 ? `${fresh} new ${fresh === 1 ? "message" : "messages"}` : "Jump to the latest");
    this.jump.classList.toggle("fresh", fresh > 0);
  }

  #allowed() {
    const rooms = this.on.allowed();
    if (!rooms.length) return [];
    const names = rooms.slice(0, NAMED).flatMap((room) => [
      room.includes("*") ? el("b", {}, room) : el("a", { class: "link", href: `#${room}` }, `#${room}`), ", ",
    ]);
    return [el("br"), "Your token is for ", ...names.slice(0, -1), rooms.length > NAMED ? " and others." : "."];
  }

  #again() {
    const button = el("button", { type: "button", class: "link" }, "Try again");
    button.addEventListener("click", () => this.on.older());
    return button;
  }

  /** Bring a message that is held into sight, and to the reader's notice. False if it is not held. @param {number} seq */
  goTo(seq) {
    const { messages } = this.room;
    let at = this.room.index(seq);
    if (messages[at]?.seq !== seq) return false;
    const all = this.#attempts?.others(messages, messages[at]);
    if (all) {
      this.#attempts?.choose(all, seq);
      at = this.room.index(all[all.length - 1].seq);
    }
    if (at < this.room.index(this.#first) || at >= this.#end()) {
      const first = Math.max(0, at - PAGE / 2);
      this.#first = messages[first].seq;
      this.#last = first + MOST < messages.length ? messages[first + MOST - 1].seq : null;
    }
    this.stuck = false;
    this.#render();
    const node = [...this.#rows.values()].find((row) => row.kind === "message" && row.seq === seq)?.node;
    if (!node) return false;
    node.scrollIntoView({ block: "center" });
    node.focus({ preventScroll: true });
    node.classList.add("found");
    node.addEventListener("animationend", () => node.classList.remove("found"), { once: true });
    return true;
  }

  /** The text of a message as it is shown, without its marks; "" if it is not. @param {Message} message */
  said(message) {
    for (const row of this.#rows.values()) if (row.kind === "message" && row.message === message) return this.texts.heard(row.node);
    return "";
  }

  // The toolbar and the keys.

  /** The row that a node is of. @param {HTMLElement | null} node */
  #row(node) {
    return this.#rows.get(node?.dataset.key ?? "");
  }

  /** Put the tools there, which come with the first message. */
  async #furnish() {
    if (this.#furnished) return;
    this.#furnished = true;
    const loaded = await import("./tools.js").catch(() => null);
    if (loaded) this.#toolbar.append(...loaded.tools());
    else setTimeout(() => { this.#furnished = false; }, AGAIN);
    const node = this.#toolbar.parentElement;
    this.#toolbar.remove();
    this.#equip(node);
  }

  /** @param {HTMLElement | null} node */
  #equip(node) {
    const row = this.#row(node);
    if (node && node === this.#toolbar.parentNode) return;
    this.#picker(false);
    if (!node || row?.kind !== "message" || row.message.deleted || !this.#me) {
      this.#toolbar.remove();
      return;
    }
    this.#toolbar.classList.toggle("low", node.offsetTop - this.scroller.scrollTop < 70); // no room above it
    node.append(this.#toolbar);
    this.#suit();
  }

  #suit() {
    const row = this.#row(this.#toolbar.parentElement);
    if (row?.kind !== "message") return;
    const mine = row.message.user === this.#me?.user;
    for (const button of this.#tools('[data-do="edit"], [data-do="delete"]')) {
      button.hidden = !mine || (button.dataset.do === "edit" && row.message.streaming);
    }
  }

  /** @param {string} selector */
  #tools(selector) {
    return /** @type {NodeListOf<HTMLElement>} */ (this.#toolbar.querySelectorAll(selector));
  }

  /** @param {boolean} open */
  #picker(open) {
    for (const picker of this.#tools(".picker")) picker.hidden = !open;
    for (const button of this.#tools('[data-do="picker"]')) button.setAttribute("aria-expanded", String(open));
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const node = around(event, "li");
    const button = around(event, "[data-do]");
    const row = this.#row(node);
    if (!node || !row) return;
    if (around(event, ".fold")) this.#scrolled(true); // one stays at what one reads
    if (!button) {
      this.#equip(node); // a tap: there is no pointing without touching
      return;
    }
    if (button.dataset.do === "picker") {
      this.#picker(button.getAttribute("aria-expanded") === "false");
      if (event.detail === 0) this.#tools(".picker button")[0].focus(); // by the keyboard
      return;
    }
    if (button.closest(".picker")) {
      this.#picker(false);
      if (event.detail === 0) node.focus();
    }
    const action = button.dataset.do ?? "";
    if (action === "attempt" && row.kind === "message") {
      this.#attempts?.choose(row.attempts, Number(button.dataset.seq));
      this.#render();
      return;
    }
    if (action === "reply" || action === "edit") this.#equip(null);
    if (row.kind === "message") this.on.act(action, { ...row, seen: shown(row.message, this.room, this.#me) }, button);
    else if (row.kind === "pending") this.on.act(action, row, button);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const node = around(event, "li");
    if (!node) return;
    const tool = around(event, ".picker button");
    const step = new Map([["ArrowUp", -1], ["ArrowDown", 1], ["ArrowLeft", -1], ["ArrowRight", 1]]).get(event.key);
    if (event.key === "Escape") {
      this.#picker(false);
      node.focus();
    } else if (tool && step) {
      const buttons = [...this.#tools(".picker button")];
      buttons.at((buttons.indexOf(tool) + step) % buttons.length)?.focus();
    } else if (event.target === node && step && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      const rows = this.#messages();
      const to = rows[rows.indexOf(node) + step];
      if (to) this.#point(to);
    } else if (event.target === node && (event.key === "Home" || event.key === "End")) {
      this.#point(this.#messages().at(event.key === "Home" ? 0 : -1) ?? node);
    } else {
      return;
    }
    event.preventDefault();
  }

  #messages() {
    return this.#nodes().filter((node) => node.classList.contains("message"));
  }

  /** @param {HTMLElement} node */
  #point(node) {
    this.#focus = node.dataset.key ?? "";
    this.#tabStop(node);
    node.focus();
  }

  /** One row is reached by Tab, the others from it by the arrows. @param {HTMLElement | null} node */
  #tabStop(node) {
    if (this.#stop) this.#stop.tabIndex = -1;
    this.#stop = node;
    if (node) node.tabIndex = 0;
  }
}
