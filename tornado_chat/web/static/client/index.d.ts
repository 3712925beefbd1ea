// The client for apps, as docs/javascript-client.md tells it. The type check holds the code to it.

import type * as Wire from "./wire.d.ts";

/** What goes over the wire: the commands, events, signals and answers of docs/protocol.md. */
export type { Wire };

export interface ChatOptions {
  /** The server's address. Not needed where this file was imported from the server itself. */
  url?: string | URL;
  /** Who you are. Without one you are a guest, where the server lets guests in. */
  token?: string;
  /** What a guest is called. */
  name?: string;
  /** The ways in that may be used, instead of all that there are: a WebSocket, server-sent events, long polls. */
  transports?: Transport[];
  /** A WebSocket class, where the platform has none, as that of the package `ws`. With none it begins with a stream. */
  WebSocket?: new (url: string, protocols?: string | string[]) => any;
  /** Where to keep what is not acknowledged yet, so that it outlives a reload, and a guest's token: `sessionStorage`. */
  storage?: Storage;
  /** The same for all tabs, so that they share the six connections that a browser opens to a server: `localStorage`. */
  shared?: Storage;
}

export type Transport = "websocket" | "stream" | "poll";

/**
 * `open`: connected, by the transport `kind`. `waiting`: it tries again at `until`, in ms since 1970. `signed-out`: it needs
 * another token. `idle`: it was closed.
 */
export type State =
  | { name: "idle" | "connecting" }
  | { name: "open"; kind: Transport; crowded: boolean }
  | { name: "waiting"; until: number; why?: string; refused?: boolean }
  | { name: "signed-out"; why?: string };

export interface Me {
  user: string;
  name: string;
  guest: boolean;
  moderator: boolean;
}

/** What is told of a chat: to hear of it, `chat.on(name, listener)`. */
export interface ChatEvents {
  /** The connection is in another state. */
  state: [state: State];
  /** Something may be other than it was, in whichever room, or in `chat.rooms`. */
  changed: [];
  /** An event of one's own log: you were named somewhere, invited, have read something on another device. */
  own: [event: Wire.OwnEvent];
  /** A sentence for the person: something was refused. */
  notice: [text: string];
}

/** What is told of a room: to hear of it, `room.on(name, listener)`. */
export interface RoomEvents {
  /** A message came: of those that were there when you joined (see `last`), of those that you missed, or now. */
  message: [message: Message];
  /** An event of the room's log, of whichever kind: all of them, in their order, each once. */
  event: [event: Wire.RoomEvent];
  /** The text of a message is longer, or has ended. */
  grown: [message: Message];
  /** A message that grew has ended, and all of its text is there: once for each. */
  ended: [message: Message];
  /** Somebody types, an agent tells what it does, somebody has read. Nothing is kept of these, and some may be lost. */
  signal: [frame: Wire.Signal];
  /** What was held is of no use any more: too much was missed (see `gap`), or the log is another. The newest follow. */
  reset: [];
  /** Something of the room may be other than it was; `version` is. */
  changed: [];
  /** Nothing comes of this room any more: it was left, or the chat was closed. */
  lost: [error: ChatError];
}

export interface JoinOptions {
  /** So many of the newest events come first. 60 without it. */
  last?: number;
  /** Instead: all that came after this place, which is a `cursor` of before. */
  after?: Cursor;
  /** Where more events were missed than so many, it begins with the newest again: `reset`. 2,000 without it; Infinity: never. */
  gap?: number;
}

/** A place in a room's log: `seq` is the number of an event, `epoch` the name of the log. */
export interface Cursor {
  seq: number;
  epoch: string;
}

export interface SendOptions {
  /** The seq of the message that it answers. */
  replyTo?: number;
  /** The ids of the users whom it names. */
  mentions?: string[];
  /** What else shall be kept with it: an object of at most 2,048 bytes as JSON. */
  meta?: Record<string, unknown>;
}

export interface AskOptions extends SendOptions {
  /** ms without a sign of the agent, after which its answer is not waited for any longer. 120,000 without it. */
  silence?: number;
}

/** A connection to a server, that comes back by itself, and the rooms that were joined on it. */
export class Chat {
  /** It connects at once, and `join` and all else may be said at once. */
  constructor(options?: ChatOptions);
  readonly state: State;
  /** Who you are; null until the server has said it. */
  readonly me: Me | null;
  /** The rooms that you follow, on whichever device, and what is unread of them. */
  readonly rooms: FollowedRoom[];
  /** Hear of something; what is returned ends that. */
  on<Name extends keyof ChatEvents>(name: Name, listener: (...args: ChatEvents[Name]) => void): () => void;
  /** Be in a room, from now on and after every break. The same room again is the same object. */
  join(name: string, options?: JoinOptions): ChatRoom;
  /** Ask an agent, by its user id; in a new room that nobody else can guess, if none is named. */
  ask(agent: string, text: string, options?: AskOptions & { room?: string }): Answer;
  /** Have the room among `rooms`. */
  follow(room: string, level?: Wire.Level): Promise<number>;
  unfollow(room: string): Promise<number>;
  /** Let another user have it among theirs. */
  invite(room: string, user: string): Promise<number>;
  /** Connect as the bearer of this token, after `signed-out` or at any time. */
  signIn(token: string): void;
  /** Something says that it may work now: do not wait any longer. `network`: it is perhaps another one. */
  hasten(network?: boolean): void;
  /** Come to an end, for good. What waits for an answer is refused with `closed`; what is in `storage` stays there. */
  close(): void;
}

