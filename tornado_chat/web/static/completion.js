// Names that complete an "@" while one writes. Loaded with the first "@".

import { el, styled } from "./dom.js";
import { mentioned } from "./mentions.js";
import { named } from "./row.js";

/** @import { Person } from "./format.js" */

await styled("more.css");

const MOST = 8; // that are shown
const QUERY = /(?<![\p{L}\p{N}_@])@([^\n@]{0,64})$/u; // a name may have spaces

export class Completion {
  #people = /** @type {Person[]} */ ([]); // that fit, as they are shown
  #chosen = 0;
  #from = 0; // where in the text the "@" stands
  #left = /** @type {string | null} */ (null); // the text up to the caret when the list was left, and while it goes on

  /**
   * `people`: who may be named, the likeliest first; `present` resolves when those who are here are among them; `picked`:
   * a person was chosen; `spoken`: the parts of a text that may name somebody.
   * @param {HTMLTextAreaElement} box @param {HTMLElement} list
   * @param {{ people: () => Person[], present: () => Promise<unknown>, picked: (person: Person) => void, spoken: (text: string) => string[] }} on
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

  /** What is written of a name, from its "@" on, while some begin like it; else null. */
  get begun() {
    return this.open ? this.box.value.slice(this.#from, this.box.selectionStart) : null;
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
    const before = this.box.value.slice(0, this.box.selectionStart);
    if (this.#left !== null && !before.startsWith(this.#left)) this.#left = null;
    if (!match || match.index < (this.#left?.length ?? 0)) return this.close();
    const query = match[1].toLowerCase();
    const people = this.on.people();
    /** @param {string} words */
    const begins = (words) => words.toLowerCase().startsWith(query);
    const whole = query.endsWith(" ") && people.some(({ user, name }) => [user, name].some((label) => label.toLowerCase() === query.trim()));
    this.#from = match.index;
    this.#people = whole ? [] : people.filter(({ user, name }) => begins(user) || begins(name) || name.split(/\s+/).some(begins)).slice(0, MOST);
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

  #leave() {
    this.#left = this.box.value.slice(0, this.box.selectionStart);
    this.close();
  }

  /** Whether a key was for the list. @param {KeyboardEvent} event */
  key({ key }) {
    if (!this.open) return false;
    if (key === "ArrowDown" || key === "ArrowUp") this.#choose(this.#chosen + (key === "ArrowDown" ? 1 : -1));
    else if (key === "Enter" || key === "Tab") this.#pick(this.#chosen);
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
    const person = this.#people[at];
    // A name like "*Bob*" is no name where it is Markdown.
    const label = mentioned(this.on.spoken(`@${person.name}`), [person]).length ? person.name : person.user;
    this.box.setRangeText(`@${label} `, this.#from, this.box.selectionStart, "end");
    this.#leave();
    this.on.picked(person);
    this.box.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
