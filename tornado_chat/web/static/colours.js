// The colours of code, found by a worker: whatever a pattern does with a text that is made to be slow, the page goes on.

/** A piece of code, and the kind of what it is; "": of no kind. @typedef {{ type: string, text: string }} Painted */
/** @typedef {{ text: string, grammar: string, answer: (pieces: Painted[] | null) => void }} Asked */

const PATIENCE = 4_000; // ms for one block; after that it stays without colours
const LONGEST = 50_000; // characters of a block that gets colours

/** A grammar, the language's name, and the words by which it is called at the head of a block. */
const LANGUAGES = [
  ["asm", "Assembly", "asm assembly nasm"], ["bash", "Shell", "bash sh shell zsh console"], ["c", "C", "c h"],
  ["c", "C++", "c++ cpp cc cxx hpp"], ["java", "C#", "c# cs csharp"], ["css", "CSS", "css scss less"], ["diff", "Diff", "diff patch"],
  ["docker", "Dockerfile", "docker dockerfile"], ["go", "Go", "go golang"], ["html", "HTML", "html htm vue svelte"],
  ["http", "HTTP", "http"], ["ini", "INI", "ini cfg conf properties"], ["java", "Java", "java"], ["java", "Kotlin", "kotlin kt"],
  ["js", "JavaScript", "js javascript jsx mjs cjs"], ["json", "JSON", "json json5 jsonc"], ["log", "Log", "log"],
  ["lua", "Lua", "lua"], ["make", "Makefile", "make makefile mk"], ["md", "Markdown", "md markdown"], ["pl", "Perl", "pl perl"],
  ["py", "Python", "py python python3 pyi"], ["regex", "Regex", "regex regexp"], ["rs", "Rust", "rs rust"],
  ["sql", "SQL", "sql sqlite postgres postgresql mysql psql"], ["toml", "TOML", "toml"], ["ts", "TypeScript", "ts typescript tsx"],
  ["uri", "URI", "uri url"], ["xml", "XML", "xml svg xhtml rss"], ["yaml", "YAML", "yaml yml"],
];
const KNOWN = new Map(LANGUAGES.flatMap(([grammar, name, called]) => called.split(" ").map((word) => [word, { grammar, name }])));

/** What a block's first line says it is, as a person says it. @param {string} language */
export const nameOf = (language) => KNOWN.get(language.toLowerCase())?.name ?? language.slice(0, 24);

/** @param {string} language */
export const grammarOf = (language) => KNOWN.get(language.toLowerCase())?.grammar ?? null;

export class Colours {
  #worker = /** @type {Worker | null} */ (null);
  #waiting = /** @type {Asked[]} */ ([]);
  #timer = 0;

  /** The pieces of `text`, or null where they were not to be had. @param {string} text @param {string} grammar @returns {Promise<Painted[] | null>} */
  of(text, grammar) {
    if (text.length > LONGEST) return Promise.resolve(null);
    return new Promise((answer) => {
      this.#waiting.push({ text, grammar, answer });
      if (this.#waiting.length === 1) this.#next();
    });
  }

  /** One after the other, so that it is known which of them is slow. */
  #next() {
    const [first] = this.#waiting;
    if (!first) return;
    if (!this.#worker) {
      this.#worker = new Worker(new URL("painter.js", import.meta.url), { type: "module" });
      this.#worker.addEventListener("message", ({ data }) => this.#answer(data));
      this.#worker.addEventListener("error", (event) => {
        event.preventDefault();
        this.#dropped();
      });
    }
    this.#timer = setTimeout(() => this.#dropped(), PATIENCE);
    this.#worker.postMessage({ text: first.text, grammar: first.grammar });
  }

  #dropped() {
    this.#worker?.terminate();
    this.#worker = null;
    this.#answer(null);
  }

  /** @param {Painted[] | null} pieces */
  #answer(pieces) {
    clearTimeout(this.#timer);
    this.#waiting.shift()?.answer(pieces);
    this.#next();
  }
}
