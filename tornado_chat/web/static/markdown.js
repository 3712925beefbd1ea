// The text of a message as a tree: CommonMark without HTML, with tables, task lists, strikethrough and bare addresses.
// From the parser's tokens; there is no HTML string anywhere.

import { mentionsIn } from "./mentions.js";
import MarkdownIt from "./vendor/markdown-it/dist/browser/markdown-it.esm.min.mjs";

/** @import { Token } from "./vendor/markdown-it/dist/browser/markdown-it.esm.min.mjs" */

/**
 * What is to be shown: text, where `tag` is "", an element, or a block of code, where it is "pre".
 * @typedef {{ tag: string, attrs: Record<string, string>, children: Tree[], text: string, code: Code | null }} Tree
 */

/** `open`: the fence is not closed yet. @typedef {{ language: string, text: string, open: boolean }} Code */

/**
 * The lines `start` to before `end` of the text; `open`: a fence that nothing closes.
 * @typedef {{ tree: Tree, type: string, start: number, end: number, open: boolean }} Block
 */

/** What `[label]: address` defined, by label. @typedef {Record<string, { href: string, title: string } | undefined>} References */

const NESTING = 40; // of elements: what lies deeper is shown plainly
const LONGEST_ADDRESS = 2_048; // one that is longer is no link: a short label may repeat it a thousand times
const NODES = 1_000; // that any block may have, and as many more as it has characters

const parser = new MarkdownIt("default", { html: false, linkify: true, maxNesting: NESTING });
parser.linkify.set({ fuzzyLink: false }).add("ftp:", null).add("//", null); // "main.rs" is a file, and no host
parser.validateLink = (address) => address.length <= LONGEST_ADDRESS && /^(https?:\/\/|mailto:)/i.test(address);
parser.normalizeLinkText = (text) => text; // what one reads is what was written

export { parser };

/** @param {string} tag @param {Record<string, string>} [attrs] @param {Tree[]} [children] @returns {Tree} */
const element = (tag, attrs = {}, children = []) => ({ tag, attrs, children, text: "", code: null });

/** @param {string} text @returns {Tree} */
const words = (text) => ({ tag: "", attrs: {}, children: [], text, code: null });

/** Line ends as "\n". @param {string} text */
export const lines = (text) => (/[\r\0]/.test(text) ? text.replace(/\r\n?/g, "\n").replaceAll("\0", "\uFFFD") : text);

/**
 * The blocks of a text. `references`: what was defined before; what this text defines is added to it.
 * @param {string} source With "\n" between lines. @param {References} references @returns {Block[]}
 */
export function parse(source, references) {
  const tokens = parser.parse(source, { references });
  const lines = source.split("\n");
  /** @type {Block[]} */
  const blocks = [];
  for (let from = 0, at = 0; at < tokens.length; at++) {
    if (tokens[at].level > 0 || tokens[at].nesting > 0) continue;
    const [start, end] = tokens[from].map ?? [0, 0];
    const { type } = tokens[from];
    const build = new Build(end - start === 0 ? 0 : length(lines, start, end));
    const tree = build.all(tokens.slice(from, at + 1)) ?? plain(lines.slice(start, end).join("\n"));
    blocks.push({ tree, type, start, end, open: type === "fence" && unclosed(tokens[from], lines, start, end) });
    from = at + 1;
  }
  return blocks;
}

/** @param {string[]} lines @param {number} start @param {number} end */
function length(lines, start, end) {
  let sum = 0;
  for (let at = start; at < end; at++) sum += lines[at].length + 1;
  return sum;
}

/** @param {Token} fence @param {string[]} lines @param {number} start @param {number} end */
function unclosed({ markup }, lines, start, end) {
  return end - start === 1 || !closing(markup).test(lines[end - 1]);
}

/** What a line is like that closes a fence. @param {string} markup */
export const closing = (markup) => new RegExp(`^ {0,3}${markup[0]}{${markup.length},}[ \\t]*$`);

/** A text as it was written. @param {string} text */
export const plain = (text) => element("p", { class: "plain" }, [words(text)]);

