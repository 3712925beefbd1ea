// The texts of the messages: plain until what knows Markdown is here, which is loaded with the first message, or the first "@".
// So it is with what stands about the messages of agents.

import { el, styled } from "./dom.js";

/** @import { Growing } from "./growing.js" */
/** @import { Named } from "./markdown.js" */

const AGAIN = 30_000; // ms after which it is tried once more to load what did not come

/** @typedef {{ Growing: typeof import("./growing.js").Growing, said: (text: string) => string, spoken: (text: string) => string[] }} Renderer */

export class Texts {
  #renderer = /** @type {Renderer | null} */ (null);
  #asked = false;
  #answers = /** @type {typeof import("./answers.js") | null} */ (null);
  #asking = false;
  #shown = /** @type {WeakMap<HTMLElement, { element: HTMLElement, growing: Growing }>} */ (new WeakMap()); // by row

  /** @param {() => void} loaded Texts look otherwise now. */
  constructor(loaded) {
    this.loaded = loaded;
  }

  /** What is here. */
  get ready() {
    return `${this.#renderer !== null} ${this.#answers !== null}`;
  }

  /** What shows more of an agent's message than its text; null until it is here. */
  answers() {
    if (!this.#asking) this.#loadAnswers();
    return this.#answers;
  }

  async #loadAnswers() {
    this.#asking = true;
    this.#answers = await import("./answers.js").catch(() => null);
    if (this.#answers) this.loaded();
    else setTimeout(() => { this.#asking = false; }, AGAIN);
  }

  /**
   * What shows `text` in `row`: what has shown it there before, if it has, with the blocks that did not change.
   * @param {HTMLElement} row @param {string} text @param {Named[]} named Those whom it names.
   * @param {boolean} [open] More is to come.
   */
  in(row, text, named, open = false) {
    if (!this.#renderer) {
      this.load();
      return plain(text);
    }
    let shown = this.#shown.get(row);
    if (!shown) {
      const element = el("div", { class: "text", dir: "auto" });
      shown = { element, growing: new this.#renderer.Growing(element) };
      this.#shown.set(row, shown);
    }
    shown.growing.show(text, open, named);
    return shown.element;
  }

  /** What is shown in `row`, without its marks. @param {HTMLElement} row */
  heard(row) {
    return this.#shown.get(row)?.growing.said ?? "";
  }

  /** A text without its marks, for a quote and to be read aloud. @param {string} text */
  said(text) {
    return this.#renderer?.said(text) ?? text;
  }

  /** The parts of a text in which an "@" may name somebody: all of it, while we do not know what is code. @param {string} text */
  spoken(text) {
    return this.#renderer?.spoken(text) ?? [text];
  }

  async load() {
    if (this.#asked) return;
    this.#asked = true;
    try {
      const [{ Growing }, { sayable, spoken }] = await Promise.all([import("./growing.js"), import("./markdown.js"), styled("markdown.css")]);
      this.#renderer = { Growing, said: sayable, spoken };
      this.loaded();
    } catch {
      setTimeout(() => { this.#asked = false; }, AGAIN); // the texts are there, only plain
    }
  }
}

/** @param {string} text */
const plain = (text) => el("div", { class: "text", dir: "auto" }, text);
