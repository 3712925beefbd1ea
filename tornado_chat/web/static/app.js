// Wires the page: the address says which room, the chat says what is in it, the view shows it.

import { Engine } from "./client/engine.js";
import { Connection } from "./client/connection.js";
import { Credentials } from "./client/store.js";
import { news } from "./client/own.js";
import { roomName } from "./client/room.js";
import { Composer } from "./composer.js";
import { byId } from "./dom.js";
import { called, isGuest, talkWith } from "./format.js";
import { MessageList } from "./list.js";
import { shared, tab } from "./store.js";
import { Texts } from "./texts.js";
import { LEAVE, TOKEN, View } from "./view.js";

const FIRST_ROOM = "lobby";
const MOST_ROOMS = 40; // of those that we follow: they are joined, so that what is unread is told as it changes
const PAGES_BACK = 20; // of history, looked through for a message that a reply quotes

/** @import { Hearing } from "./hearing.js" */
/** @import { State } from "./client/connection.js" */
/** @import { Acted } from "./list.js" */
/** @import { Message, Room } from "./client/room.js" */
/** @import { Seen } from "./row.js" */
/** @import { Listed } from "./view.js" */

const credentials = new Credentials({ tab, shared });
const chat = new Engine({
  store: tab,
  connect: (on) => new Connection({ base: new URL("..", import.meta.url), credentials, memory: tab, shared, on: { ...on, state: stateChanged } }),
  on: { changed, grown, told, notice: (text) => view.notice(text) },
});
const { connection } = chat;

const view = new View({ enter, options, leave, who, signIn: () => signIn(null, "Cancel"), retry: () => connection.connect(), said: (text) => texts.said(text) });
const texts = new Texts(() => {
  changed(null);
  composer.knowsCode();
});
const talks = await talkPage(); // null on the page of rooms
let room = chat.enter(asked());
let drawing = false;
let hearing = /** @type {Promise<Hearing | null> | null} */ (null);
let kept = shared.get("followed", null); // the rooms that we followed when they were last known
let listAgents = /** @type {typeof import("./talks.js").agents | null | undefined} */ (undefined); // null: it is to come
const entered = /** @type {Set<string>} */ (new Set()); // to be followed as soon as we are in them

const messages = new MessageList(
  byId,
  room,
  texts,
  { allowed: () => credentials.rooms, greeting: () => talks?.greeting, older: () => chat.older(room), quoted: (seq) => chat.quoted(room, seq), act, seen },
);
const composer = new Composer({
  drafts: tab,
  limits: () => chat.limits,
  texts,
  on: {
    post(text, replyTo, mentions) {
      if (talks && !chat.own.followed.has(room.name)) chat.follow(room.name, "everything"); // it has begun
      chat.post(room, text, replyTo, talks ? [...new Set([talks.agent, ...mentions])] : mentions);
      talks?.wait(room, (words) => view.notice(words));
      messages.toEnd();
    },
    edit: (message, text) => chat.edit(room, message.seq, text),
    people: (room) => room.people(chat.me?.user),
    me: () => chat.me,
    agents: (room) => [...new Set([...(talks ? [talks.agent] : []), ...room.agents])].filter((user) => user !== chat.me?.user).map((user) => room.person(user)),
    past: (name) => chat.last(name),
    present: (room) => chat.present(room),
    typing: (on) => chat.typing(room, on),
    last: () => room.messages.findLast((message) => message.user === chat.me?.user && !message.deleted && !message.streaming),
  },
});

// Rooms: the address names the one that is shown, our own log those that we follow, on whichever device.

/** What is other on the page of an agent. */
async function talkPage() {
  const agent = /\/agent\/([^/]+)$/.exec(location.pathname)?.[1];
  if (!agent) return null;
  const { Talks } = await import("./talks.js");
  return new Talks({ agent: unescaped(agent), chat, texts, begin });
}

/** Begin another conversation with the agent. */
function begin() {
  view.drawer(false);
  go("");
}

/** The rooms of the list: those that we follow, as they were last time until we know, and the one that is shown. */
function listed() {
  const before = kept && kept.user === (chat.me?.user ?? credentials.claims.sub) ? kept.rooms : [];
  const names = chat.own.known ? chat.own.followed.keys() : before;
  return [...new Set([...names, room.name])].sort();
}

/** What is entered is followed; what is followed is joined, also by another device; what is not is left. */
function attend() {
  if (!chat.own.known || !chat.me) return;
  inherit(chat.me.user);
  const { followed } = chat.own;
  for (const name of entered) {
    const known = followed.get(name);
    if (known && !known.by) entered.delete(name);
    else if (chat.rooms.get(name)?.member) {
      entered.delete(name);
      chat.follow(name, known?.level ?? "everything");
    }
  }
  const others = [...followed].filter(([name]) => isElsewhere(name)); // after those that are shown here
  for (const [name, { level, by }] of [...[...followed].filter(([name]) => !isElsewhere(name)), ...(talks ? [] : others)]) {
    if (chat.rooms.size < MOST_ROOMS && !chat.rooms.has(name) && !by && level === "everything") chat.enter(name);
  }
  for (const name of chat.rooms.keys()) if (!followed.has(name) && name !== room.name && !entered.has(name)) chat.leave(name);
  const now = { user: chat.me.user, rooms: [...followed.keys()] };
  if (now.user === kept?.user && String(now.rooms) === String(kept.rooms)) return;
  kept = now;
  shared.set("followed", kept);
}

