// What one can do with a message: the tools that hang at the one that is pointed at or has the focus. Loaded with the first
// message.

import { drawn, el, styled } from "./dom.js";

await styled("more.css");

const EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢", "🙏", "👀"];
const PATHS = {
  react: "M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18ZM8.500 14.200c.8 1.300 2 2 3.500 2s2.700-.7 3.500-2M9 9.500v.01M15 9.500v.01",
  reply: "M9.500 6 4 11.500 9.500 17M4.500 11.500H14c3.600 0 6 2.300 6 6.500",
  edit: "M4 20l.9-4L16.500 4.400a1.900 1.900 0 0 1 2.700 0l.4.4a1.900 1.900 0 0 1 0 2.700L8 19.100 4 20ZM14.500 6.500l3 3",
  delete: "M5 7h14M10 7V4.500h4V7M7 7l.8 12.500h8.400L17 7M10.500 10.500v6M13.500 10.500v6",
};

export function tools() {
  /** @param {string} action @param {string} label @param {keyof typeof PATHS} line */
  const button = (action, label, line) =>
    el(
      "button",
      { type: "button", class: "tool", "data-do": action, "data-focus": action, "aria-label": label, title: label },
      drawn(PATHS[line]),
    );
  const picker = el(
    "div",
    { class: "picker", role: "group", "aria-label": "React with", hidden: true },
    ...EMOJI.map((emoji) => el("button", { type: "button", class: "tool emoji", "data-do": "react", "data-emoji": emoji, "aria-label": `React with ${emoji}` }, emoji)),
  );
  const open = button("picker", "React", "react");
  open.setAttribute("aria-expanded", "false");
  return [open, button("reply", "Reply", "reply"), button("edit", "Edit", "edit"), button("delete", "Delete", "delete"), picker];
}
