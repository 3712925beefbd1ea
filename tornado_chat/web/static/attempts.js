// The attempts of an agent to answer one message. One of them is shown: the newest, or which was chosen instead.

/** @import { Message } from "./client/room.js" */

const ID = /^re:(\d+)(?::\d+)?$/; // docs/protocol.md, "Agents"

/** What the attempts to answer one message have in common; "" of other messages. @param {Message} message */
export function answering({ agent, deleted, id = "", user, reply_to }) {
  const asked = agent && !deleted ? ID.exec(id)?.[1] : undefined;
  return asked !== undefined && Number(asked) === reply_to ? `${asked} ${user}` : "";
}

export class Attempts {
  // By what they answer: the seq of the one that was chosen, and of the newest one then.
  #chosen = /** @type {Map<string, { seq: number, newest: number }>} */ (new Map());

  /** Those among `messages`, by what they answer, oldest first. @param {Message[]} messages */
  static in(messages) {
    /** @type {Map<string, Message[]>} */
    const found = new Map();
    for (const message of messages) {
      const key = message.agent ? answering(message) : "";
      const others = found.get(key);
      if (others) others.push(message);
      else if (key) found.set(key, [message]);
    }
    return found;
  }

  /** All that answer the same as `message`; undefined if it is none. @param {Message[]} messages @param {Message} message */
  others(messages, message) {
    return Attempts.in(messages).get(answering(message));
  }

  /** Show this one of `all`, until there is another. @param {Message[]} all @param {number} seq */
  choose(all, seq) {
    this.#chosen.set(answering(all[0]), { seq, newest: all[all.length - 1].seq });
  }

  /** Which of `all` is shown. @param {Message[]} all */
  shown(all) {
    const newest = all.at(-1);
    if (!newest) return null;
    const chosen = this.#chosen.get(answering(newest));
    return (chosen?.newest === newest.seq && all.find(({ seq }) => seq === chosen.seq)) || newest;
  }
}
