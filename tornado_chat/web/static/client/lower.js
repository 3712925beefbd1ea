// The transports below the WebSocket, and the requests by which one says something on them. Loaded when they are needed.

export { Commands } from "./commands.js";
export { Holders } from "./holders.js";
export { PollTransport } from "./poll.js";
export { StreamTransport } from "./stream.js";
