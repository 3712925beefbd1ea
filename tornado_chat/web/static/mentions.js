// Who is named in a text, by "@" and a name or an id. What of a text is no code, `Texts.spoken` tells.

/** @import { Person } from "./format.js" */

const MOST = 50; // docs/protocol.md: of one message

/**
 * The places at which `text` names one of `people`; of those who are called alike, the first.
 * @template {Person} Named
 * @param {string} text @param {Named[]} people
 */
export function mentionsIn(text, people) {
  /** @type {{ from: number, to: number, who: Named }[]} */
  const found = [];
  for (const { index } of text.matchAll(/(?<![\p{L}\p{N}_@])@/gu)) {
    let longest = 0;
    let who = /** @type {Named | null} */ (null);
    for (const person of people) {
      for (const label of [person.name, person.user]) {
        const rest = text.slice(index + 1 + label.length);
        const same = text.slice(index + 1, index + 1 + label.length).toLowerCase() === label.toLowerCase();
        if (same && label.length > longest && !/^[\p{L}\p{N}_]/u.test(rest)) [longest, who] = [label.length, person];
      }
    }
    if (who) found.push({ from: index, to: index + 1 + longest, who });
  }
  return found;
}

/** The ids of those whom the parts of a text name. @param {string[]} parts @param {Person[]} people */
export function mentioned(parts, people) {
  const users = parts.flatMap((part) => mentionsIn(part, people).map(({ who }) => who.user));
  return [...new Set(users)].slice(0, MOST);
}

/** What in the parts of a text looks like a mention, and names none of `people`. @param {string[]} parts @param {Person[]} people */
export function nobody(parts, people) {
  const words = parts.flatMap((part) => {
    const places = new Set(mentionsIn(part, people).map(({ from }) => from));
    return [...part.matchAll(/(?<![\p{L}\p{N}_@])@[\p{L}\p{N}_]+([.:-]+[\p{L}\p{N}_]+)*/gu)].filter(({ index }) => !places.has(index)).map(([word]) => word);
  });
  return [...new Set(words)];
}
