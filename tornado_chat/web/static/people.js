// The names that complete an "@". Loaded with the first.

import { el } from "./dom.js";
import { mentioned } from "./mentions.js";
import { named } from "./row.js";

/** @import { On, Source } from "./completion.js" */

const QUERY = /(?<![\p{L}\p{N}_@])@([^\n@]{0,64})$/u; // a name may have spaces

/** @param {On} on @returns {Source} */
export const names = (on) => ({
  label: "People to name",
  ready: () => on.present(),
  begun(before) {
    const match = QUERY.exec(before);
    return match && { from: match.index, query: match[1].toLowerCase() };
  },
  options(query) {
    const people = on.people();
    /** @param {string} words */
    const begins = (words) => words.toLowerCase().startsWith(query);
    const whole = query.endsWith(" ") && people.some(({ user, name }) => [user, name].some((label) => label.toLowerCase() === query.trim()));
    const fit = whole ? [] : people.filter(({ user, name }) => begins(user) || begins(name) || name.split(/\s+/).some(begins));
    return fit.map((person) => ({
      shown: [...named(person).flatMap((part) => [part, " "]), person.name === person.user ? null : el("small", { class: "clipped" }, person.user)],
      // A name like "*Bob*" is no name where it is Markdown.
      text: () => `@${mentioned(on.spoken(`@${person.name}`), [person]).length ? person.name : person.user} `,
      picked: () => on.picked(person),
    }));
  },
});
