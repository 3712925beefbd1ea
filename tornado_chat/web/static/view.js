// What stands around the messages: rooms, status, notices, dialogs. Shows what it is given, says what was asked for.

import { byId, el, focusIn, icon, refocus } from "./dom.js";
import { called, excerpt, isBlank, list, visibleName } from "./format.js";
import { avatar } from "./row.js";

/** @import { Me } from "./client/engine.js" */
/** @import { Person } from "./format.js" */
/** @import { State } from "./client/connection.js" */
/** @import { Doing, Room } from "./client/room.js" */

/**
 * `enter` returns what is wrong with what was typed, or null; `said` a text without its marks.
 * @typedef {{
 *   enter: (typed: string) => string | null, options: (place: HTMLElement) => void, leave: (name: string) => void, who: () => void, signIn: () => void,
 *   retry: () => void, said: (text: string) => string,
 * }} On
 */

/**
 * A room of the list. `least`: there are more unread; `by`: who has invited us, and had no answer yet; `label`: what it is
 * called, if otherwise than its name; `href`: of what is no room of this page.
 * @typedef {{
 *   name: string, label?: string, href?: string, here: boolean, unread: { count: number, least: boolean }, mentions: number, quiet: boolean, by: string | null,
 * }} Listed
 */

const NOTICE = 8_000; // ms
const SHORT = 1_500; // a wait below this is not worth a banner
export const LEAVE = Symbol("leave");
export const TOKEN = Symbol("token");
const TRANSPORTS = { websocket: "WebSocket", stream: "stream", poll: "poll" };
const narrow = matchMedia("(max-width: 760px)");

export class View {
  #countdown = 0;
  #spoken = /** @type {Wire.Message[]} */ ([]); // new messages that a screen reader is to hear of
  #told = /** @type {string[]} */ ([]); // ... and sentences of others
  #speaking = 0;
  #busy = /** @type {Set<string>} */ (new Set()); // what agents do, as far as it was told
  #last = /** @type {Map<string, string>} */ (new Map()); // what was drawn, to draw it again only when it changed

