// One row of the list: a message, one of ours on its way, a day, the line above what is new.

import { el, icon } from "./dom.js";
import { dayName, excerpt, fullTime, hue, initials, list, pieces, shortTime, time } from "./format.js";

export const EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏", "👀"];

/** What is seen of a message: as the log has it, with our own changes on top that are still on their way. */
export function shown(message, room, me) {
  const changes = room.changes.filter((item) => item.command.seq === message.seq);
  const seen = { ...message, state: message.deleted ? "gone" : "" };
  if (message.deleted) return seen;
  seen.reactions = [...message.reactions].map(([emoji, users]) => [emoji, new Set(users)]);
  for (const { command } of changes) {
    if (command.type === "edit") {
      seen.text = command.text;
      seen.state ||= "saving";
    } else if (command.type === "delete") {
      seen.state = "deleting";
    } else {
      let entry = seen.reactions.find(([emoji]) => emoji === command.emoji);
      if (!entry) seen.reactions.push((entry = [command.emoji, new Set()]));
      if (command.on) entry[1].add(me.user);
      else entry[1].delete(me.user);
    }
  }
  seen.reactions = seen.reactions.filter(([, users]) => users.size);
  return seen;
}

/** Everything that a row's look depends on, as a string to compare; `row` is a model of list.js. */
export function signature(row, room, me, live) {
  switch (row.kind) {
    case "message": {
      const changes = room.changes.reduce((all, item) => (item.command.seq === row.seq ? all + item.id : all), "");
      const quote = row.message.reply_to ? room.find(row.message.reply_to) : null;
      const quoted = quote ? `${quote.seq}.${quote.version}` : "";
      return `${row.message.version}|${row.first}|${me?.user}|${changes}|${quoted}`;
    }
    case "pending":
      return `${row.first}|${row.item.error}|${row.item.seq}|${live}|${row.unsure}`;
    default:
      return String(row.label);
  }
}

/** Fill `node` (an li) with what `row` shows. */
export function fill(node, row, room, me, live) {
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
      fillMessage(node, row, shown(row.message, room, me), room, me);
      return;
    case "pending":
      fillPending(node, row, room, me, live);
  }
}

function fillMessage(node, row, seen, room, me) {
  const { user, name, ts } = seen;
  const mine = user === me?.user;
  node.className = `message${row.first ? " first" : ""}${mine ? " mine" : ""}${seen.state ? ` ${seen.state}` : ""}`;
  node.tabIndex = -1;
  const when = el("time", { datetime: new Date(ts).toISOString(), title: fullTime(ts) }, time(ts));
  const content = el("div", { class: "content" });
  if (row.first) content.append(head(name, user, when));
  if (seen.reply_to && !seen.deleted) content.append(quote(seen.reply_to, room));
  if (seen.deleted) {
    content.append(el("p", { class: "text" }, "This message was deleted."));
  } else {
    const paragraph = text(seen.text);
    if (seen.edited || seen.state === "saving") {
      const title = seen.edited ? `Edited ${fullTime(seen.edited)}` : null;
      paragraph.append(el("span", { class: "edited", title }, seen.state === "saving" ? " saving…" : " (edited)"));
    }
    content.append(paragraph);
    if (seen.reactions.length) content.append(reactions(seen.reactions, room, me));
  }
  replace(node, gutter(row.first, name, user, when), content);
}

