// Wires the page: the address says which room, the chat says what is in it, the view shows it.

import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { byId } from "./dom.js";
import { Holders } from "./holders.js";
import { MessageList } from "./list.js";
import { roomName } from "./room.js";
import { Credentials, shared, tab } from "./store.js";
import { Texts } from "./texts.js";
import { LEAVE, TOKEN, View } from "./view.js";

const FIRST_ROOM = "lobby";
const MOST_ROOMS = 40; // each is joined, so that it can say what is unread
const PAGES_BACK = 20; // of history, looked through for a message that a reply quotes

/** @import { State } from "./connection.js" */
/** @import { Acted } from "./list.js" */
/** @import { Room } from "./room.js" */
/** @import { Seen } from "./row.js" */

const credentials = new Credentials();
const chat = new Chat({
  store: tab,
  connect: (on) => new Connection({ base: new URL(".", location.href), credentials, memory: tab, holders: new Holders(shared), on: { ...on, state: stateChanged } }),
  on: { changed, notice: (text) => view.notice(text) },
});
const { connection } = chat;

const view = new View({ enter, leave, who, signIn: () => signIn(null, "Cancel"), retry: () => connection.connect(), said: (text) => texts.said(text) });
let room = chat.enter(asked());
let drawing = false;

const texts = new Texts(() => changed(null));
const messages = new MessageList(
  byId,
  room,
  texts,
  { allowed: () => credentials.rooms, older: () => chat.older(room), quoted: (seq) => chat.quoted(room, seq), act, seen },
);
const composer = new Composer({
  drafts: tab,
  limits: () => chat.limits,
  said: (text) => texts.said(text),
  on: {
    post(text, replyTo) {
      chat.post(room, text, replyTo);
      messages.toEnd();
    },
    edit: (message, text) => chat.edit(room, message.seq, text),
    typing: (on) => chat.typing(room, on),
    last: () => room.messages.findLast((message) => message.user === chat.me?.user && !message.deleted),
  },
});

// Rooms: the address names the one that is shown, the browser remembers those that were visited.

function visited() {
  return shared.get("rooms", []).filter((name) => roomName(name) === name);
}

/** @param {string} name */
function visit(name) {
  const names = visited();
  if (!names.includes(name)) shared.set("rooms", [...names, name].slice(-MOST_ROOMS));
}

/** @param {string} typed */
function enter(typed) {
  const name = roomName(typed);
  if (name === null) return "A room’s name has letters a to z, digits, and . _ - (64 at most), and begins with a letter or digit.";
  location.hash = name;
  return null;
}

/** @param {string} name */
function leave(name) {
  shared.set("rooms", visited().filter((other) => other !== name));
  chat.leave(name);
  if (room.name === name) location.hash = visited()[0] ?? FIRST_ROOM;
  draw();
}

/** The name of the room that the address asks for; the address then says it as it is. */
function asked() {
  const typed = unescaped(location.hash.slice(1));
  const name = roomName(typed || FIRST_ROOM);
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
  visit(room.name);
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

function joinVisited() {
  for (const name of visited()) if (!chat.rooms.has(name)) chat.enter(name);
}

// Drawing: once a frame, however much came.

/** @param {Room | null} where @param {Wire.Event} [event] */
function changed(where, event) {
  if (event?.type === "message" && where === room && room.synced && event.user !== chat.me?.user) view.speak(event);
  if (drawing) return;
  drawing = true;
  if (document.hidden) setTimeout(draw, 200); // no frames there, but the title counts
  else requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  messages.render(chat.me, connection.live);
  view.rooms([...new Set([...visited(), room.name])].map((name) => ({
    name,
    here: name === room.name,
    unread: chat.rooms.get(name)?.unread(chat.me?.user) ?? { count: 0, least: false },
  })));
  view.me(chat.me);
  view.status(connection.state, room, room.pending.filter((item) => item.seq === undefined && !item.error).length);
  view.typing(room.typists(chat.me?.user));
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
  else if (action === "edit") composer.edit(message);
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
  joinVisited();
  if (!credentials.name && !credentials.token) {
    if (await connection.isClosed()) await signIn(null);
    else await introduce();
  }
  if (connection.state.name === "idle") connection.connect();
  if (matchMedia("(hover: hover)").matches) composer.focus();
}

addEventListener("hashchange", arrive);
addEventListener("online", () => connection.hasten(true));
addEventListener("storage", () => {
  joinVisited();
  changed(null);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) messages.away();
  else connection.hasten();
  draw();
});
setInterval(() => view.typing(room.typists(chat.me?.user)), 1_000);

start();
