// The page of one agent, /agent/NAME: conversations with it. Each is a room of a name that nobody can guess, so one needs no
// server to begin another. Loaded on that page, and where they are listed by agent.

import { news } from "./client/own.js";
import { byId, el, icon, styled } from "./dom.js";
import { called, commandsOf, excerpt, roomsOf, talkAddress, talkWith, visibleName } from "./format.js";

/** @import { Engine } from "./client/engine.js" */
/** @import { Room } from "./client/room.js" */
/** @import { Texts } from "./texts.js" */
/** @import { Listed } from "./view.js" */

await styled("agents.css");

const DIGITS = "abcdefghijklmnopqrstuvwxyz234567"; // of which a conversation's name has 26 (tornado_chat/conversations.py)
const TITLE = 60; // characters
const PATIENCE = 10_000; // ms until it is said that nobody answers

export class Talks {
  #called = ""; // by its own words; "" while they are not known
  #commands = false; // it has some
  #asked = false;
  #waiting = 0;

  /**
   * `agent` is its user id. `begin`: another conversation is wanted.
   * @param {{ agent: string, chat: Engine, texts: Texts, begin: () => void }} parts
   */
  constructor({ agent, chat, texts, begin }) {
    this.agent = agent;
    this.chat = chat;
    this.texts = texts;
    byId.roomsCaption.textContent = "Conversations";
    byId.side.setAttribute("aria-label", "Conversations");
    byId.menuClose.setAttribute("aria-label", "Close the list of conversations");
    const another = el("button", { type: "button", class: "fresh-talk" }, icon("plus"), "New conversation");
    another.addEventListener("click", begin);
    byId.roomsCaption.before(another);
    byId.enter.replaceWith(el("a", { class: "back", href: new URL("..", import.meta.url).href }, "All rooms"));
  }

  /** @param {string} name Of a room. */
  has(name) {
    return talkWith(name) === roomsOf(this.agent);
  }

  /** The name of a room that nobody has used. */
  fresh() {
    const digits = Array.from(crypto.getRandomValues(new Uint8Array(26)), (byte) => DIGITS[byte & 31]);
    return `${roomsOf(this.agent)}-${digits.join("")}`;
  }

  /** What the agent is called. */
  get name() {
    const person = this.chat.person(this.agent);
    return visibleName(person.name === person.user && this.#called ? { ...person, name: this.#called } : person);
  }

  /** Look for its name where it tells its commands: here it may have said nothing. */
  async #ask() {
    if (this.#asked || !this.chat.connection.live) return;
    this.#asked = true;
    const told = await this.chat.last(commandsOf(this.agent));
    const newest = told?.findLast(({ user }) => user === this.agent);
    this.#called = newest?.name ?? "";
    this.#commands = Array.isArray(newest?.meta?.commands) && newest.meta.commands.length > 0;
    this.#asked = told !== null;
    if (this.#called) this.chat.on.changed(null);
  }

  /** What was asked first. @param {string} name */
  #title(name) {
    const room = this.chat.rooms.get(name);
    if (!room) return "An earlier conversation";
    const first = room.find(1) ?? room.messages[0] ?? room.pending[0]?.command;
    if (!room.find(1)) this.chat.quoted(room, 1);
    return excerpt(this.texts.said(first?.text ?? ""), TITLE) || "A conversation";
  }

  /** Those that were begun, the newest first. @param {string[]} names @param {Room} here @returns {Listed[]} */
  list(names, here) {
    const { chat } = this;
    this.#ask();
    const begun = names.filter((name) => this.has(name) && (name !== here.name || here.messages.length || here.pending.length));
    /** @param {string} name */
    const at = (name) => chat.rooms.get(name)?.pending.at(-1)?.at ?? chat.rooms.get(name)?.messages.at(-1)?.ts ?? 0;
    return begun.sort((one, other) => at(other) - at(one)).map((name) => {
      const followed = chat.own.followed.get(name);
      const { unread, mentions } = news(followed, chat.rooms.get(name), chat.me?.user);
      return {
        name, label: this.#title(name), here: name === here.name, unread, mentions, quiet: followed?.level === "nothing",
        by: followed?.by ? called(chat.person(followed.by)) : null,
      };
    });
  }

  /** Something was asked in `room`: say so if nobody answers. @param {Room} room @param {(text: string) => void} say */
  wait(room, say) {
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(() => {
      const sent = this.chat.connection.live && room.synced && !room.pending.length;
      const begun = room.messages.at(-1)?.user === this.agent || room.messages.some(({ streaming }) => streaming) || room.doing().length > 0;
      if (sent && !begun) say(`${this.name} does not answer: it may not be running. What you asked is kept.`);
    }, PATIENCE);
  }

  /** What stands over a conversation in which nothing was said. @returns {(string | HTMLElement)[]} */
  get greeting() {
    const hint = this.#commands ? ["It has commands: write / to see them.", el("br")] : [];
    return [el("b", {}, `Ask ${this.name} something.`), el("br"), ...hint, "Who has this page’s address can read along, and join in."];
  }
}

/** Instead of the rooms of conversations each agent once, which leads to its page. @param {Listed[]} rooms @param {Engine} chat @returns {Listed[]} */
export function agents(rooms, chat) {
  /** @type {Map<string, Listed>} */
  const found = new Map();
  for (const room of rooms) {
    const agent = talkWith(room.name) ?? "";
    const { unread, mentions, by } = found.get(agent) ?? { unread: { count: 0, least: false }, mentions: 0, by: null };
    const user = [...(chat.rooms.get(room.name)?.agents ?? [])].find((user) => roomsOf(user) === agent) ?? agent;
    found.set(agent, {
      ...room, label: visibleName(chat.person(user)), href: talkAddress(user), by: by ?? room.by, mentions: mentions + room.mentions,
      unread: { count: unread.count + room.unread.count, least: unread.least || room.unread.least },
    });
  }
  return [...found.values()];
}