/** A guest's rooms go on to whoever comes next in this browser, and follows none: a new guest, or the guest signed in. */
function inherit(/** @type {string} */ user) {
  const { user: before, rooms } = kept ?? { user: "guest-", rooms: shared.get("rooms", []) };
  shared.set("rooms", null);
  if (before === user || !isGuest(before)) return;
  kept = { user, rooms: [] };
  if (!chat.own.rooms.size) for (const name of rooms) if (roomName(name) === name) chat.follow(name, "everything");
}

/** @param {Wire.OwnEvent} event */
function told(event) {
  if (event.type === "followed" && event.by && event.by !== chat.me?.user) {
    view.notice(`You are invited to #${event.about} by ${called(chat.person(event.by))}.`);
  } else if (event.type === "mentioned" && event.about !== room.name && !chat.own.rooms.has(event.about)) {
    view.notice(`${called(event)} has named you in #${event.about}.`);
  }
}

/** The options of the room that is shown. @param {HTMLElement} place */
async function options(place) {
  (await import("./options.js")).fill(place, chat, room, leave);
}

/** @param {string} typed */
function enter(typed) {
  const name = roomName(typed);
  if (name === null) return "A room’s name has letters a to z, digits, and . _ - (64 at most), and begins with a letter or digit.";
  go(name);
  return null;
}

/** To this room at once, so that what is typed next is for it: keys that wait come before the news of an address. @param {string} hash */
function go(hash) {
  location.hash = hash;
  arrive();
}

/** @param {string} name */
function leave(name) {
  entered.delete(name);
  chat.unfollow(name);
  chat.leave(name);
  if (room.name === name) {
    go(talks ? "" : ([...chat.own.followed.keys()].find((name) => !isElsewhere(name)) ?? FIRST_ROOM));
  }
  draw();
}

/** The name of the room that the address asks for; the address then says it as it is. */
function asked() {
  const typed = unescaped(location.hash.slice(1));
  const name = talks ? (talks.has(typed) ? typed : talks.fresh()) : roomName(typed || FIRST_ROOM);
  if (name === null) view.notice(`“${typed}” cannot be a room’s name: letters a to z, digits, and . _ - only.`);
  const here = name ?? FIRST_ROOM;
  if (location.hash !== `#${here}`) history.replaceState(null, "", `#${here}`);
  return here;
}

function arrive() {
  const here = asked();
  if (room.name === here && chat.rooms.get(here) === room) return;
  room = chat.enter(here);
  show();
}

function show() {
  if (!talks) entered.add(room.name);
  hearing?.then((hearing) => hearing?.clear());
  composer.open(room);
  messages.open(room);
  if (matchMedia("(hover: hover)").matches) composer.focus(); // on a phone it would open the keyboard
  draw();
}

/** @param {string} text */
function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// Drawing: once a frame, however much came.

/** @param {Room | null} where @param {Wire.RoomEvent} [event] */
function changed(where, event) {
  const spoken = event?.type === "message" && !event.streaming && event.user !== chat.me?.user;
  if (spoken && where === room && room.synced) view.speak(event);
  if (drawing) return;
  drawing = true;
  if (document.hidden) setTimeout(draw, 200); // no frames there, but the title counts
  else requestAnimationFrame(draw);
}

/** @param {Room} where @param {Message} message */
async function grown(where, message) {
  changed(where);
  if (where !== room || message.user === chat.me?.user) return;
  const held = message.grown > 1; // of a short one all may be there when what tells of it is
  hearing ??= import("./hearing.js").then(({ Hearing }) => new Hearing(messages, view)).catch(() => null);
  (await hearing)?.grown(message, held);
}

/** Whether a room has its place on another page: with an agent, or of many people. @param {string} name */
function isElsewhere(name) {
  return name !== room.name && (talks ? !talks.has(name) : talkWith(name) !== null);
}

/** @param {string} name @returns {Listed} */
function inList(name) {
  const followed = chat.own.followed.get(name);
  const { unread, mentions } = news(followed, chat.rooms.get(name), chat.me?.user);
  return {
    name,
    here: name === room.name,
    unread: !followed || followed.level === "everything" ? unread : { count: 0, least: false },
    mentions: followed?.level === "nothing" ? 0 : mentions,
    quiet: followed?.level === "nothing",
    by: followed?.by ? called(chat.person(followed.by)) : null,
  };
}