function fillPending(node, row, room, me, live) {
  const { item } = row;
  node.className = `message mine pending${row.first ? " first" : ""}${item.error || row.unsure ? " refused" : ""}`;
  node.tabIndex = -1;
  const when = el("time", { datetime: new Date(item.at).toISOString() }, time(item.at));
  const content = el("div", { class: "content" });
  if (row.first) content.append(head(me?.name ?? "You", me?.user ?? "", when));
  if (item.command.reply_to) content.append(quote(item.command.reply_to, room));
  content.append(text(item.command.text));
  if (item.error || row.unsure) {
    const why = item.error ? `Not sent. ${item.error}` : "You were signed in as someone else when this was sent, and no answer came: it may be there already.";
    content.append(
      el("p", { class: "fate" }, el("span", {}, why, " "), doing("retry", row.unsure ? "Send again" : "Try again"), " ", doing("discard", "Discard")),
    );
  } else if (item.seq === undefined) {
    content.append(el("p", { class: "fate" }, live ? "Sending…" : "Will be sent when you are back online."));
  }
  replace(node, gutter(row.first, me?.name ?? "You", me?.user ?? "", when), content);
}

/** Exchange the parts and leave the toolbar, if it hangs here, and the focus where they are. */
function replace(node, ...parts) {
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  const toolbar = node.querySelector(":scope > .toolbar");
  for (const child of [...node.children]) if (child !== toolbar) child.remove();
  node.prepend(...parts);
  if (focused) (node.querySelector(`[data-focus="${CSS.escape(focused)}"]`) ?? node).focus({ preventScroll: true });
}

function doing(action, label) {
  return el("button", { type: "button", class: "link", "data-do": action, "data-focus": action }, label);
}

function gutter(first, name, user, when) {
  if (!first) return el("div", { class: "gutter", "aria-hidden": "true" }, el("time", { title: when.title }, shortTime(when.dateTime)));
  return el("div", { class: "gutter" }, avatar(name, user));
}

export function avatar(name, user) {
  const node = el("span", { class: "avatar", "aria-hidden": "true" }, initials(name));
  node.style.setProperty("--hue", hue(user)); // by CSSOM: a style attribute is against the page's policy
  return node;
}

function head(name, user, when) {
  const shownName = el("b", { class: "name", title: user, dir: "auto" }, name);
  shownName.style.setProperty("--hue", hue(user));
  return el("p", { class: "head" }, shownName, " ", when);
}

function text(words) {
  const paragraph = el("p", { class: "text", dir: "auto" });
  for (const piece of pieces(words)) {
    paragraph.append(
      piece.href ? el("a", { href: piece.href, target: "_blank", rel: "noopener noreferrer nofollow" }, piece.text) : piece.text,
    );
  }
  return paragraph;
}

function quote(seq, room) {
  const original = room.find(seq);
  const children = original
    ? [el("b", {}, original.name), " ", el("span", { dir: "auto" }, original.deleted ? "This message was deleted." : excerpt(original.text))]
    : [el("span", {}, "An earlier message")];
  return el("button", { type: "button", class: "quote", "data-do": "goto", "data-seq": seq, "data-focus": "goto", "aria-label": `In reply to ${original?.name ?? "an earlier message"}: go there` }, ...children);
}

function reactions(all, room, me) {
  const names = (users) => [...users].map((user) => (user === me?.user ? "you" : (room.names.get(user) ?? user)));
  return el(
    "div",
    { class: "reactions" },
    ...all.map(([emoji, users]) => {
      const pressed = users.has(me?.user);
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

/** The one toolbar of the list; it moves to the message that is pointed at or has the focus. */
export function toolbar() {
  const button = (action, label) =>
    el("button", { type: "button", class: "tool", "data-do": action, "data-focus": action, "aria-label": label, title: label }, icon(action === "picker" ? "react" : action));
  const picker = el(
    "div",
    { class: "picker", role: "group", "aria-label": "React with", hidden: true },
    ...EMOJI.map((emoji) => el("button", { type: "button", class: "tool emoji", "data-do": "react", "data-emoji": emoji, "aria-label": `React with ${emoji}` }, emoji)),
  );
  const open = button("picker", "React");
  open.setAttribute("aria-expanded", "false");
  return el("div", { class: "toolbar", role: "group", "aria-label": "What to do with this message" }, open, button("reply", "Reply"), button("edit", "Edit"), button("delete", "Delete"), picker);
}
