// Names that complete an "@" while one writes. Loaded with the first "@".

import { el, styled } from "./dom.js";
import { named } from "./row.js";

/** @import { Person } from "./format.js" */

await styled("more.css");

const MOST = 8; // that are shown
const QUERY = /(?<![\p{L}\p{N}_@])@([^\s@]{0,40})$/u;

export class Completion {
  #people = /** @type {Person[]} */ ([]); // that fit, as they are shown
  #chosen = 0;
  #from = 0; // where in the text the "@" stands
  #left = -1; // ... of one that was left by Escape

  /**
   * `people`: who may be named, the likeliest first; `present` resolves when those who are here are among them; `picked`:
   * a person was chosen.
   * @param {HTMLTextAreaElement} box @param {HTMLElement} list
   * @param {{ people: () => Person[], present: () => Promise<unknown>, picked: (person: Person) => void }} on
   */
  constructor(box, list, on) {
    this.box = box;
    this.list = list;
    this.on = on;
    box.setAttribute("aria-autocomplete", "list");
    box.setAttribute("aria-haspopup", "listbox");
    box.addEventListener("blur", () => this.close());
    list.addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
    list.addEventListener("click", (event) => {
      const option = event.target instanceof Element ? event.target.closest("li") : null;
      if (option) this.#pick(Number(option.dataset.at));
    });
  }

  get open() {
    return !this.list.hidden;
  }

  /** The text or the caret is another. */
  async update() {
    this.#show();
    if (!this.#match()) return;
    await this.on.present();
    if (!this.open || this.#chosen === 0) this.#show();
  }

  /** The beginning of a name before the caret. */
  #match() {
    const { selectionStart, selectionEnd, value } = this.box;
    if (selectionStart !== selectionEnd || document.activeElement !== this.box) return null;
    return QUERY.exec(value.slice(0, selectionStart));
  }

  #show() {
    const match = this.#match();
    if (!match) this.#left = -1;
    if (!match || match.index === this.#left) return this.close();
    const query = match[1].toLowerCase();
    /** @param {string} words */
    const begins = (words) => words.toLowerCase().startsWith(query);
    this.#from = match.index;
    this.#people = this.on.people().filter(({ user, name }) => begins(user) || begins(name) || name.split(/\s+/).some(begins)).slice(0, MOST);
    if (!this.#people.length) return this.close();
    this.list.replaceChildren(...this.#people.map((person, at) => el(
      "li", { id: `person-${at}`, role: "option", "data-at": at }, ...named(person).flatMap((part) => [part, " "]),
      person.name === person.user ? null : el("small", { class: "clipped" }, person.user),
    )));
    this.list.hidden = false;
    this.box.setAttribute("aria-controls", this.list.id);
    this.#choose(0);
  }

  close() {
    this.list.hidden = true;
    this.box.removeAttribute("aria-controls");
    this.box.removeAttribute("aria-activedescendant");
  }

  /** Whether a key was for the list. @param {KeyboardEvent} event */
  key({ key }) {
    if (!this.open) return false;
    if (key === "ArrowDown" || key === "ArrowUp") this.#choose(this.#chosen + (key === "ArrowDown" ? 1 : -1));
    else if (key === "Enter" || key === "Tab") this.#pick(this.#chosen);
    else if (key === "Escape") {
      this.#left = this.#from;
      this.close();
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
    const person = this.#people[at];
    this.box.setRangeText(`@${person.name} `, this.#from, this.box.selectionStart, "end");
    this.close();
    this.on.picked(person);
    this.box.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