/** The agents with whom there are conversations. @param {string[]} names @returns {Listed[]} */
function agents(names) {
  const others = names.filter(isElsewhere);
  if (others.length && listAgents === undefined) loadList();
  return listAgents?.(others.map(inList), chat) ?? [];
}

async function loadList() {
  listAgents = null;
  listAgents = (await import("./talks.js").catch(() => null))?.agents ?? null;
  changed(null);
}

function draw() {
  drawing = false;
  attend();
  messages.render(chat.me, connection.live);
  const rooms = listed();
  if (talks) {
    view.rooms(talks.list(rooms, room), talks.name);
    composer.address(talks.name);
  } else view.rooms([...rooms.filter((name) => !isElsewhere(name)).map(inList), ...agents(rooms)]);
  view.me(chat.me);
  view.status(connection.state, room, room.pending.filter((item) => item.seq === undefined && !item.error).length);
  view.typing(room.typists(chat.me?.user), room.doing());
  view.seen(seenBy());
  seen();
}

/** Those who are known to have read our message, when it is the last one. */
function seenBy() {
  const last = room.messages.at(-1);
  if (!messages.stuck || room.pending.length || !last || last.user !== chat.me?.user || last.deleted) return [];
  return [...room.marks].filter(([, seq]) => seq >= last.seq).map(([user]) => room.person(user));
}

function seen() {
  if (messages.stuck && !document.hidden) chat.seen(room);
}

// What a person does with a message.

/** @param {string} action @param {Acted} row @param {HTMLElement} button */
function act(action, row, button) {
  if (action === "goto") goTo(Number(button.dataset.seq));
  else if (row.kind === "message") actOnMessage(action, row.seen, button.dataset.emoji ?? "");
  else if (action === "retry") chat.retry(row.item);
  else if (action === "discard") chat.discard(row.item);
}

/** @param {string} action @param {Seen} message @param {string} emoji */
async function actOnMessage(action, message, emoji) {
  const here = room;
  if (action === "reply") composer.reply(message);
  else if (action === "stop") chat.stop(here, message.seq);
  else if (action === "edit") composer.edit(message);
  else if (action === "again" || action === "ask") {
    const question = here.find(message.reply_to ?? 0);
    if (question && action === "ask") composer.edit(question);
    else if (question) chat.edit(here, question.seq, question.text); // an edit asks again
  }
  else if (action === "delete") {
    if ((await view.askDelete(message)) !== LEAVE) chat.delete(here, message.seq);
  } else if (action === "react" && chat.me) {
    const mine = message.reactions.get(emoji)?.has(chat.me.user);
    chat.react(here, message.seq, emoji, !mine);
  }
}

/** Show the message that a reply quotes, fetching what lies between if need be. @param {number} seq */
async function goTo(seq) {
  const here = room;
  for (let page = 0; room === here && page <= PAGES_BACK; page++) {
    if (messages.goTo(seq)) return;
    if (!here.more || seq >= here.oldest || !(await chat.older(here, 200))) break;
  }
  view.notice("That message is too far back to go there, or is gone.");
}

// Who we are, and the connection.

async function who() {
  if (!chat.me) return;
  if (!chat.me.guest) {
    if (credentials.signedIn) await signIn(null, "Sign out");
    return;
  }
  const name = await view.askName(chat.me.name, false);
  if (name === TOKEN) await signIn(null, "Cancel");
  else if (name !== LEAVE && name !== chat.me.name) {
    credentials.name = name;
    connection.connect();
  }
}

/**
 * Sign in with a pasted token. `leave` is the other button, which does nothing but to sign out who is signed in.
 * @param {string | null} why @param {string} [leave]
 */
async function signIn(why, leave) {
  const token = await view.askToken(why, leave);
  if (token !== LEAVE) credentials.paste(token);
  else if (credentials.signedIn) credentials.forget();
  else return;
  connection.connect();
}

/** @param {State} state */
function stateChanged(state) {
  changed(null);
  if (state.name === "signed-out") signIn(state.why ?? null);
}

async function introduce() {
  const name = await view.askName("", true);
  if (name === TOKEN) await signIn(null, "Cancel");
  else if (name !== LEAVE) credentials.name = name;
}

async function start() {
  show();
  for (const name of listed().filter((name) => !isElsewhere(name)).slice(0, MOST_ROOMS)) chat.enter(name);
  if (!credentials.name && !credentials.token) {
    if (await connection.isClosed()) await signIn(null);
    else await introduce();
  }
  if (connection.state.name === "idle") connection.connect();
  if (matchMedia("(hover: hover)").matches) composer.focus();
}

addEventListener("hashchange", arrive);
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest('a[href^="#"]:not([target])') : null;
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // in a tab or window of its own
  event.preventDefault();
  go(link.getAttribute("href") ?? "");
});
addEventListener("online", () => connection.hasten(true));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) messages.away();
  else connection.hasten();
  draw();
});
setInterval(() => view.typing(room.typists(chat.me?.user), room.doing()), 1_000);

start();
