// Messages that grow, for who hears the page: sentence by sentence. Loaded with the first of them.

import { called } from "./format.js";
import { Sentences } from "./sentences.js";

const EVERY = 1_000; // ms

/** @import { MessageList } from "./list.js" */
/** @import { Message } from "./client/room.js" */
/** @import { View } from "./view.js" */

export class Hearing {
  #texts = /** @type {Map<Message, Sentences>} */ (new Map());
  #timer = 0;

  /** @param {MessageList} list @param {View} view */
  constructor(list, view) {
    this.list = list;
    this.view = view;
  }

  /** Another message grows, or this one has grown or ended. @param {Message} message @param {boolean} held Some of it was there before. */
  grown(message, held) {
    if (!this.#texts.has(message)) {
      const sentences = new Sentences();
      if (held) sentences.told = this.list.said(message).length; // what was there before is read like any text
      this.#texts.set(message, sentences);
    }
    this.#timer ||= setTimeout(() => this.#tell(), EVERY);
  }

  /** Of another room, or the page is left: what was not told is not told any more. */
  clear() {
    this.#texts.clear();
  }

  #tell() {
    this.#timer = 0;
    for (const [message, sentences] of this.#texts) {
      const begun = sentences.told > 0;
      const words = sentences.next(this.list.said(message), message.streaming);
      if (words) this.view.tell(begun ? words : `${called(message)}: ${words}`);
      if (!message.streaming) this.#texts.delete(message);
    }
  }
}
