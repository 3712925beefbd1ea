// Where one writes: new messages, replies and edits in one box. What is not sent yet stays with its room and tab.

import { byId, el, icon } from "./dom.js";
import { excerpt, isGuest } from "./format.js";
import { mentioned, nobody } from "./mentions.js";
import { named } from "./row.js";

const ROOM_FOR_THE_FRAME = 1_024; // bytes of a frame that are not text
const MOST_UNNAMED = 3; // words of which is said that they name nobody

/** @import { Completion } from "./completion.js" */
/** @import { Person } from "./format.js" */
/** @import { Message, Room } from "./client/room.js" */
/** @import { tab } from "./store.js" */
/** @import { Texts } from "./texts.js" */

/**
 * `last`: our newest message, to be edited by the arrow key. `people`: who may be named in a room, the likeliest first;
 * `present` resolves when those who are there now are among them. `agents`: those who may be told a command there;
 * `past`: the last messages of a room. `me`: ourselves, as far as we know.
 * @typedef {{
 *   post: (text: string, replyTo: number | undefined, mentions: string[]) => void, edit: (message: Editable, text: string) => void,
 *   people: (room: Room) => Person[], present: (room: Room) => Promise<unknown>, me: () => Person | null,
 *   agents: (room: Room) => Person[], past: (room: string) => Promise<Wire.Past[] | null>,
 *   typing: (on: boolean) => void, last: () => Editable | undefined,
 * }} On
 */

/** @typedef {Pick<Message, "seq" | "user" | "name" | "text">} Editable */

/** What the server takes: no U+0000, no half of a surrogate pair, no empty lines around. @param {string} text */
export function cleaned(text) {
  return text.replace(/\0/g, "").replace(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g, "�").trim();
}

/**
 * Why `text` is too long for the server, or null. It counts characters, not UTF-16 units.
 * @param {string} text @param {Wire.Limits} limits
 */
export function tooLong(text, limits) {
  const characters = [...text].length;
  if (characters > limits.text_chars) {
    return `${characters - limits.text_chars} characters too long: a message may have ${limits.text_chars}. Send it in parts.`;
  }
  const bytes = new TextEncoder().encode(JSON.stringify(text)).length;
  return bytes > limits.frame_bytes - ROOM_FOR_THE_FRAME ? "Too long for one message. Send it in parts." : null;
}

export class Composer {
  #room = /** @type {Room | null} */ (null);
  #replyTo = /** @type {Editable | null} */ (null);
  #editing = /** @type {Editable | null} */ (null);
  #draft = ""; // what stood here before the edit
  #picked = /** @type {Person[]} */ ([]); // from the completion, for this text
  #completion = /** @type {Completion | null} */ (null);
  #loading = false; // ... what completes

