// Who is named in a text, by "@" and a name or an id.

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

/** The ids of those whom `text` names. @param {string} text @param {Person[]} people */
export const mentioned = (text, people) => [...new Set(mentionsIn(text, people).map(({ who }) => who.user))].slice(0, MOST);
