// What one may choose for a room: of what it tells, whom to invite. Loaded when it is opened.

import { el, styled } from "./dom.js";

/** @import { Person } from "./format.js" */
/** @import { Room } from "./room.js" */

await styled("more.css");

/** @type {[Wire.Level, string, string][]} */
const LEVELS = [
  ["everything", "Every message", "The list of rooms counts what is unread."],
  ["mentions", "Mentions of me", "The list tells only of messages that name you."],
  ["nothing", "Nothing", "The list tells nothing of this room."],
];

/**
 * Fill `place` for `room`, which is followed with `level`, if it is. `people`: who may be meant by a name.
 * @param {HTMLElement} place @param {Room} room @param {Wire.Level | null} level @param {Person[]} people
 * @param {{ level: (level: Wire.Level) => void, invite: (user: string) => void, leave: () => void }} on
 */
export function fillOptions(place, room, level, people, on) {
  const levels = LEVELS.map(([value, label, note]) => {
    const input = el("input", { type: "radio", name: "level", value, checked: value === level });
    input.addEventListener("change", () => on.level(value));
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
    el("datalist", { id: "invite-people" }, ...people.map(({ name, user: id }) => el("option", { value: id }, name))),
    note,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = user.value.trim().replace(/^@/, "");
    if (!typed) return;
    const meant = people.filter((person) => person.user === typed || person.name.toLowerCase() === typed.toLowerCase());
    const wrong = meant.length > 1 ? `Several are called ${typed}: write the id of the one you mean.` : "";
    note.textContent = wrong || `${meant[0]?.name ?? typed} will find #${room.name} in their list of rooms.`;
    note.classList.toggle("wrong", wrong !== "");
    if (wrong) return;
    on.invite(meant[0]?.user ?? typed);
    user.value = "";
  });
  const leave = el("button", { type: "button", class: "plain" }, "Leave this room");
  leave.addEventListener("click", () => on.leave());
  place.replaceChildren(
    el("h2", {}, `#${room.name}`), el("fieldset", {}, el("legend", {}, "Tell me of"), ...levels), form, leave,
  );
}
