// One row of the list: a message, one of ours on its way, a day, the line above what is new.

import { el, focusIn, refocus } from "./dom.js";
import { called, dayName, excerpt, fullTime, hue, initials, isGuest, list, shortTime, talkAddress, time, visibleName } from "./format.js";

/** @import { Me } from "./client/engine.js" */
/** @import { Person } from "./format.js" */
/** @import { Sending } from "./client/outbox.js" */
/** @import { Named } from "./markdown.js" */
/** @import { Message, Room } from "./client/room.js" */
/** @import { Texts } from "./texts.js" */

/** @typedef {Message & { state: "" | "gone" | "saving" | "deleting" | "stopping" }} Seen */

/**
 * What a row shows; `first`: with a name over it, as the first of several by one user. `attempts`: this one and the
 * others to answer the same, if there are some. `quotes`: what it answers is to be shown.
 * @typedef {{ key: string, kind: "day", ts: number, label: string }} DayRow
 * @typedef {{ key: string, kind: "new" }} NewRow
 * @typedef {{ key: string, kind: "message", seq: number, message: Message, attempts: Message[], first: boolean, quotes: boolean }} MessageRow
 * @typedef {{ key: string, kind: "pending", item: Sending, unsure: boolean, first: boolean }} PendingRow
 * @typedef {DayRow | NewRow | MessageRow | PendingRow} Row
 */

/** How a message that has grown may end, but for well. */
const ENDS = new Map([["stopped", "stopped"], ["interrupted", "interrupted"], ["error", "ended by an error"]]);


/**
 * What is seen of a message: as the log has it, with our own changes on top that are still on their way.
 * @param {Message} message @param {Room} room @param {Me | null} me
 */
export function shown(message, room, me) {
  const reactions = new Map([...message.reactions].map(([emoji, users]) => [emoji, new Set(users)]));
  /** @type {Seen} */
  const seen = { ...message, reactions, state: message.deleted ? "gone" : "" };
  if (message.deleted) return seen;
  for (const { command } of changesOf(message, room)) {
    if (command.type === "stop") {
      if (seen.streaming) seen.state ||= "stopping";
    } else if (command.type === "edit") {
      seen.text = command.text;
      seen.state ||= "saving";
    } else if (command.type === "delete") {
      seen.state = "deleting";
    } else if (me) {
      const users = reactions.get(command.emoji) ?? new Set();
      reactions.set(command.emoji, users);
      if (command.on) users.add(me.user);
      else users.delete(me.user);
    }
  }
  for (const [emoji, users] of reactions) if (!users.size) reactions.delete(emoji);
  return seen;
}

/** Those whom a message names. @param {Message} message @param {Room} room @param {Me | null} me @returns {Named[]} */
function namedIn({ mentions = [] }, room, me) {
  return mentions.map((user) => (user === me?.user ? { ...me, me: true } : { ...room.person(user), me: false }));
}

/** Our own changes of `message` that are on their way. @param {Message} message @param {Room} room */
function changesOf(message, room) {
  return room.changes.filter(({ command }) => command.seq === message.seq);
}

/**
 * Everything that a row's look depends on, as a string to compare.
 * @param {Row} row @param {Room} room @param {Me | null} me @param {boolean} live
 */
export function signature(row, room, me, live) {
  switch (row.kind) {
    case "message": {
      const changes = changesOf(row.message, room).map(({ id }) => id);
      const quote = row.message.reply_to ? room.find(row.message.reply_to) : null;
      const named = namedIn(row.message, room, me).map(({ name }) => name);
      const quoted = quote ? `${quote.seq}.${quote.version}.${row.quotes}.${changesOf(quote, room).length}` : "";
      const attempts = row.attempts.map(({ seq }) => seq);
      return `${row.seq}.${row.message.version}|${row.first}|${me?.user}|${changes}|${quoted}|${named}|${attempts}`;
    }
    case "pending":
      return `${row.first}|${row.item.error}|${row.item.seq}|${live}|${row.unsure}`;
    case "day":
      return row.label;
    default:
      return "";
  }
}

/**
 * Fill `node` with what `row` shows.
 * @param {HTMLLIElement} node @param {Row} row @param {Room} room @param {Me | null} me @param {boolean} live @param {Texts} texts
 */
export function fill(node, row, room, me, live, texts) {
  switch (row.kind) {
    case "day":
      node.className = "day";
      node.replaceChildren(el("time", { datetime: new Date(row.ts).toISOString() }, dayName(row.ts)));
      return;
    case "new":
      node.className = "new";
      node.replaceChildren(el("span", {}, "New"));
      return;
    case "message":
      fillMessage(node, row, shown(row.message, room, me), room, me, texts);
      return;
    case "pending":
      fillPending(node, row, room, me, live, texts);
  }
}

