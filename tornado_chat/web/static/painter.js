// The worker that finds the colours of code. Its grammars are loaded as they are asked for.

import { tokenizer } from "./vendor/speed-highlight/dist/tokenize.js";

/** @import { Painted } from "./colours.js" */
/** @import { Grammar } from "./vendor/speed-highlight/dist/tokenize.js" */

const MOST = 10_000; // pieces of one block: as many nodes

/** @param {string} text @param {string} grammar */
async function painted(text, grammar) {
  /** @type {Painted[]} */
  const pieces = [];
  const finding = tokenizer(text, grammar, (piece, type = "") => {
    const last = pieces.at(-1);
    if (last?.type === type) last.text += piece;
    else if (piece) pieces.push({ type, text: piece });
  });
  for (let asked = finding.next(); !asked.done;) asked = finding.next(await loaded(asked.value));
  return pieces.length > MOST || pieces.map((piece) => piece.text).join("") !== text ? null : pieces;
}

/** @param {string} name @returns {Promise<Grammar | undefined>} */
async function loaded(name) {
  try {
    return (await import(`./vendor/speed-highlight/dist/languages/${name}.js`)).default;
  } catch {
    return undefined; // what is of that language has no colours
  }
}

addEventListener("message", async ({ data }) => {
  postMessage(await painted(data.text, data.grammar));
});