const INLINE = new Map([["em_open", "em"], ["strong_open", "strong"], ["s_open", "s"]]);
const BLOCKS = new Map([
  ["blockquote_open", "blockquote"], ["bullet_list_open", "ul"], ["ordered_list_open", "ol"], ["list_item_open", "li"],
  ["paragraph_open", "p"], ["table_open", "table"], ["thead_open", "thead"], ["tbody_open", "tbody"], ["tr_open", "tr"],
  ["th_open", "th"], ["td_open", "td"],
]);
const TASK = /^\[([ xX])\] (?=\S)/;

/** One block being made of its tokens. */
class Build {
  #root = element("");
  #stack = [this.#root]; // the last is where the next goes
  #left; // nodes that it may have still
  #links = 0; // that are open: none stands in another
  #nowhere = /** @type {number[]} */ ([]); // how deep those links stood that lead nowhere

  /** @param {number} characters */
  constructor(characters) {
    this.#left = NODES + characters;
  }

  /** The tree, or null where it would be too deep or have too many nodes. @param {Token[]} tokens @returns {Tree | null} */
  all(tokens) {
    for (let at = 0; at < tokens.length; at++) {
      const token = tokens[at];
      if (token.level >= NESTING - 2) return null; // the parser leaves out what lies deeper
      if (token.type === "inline") this.#line(token, tokens[at - 2]?.type === "list_item_open");
      else if (token.nesting > 0) this.#open(token);
      else if (token.nesting < 0) this.#stack.pop();
      else this.#leaf(token);
      if (this.#left < 0) return null;
    }
    return this.#root.children[0] ?? null;
  }

  get #top() {
    return this.#stack[this.#stack.length - 1];
  }

  /** @param {Tree} tree */
  #append(tree) {
    this.#left--;
    this.#top.children.push(tree);
    return tree;
  }

  /** @param {string} text */
  #text(text) {
    const last = this.#top.children.at(-1);
    if (last?.tag === "") last.text += text;
    else if (text) this.#append(words(text));
  }

  /** What comes next goes into `tree`, or (null, or too deep) to where it went before. @param {Tree | null} tree */
  #enter(tree) {
    this.#stack.push(tree && this.#stack.length < NESTING ? this.#append(tree) : this.#top);
  }

  /** @param {Token} token */
  #open(token) {
    if (token.hidden) return this.#enter(null); // the paragraphs of a tight list
    if (token.type === "heading_open") return this.#enter(element(`h${Math.min(6, Number(token.tag[1]) + 2)}`)); // below the page's
    const tree = element(BLOCKS.get(token.type) ?? "div");
    const start = token.attrGet("start");
    if (start !== null) tree.attrs.start = String(start);
    const align = /^text-align:(left|center|right)$/.exec(String(token.attrGet("style")));
    if (align) tree.attrs.class = align[1];
    if (tree.tag !== "table") return this.#enter(tree);
    this.#append(element("div", { class: "wide", tabindex: "0" }, [tree])); // which scrolls, not the page
    this.#stack.push(tree);
  }

  /** @param {Token} token */
  #leaf(token) {
    if (token.type === "hr") this.#append(element("hr"));
    else if (token.type === "fence" || token.type === "code_block") {
      const { content } = token;
      const tree = this.#append(element("pre"));
      const language = token.info.trim().split(/\s/, 1)[0];
      tree.code = { language: parser.utils.unescapeAll(language), text: content.endsWith("\n") ? content.slice(0, -1) : content, open: false };
    }
  }

  /** The words of a paragraph, a heading or a cell. @param {Token} line @param {boolean} first In an item of a list. */
  #line(line, first) {
    const tokens = line.children ?? [];
    const depth = this.#stack.length;
    const task = first && tokens[0]?.type === "text" ? TASK.exec(tokens[0].content) : null;
    if (task) {
      const done = task[1] !== " ";
      const box = this.#append(element("input", { type: "checkbox", disabled: "", "aria-label": done ? "Done" : "To do" }));
      if (done) box.attrs.checked = "";
      this.#text(` ${tokens[0].content.slice(task[0].length)}`);
      tokens.shift();
    }
    for (const token of tokens) {
      if (token.nesting > 0) this.#span(token);
      else if (token.nesting < 0) this.#close(token);
      else if (token.type === "code_inline") this.#append(element("code", {}, [words(token.content)]));
      else if (token.type === "softbreak") this.#text("\n");
      else if (token.type === "hardbreak") this.#append(element("br"));
      else if (token.type === "image") this.#image(token);
      else this.#text(token.content);
      if (this.#left < 0) break;
    }
    this.#stack.length = depth;
  }

  /** @param {Token} token */
  #span(token) {
    const tag = INLINE.get(token.type);
    if (tag) return this.#enter(element(tag));
    const href = String(token.attrGet("href"));
    this.#links++;
    if (parser.validateLink(href)) return this.#enter(link(href, token.attrGet("title")));
    this.#text("["); // `[words]()` passed as a link, to the page itself
    this.#nowhere.push(this.#stack.length);
    this.#enter(null);
  }

  /** @param {Token} token */
  #close(token) {
    const tree = /** @type {Tree} */ (this.#stack.pop());
    if (token.type !== "link_close") return;
    this.#links--;
    if (this.#nowhere.at(-1) === this.#stack.length) {
      this.#nowhere.pop();
      this.#text("]()");
    } else if (tree.tag === "a" && !tree.children.length) {
      tree.children.push(words(tree.attrs.href)); // one sees where it leads
    }
  }

  /** A link to an image: reading a message asks no other site for anything. @param {Token} token */
  #image(token) {
    const href = String(token.attrGet("src"));
    const named = parser.renderer.renderInlineAsText(token.children ?? [], parser.options, {}) || href;
    if (!parser.validateLink(href)) return this.#text(`![${named}]()`);
    if (this.#links) return this.#text(named);
    const tree = this.#append(link(href, token.attrGet("title")));
    tree.children.push(words(named));
  }
}