  /**
   * `limits` are the server's.
   * @param {{ drafts: typeof tab, limits: () => Wire.Limits, texts: Texts, on: On }} parts
   */
  constructor({ drafts, limits, texts, on }) {
    this.drafts = drafts;
    this.limits = limits;
    this.texts = texts;
    this.on = on;
    this.box = byId.text;
    byId.send.append(icon("send"));
    byId.contextCancel.append(icon("close"));
    byId.composer.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId.contextCancel.addEventListener("click", () => this.cancel());
    this.box.addEventListener("input", () => {
      this.#changed(true);
      this.#complete();
    });
    this.box.addEventListener("click", () => this.#completion?.update());
    this.box.addEventListener("blur", () => this.on.typing(false));
    this.box.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {Room} room */
  open(room) {
    this.cancel();
    if (this.#room) this.on.typing(false);
    this.#room = room;
    this.#picked = [];
    this.box.value = this.drafts.get("drafts", {})[room.name] ?? "";
    this.address(`#${room.name}`);
    this.#changed(false);
  }

  /** Say to whom one writes. @param {string} name */
  address(name) {
    this.box.placeholder = `Message ${name}`;
    this.#fit();
  }

  focus() {
    this.box.focus({ preventScroll: true });
    this.box.setSelectionRange(this.box.value.length, this.box.value.length); // Chromium: no caret after a dialog
  }

  /** @param {Editable} message */
  reply(message) {
    this.cancel();
    this.#replyTo = message;
    this.#context(["Replying to", ...named(message)], message.text);
    this.focus();
  }

  /** @param {Editable} message */
  edit(message) {
    this.cancel();
    this.#editing = message;
    this.#draft = this.box.value;
    this.box.value = message.text;
    this.#context(["Editing"], message.text);
    this.#changed(false);
    this.focus();
  }

  /** Leave the reply or the edit. */
  cancel() {
    if (this.#editing) this.box.value = this.#draft;
    this.#replyTo = this.#editing = null;
    byId.context.hidden = true;
    this.#changed(false);
  }

  /** @param {(string | HTMLElement)[]} what @param {string} text */
  #context(what, text) {
    const words = el("span", { class: "clipped", dir: "auto" }, excerpt(this.texts.said(text)));
    byId.contextText.replaceChildren(...what.flatMap((part) => [part, " "]), words);
    byId.context.hidden = false;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.isComposing) return; // Enter that chooses a candidate of an input method sends nothing
    if (this.#completion?.key(event)) return event.preventDefault();
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "Escape" && (this.#replyTo || this.#editing)) {
      this.cancel();
    } else if (event.key === "ArrowUp" && this.box.value === "" && !this.#replyTo) {
      const last = this.on.last();
      if (!last) return;
      event.preventDefault();
      this.edit(last);
    }
  }

  #submit() {
    const text = cleaned(this.box.value);
    if (!text || !this.#room || tooLong(text, this.limits())) return;
    if (this.#editing) {
      const message = this.#editing;
      this.cancel();
      if (text !== message.text) this.on.edit(message, text);
    } else {
      const replyTo = this.#replyTo?.seq;
      const people = text.includes("@") ? this.on.people(this.#room) : [];
      people.sort((one, other) => Number(isGuest(one.user)) - Number(isGuest(other.user))); // called like anybody
      const named = people.length ? mentioned(this.texts.spoken(text), [...this.#picked, ...people]) : [];
      const mentions = named.length ? named : (this.#completion?.meant(text, this.#picked) ?? []);
      this.#picked = [];
      this.#completion?.close();
      this.box.value = "";
      this.cancel();
      this.on.post(text, replyTo, mentions);
      this.#unnamed(text);
    }
    this.#changed(false);
  }

  /** Say quietly whom `text`, which is being written or was just sent, means to name and does not. @param {string} text */
  async #unnamed(text) {
    const room = this.#room;
    const { value } = this.box;
    if (!room || this.#editing || !text.includes("@")) return; // an edit names nobody
    await this.on.present(room);
    if (room !== this.#room || value !== this.box.value || byId.hint.classList.contains("wrong")) return;
    const before = value.slice(0, this.box.selectionStart);
    const begun = this.#completion?.begun ?? /@[^\s@]*$/.exec(before)?.[0] ?? ""; // and may become a name
    const me = this.on.me();
    const people = [...this.#picked, ...this.on.people(room), ...(me ? [me] : [])];
    const words = nobody(this.texts.spoken(text), people).filter((word) => !begun.startsWith(word));
    const more = words.length > MOST_UNNAMED ? " …" : "";
    byId.hint.textContent = words.length ? `Nobody here is called ${words.slice(0, MOST_UNNAMED).join(" or ")}${more}.` : "";
  }

  /** An "@" in code names nobody, which is known from now on. */
  knowsCode() {
    this.#unnamed(this.box.value);
  }

  async #complete() {
    const room = this.#room;
    const text = this.box.value;
    const names = text.includes("@");
    const commands = room && /^\s*(@.*)?\//.test(text) && (names || this.on.agents(room).length > 0);
    if (!this.#completion && !this.#loading && (names || commands)) {
      this.#loading = true;
      this.texts.load(); // and what knows code
      const loaded = await import("./completion.js").catch(() => null); // perhaps with the next letter
      this.#loading = false;
      if (loaded) this.#completion = new loaded.Completion(this.box, byId.people, {
        people: () => (this.#room ? this.on.people(this.#room) : []),
        agents: () => (this.#room ? this.on.agents(this.#room) : []),
        present: async () => this.#room && this.on.present(this.#room),
        last: (room) => this.on.past(room),
        picked: (person) => this.#picked.push(person),
        spoken: (text) => this.texts.spoken(text),
      });
    }
    if (commands) await this.#completion?.addCommands();
    this.#completion?.update();
  }

  /** As high as what is in it, or as its placeholder. */
  #fit() {
    this.box.style.height = "auto";
    this.box.style.height = `${this.box.scrollHeight}px`;
  }

  /** @param {boolean} typed By a person. */
  #changed(typed) {
    const text = this.box.value;
    this.#fit();
    const wrong = tooLong(text.trim(), this.limits());
    if (wrong || this.#editing || !text.includes("@") || byId.hint.classList.contains("wrong")) byId.hint.textContent = wrong ?? "";
    byId.hint.classList.toggle("wrong", wrong !== null);
    this.#unnamed(text);
    byId.send.disabled = text.trim() === "" || wrong !== null;
    if (typed) this.on.typing(text.trim() !== "" && !this.#editing);
    if (this.#room && !this.#editing) {
      const drafts = this.drafts.get("drafts", {});
      if (text) drafts[this.#room.name] = text;
      else delete drafts[this.#room.name];
      this.drafts.set("drafts", drafts);
    }
  }
}
