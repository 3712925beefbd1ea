// Text, times and colours as a person reads them. No page, no state.

const MINUTE = 60_000;

/** One line of a text, for a quote. @param {string} text */
export function excerpt(text, length = 140) {
  const line = text.replace(/\s+/g, " ").trim();
  const characters = [...line];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : line;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const thisYear = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const otherYear = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long", year: "numeric" });

// A `ts` is in ms since 1970.

/** @param {number} ts */
export const time = (ts) => clock.format(ts);
/** Without "PM", for where there is little room. @param {number} ts */
export const shortTime = (ts) => clock.formatToParts(ts).filter(({ type }) => type !== "dayPeriod").map(({ value }) => value).join("").trim();
/** @param {number} ts */
export const fullTime = (ts) => moment.format(ts);

/** The local day of `ts` as a number that grows by one a day. @param {number} ts */
export function day(ts) {
  return Math.floor((ts - new Date(ts).getTimezoneOffset() * MINUTE) / 86_400_000);
}

/** @param {number} ts */
export function dayName(ts, now = Date.now()) {
  const ago = day(now) - day(ts);
  if (ago === 0) return "Today";
  if (ago === 1) return "Yesterday";
  return (new Date(ts).getFullYear() === new Date(now).getFullYear() ? thisYear : otherYear).format(ts);
}

/** @typedef {{ user?: string, name?: string, ts: number, reply_to?: number }} Said */

/** Whether `next` goes on where `last` ended: no need for the name again. @param {Said} last @param {Said} next */
export function continues(last, next) {
  return last.user === next.user && last.name === next.name && next.ts - last.ts < 5 * MINUTE && !next.reply_to;
}

/** A hue (degrees) that stays with a user. @param {string} user */
export function hue(user) {
  let hash = 2166136261; // FNV-1a
  for (const character of user) hash = Math.imul(hash ^ (character.codePointAt(0) ?? 0), 16777619);
  hash = Math.imul(hash ^ (hash >>> 15), 2246822507); // ids that differ in their last character only: far apart too
  return ((hash ^ (hash >>> 13)) >>> 0) % 360;
}

/** @param {string} name */
export function initials(name) {
  const words = name.split(/[\s._-]+/).filter(Boolean);
  const shown = words.length > 1 ? [words[0], words[words.length - 1]] : [name];
  return shown.map((word) => [...word][0]).join("").toUpperCase();
}

/** @typedef {{ user: string, name: string, agent?: boolean }} Person */

/** How the names of rooms that belong to an agent have its id. (tornado_chat/conversations.py) @param {string} agent */
export const roomsOf = (agent) => agent.toLowerCase().replace(/[^a-z0-9._-]+/g, "-").replace(/^[._-]+/, "").slice(0, 37) || "agent";

/** Where an agent tells its commands (docs/protocol.md, "Agents"). @param {string} agent */
export const commandsOf = (agent) => `commands.${roomsOf(agent)}`;

/** What `roomsOf` gives, of a room that is a conversation with an agent; null of any other. @param {string} room */
export const talkWith = (room) => /^(.+)-[a-z2-7]{26}$/.exec(room)?.[1] ?? null;

/** The address of the page of an agent. @param {string} user */
export const talkAddress = (user) => new URL(`../agent/${encodeURIComponent(user)}`, import.meta.url).href;

const IN_A_LIST = 24; // characters of a name, so that a guest's mark is not pushed off the line

/** Whether a user id is a guest's. @param {string} user */
export const isGuest = (user) => user.startsWith("guest-");

/** Whether nothing would be seen of `text`: spaces, marks, and letters that are drawn as nothing. @param {string} text */
export const isBlank = (text) =>
  /^[\p{C}\p{Z}\p{M}\p{Default_Ignorable_Code_Point}\u2800\u{13441}\u{13442}\u{1D159}]*$/u.test(text);

/** What to show as someone's name. @param {Person} person */
export const visibleName = ({ user, name }) => (isBlank(name) ? user : name);

/** Someone in a sentence: "Ann", "Ann (guest)". @param {Person} person */
export function called(person) {
  const name = excerpt(visibleName(person), IN_A_LIST);
  return isGuest(person.user) ? `${name} (guest)` : name;
}

/** "Ann", "Ann and Bob", "Ann, Bob and 3 others". @param {string[]} names */
export function list(names, most = 3) {
  if (names.length <= 1) return names.join("");
  if (names.length <= most) return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  const others = names.length - most + 1;
  return `${names.slice(0, most - 1).join(", ")} and ${others} others`;
}