/** @param {string} href @param {string | number | null} title */
function link(href, title) {
  /** @type {Record<string, string>} */
  const attrs = { href, target: "_blank", rel: "noopener noreferrer nofollow" };
  if (title !== null) attrs.title = String(title);
  return element("a", attrs);
}

/** Somebody whom a message names; ourselves? @typedef {{ user: string, name: string, me: boolean }} Named */

const NAMELESS = new Set(["a", "code", "pre"]); // in which an "@" is none

/** Make those who are named stand out. @param {Tree} tree @param {Named[]} people */
export function named(tree, people) {
  if (NAMELESS.has(tree.tag)) return;
  tree.children = tree.children.flatMap((child) => {
    if (child.tag !== "") {
      named(child, people);
      return [child];
    }
    let end = 0;
    /** @type {Tree[]} */
    const parts = [];
    for (const { from, to, who } of mentionsIn(child.text, people)) {
      if (from > end) parts.push(words(child.text.slice(end, from)));
      parts.push(element("span", { class: who.me ? "mention self" : "mention", title: who.user }, [words(child.text.slice(from, to))]));
      end = to;
    }
    return end === 0 ? [child] : [...parts, ...(end < child.text.length ? [words(child.text.slice(end))] : [])];
  });
}

/** The parts of a text in which an "@" may name somebody. @param {string} text */
export function spoken(text) {
  /** @param {Tree} tree @returns {string[]} */
  const parts = ({ tag, text, children }) => (NAMELESS.has(tag) ? [] : tag === "" ? [text] : children.flatMap(parts));
  return parse(lines(text), {}).flatMap(({ tree }) => parts(tree));
}

const APART = /^(p|h\d|ul|ol|li|blockquote|pre|div|table|thead|tbody|tr)$/;

/** What a tree says, without its marks: for a quote, and to be read aloud. @param {Tree} tree @returns {string} */
export function said(tree) {
  if (tree.tag === "" || tree.code) return tree.code?.text ?? tree.text;
  let text = "";
  for (const child of tree.children) {
    if (text && APART.test(child.tag)) text += "\n";
    else if (text && tree.tag === "tr") text += " ";
    text += said(child);
  }
  return text;
}

const EXCERPT = 1_000; // characters of a text that are looked at for its first line

/** The beginning of a text without its marks. @param {string} text */
export const sayable = (text) => parse(lines(text.slice(0, EXCERPT)), {}).map(({ tree }) => said(tree)).join("\n");
