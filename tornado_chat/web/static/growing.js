// A text shown as Markdown, which may grow. Blocks that are complete stay as they are, only the tail is parsed again.
//
// What is shown in the end is what the whole text shows. So a definition (`[label]: address`) that comes late changes
// those blocks above it that asked for its label, and no others.

import { closing, lines, named, parse, said } from "./markdown.js";
import { patched } from "./nodes.js";

/** @import { Block, Named, References, Tree } from "./markdown.js" */
/** @import { Shown } from "./nodes.js" */

/** Blocks that are complete. @typedef {{ source: string, shown: Shown[] }} Unit */

const LONGEST = 262_144; // characters that are Markdown; what comes after them is shown as it was written
const SHORT = 4_096; // characters of a tail that is parsed again however little came
const PART = 16; // a longer tail is parsed again when it grew by such a part, and what came is shown plainly until then
const AGAIN = 4; // times the text's length: what late definitions may cost before the end

// A last line that may become one of several things is not shown before it is known which: nothing flickers.
const UNDECIDED = /^[-=`~*_#>+|:.)\d \t]+$|^ {0,3}(`{3,}[^`]*|~{3,}.*)$/;
// Blocks that their last line ends, those that an empty line ends ("# a|b" may head a table), and those that another ends.
const ENDED_BY_ITSELF = new Set(["fence", "hr"]);
const ENDED_BY_A_GAP = new Set(["paragraph_open", "heading_open", "table_open"]);
const ENDED_BY_OTHERS = new Set([...ENDED_BY_ITSELF, ...ENDED_BY_A_GAP, "code_block"]);

export class Growing {
  #element;
  #rest = document.createTextNode(""); // after the blocks: what is not parsed (yet)
  #text = ""; // what is shown
  #named = /** @type {Named[]} */ ([]);
  #units = /** @type {Unit[]} */ ([]);
  #from = 0; // where in the text the tail begins
  #tail = /** @type {Shown[]} */ ([]);
  #parsed = 0; // characters of the tail
  #fence = /** @type {{ closed: RegExp, from: number } | null} */ (null); // that is open, and where in the tail its code begins
  #references = none(); // of the units
  #late = none(); // of the tail
  #askers = /** @type {Map<string, Set<Unit>>} */ (new Map()); // by a label that no unit defines
  #stale = /** @type {Set<Unit>} */ (new Set()); // to be parsed once more
  #again = 0; // characters of units that were parsed once more
  /** Characters that were parsed, all in all. */
  work = 0;

  /** Shows into `element`, before what is in it. @param {HTMLElement} element */
  constructor(element) {
    this.#element = element;
    element.prepend(this.#rest);
  }

  /** @param {string} text All of it. @param {boolean} [open] More is to come. @param {Named[]} [people] Whom it names. */
  show(text, open = false, people = []) {
    const whole = open ? decided(lines(text)) : lines(text);
    const source = whole.slice(0, LONGEST);
    if (!source.startsWith(this.#text) || !same(people, this.#named)) this.#anew();
    this.#named = people;
    this.#text = source;
    const tail = source.slice(this.#from);
    const grown = tail.length - this.#parsed;
    let rest = "";
    if (!open) {
      this.#parse(tail, false);
      this.#renew();
    } else if (this.#fence) {
      if (!this.#code(tail, this.#fence)) this.#parse(tail, true);
    } else if (this.#parsed > SHORT && grown < this.#parsed / PART) {
      rest = tail.slice(this.#parsed);
    } else if (grown) {
      this.#parse(tail, true);
    }
    if (grown || !open) this.#outline();
    rest += whole.slice(LONGEST);
    if (this.#rest.data !== rest) this.#rest.data = rest;
  }

  /** How many of the blocks that are shown are complete. */
  get complete() {
    return this.#units.reduce((sum, { shown }) => sum + shown.length, 0);
  }

  /** What is shown, without its marks. */
  get said() {
    return [...this.#units.flatMap(({ shown }) => shown), ...this.#tail].map(({ tree }) => said(tree)).join("\n");
  }

  /** The levels of the headings: the first comes next to the page's own, and none is left out, however many "#" it has. */
  #outline() {
    let last = 1;
    for (const heading of this.#element.querySelectorAll("h3, h4, h5, h6")) {
      last = Math.min(last + 1, Number(heading.localName[1]) - 1);
      if (heading.ariaLevel !== String(last)) heading.ariaLevel = String(last);
    }
  }

  /** Another text comes; the nodes stay, and are used for it where they can. */
  #anew() {
    this.#tail = [...this.#units.flatMap(({ shown }) => shown), ...this.#tail];
    this.#units = [];
    this.#from = this.#parsed = this.#again = 0;
    this.#fence = null;
    this.#references = none();
    this.#late = none();
    this.#askers.clear();
    this.#stale.clear();
  }

  /** @param {string} source The tail. @param {boolean} open */
  #parse(source, open) {
    const before = this.#late;
    this.#late = none();
    let blocks = this.#blocks(source, this.#late);
    const end = open ? complete(blocks, source) : 0;
    const unit = { source: source.slice(0, end), shown: /** @type {Shown[]} */ ([]) };
    const noted = { asked: /** @type {Set<string>} */ (new Set()), defined: none() };
    let done = /** @type {Block[]} */ ([]);
    if (end > 0) {
      done = this.#blocks(unit.source, noted.defined, noted.asked);
      Object.assign(this.#references, noted.defined);
      source = source.slice(end);
      this.#late = none();
      blocks = this.#blocks(source, this.#late);
    }
    const last = blocks.at(-1);
    const fence = open && last?.open ? last : null;
    if (fence?.tree.code) fence.tree.code.open = true;
    const all = patched(this.#tail, [...done, ...blocks].map(({ tree }) => tree), this.#element, this.#rest);
    unit.shown = all.slice(0, done.length);
    this.#tail = all.slice(done.length);
    this.#parsed = source.length;
    this.#fence = fence && openFence(fence, source);
    this.#changed(new Set([...Object.keys(before), ...Object.keys(this.#late), ...Object.keys(noted.defined)]), before);
    if (end > 0) {
      this.#from += end;
      this.#units.push(unit);
      for (const label of noted.asked) {
        if (label in this.#references) continue;
        this.#askers.set(label, (this.#askers.get(label) ?? new Set()).add(unit));
        if (label in this.#late) this.#stale.add(unit);
      }
    }
    if (this.#again < AGAIN * this.#text.length) this.#renew();
  }

  /**
   * The blocks of a part of the text. What it defines is added to `defined`, the labels that it names to `asked`.
   * @param {string} source @param {References} defined @param {Set<string>} [asked]
   */
  #blocks(source, defined, asked) {
    this.work += source.length;
    const known = this.#references;
    const blocks = parse(source, new Proxy(defined, {
      get(own, label) {
        asked?.add(String(label));
        return known[String(label)] ?? own[String(label)];
      },
    }));
    if (this.#named.length) for (const { tree } of blocks) named(tree, this.#named);
    return blocks;
  }

  /** Find the units that name what is defined otherwise now. @param {Set<string>} labels @param {References} before */
  #changed(labels, before) {
    for (const label of labels) {
      const units = this.#askers.get(label);
      if (!units) continue;
      const old = before[label];
      const now = this.#references[label] ?? this.#late[label];
      if (old?.href !== now?.href || old?.title !== now?.title) for (const unit of units) this.#stale.add(unit);
      if (label in this.#references) this.#askers.delete(label); // it stays so
    }
  }

  /** Parse once more those units that name what is defined otherwise now. */
  #renew() {
    for (const unit of this.#stale) {
      this.#again += unit.source.length;
      const blocks = this.#blocks(unit.source, Object.assign(none(), this.#late));
      const end = unit.shown.at(-1)?.node.nextSibling ?? null;
      unit.shown = patched(unit.shown, blocks.map(({ tree }) => tree), this.#element, end);
    }
    this.#stale.clear();
  }

  /** Add what came to the code that is open, without parsing; false where it is closed now. @param {string} tail @param {{ closed: RegExp, from: number }} fence */
  #code(tail, { closed, from }) {
    const shown = /** @type {Shown} */ (this.#tail.at(-1));
    const came = tail.slice(Math.max(from, tail.lastIndexOf("\n", this.#parsed - 1) + 1));
    if (came.split("\n").some((line) => closed.test(line))) return false;
    const text = tail.slice(from);
    const { tree } = shown;
    if (!tree.code) return false;
    tree.code = { ...tree.code, text: text.endsWith("\n") ? text.slice(0, -1) : text };
    shown.block?.show(tree.code);
    this.#parsed = tail.length;
    return true;
  }
}

/** @param {Named[]} people @param {Named[]} others */
const same = (people, others) => people.length === others.length && people.every(({ user, name }, at) => user === others[at].user && name === others[at].name);

/** @returns {References} */
const none = () => Object.create(null);

/** `text` without a last line that is not decided yet. @param {string} text */
function decided(text) {
  const line = text.lastIndexOf("\n") + 1;
  return UNDECIDED.test(text.slice(line)) ? text.slice(0, line) : text;
}

/** Up to where nothing that comes can change how `source` is parsed; its last line is not complete. @param {Block[]} blocks @param {string} source */
function complete(blocks, source) {
  const lines = source.split("\n");
  const whole = lines.length - 1;
  /** @param {number} line */
  const before = (line) => lines.slice(0, line).reduce((sum, { length }) => sum + length + 1, 0);
  /** @param {number} line */
  const empty = (line) => line < whole && lines[line].trim() === "";
  const last = blocks.at(-1);
  if (!last) return 0;
  if (ENDED_BY_ITSELF.has(last.type) && last.end <= whole && !last.open) return before(last.end);
  if (ENDED_BY_A_GAP.has(last.type) && empty(last.end)) return before(last.end + 1);
  for (let at = blocks.length - 1; at > 0; at--) {
    const { start } = blocks[at];
    const { end, type } = blocks[at - 1];
    // A table is known by its second line. Between blocks stand empty lines, and definitions that may go on.
    if (start < whole - 1 && (empty(start - 1) || (end === start && ENDED_BY_OTHERS.has(type)))) return before(start);
  }
  return 0;
}

/** Where the code of an open fence begins, if what comes can be added to it as it is. @param {Block} block @param {string} source */
function openFence({ start }, source) {
  let from = 0;
  for (let line = 0; line < start; line++) from = source.indexOf("\n", from) + 1;
  const markup = /^(`{3,}|~{3,})/.exec(source.slice(from))?.[0];
  return markup ? { closed: closing(markup), from: source.indexOf("\n", from) + 1 } : null;
}