/** Show what has come of a text that grows. @param {HTMLLIElement} node @param {MessageRow} row @param {Room} room @param {Me | null} me @param {Texts} texts */
export function grow(node, row, room, me, texts) {
  const { message } = row;
  const text = texts.in(node, message.text, namedIn(message, room, me), message.streaming);
  if (!text.isConnected) node.querySelector(":scope > .content > .text")?.replaceWith(text); // it is plain still
}

/** That it grows, and a button to end it for who may. @param {Seen} message @param {Room} room @param {Me | null} me */
function growing(message, room, me) {
  const asker = message.reply_to ? room.find(message.reply_to)?.user : null;
  const may = me && (me.moderator || me.user === message.user || me.user === asker);
  const stop = message.state === "stopping" ? el("span", {}, "Stopping…") : doing("stop", "Stop");
  if (message.state !== "stopping") stop.setAttribute("aria-label", `Stop the message of ${called(message)}`);
  return el("p", { class: "growing" }, el("span", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i")), may ? stop : null);
}

/** @param {HTMLLIElement} node @param {MessageRow} row @param {Seen} seen @param {Room} room @param {Me | null} me @param {Texts} texts */
function fillMessage(node, row, seen, room, me, texts) {
  const { ts } = seen;
  const mine = seen.user === me?.user;
  const named = namedIn(seen, room, me);
  const names = named.some(({ me }) => me) ? " named" : "";
  node.className = `message${row.first ? " first" : ""}${mine ? " mine" : ""}${names}${seen.state ? ` ${seen.state}` : ""}`;
  node.tabIndex = -1;
  const when = el("time", { datetime: new Date(ts).toISOString(), title: fullTime(ts) }, time(ts));
  /** @type {HTMLElement[]} */
  const content = [];
  if (row.first) content.push(head(seen, when));
  if (seen.reply_to && row.quotes && !seen.deleted) content.push(quote(seen.reply_to, room, texts));
  if (seen.deleted) {
    content.push(el("p", { class: "text" }, "This message was deleted."));
  } else {
    const answers = seen.agent ? texts.answers() : null;
    const text = texts.in(node, seen.text, named, seen.streaming);
    text.querySelector(":scope > .edited")?.remove();
    const cut = ENDS.get(seen.reason ?? "");
    const ended = cut ?? (seen.text || seen.streaming ? null : "empty");
    if (seen.edited || seen.state === "saving" || ended) {
      const title = seen.edited ? `Edited ${fullTime(seen.edited)}` : null;
      text.append(el("span", { class: "edited", title }, seen.state === "saving" ? " saving…" : seen.edited ? " (edited)" : `${seen.text ? " " : ""}(${ended})`));
    }
    content.push(...(answers?.steps(node, seen) ?? []), text);
    if (seen.streaming) content.push(growing(seen, room, me));
    if (seen.reactions.size) content.push(reactions(seen.reactions, room, me));
    content.push(...(answers?.actions(seen, row.attempts, room, me, !cut) ?? []));
  }
  replace(node, gutter(row.first, seen, when), content);
}

/**
 * @param {HTMLLIElement} node @param {PendingRow} row @param {Room} room @param {Me | null} me @param {boolean} live
 * @param {Texts} texts
 */
function fillPending(node, row, room, me, live, texts) {
  const { item } = row;
  const author = me ?? { user: "", name: "You" };
  node.className = `message mine pending${row.first ? " first" : ""}${item.error || row.unsure ? " refused" : ""}`;
  node.tabIndex = -1;
  const when = el("time", { datetime: new Date(item.at).toISOString() }, time(item.at));
  /** @type {HTMLElement[]} */
  const content = [];
  if (row.first) content.push(head(author, when));
  if (item.command.reply_to) content.push(quote(item.command.reply_to, room, texts));
  content.push(texts.in(node, item.command.text, []));
  if (item.error || row.unsure) {
    const why = item.error ? `Not sent. ${item.error}` : "You were signed in as someone else when this was sent, and no answer came: it may be there already.";
    content.push(
      el("p", { class: "fate" }, el("span", {}, why, " "), doing("retry", row.unsure ? "Send again" : "Try again"), " ", doing("discard", "Discard")),
    );
  } else if (item.seq === undefined) {
    content.push(el("p", { class: "fate" }, live ? "Sending…" : "Will be sent when you are back online."));
  }
  replace(node, gutter(row.first, author, when), content);
}

/**
 * Exchange the parts. The toolbar, if it hangs here, the focus, and of `content` what is there already stay where they
 * are: a block of code that was scrolled aside, or a word that is selected, would not outlive being moved.
 * @param {HTMLLIElement} node @param {HTMLElement} gutter @param {HTMLElement[]} content
 */
function replace(node, gutter, content) {
  const focused = focusIn(node);
  const old = /** @type {HTMLElement | null} */ (node.querySelector(":scope > .content"));
  const box = old ?? el("div", { class: "content" });
  for (const child of [...box.children]) if (!content.some((part) => part === child)) child.remove();
  for (const [at, part] of content.entries()) if (box.children[at] !== part) box.insertBefore(part, box.children[at] ?? null);
  node.querySelector(":scope > .gutter")?.remove();
  node.prepend(gutter);
  if (!old) gutter.after(box);
  if (focused) (refocus(node, focused) ?? node).focus({ preventScroll: true });
}

/** @param {string} action @param {string} label */
function doing(action, label) {
  return el("button", { type: "button", class: "link", "data-do": action, "data-focus": action }, label);
}

/** @param {boolean} first @param {Person} author @param {HTMLTimeElement} when */
function gutter(first, author, when) {
  if (first) return el("div", { class: "gutter" }, avatar(author));
  const hour = el("time", { title: when.title }, shortTime(Date.parse(when.dateTime)));
  return el("div", { class: "gutter", "aria-hidden": "true" }, hour);
}

/** @param {Person} person */
export function avatar(person) {
  const node = el("span", { class: "avatar", "aria-hidden": "true" }, initials(visibleName(person)));
  node.style.setProperty("--hue", String(hue(person.user))); // by CSSOM: a style attribute is against the page's policy
  return node;
}

/** A name, and the mark of an agent, or of a guest, who may be called like anybody. @param {Person} person */
export function named(person) {
  const name = el("b", { title: person.user, dir: "auto" }, visibleName(person));
  const kind = person.agent ? "agent" : isGuest(person.user) ? "guest" : null;
  return kind ? [name, el("span", { class: kind }, kind)] : [name];
}

/** The mark of an agent, which leads to a conversation with it alone, where this is none. @param {Person} author @param {HTMLElement} mark */
function talkTo(author, mark) {
  const href = talkAddress(author.user);
  if (href === location.href.replace(/[?#].*/, "")) return mark;
  const label = `agent: a conversation with ${called(author)} alone`;
  return el("a", { class: "agent", href, title: label, "aria-label": label, "data-focus": "talk" }, "agent");
}

/** @param {Person} author @param {HTMLTimeElement} when */
function head(author, when) {
  const [name, ...mark] = named(author);
  name.className = "name";
  name.style.setProperty("--hue", String(hue(author.user)));
  return el("p", { class: "head" }, name, " ", ...(author.agent ? [talkTo(author, mark[0])] : mark), " ", when);
}

/** @param {number} seq @param {Room} room @param {Texts} texts */
function quote(seq, room, texts) {
  const original = room.find(seq);
  const label = `In reply to ${original ? called(original) : "an earlier message"}: go there`;
  const words = original?.deleted ? "This message was deleted." : excerpt(original ? texts.said(original.text) : "An earlier message");
  return el(
    "button",
    { type: "button", class: "quote", "data-do": "goto", "data-seq": seq, "data-focus": "goto", title: label },
    ...(original ? named(original).flatMap((part) => [part, " "]) : []),
    el("span", { class: "clipped", dir: "auto" }, words),
  );
}

/** @param {Seen["reactions"]} all @param {Room} room @param {Me | null} me */
function reactions(all, room, me) {
  /** @param {Set<string>} users */
  const names = (users) => [...users].map((user) => (user === me?.user ? "you" : called(room.person(user))));
  return el(
    "div",
    { class: "reactions" },
    ...[...all].map(([emoji, users]) => {
      const pressed = me !== null && users.has(me.user);
      return el(
        "button",
        {
          type: "button", class: "chip", title: list(names(users), 8), "data-do": "react", "data-emoji": emoji,
          "data-focus": `chip ${emoji}`, "aria-pressed": String(pressed), "aria-label": `${emoji} ${users.size}, ${list(names(users), 8)}`,
        },
        el("span", { class: "emoji" }, emoji), " ", String(users.size),
      );
    }),
  );
}