  /** @param {On} on */
  constructor(on) {
    this.on = on;
    byId.menu.append(icon("menu"));
    byId.menuClose.append(icon("close"));
    byId.enterGo.append(icon("enter"));
    byId.optionsOpen.append(icon("more"));
    byId.options.addEventListener("beforetoggle", (event) => {
      if (event.newState === "open") on.options(byId.options);
      else byId.options.replaceChildren();
    });
    byId.menu.addEventListener("click", () => this.drawer(true));
    byId.menuClose.addEventListener("click", () => this.drawer(false));
    byId.scrim.addEventListener("click", () => this.drawer(false));
    byId.side.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.drawer(false);
    });
    narrow.addEventListener("change", () => this.drawer(false));
    byId.retry.addEventListener("click", () => on.retry());
    byId.signIn.addEventListener("click", () => on.signIn());
    byId.me.addEventListener("click", () => on.who());
    byId.enter.addEventListener("submit", (event) => {
      event.preventDefault();
      const wrong = on.enter(byId.enterName.value);
      said(byId.enterError, byId.enterName, wrong);
      if (wrong) return;
      byId.enterName.value = "";
      this.drawer(false);
    });
    byId.enterName.addEventListener("input", () => said(byId.enterError, byId.enterName, null));
    this.drawer(false);
  }

  /** On a narrow page the rooms are a drawer; out of sight is out of reach. @param {boolean} open */
  drawer(open) {
    const was = byId.app.classList.contains("drawn");
    byId.app.classList.toggle("drawn", open);
    byId.side.inert = narrow.matches && !open;
    byId.main.inert = narrow.matches && open;
    byId.menu.setAttribute("aria-expanded", String(open));
    if (open) byId.menuClose.focus();
    else if (was) byId.menu.focus();
  }

  /** @param {string} what @param {unknown} value */
  #once(what, value) {
    const text = JSON.stringify(value);
    if (this.#last.get(what) === text) return false;
    this.#last.set(what, text);
    return true;
  }

  /** `talk`: what they are conversations with. @param {Listed[]} rooms @param {string} [talk] */
  rooms(rooms, talk) {
    const total = rooms.reduce((sum, { unread, mentions }) => sum + Math.max(unread.count, mentions), 0);
    const here = rooms.find((room) => room.here);
    const title = talk ? [here?.label, talk].filter(Boolean).join(" · ") : `#${here?.name}`;
    document.title = `${total ? `(${total}) ` : ""}${title} · Chat`;
    if (!this.#once("rooms", [rooms, talk])) return;
    const news = rooms.some(({ here, unread, mentions, by }) => !here && (unread.count || mentions || by));
    byId.menu.classList.toggle("news", news);
    const kind = talk ? "Conversations" : "Rooms";
    byId.menu.setAttribute("aria-label", news ? `${kind}, news` : kind);
    const focused = focusIn(byId.rooms);
    byId.title.replaceChildren(...(talk ? [talk, " ", el("span", { class: "agent" }, "agent")] : [el("span", { class: "hash", "aria-hidden": "true" }, "#"), here?.name ?? ""]));
    byId.rooms.replaceChildren(...rooms.map((room) => this.#room(room)));
    if (focused) refocus(byId.rooms, focused)?.focus();
  }

  /** @param {Listed} room */
  #room({ name, label, href, unread, mentions, quiet, by, here }) {
    const link = el(
      "a",
      { href: href ?? `#${name}`, "aria-current": here ? "page" : null, "data-focus": name },
      label ? null : el("span", { class: "hash", "aria-hidden": "true" }, "#"),
      el("span", { class: "label", dir: label ? "auto" : null }, label ?? name, href && el("span", { class: "agent" }, "agent"), by && el("small", {}, `Invited by ${by}`)),
      mentions && !here ? badge("badge named", `@${upTo99(mentions)}`, mentions === 1 ? " mention of you" : " mentions of you") : null,
      unread.count && !here ? badge("badge", upTo99(unread.count, unread.least), " unread") : null,
    );
    link.addEventListener("click", () => this.drawer(false));
    const words = label ? "Remove this conversation from the list" : "Leave this room";
    const leave = el("button", { type: "button", class: "round small", "aria-label": label ? `Remove “${label}” from the list` : `Leave ${name}`, title: words }, icon("close"));
    leave.addEventListener("click", () => this.on.leave(name));
    return el("li", { class: (unread.count || mentions || by) && !here ? "unread" : quiet ? "quiet" : null }, link, href ? null : leave);
  }

  /** @param {Me | null} me */
  me(me) {
    if (!this.#once("me", me)) return;
    byId.me.hidden = me === null;
    if (!me) return;
    const hint = me.guest ? "Guest · change name" : "Signed in";
    byId.me.replaceChildren(avatar(me), el("span", { class: "who" }, el("b", {}, visibleName(me)), el("small", {}, hint)));
  }

  /** `waiting` counts what is not sent yet. @param {State} state @param {Room} room @param {number} waiting */
  status(state, room, waiting) {
    const [kind, words] = standing(state, room);
    const transport = state.name === "open" ? TRANSPORTS[state.kind] : null;
    const told = explained(state);
    if (this.#once("status", [kind, words, told])) {
      byId.status.dataset.kind = kind;
      byId.status.title = byId.way.textContent = told;
      byId.status.replaceChildren(el("span", { class: "dot" }), words);
      if (transport) byId.status.append(el("small", { class: "transport", "aria-hidden": "true" }, transport));
      if (byId.standing.textContent !== words) byId.standing.textContent = words;
    }
    if (!this.#once("banner", [state, waiting])) return;
    clearInterval(this.#countdown);
    byId.signIn.hidden = !(state.name === "waiting" && state.refused);
    if (state.name !== "waiting" || (!state.refused && state.until - Date.now() <= SHORT)) {
      byId.banner.hidden ||= state.name !== "connecting";
      byId.bannerText.textContent = "Trying to connect…";
      return;
    }
    byId.banner.hidden = false;
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((state.until - Date.now()) / 1_000));
      const kept = waiting ? ` ${waiting === 1 ? "One message waits" : `${waiting} messages wait`} here and will be sent then.` : "";
      byId.bannerText.textContent = `${state.why ? `${sentence(state.why)} ` : "The connection is lost. "}Trying again in ${seconds} s.${kept}`;
    };
    this.#countdown = setInterval(tick, 1_000);
    tick();
  }

  /** Who types, and what agents do. A screen reader hears of each that begins, and not of what it does next. @param {Person[]} people @param {Doing[]} doing */
  typing(people, doing) {
    if (!this.#once("typing", [people, doing])) return;
    const before = this.#busy;
    this.#busy = new Set(doing.map(({ user, seq }) => `${user} ${seq}`));
    for (const one of doing) if (!before.has(`${one.user} ${one.seq}`)) this.tell(`${at(one)}.`);
    const typing = people.length ? [`${list(people.map(called))} ${people.length === 1 ? "is" : "are"} typing`] : [];
    const words = [...new Set([...doing.map(at), ...typing])].join(" · ");
    byId.typing.replaceChildren();
    if (!words) return;
    byId.typing.append(el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i")), el("span", { class: "clipped", dir: "auto" }, words));
  }

  /** @param {Person[]} people */
  seen(people) {
    if (this.#once("seen", people)) byId.seen.textContent = people.length ? `Seen by ${list(people.map(called))}` : "";
  }

  /** @param {string} text */
  notice(text) {
    const note = el("p", { class: "notice" }, sentence(text));
    byId.notices.append(note);
    while (byId.notices.children.length > 3) byId.notices.children[0].remove();
    setTimeout(() => note.remove(), NOTICE);
  }

  /** Tell a screen reader of a new message: one a second at most, however busy the room is. @param {Wire.Message} message */
  speak(message) {
    this.#spoken.push(message);
    this.#speaking ||= setTimeout(() => this.#speak(), 1_000);
  }

  /** Tell a screen reader some words. @param {string} words */
  tell(words) {
    this.#told.push(words);
    this.#speaking ||= setTimeout(() => this.#speak(), 1_000);
  }

  #speak() {
    const words = [...this.#told];
    const last = this.#spoken.at(-1);
    if (this.#spoken.length > 1) words.push(`${this.#spoken.length} new messages.`);
    if (last) words.push(`${called(last)}: ${excerpt(this.on.said(last.text ?? ""))}`);
    byId.live.textContent = words.join(" ");
    this.#spoken = [];
    this.#told = [];
    this.#speaking = 0;
  }

  // The dialogs. Each resolves with what was given, or with LEAVE, TOKEN for the other buttons.

  /** @param {string} current @param {boolean} first */
  askName(current, first) {
    byId.nameTitle.textContent = first ? "What shall we call you?" : "Change your name";
    byId.nameNote.textContent = first ? "Others in the room see it beside what you write." : "What you wrote before keeps the name that it had.";
    byId.nameGo.textContent = first ? "Start chatting" : "Change";
    byId.nameSkip.textContent = first ? "Make one up" : "Cancel";
    byId.nameInput.value = current;
    /** @type {[typeof LEAVE | typeof TOKEN, HTMLButtonElement][]} */
    const others = [[LEAVE, byId.nameSkip], [TOKEN, byId.nameToken]];
    return ask(byId.nameDialog, byId.nameForm, others, () => {
      const name = byId.nameInput.value.replace(/[\p{C}\s]+/gu, " ").trim();
      const blank = isBlank(name);
      said(byId.nameError, byId.nameInput, blank ? "Write a name of 1 to 64 characters, with something to see." : null);
      return blank ? null : name;
    });
  }

  /**
   * `leave`: what the other button says; without one, this dialog is not left without a token.
   * @param {string | null} why @param {string} [leave]
   */
  askToken(why, leave) {
    said(byId.tokenError, byId.tokenInput, why ? sentence(why) : null);
    byId.tokenMust.hidden = Boolean(leave ?? why);
    byId.tokenLeave.hidden = !leave;
    byId.tokenLeave.textContent = leave ?? "";
    return ask(byId.tokenDialog, byId.tokenForm, leave ? [[LEAVE, byId.tokenLeave]] : [], () => {
      const token = byId.tokenInput.value.trim();
      const fits = /^[\w-]+\.[\w-]+\.[\w-]+$/.test(token); // anything else cannot be a sub-protocol either
      said(byId.tokenError, byId.tokenInput, fits ? null : "This is not a token: three parts of letters and digits, with dots between.");
      if (fits) byId.tokenInput.value = "";
      return fits ? token : null;
    });
  }

  /** @param {{ text: string }} message */
  askDelete(message) {
    byId.deleteText.textContent = excerpt(this.on.said(message.text));
    return ask(byId.deleteDialog, byId.deleteForm, [[LEAVE, byId.deleteKeep]], () => "delete");
  }
}

/** What an agent is at: "Helper is thinking", "Helper: 3 of 7". @param {Doing} doing */
const at = (doing) => `${called(doing)}${/^\p{L}+ing\b/u.test(doing.text) ? " is" : ":"} ${excerpt(doing.text)}`;

/** @param {string} kind @param {string} words @param {string} meaning Read aloud. */
const badge = (kind, words, meaning) => el("span", { class: kind }, words, el("span", { class: "unseen" }, meaning));

/** @param {number} count */
const upTo99 = (count, least = false) => `${Math.min(count, 99)}${least || count > 99 ? "+" : ""}`;

/**
 * What the connection's state means for the room in sight: a kind for the style sheet, and words.
 * @param {State} state @param {Room} room
 */
function standing(state, room) {
  switch (state.name) {
    case "idle":
      return ["idle", "Not connected yet"];
    case "connecting":
      return ["busy", "Connecting…"];
    case "waiting":
      return ["off", "Offline"];
    case "signed-out":
      return ["off", "Not signed in"];
    case "open":
      if (room.synced) return ["live", "Live"];
      return room.problem && !room.joining && !room.member ? ["off", "Not in this room"] : ["busy", "Catching up…"];
  }
}

/** How we are connected, for who wants to know. What is said of the network is what was seen of it. @param {State} state */
function explained(state) {
  if (state.name !== "open") return "There is no connection now. What you write is kept here, and sent as soon as there is one.";
  if (state.kind === "websocket") return "You are connected in the usual way, by a WebSocket: messages come and go at once.";
  if (state.kind === "stream") return `You are connected, and messages come and go at once. The usual way, a WebSocket, did not work when it was last tried. It will be tried again by itself.`;
  const reason = state.crowded
    ? "a WebSocket did not work when it was last tried, and the next best way is taken by other tabs of this chat"
    : "the quicker ways did not work when they were last tried";
  return `You are connected, and will get every message: this page asks for new ones again and again, since ${reason}. Who is typing is not shown meanwhile. A quicker way will be tried again by itself.`;
}

/**
 * Show `dialog` until `form` has a `value` (not null) or the button of one of `others` is pressed. Escape: LEAVE.
 * @template {typeof LEAVE | typeof TOKEN} Other
 * @param {HTMLDialogElement} dialog
 * @param {HTMLFormElement} form
 * @param {[Other, HTMLButtonElement][]} others
 * @param {() => string | null} value
 * @returns {Promise<string | Other>}
 */
function ask(dialog, form, others, value) {
  return new Promise((resolve) => {
    const done = new AbortController();
    const { signal } = done;
    /** @param {string | Other} given */
    const end = (given) => {
      done.abort();
      dialog.close();
      resolve(given);
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const given = value();
      if (given !== null) end(given);
    }, { signal });
    for (const [answer, button] of others) button.addEventListener("click", () => end(answer), { signal });
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      for (const [answer] of others) if (answer === LEAVE) end(answer);
    }, { signal });
    if (!dialog.open) dialog.showModal();
  });
}

/**
 * Show what is wrong with an input, or (null) that nothing is.
 * @param {HTMLElement} place @param {HTMLElement} input @param {string | null} wrong
 */
function said(place, input, wrong) {
  place.hidden = wrong === null;
  place.textContent = wrong ?? "";
  if (wrong) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

/** The server's words as a sentence: they begin small and have no full stop. @param {string} words */
function sentence(words) {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
