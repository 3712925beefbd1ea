// The client for apps: docs/javascript-client.md. The types are in index.d.ts.

export { Chat } from "./chat.js";
export { ChatError } from "./errors.js";
export { roomName } from "./room.js";
