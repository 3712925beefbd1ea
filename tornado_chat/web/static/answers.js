// What stands about an agent's message: the steps on its way, what its asker may do with it, its other attempts. Loaded
// with the first of them.

import { copied } from "./code.js";
import { drawn, el, styled } from "./dom.js";

/** @import { Me } from "./client/engine.js" */
/** @import { Message, Room } from "./client/room.js" */
/** @import { Seen } from "./row.js" */

await styled("agents.css");

export { answering, Attempts } from "./attempts.js";

const COPIED = 2_000; // ms that the button says so
const STATES = { running: "running", done: "done", error: "failed" };
const PATHS = {
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  copied: "M5 12.500l4.500 4.500L19 7.500",
  again: "M19 12a7 7 0 1 1-2.200-5.100L19 9M19 4.500V9h-4.500",
  ask: "M4 20l.9-4L16.500 4.400a1.900 1.900 0 0 1 2.700 0l.4.4a1.900 1.900 0 0 1 0 2.700L8 19.100 4 20ZM14.500 6.500l3 3",
  back: "M14.500 6 8.500 12l6 6",
  on: "M9.500 6l6 6-6 6",
};

class Steps {
  element = el("div", { class: "steps", role: "group", "aria-label": "Steps" });
  seq = 0; // of the message
  #rows = /** @type {Map<string, { told: string, row: HTMLDetailsElement }>} */ (new Map()); // by the step's id

  /** Rows that are open stay so. @param {Seen} message @param {Wire.ToolRun[]} steps */
  show({ seq }, steps) {
    if (seq !== this.seq) this.#rows.clear();
    this.seq = seq;
    for (const step of steps) {
      const told = JSON.stringify(step);
      const known = this.#rows.get(step.id);
      const row = known?.row ?? el("details");
      if (known?.told !== told) fill(row, step);
      this.#rows.set(step.id, { told, row });
    }
    const rows = steps.flatMap(({ id }) => this.#rows.get(id)?.row ?? []);
    for (const child of [...this.element.children]) if (!rows.some((row) => row === child)) child.remove();
    for (const [at, row] of rows.entries()) if (this.element.children[at] !== row) this.element.insertBefore(row, this.element.children[at] ?? null);
  }
}

/** @param {HTMLDetailsElement} row @param {Wire.ToolRun} step */
function fill(row, { id, name, state, input, output }) {
  const known = Object.hasOwn(STATES, state) ? state : "done";
  row.className = `step ${known}`;
  const summary = row.querySelector("summary") ?? el("summary", { "data-focus": `step ${id}` });
  summary.replaceChildren(
    el("span", { class: "sign", "aria-hidden": "true" }), el("b", { dir: "auto" }, String(name)), " ",
    el("span", { class: "state" }, STATES[known]), " ", el("span", { class: "clipped", dir: "auto" }, input ? String(input) : null),
  );
  row.querySelector("dl")?.remove();
  if (summary.parentNode !== row) row.append(summary); // one that is moved loses the focus
  row.append(el("dl", {}, ...part("Input", input), ...part("Output", output), ...(input || output ? [] : part("", "Nothing else is told of it."))));
}

/** @param {string} title @param {string} [text] */
const part = (title, text) => (text ? [el("dt", {}, title), el("dd", { tabindex: 0, dir: "auto" }, String(text))] : []);

/** What a message says of its steps, which anybody may have written. @param {Seen} message @returns {Wire.ToolRun[]} */
function stepsOf({ steps, meta }) {
  if (steps.size) return [...steps.values()];
  const kept = Array.isArray(meta?.steps) ? meta.steps : [];
  return kept.filter((step) => step && typeof step === "object" && typeof step.id === "string" && typeof step.name === "string");
}

const shown = /** @type {WeakMap<HTMLElement, Steps>} */ (new WeakMap()); // by the row of the message

/** The steps of a message, in `row`, if there are any. @param {HTMLElement} row @param {Seen} message */
export function steps(row, message) {
  const told = stepsOf(message);
  if (!told.length) return [];
  const here = shown.get(row) ?? new Steps();
  shown.set(row, here);
  here.show(message, told);
  return [here.element];
}

/**
 * What may be done with an agent's message: for its asker, to copy it or to ask again; and for all to look at the other
 * attempts to answer the same.
 * @param {Seen} message @param {Message[]} attempts @param {Room} room @param {Me | null} me @param {boolean} well It has ended well.
 */
export function actions(message, attempts, room, me, well) {
  const question = message.reply_to ? room.find(message.reply_to) : null;
  /** @type {HTMLElement[]} */
  const found = [];
  if (attempts.length > 1) found.push(choice(message, attempts));
  if (!message.streaming && me && question?.user === me.user) {
    if (message.text) found.push(copying(message.text));
    if (!question.deleted) {
      const asked = room.changes.some(({ command }) => command.seq === question.seq);
      found.push(button("again", "Regenerate", !well), button("ask", "Edit and ask again"));
      for (const one of found.slice(-2)) one.toggleAttribute("disabled", asked);
    }
  }
  return found.length ? [el("div", { class: "actions", role: "group", "aria-label": "What to do with this answer" }, ...found)] : [];
}

/** @param {Seen} message @param {Message[]} attempts */
function choice({ seq }, attempts) {
  const at = attempts.findIndex((one) => one.seq === seq);
  /** @param {"back" | "on"} way @param {string} label @param {Message | undefined} to */
  const step = (way, label, to) => {
    const made = button(way, label);
    made.dataset.do = "attempt";
    made.toggleAttribute("disabled", !to);
    made.dataset.seq = String(to?.seq ?? "");
    return made;
  };
  return el(
    "span", { class: "attempts" },
    step("back", "The attempt before", attempts[at - 1]), el("span", { role: "status" }, `${at + 1} of ${attempts.length}`), step("on", "The attempt after", attempts[at + 1]),
  );
}

/** @param {"copy" | "again" | "ask" | "back" | "on"} action @param {string} label @param {boolean} [words] It is shown in words, too. */
function button(action, label, words = false) {
  return el(
    "button", { type: "button", class: "act", "data-do": action, "data-focus": action, "aria-label": label, title: label },
    drawn(PATHS[action]), words ? label : null,
  );
}

/** @param {string} text */
function copying(text) {
  const copy = button("copy", "Copy");
  delete copy.dataset.do;
  /** @param {string} label @param {"copy" | "copied"} line */
  const labelled = (label, line) => {
    copy.setAttribute("aria-label", label); // which is read anew when it changes
    copy.title = label;
    copy.replaceChildren(drawn(PATHS[line]));
  };
  copy.addEventListener("click", async () => {
    if (await copied(text)) labelled("Copied", "copied");
    else labelled("Not copied", "copy");
    setTimeout(labelled, COPIED, "Copy", "copy");
  });
  return copy;
}
