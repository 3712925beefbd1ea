// The commands of agents, which complete a "/" at the beginning of a text, perhaps behind an agent's name. Loaded with the
// first. Each agent tells them in a room of its own (docs/protocol.md, "Agents").

import { el } from "./dom.js";
import { commandsOf, visibleName } from "./format.js";

/** @import { On, Source } from "./completion.js" */
/** @import { Person } from "./format.js" */

const COMMAND = /^\s*(?:@([^\n/]{1,64}?)[\s,:]+)?\/([\w-]{0,64})$/;
const ARGUMENT = /^\s*(?:@([^\n/]{1,64}?)[\s,:]+)?\/([\w-]{1,64})\s+(\S{0,40})$/;
const WHOLE = /^\s*\/([\w-]{1,64})(?:\s|$)/;
const FRESH = 60_000; // ms for which what an agent told is taken as it was

/** @typedef {{ name: string, description?: string, choices: string[] }} Command */

/** What an agent tells of its commands, which is as it likes. @param {Wire.Past[]} messages @param {string} agent @returns {Command[]} */
function commandsIn(messages, agent) {
  const told = messages.findLast(({ user, meta }) => user === agent && Array.isArray(meta?.commands))?.meta?.commands ?? [];
  return told.flatMap((one) => {
    const { name, description, choices } = Object(one);
    if (typeof name !== "string" || !/^[\w-]{1,64}$/.test(name)) return [];
    return [{
      name,
      description: typeof description === "string" ? description : undefined,
      choices: Array.isArray(choices) ? choices.filter((choice) => typeof choice === "string" && choice) : [],
    }];
  });
}

export class Commands {
  #known = /** @type {Map<string, { commands: Command[], at: number, asking: Promise<unknown> }>} */ (new Map()); // by agent

  /** @param {On} on */
  constructor(on) {
    this.on = on;
  }

  /** @type {Source} */
  get names() {
    return {
      label: "Commands",
      begun: (before) => {
        const match = COMMAND.exec(before);
        return match && { from: match[0].length - match[2].length - 1, query: match[0] };
      },
      ready: (query) => this.#ask(query),
      options: (query) => {
        const [, , begun] = COMMAND.exec(query) ?? [];
        const all = this.#who(query).flatMap((agent) => this.#of(agent).map((command) => ({ agent, command })));
        return all.filter(({ command }) => command.name.startsWith(begun.toLowerCase())).map(({ agent, command }) => ({
          shown: [
            el("b", {}, `/${command.name}`), " ", el("small", { class: "clipped" }, command.description ?? null),
            this.#who(query).length > 1 ? el("small", { class: "whose" }, visibleName(agent)) : null,
          ],
          text: () => `/${command.name} `,
          picked: () => this.on.picked(agent),
        }));
      },
    };
  }

  /** What may stand behind a command. @type {Source} */
  get choices() {
    return {
      label: "What the command may be given",
      begun: (before) => {
        const match = ARGUMENT.exec(before);
        return match && { from: match[0].length - match[3].length, query: match[0] };
      },
      ready: (query) => this.#ask(query),
      options: (query) => {
        const [, , name, begun] = ARGUMENT.exec(query) ?? [];
        const commands = this.#who(query).flatMap((agent) => this.#of(agent).filter((command) => command.name === name.toLowerCase()));
        const choices = [...new Set(commands.flatMap((command) => command.choices))];
        return choices.filter((choice) => choice.toLowerCase().startsWith(begun.toLowerCase())).map((choice) => ({
          shown: [el("b", { dir: "auto" }, choice)],
          text: () => `${choice} `,
          picked: () => {},
        }));
      },
    };
  }

  /** The agents that have the command with which `text` begins; of several the one of which it was picked. @param {string} text @param {Person[]} picked */
  meant(text, picked) {
    const name = WHOLE.exec(text)?.[1].toLowerCase();
    if (name === undefined) return [];
    const agents = this.on.agents().filter((agent) => this.#of(agent).some((command) => command.name === name)).map(({ user }) => user);
    const chosen = agents.filter((agent) => picked.some(({ user }) => user === agent));
    return chosen.length ? chosen : agents;
  }

  /** Whoever is named before the command, else all agents here. @param {string} query */
  #who(query) {
    const named = (COMMAND.exec(query) ?? ARGUMENT.exec(query))?.[1]?.toLowerCase();
    if (named === undefined) return this.on.agents();
    return this.on.people().filter(({ user, name }) => user.toLowerCase() === named || name.toLowerCase() === named);
  }

  /** @param {Person} agent */
  #of({ user }) {
    return this.#known.get(user)?.commands ?? [];
  }

  /** @param {string} query */
  #ask(query) {
    return Promise.all(this.#who(query).map(({ user }) => {
      const known = this.#known.get(user);
      if (known && Date.now() - known.at < FRESH) return known.asking;
      const asked = { commands: known?.commands ?? [], at: Date.now(), asking: /** @type {Promise<unknown>} */ (Promise.resolve()) };
      asked.asking = this.on.last(commandsOf(user)).then((messages) => {
        if (messages) asked.commands = commandsIn(messages, user);
        else asked.at = 0;
      });
      this.#known.set(user, asked);
      return asked.asking;
    }));
  }
}