export interface FollowedRoom {
  name: string;
  /** What your devices tell you of it. */
  level: Wire.Level;
  /** Who invited you, until you follow it yourself. */
  by?: string;
  /** `least`: there may be more. */
  unread: { count: number; least: boolean };
  /** Of the unread messages, those that name you. */
  mentions: number;
}

/** A room that was joined. What is said is sent again until it is acknowledged, and is there once. */
export interface ChatRoom {
  readonly name: string;
  /** What is held of the room, in order; at most 4,000. It is changed in place. */
  readonly messages: readonly Message[];
  /** What you have said and is not acknowledged yet; with an `error`, where it was refused after a reload. */
  readonly pending: readonly Pending[];
  /** Up to where the events came; null before the first answer. Keep it where you keep what you made of them. */
  readonly cursor: Cursor | null;
  /** Nothing is missing. */
  readonly synced: boolean;
  /** There are older messages: see `older`. */
  readonly more: boolean;
  /** Why the room cannot be joined. */
  readonly problem: string | null;
  /** The seq up to which you have read, on whichever device. */
  readonly read: number;
  /** The messages that came after it. `least`: there may be more. */
  readonly unread: { count: number; least: boolean };
  /** Those who type at this moment. */
  readonly typists: { user: string; name: string }[];
  /** What agents say that they are doing at this moment; with a `seq`, it is about that message. */
  readonly doing: { user: string; name: string; text: string; seq?: number }[];
  /** Grows with everything that changes: the snapshot of React's useSyncExternalStore. */
  readonly version: number;
  /** Resolves when what was there has come; rejects where the room cannot be joined. */
  readonly ready: Promise<void>;
  /** Hear of something; what is returned ends that. */
  on<Name extends keyof RoomEvents>(name: Name, listener: (...args: RoomEvents[Name]) => void): () => void;
  /** The message of that seq, if it is held. */
  message(seq: number): Message | null;
  /** Resolves with its seq when it is on the server's disk; rejects with a ChatError where it was refused. */
  send(text: string, options?: SendOptions): Promise<number>;
  /** Ask an agent that is to answer in this room. */
  ask(agent: string, text: string, options?: AskOptions): Answer;
  edit(seq: number, text: string): Promise<number>;
  delete(seq: number): Promise<number>;
  react(seq: number, emoji: string, on?: boolean): Promise<number>;
  /** End a message that grows. */
  stop(seq: number): Promise<number>;
  /** Send something of `pending` once more, which was refused. */
  retry(id: string): void;
  discard(id: string): void;
  /** Resolves when the messages before the oldest that is held are there; false if they did not come. */
  older(limit?: number): Promise<boolean>;
  /** Tell that you type; again every 4 s or so, for it lapses. */
  typing(on?: boolean): void;
  /** All that came was read. */
  seen(): void;
  leave(): void;
}

/** A message as it is now. It is changed in place. */
export interface Message {
  readonly seq: number;
  /** Its number among the room's messages. */
  readonly n: number;
  readonly user: string;
  readonly name: string;
  /** It is of an agent. */
  readonly agent?: boolean;
  /** Of one that grows: as far as it came. */
  readonly text: string;
  /** ms since 1970. */
  readonly ts: number;
  readonly id?: string;
  readonly reply_to?: number;
  readonly mentions?: readonly string[];
  readonly meta?: Wire.Meta;
  /** It grows. */
  readonly streaming: boolean;
  /** Of an agent that is at it: the runs of its tools, by their ids. When it has ended they are in `meta.steps`. */
  readonly steps: ReadonlyMap<string, Wire.ToolRun>;
  /** It has ended, and the end of its text is still asked for. */
  readonly end: object | null;
  /** Why it has ended: done, stopped, error or interrupted. Null where it did not grow, or before you came. */
  readonly reason: string | null;
  readonly deleted: boolean;
  /** When it was edited last. */
  readonly edited: number | null;
  /** By emoji: the ids of users. */
  readonly reactions: ReadonlyMap<string, ReadonlySet<string>>;
}

export interface Pending {
  readonly id: string;
  readonly text: string;
  readonly at: number;
  readonly error?: string;
}

/**
 * An agent's answer, which grows. `for await (const piece of answer)` gives its text in pieces, from its first word on,
 * however often; what is given again in other words comes wholly, after an empty line. To leave such a loop is not to stop
 * the agent.
 */
export interface Answer extends AsyncIterable<string> {
  readonly room: ChatRoom;
  readonly agent: string;
  /** The seq of the question; 0 until it is there. */
  readonly question: number;
  /** The agent's message; null until it begins. */
  readonly message: Message | null;
  /** As far as it came. */
  readonly text: string;
  readonly ended: boolean;
  /** Why it has ended: done or stopped. */
  readonly reason: string | null;
  /** Why it is no answer. */
  readonly error: ChatError | null;
  /** Wait for the end: the text. Rejects with `error`. */
  whole(): Promise<string>;
  /** End it, as soon as it has begun; resolves when it has ended. It keeps what it has said. */
  stop(): Promise<void>;
}

/**
 * What the server refused, by its `code` (docs/protocol.md, Errors); or `closed`, `discarded`, `left`, and of an answer
 * `failed` and `silent`.
 */
export class ChatError extends Error {
  constructor(code: string, message: string);
  readonly code: string;
}

/** A room's name as the protocol has it, made from what a person typed; null if that cannot be. */
export function roomName(typed: string): string | null;
