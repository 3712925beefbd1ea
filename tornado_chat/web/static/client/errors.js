// What goes wrong for an app.

/** `code`: docs/protocol.md (Errors), or one of our own: closed, discarded, failed, left, silent. */
export class ChatError extends Error {
  name = "ChatError";

  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}
