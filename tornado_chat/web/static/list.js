// The messages on the screen: a window of at most MOST of those that the room holds, which follows the scrolling.

import { el, icon } from "./dom.js";
import { continues, day, dayName } from "./format.js";
import { fill, shown, signature, toolbar } from "./row.js";

const PAGE = 80; // messages by which the window grows
const MOST = 400;
const NEAR = 700; // px from an edge at which more is fetched
const BOTTOM = 48; // px that still count as being at the end

export class MessageList {
  room = null;
  stuck = true; // at the end, and staying there
  #first = 0; // seq of the window's first message, or any below it
  #last = null; // seq of its last; null: follows the newest
  #epoch = null;
  #rows = new Map(); // key -> {node, kind, seq?, signature ...}
  #newAfter = null; // the line "New" stands below this seq
  #opening = false;
  #left = 0; // the newest seq when the end was scrolled away from
  #toolbar = toolbar();
  #focus = null; // key of the row that the arrow keys start from
  #stop = null; // its node
  #topWords = "";

  /** `parts`: scroller, list, top, jump; `on`: older(), quoted(seq), act(action, model, button), seen(). */
  constructor(parts, on) {
    Object.assign(this, parts);
    this.on = on;
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.jump.addEventListener("click", () => this.toEnd());
    // A keyboard that opens or a line that wraps must not push the newest message out of sight.
    const settle = new ResizeObserver(() => this.stuck && this.#bottom());
    settle.observe(this.scroller);
    settle.observe(this.list);
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.list.addEventListener("keydown", (event) => this.#key(event));
    this.list.addEventListener("focusin", (event) => this.#equip(event.target.closest("li")));
    const hovers = matchMedia("(hover: hover)"); // a touch screen's made-up mouse does not count
    this.list.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse" && hovers.matches) this.#equip(event.target.closest("li"));
    });
    this.scroller.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !this.#toolbar.contains(document.activeElement)) this.#equip(null);
    });
  }

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
    if (this.room && this.stuck) this.#newAfter = this.room.cursor;
  }

  toEnd() {
    this.#first = 0;
    this.#last = null;
    this.stuck = true;
    this.render(this.me, this.live);
    this.on.seen();
  }

  render(me, live) {
    const { room } = this;
    this.me = me;
    this.live = live;
    if (room.epoch !== this.#epoch) this.#reset();
    const opened = this.#opening && room.synced;
    if (opened && room.read > 0) this.#newAfter = room.read;
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
  }

  /** Begin reading at the line, when more than a screen is new. */
  #toNew() {
    const line = this.#rows.get("new")?.node;
    if (!line || line.offsetTop >= this.scroller.scrollTop) return;
    this.stuck = false;
    this.#left = this.room.cursor;
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

  #scrolled() {
    if (!this.room) return;
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const below = scrollHeight - scrollTop - clientHeight;
    const stuck = this.#last === null && below < BOTTOM;
    if (stuck !== this.stuck) {
      this.stuck = stuck;
      this.room.trimmable = stuck;
      this.#left = this.room.cursor;
      this.#edges();
      if (stuck) this.on.seen();
    }
    const { messages } = this.room;
    const start = this.room.index(this.#first);
    if (scrollTop < NEAR && start > 0) {
      const first = Math.max(0, start - PAGE);
      this.#first = messages[first].seq;
      if (this.#end() - first > MOST) this.#last = messages[first + MOST - 1].seq;
      this.render(this.me, this.live);
    } else if (below < NEAR && this.#last !== null) {
      const end = Math.min(messages.length, this.#end() + PAGE);
      this.#last = end === messages.length ? null : messages[end - 1].seq;
      if (end - start > MOST) this.#first = messages[end - MOST].seq;
      this.render(this.me, this.live);
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
    for (const node of this.list.children) {
      if (node.classList.contains("message") && node.offsetTop + node.offsetHeight > top) return { node, offset: node.offsetTop };
    }
    return null;
  }

  // The rows.

  #model() {
    const { room, me } = this;
    const rows = [];
    const from = room.index(this.#first);
    const end = this.#end();
    const line = this.#line();
    let last = null;
    for (let at = from; at < end; at++) {
      const message = room.messages[at];
      if (message.reply_to && !room.find(message.reply_to)) this.on.quoted(message.reply_to);
      const turned = last === null || day(last.ts) !== day(message.ts);
      if (turned) rows.push({ key: `d${day(message.ts)}.${message.seq}`, kind: "day", ts: message.ts, label: dayName(message.ts) });
      if (at === line) rows.push({ key: "new", kind: "new" });
      const first = turned || at === line || !continues(last, message);
      // Under the key that it had while it was on its way, so that its row stays.
      const key = message.user === me?.user && message.id ? `i${message.id}` : `s${message.seq}`;
      rows.push({ key, kind: "message", seq: message.seq, message, first });
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
    const { room, me } = this;
    if (this.#newAfter === null) return -1;
    let at = room.index(this.#newAfter + 1);
    while (room.messages[at]?.user === me?.user && at < room.messages.length) at++;
    return at < room.messages.length && (at > 0 || !room.more) ? at : -1;
  }

  #reconcile(model) {
    const { room, me, live } = this;
    const kept = new Map();
    let next = this.list.firstChild;
    for (const row of model) {
      const old = this.#rows.get(row.key);
      row.node = old?.node ?? el("li", { "data-key": row.key });
      row.signature = `${row.kind}|${signature(row, room, me, live)}`;
      if (row.signature !== old?.signature) fill(row.node, row, room, me, live);
      if (row.node === next) next = next.nextSibling;
      else this.list.insertBefore(row.node, next);
      kept.set(row.key, row);
      this.#rows.delete(row.key);
    }
    for (const { node } of this.#rows.values()) node.remove();
    this.#rows = kept;
    if (this.#toolbar.parentNode?.classList.contains("gone")) this.#toolbar.remove();
    this.#tabStop((kept.get(this.#focus) ?? model.findLast((row) => row.seq || row.item))?.node);
  }

  #edges() {
    const { room } = this;
    let top = [];
    if (room.loading) top = ["Loading earlier messages…"];
    else if (room.failed) top = [`Earlier messages did not come: ${room.failed} `, this.#again()];
    else if (room.problem && !room.member) top = [`You are not in this room: ${room.problem}`];
    else if (!room.synced && !room.messages.length) top = [""];
    else if (!room.more && !room.messages.length && !room.pending.length) {
      top = [el("b", {}, "Nobody has said anything here yet."), el("br"), "Write the first message, or send this page’s address to someone."];
    } else if (!room.more && room.index(this.#first) === 0) top = [el("b", {}, `This is the beginning of #${room.name}.`)];
    const words = top.map((part) => part.textContent ?? part).join("");
    if (words !== this.#topWords) this.top.replaceChildren(...top);
    this.#topWords = words;
    this.top.classList.toggle("empty", !room.messages.length && !room.pending.length);

    this.jump.hidden = this.stuck;
    const fresh = room.messages.length - room.index(this.#left + 1);
    if (!this.stuck) this.jump.replaceChildren(icon("down"), fresh > 0 ? `${fresh} new ${fresh === 1 ? "message" : "messages"}` : "Jump to the latest");
    this.jump.classList.toggle("fresh", fresh > 0);
  }

  #again() {
    const button = el("button", { type: "button", class: "link" }, "Try again");
    button.addEventListener("click", () => this.on.older());
    return button;
  }

  /** Bring a message that is held into sight, and to the reader's notice. False if it is not held. */
  goTo(seq) {
    const { messages } = this.room;
    const at = this.room.index(seq);
    if (messages[at]?.seq !== seq) return false;
    if (at < this.room.index(this.#first) || at >= this.#end()) {
      const first = Math.max(0, at - PAGE / 2);
      this.#first = messages[first].seq;
      this.#last = first + MOST < messages.length ? messages[first + MOST - 1].seq : null;
    }
    this.stuck = false;
    this.render(this.me, this.live);
    const row = [...this.#rows.values()].find((row) => row.seq === seq);
    row.node.scrollIntoView({ block: "center" });
    row.node.focus({ preventScroll: true });
    row.node.classList.add("found");
    row.node.addEventListener("animationend", () => row.node.classList.remove("found"), { once: true });
    return true;
  }

  // The toolbar and the keys.

  #equip(node) {
    const row = node ? this.#rows.get(node.dataset.key) : null;
    if (node && node === this.#toolbar.parentNode) return;
    this.#picker(false);
    if (row?.kind !== "message" || row.message.deleted || !this.me) {
      this.#toolbar.remove();
      return;
    }
    const mine = row.message.user === this.me.user;
    for (const button of this.#toolbar.querySelectorAll('[data-do="edit"], [data-do="delete"]')) button.hidden = !mine;
    this.#toolbar.classList.toggle("low", node.offsetTop - this.scroller.scrollTop < 70); // no room above it
    node.append(this.#toolbar);
  }

  #picker(open) {
    this.#toolbar.querySelector(".picker").hidden = !open;
    this.#toolbar.querySelector('[data-do="picker"]').setAttribute("aria-expanded", String(open));
  }

  #clicked(event) {
    const node = event.target.closest("li");
    const button = event.target.closest("[data-do]");
    const row = node ? this.#rows.get(node.dataset.key) : null;
    if (!row) return;
    if (!button) {
      this.#equip(node); // a tap: there is no pointing without touching
      return;
    }
    if (button.dataset.do === "picker") {
      this.#picker(this.#toolbar.querySelector(".picker").hidden);
      if (event.detail === 0) this.#toolbar.querySelector(".picker button")?.focus(); // by the keyboard
      return;
    }
    if (button.closest(".picker")) {
      this.#picker(false);
      if (event.detail === 0) node.focus();
    }
    if (button.dataset.do === "reply" || button.dataset.do === "edit") this.#equip(null);
    this.on.act(button.dataset.do, row.kind === "message" ? { ...row, seen: shown(row.message, this.room, this.me) } : row, button);
  }

  #key(event) {
    const node = event.target.closest("li");
    if (!node) return;
    const picker = event.target.closest(".picker");
    const step = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") {
      this.#picker(false);
      node.focus();
    } else if (picker && step) {
      const buttons = [...picker.children];
      buttons.at((buttons.indexOf(event.target) + step) % buttons.length).focus();
    } else if (event.target === node && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      const rows = [...this.list.children].filter((other) => other.classList.contains("message"));
      const to = rows[rows.indexOf(node) + step];
      if (to) this.#point(to);
    } else if (event.target === node && (event.key === "Home" || event.key === "End")) {
      this.#point(this.list.querySelector(event.key === "Home" ? "li.message" : "li.message:last-of-type") ?? node);
    } else {
      return;
    }
    event.preventDefault();
  }

  #point(node) {
    this.#focus = node.dataset.key;
    this.#tabStop(node);
    node.focus();
  }

  /** One row is reached by Tab, the others from it by the arrows. */
  #tabStop(node) {
    if (this.#stop) this.#stop.tabIndex = -1;
    this.#stop = node ?? null;
    if (node) node.tabIndex = 0;
  }
}
