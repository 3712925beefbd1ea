// What completes a word while one writes: names behind an "@", commands of agents behind a "/". Loaded with the first of
// them.

import { el, styled } from "./dom.js";
import { names } from "./people.js";

/** @import { Person } from "./format.js" */
/** @import { Commands } from "./slash.js" */

await styled("more.css");

const MOST = 8; // that are shown

/**
 * One of those that fit: what is shown of it, the text that it becomes, and what is to be done when it is chosen.
 * @typedef {{ shown: (Node | string | null)[], text: () => string, picked: () => void }} Option
 * Where words of a kind come from. `begun`: what of one stands before the caret, and where it begins; `options`: those
 * that it may become; `ready` resolves when all are known.
 * @typedef {{ label: string, begun: (before: string) => { from: number, query: string } | null, options: (query: string) => Option[], ready: (query: string) => Promise<unknown> }} Source
 */

/**
 * `people`: who may be named, the likeliest first; `present` resolves when those who are here are among them; `agents`:
 * those who may be told a command here; `last`: the last messages of a room, null without a connection; `picked`: a person
 * was chosen, or a command of theirs; `spoken`: the parts of a text that may name somebody.
 * @typedef {{
 *   people: () => Person[], present: () => Promise<unknown>, agents: () => Person[], last: (room: string) => Promise<Wire.Past[] | null>,
 *   picked: (person: Person) => void, spoken: (text: string) => string[],
 * }} On
 */

export class Completion {
  #sources = /** @type {Source[]} */ ([]); // the first whose word it is completes it
  #commands = /** @type {Commands | null} */ (null);
  #options = /** @type {Option[]} */ ([]); // as they are shown
  #chosen = 0;
  #from = 0; // where in the text the word begins
  #left = /** @type {string | null} */ (null); // the text up to the caret when the list was left, and while it goes on

  /** @param {HTMLTextAreaElement} box @param {HTMLElement} list @param {On} on */
  constructor(box, list, on) {
    this.on = on;
    this.#sources = [names(on)];
    this.box = box;
    this.list = list;
    box.setAttribute("aria-autocomplete", "list");
    box.setAttribute("aria-haspopup", "listbox");
    box.addEventListener("blur", () => this.close());
    list.addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
    list.addEventListener("click", (event) => {
      const option = event.target instanceof Element ? event.target.closest("li") : null;
      if (option) this.#pick(Number(option.dataset.at));
    });
  }

  /** From now on they are completed, too. */
  async addCommands() {
    const loaded = this.#commands ? null : await import("./slash.js").catch(() => null);
    if (!loaded || this.#commands) return;
    this.#commands = new loaded.Commands(this.on);
    this.#sources.unshift(this.#commands.names, this.#commands.choices);
  }

  /** For whom a text that begins with a command is: the ids of agents. @param {string} text @param {Person[]} picked */
  meant(text, picked) {
    return this.#commands?.meant(text, picked) ?? [];
  }

  get open() {
    return !this.list.hidden;
  }

  /** What is written of a word, from its sign on, while some begin like it; else null. */
  get begun() {
    return this.open ? this.box.value.slice(this.#from, this.box.selectionStart) : null;
  }

  /** The command that is written is the one that is chosen: there is nothing to complete. */
  get #whole() {
    return this.begun === this.#options[this.#chosen].text().trim() && !this.begun.startsWith("@");
  }

  /** The text or the caret is another. */
  async update() {
    this.#show();
    const match = this.#match();
    if (!match) return;
    await match.source.ready(match.query);
    if (!this.open || this.#chosen === 0) this.#show();
  }

  /** The beginning of a word before the caret. */
  #match() {
    const { selectionStart, selectionEnd, value } = this.box;
    if (selectionStart !== selectionEnd || document.activeElement !== this.box) return null;
    for (const source of this.#sources) {
      const found = source.begun(value.slice(0, selectionStart));
      if (found) return { ...found, source };
    }
    return null;
  }

  #show() {
    const match = this.#match();
    const before = this.box.value.slice(0, this.box.selectionStart);
    if (this.#left !== null && !before.startsWith(this.#left)) this.#left = null;
    if (!match || match.from < (this.#left?.length ?? 0)) return this.close();
    this.#from = match.from;
    this.#options = match.source.options(match.query).slice(0, MOST);
    if (!this.#options.length) return this.close();
    this.list.setAttribute("aria-label", match.source.label);
    this.list.replaceChildren(...this.#options.map(({ shown }, at) => el("li", { id: `option-${at}`, role: "option", "data-at": at }, ...shown)));
    this.list.hidden = false;
    this.box.setAttribute("aria-controls", this.list.id);
    this.#choose(0);
  }

  close() {
    this.list.hidden = true;
    this.box.removeAttribute("aria-controls");
    this.box.removeAttribute("aria-activedescendant");
  }

  #leave() {
    this.#left = this.box.value.slice(0, this.box.selectionStart);
    this.close();
  }

  /** Whether a key was for the list. @param {KeyboardEvent} event */
  key({ key }) {
    if (!this.open) return false;
    if (key === "ArrowDown" || key === "ArrowUp") this.#choose(this.#chosen + (key === "ArrowDown" ? 1 : -1));
    else if (key === "Tab" || (key === "Enter" && !this.#whole)) this.#pick(this.#chosen);
    else if (key === "Escape") {
      this.#leave();
    } else return false;
    return true;
  }

  /** @param {number} at */
  #choose(at) {
    const options = [...this.list.children];
    this.#chosen = (at + options.length) % options.length;
    for (const [number, option] of options.entries()) option.setAttribute("aria-selected", String(number === this.#chosen));
    options[this.#chosen].scrollIntoView({ block: "nearest" });
    this.box.setAttribute("aria-activedescendant", options[this.#chosen].id);
  }

  /** @param {number} at */
  #pick(at) {
    const { text, picked } = this.#options[at];
    this.box.setRangeText(text(), this.#from, this.box.selectionStart, "end");
    this.#leave();
    picked();
    this.box.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
