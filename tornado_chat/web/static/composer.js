// Where one writes: new messages, replies and edits in one box. What is not sent yet stays with its room and tab.

import { byId, el, icon } from "./dom.js";
import { excerpt, isGuest } from "./format.js";
import { mentioned } from "./mentions.js";
import { named } from "./row.js";

const ROOM_FOR_THE_FRAME = 1_024; // bytes of a frame that are not text

/** @import { Completion } from "./completion.js" */
/** @import { Person } from "./format.js" */
/** @import { Message, Room } from "./room.js" */
/** @import { Slot } from "./store.js" */

/**
 * `last`: our newest message, to be edited by the arrow key. `people`: who may be named in a room, the likeliest first;
 * `present` resolves when those who are there now are among them.
 * @typedef {{
 *   post: (text: string, replyTo: number | undefined, mentions: string[]) => void, edit: (message: Editable, text: string) => void,
 *   people: (room: Room) => Person[], present: (room: Room) => Promise<unknown>,
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
   * `limits` are the server's; `said` gives a text without its marks.
   * @param {{ drafts: Slot, limits: () => Wire.Limits, said: (text: string) => string, on: On }} parts
   */
  constructor({ drafts, limits, said, on }) {
    this.drafts = drafts;
    this.limits = limits;
    this.said = said;
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
    this.box.placeholder = `Message #${room.name}`;
    this.#changed(false);
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
    const words = el("span", { class: "clipped", dir: "auto" }, excerpt(this.said(text)));
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
      const mentions = mentioned(text, [...this.#picked, ...people]);
      this.#picked = [];
      this.box.value = "";
      this.cancel();
      this.on.post(text, replyTo, mentions);
    }
    this.#changed(false);
  }

  async #complete() {
    if (!this.#completion && !this.#loading && this.box.value.includes("@")) {
      this.#loading = true;
      const loaded = await import("./completion.js").catch(() => null); // perhaps with the next letter
      this.#loading = false;
      if (loaded) this.#completion = new loaded.Completion(this.box, byId.people, {
        people: () => (this.#room ? this.on.people(this.#room) : []),
        present: async () => this.#room && this.on.present(this.#room),
        picked: (person) => this.#picked.push(person),
      });
    }
    this.#completion?.update();
  }

  /** @param {boolean} typed By a person. */
  #changed(typed) {
    const text = this.box.value;
    this.box.style.height = "auto";
    this.box.style.height = `${this.box.scrollHeight}px`;
    const wrong = tooLong(text.trim(), this.limits());
    byId.hint.textContent = wrong ?? "";
    byId.hint.classList.toggle("wrong", wrong !== null);
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
