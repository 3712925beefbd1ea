// What one may choose for a room: of what it tells, whom to invite. Loaded when it is opened.

import { el, styled } from "./dom.js";

/** @import { Engine } from "./client/engine.js" */
/** @import { Room } from "./client/room.js" */

await styled("more.css");

/** @type {[Wire.Level, string, string][]} */
const LEVELS = [
  ["everything", "Every message", "The list of rooms counts what is unread."],
  ["mentions", "Mentions of me", "The list tells only of messages that name you."],
  ["nothing", "Nothing", "The list tells nothing of this room."],
];

/** Fill `place` for `room`. @param {HTMLElement} place @param {Engine} chat @param {Room} room @param {(room: string) => void} leave */
export function fill(place, chat, room, leave) {
  const { name } = room;
  const level = chat.own.followed.get(name)?.level;
  const people = room.people(chat.me?.user);
  const levels = LEVELS.map(([value, label, note]) => {
    const input = el("input", { type: "radio", name: "level", value, checked: value === level });
    input.addEventListener("change", () => chat.follow(name, value));
    return el("label", {}, input, el("span", {}, label, el("small", {}, note)));
  });
  const user = el("input", {
    id: "invite-user", name: "user", maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    list: "invite-people", placeholder: "Name or user id", "aria-describedby": "invite-note",
  });
  const note = el("p", { id: "invite-note", class: "note", role: "status" });
  const form = el(
    "form", { novalidate: true },
    el("label", { for: "invite-user" }, "Invite somebody"),
    el("div", { class: "pair" }, user, el("button", { class: "primary" }, "Invite")),
    el("datalist", { id: "invite-people" }, ...people.map((person) => el("option", { value: person.user }, person.name))),
    note,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = user.value.trim().replace(/^@/, "");
    if (!typed) return;
    const ofId = people.filter((person) => person.user === typed);
    const meant = ofId.length ? ofId : people.filter((person) => person.name.toLowerCase() === typed.toLowerCase());
    const wrong = meant.length > 1 ? `Several are called ${typed}: write the id of the one you mean.` : "";
    const whom = meant[0]?.name ?? `Whoever has the user id “${typed}”`;
    note.textContent = wrong || `${whom} will find #${name} in their list of rooms.`;
    note.classList.toggle("wrong", wrong !== "");
    if (wrong) return;
    chat.invite(name, meant[0]?.user ?? typed);
    user.value = "";
  });
  const away = el("button", { type: "button", class: "plain" }, "Leave this room");
  away.addEventListener("click", () => {
    place.hidePopover();
    leave(name);
  });
  place.replaceChildren(
    el("h2", {}, `#${name}`), el("fieldset", {}, el("legend", {}, "Tell me of"), ...levels), form, away,
  );
  (levels.map((label) => label.querySelector("input")).find((input) => input?.checked) ?? user).focus();
}
