// A block of code: its language, a button that copies it, colours when they come, folded where it is long.

import { Colours, grammarOf, nameOf } from "./colours.js";
import { el } from "./dom.js";

/** @import { Painted } from "./colours.js" */
/** @import { Code } from "./markdown.js" */

const LONG = 24; // lines; more are folded
const COPIED = 2_000; // ms that the button says so
const colours = new Colours();

export class CodeBlock {
  #code = /** @type {Code} */ ({ language: "", text: "", open: true });
  #language = el("span", { class: "language" });
  #inner = el("code");
  #rest = document.createTextNode(""); // that has no colours yet
  #spans = /** @type {{ piece: Painted, node: ChildNode }[]} */ ([]);
  #painted = 0; // characters that have colours, or were given none
  #asked = false;
  #fold = el("button", { type: "button", class: "link fold", hidden: true });

  /** @param {Code} code */
  constructor(code) {
    const copy = el("button", { type: "button", class: "link" });
    /** @param {string} words @param {string} name */
    const labelled = (words, name) => {
      copy.textContent = words;
      copy.setAttribute("aria-label", name); // which is read anew when it changes
    };
    labelled("Copy", "Copy this code");
    copy.addEventListener("click", async () => {
      const words = (await copied(this.#code.text)) ? "Copied" : "Not copied";
      labelled(words, words);
      setTimeout(labelled, COPIED, "Copy", "Copy this code");
    });
    this.#fold.addEventListener("click", () => this.#folded(this.#fold.getAttribute("aria-expanded") === "true"));
    this.#inner.append(this.#rest);
    this.element = el(
      "div",
      { class: "code" },
      el("div", { class: "code-head" }, this.#language, copy),
      el("pre", { tabindex: 0, dir: "ltr" }, this.#inner),
      this.#fold,
    );
    this.show(code);
    if (!code.open) this.#folded(true);
  }

  /** Whether `code` can be shown here without beginning anew. @param {Code} code */
  takes(code) {
    return this.#code.language === code.language || (this.#code.open && this.#code.text === "");
  }

  /** @param {Code} code */
  show(code) {
    const { text, language } = code;
    if (language !== this.#code.language) {
      this.#language.textContent = nameOf(language);
      this.#inner.className = language ? `language-${language}` : "";
    }
    const before = this.#code.text;
    if (text.startsWith(before)) {
      if (text.length > before.length) this.#rest.appendData(text.slice(before.length));
    } else {
      for (const { node } of this.#spans) node.remove();
      this.#spans = [];
      this.#painted = 0;
      this.#rest.data = text;
    }
    this.#code = code;
    if (!this.#fold.hidden || !code.open) this.#unfoldable();
    this.#paint();
  }

  get #lines() {
    return this.#code.text.split("\n").length;
  }

  /** Who watched it grow sees it whole still: nothing jumps at its end. */
  #unfoldable() {
    if (this.#lines <= LONG) this.#fold.hidden = true;
    else this.#folded(this.element.classList.contains("folded"));
  }

  /** @param {boolean} folded */
  #folded(folded) {
    const lines = this.#lines;
    this.#fold.hidden = lines <= LONG;
    this.element.classList.toggle("folded", folded && lines > LONG);
    this.#fold.setAttribute("aria-expanded", String(!folded));
    this.#fold.textContent = folded ? `Show all ${lines} lines` : "Show less";
  }

  /** While it grows, again when it is an eighth longer: all of it together is asked for some nine times. */
  async #paint() {
    const { text, language, open } = this.#code;
    const grammar = grammarOf(language);
    if (!grammar || this.#asked || text.length <= (open ? this.#painted * 1.125 + 40 : this.#painted)) return;
    this.#asked = true;
    const pieces = await colours.of(text, grammar);
    this.#asked = false;
    if (this.#code.text.startsWith(text)) {
      if (pieces) this.#apply(pieces);
      this.#painted = text.length;
    }
    this.#paint(); // there may be more by now
  }

  /** @param {Painted[]} pieces Of the beginning of the text. */
  #apply(pieces) {
    let same = 0;
    while (same < pieces.length && this.#spans[same]?.piece.type === pieces[same].type && this.#spans[same].piece.text === pieces[same].text) same++;
    for (const { node } of this.#spans.splice(same)) node.remove();
    let length = 0;
    for (const [at, piece] of pieces.entries()) {
      length += piece.text.length;
      if (at < same) continue;
      const node = piece.type ? el("span", { class: `shj-${piece.type}` }, piece.text) : document.createTextNode(piece.text);
      this.#rest.before(node);
      this.#spans.push({ piece, node });
    }
    this.#rest.data = this.#code.text.slice(length);
  }
}

/** Whether `text` could be put on the clipboard. The newer way is there on pages of https:// and of loopback only. @param {string} text */
export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = el("textarea", { class: "unseen", "aria-hidden": "true" });
    const focused = document.activeElement;
    box.value = text;
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
    return done;
  }
}
