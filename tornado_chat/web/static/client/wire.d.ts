// What docs/protocol.md says, as far as this client speaks it: for type checks only. tests/web/test_page_types.py holds it
// to the tables there.

export type Command = Join | Leave | Send | Edit | Delete | React | GetHistory | MarkRead | Follow | Unfollow | Invite | Stop | Fetch | SayTyping | GetPresence | Ping;

export interface Join { type: "join"; id?: string; room: string; after?: number; last?: number }
/** What a stream begins with: the fields of a `join`. */
export type Joining = Pick<Join, "room" | "after" | "last">;
export interface Leave { type: "leave"; id?: string; room: string }
export interface Send { type: "send"; id?: string; room: string; text: string; reply_to?: number; meta?: Meta; mentions?: string[]; mark?: boolean }
export interface Edit { type: "edit"; id?: string; room: string; seq: number; text: string }
export interface Delete { type: "delete"; id?: string; room: string; seq: number }
export interface React { type: "react"; id?: string; room: string; seq: number; emoji: string; on: boolean }
export interface GetHistory { type: "history"; id?: string; room: string; before?: number; limit?: number }
export interface MarkRead { type: "read"; id?: string; room: string; seq: number }
export interface Follow { type: "follow"; id?: string; room: string; level: Level }
export interface Unfollow { type: "unfollow"; id?: string; room: string }
export interface Invite { type: "invite"; id?: string; room: string; user: string }
export interface Stop { type: "stop"; id?: string; room: string; seq?: number }
export interface Fetch { type: "fetch"; id?: string; room: string; seq: number; offset?: number }
export interface SayTyping { type: "typing"; id?: string; room: string; on: boolean }
export interface GetPresence { type: "presence"; id?: string; room: string }
export interface Ping { type: "ping"; id?: string }

export type Event = RoomEvent | OwnEvent;
export type RoomEvent = Message | Edited | Deleted | Reacted | Finished;
/** The events of one's own log. */
export type OwnEvent = Followed | Unfollowed | Marked | Mentioned;

export interface Message { type: "message"; room: string; seq: number; n: number; user: string; name: string; agent?: boolean; streaming?: boolean; text?: string; deleted?: boolean; ts: number; id?: string; reply_to?: number; meta?: Meta; mentions?: string[] }
export interface Edited { type: "edited"; room: string; seq: number; target: number; user: string; text?: string; deleted?: boolean; ts: number }
export interface Deleted { type: "deleted"; room: string; seq: number; target: number; user: string; ts: number }
export interface Reacted { type: "reacted"; room: string; seq: number; target: number; user: string; emoji: string; on: boolean; ts: number }
export interface Finished { type: "finished"; room: string; seq: number; target: number; user: string; ts: number; reason: string; length: number; deleted?: boolean; crc?: number; text?: string; meta?: Meta }

export interface Followed { type: "followed"; room: string; seq: number; about: string; level: Level; by?: string; user: string; ts: number }
export interface Unfollowed { type: "unfollowed"; room: string; seq: number; about: string; user: string; ts: number }
export interface Marked { type: "marked"; room: string; seq: number; about: string; read: number; user: string; ts: number }
export interface Mentioned { type: "mentioned"; room: string; seq: number; about: string; target: number; user: string; name: string; ts: number }

export type Frame = Event | Welcome | Joined | Synced | Behind | Left | Ack | History | Pong | Failure | Typing | Status | Step | Read | Presence | Appended | Grown | Closing;

export interface Welcome { type: "welcome"; user: string; name: string; token?: string; limits: Partial<Limits>; ping_interval: number }
export interface Joined { type: "joined"; id?: string; room: string; head: number; cursor: number; read: number; epoch: string; state?: OwnState }
export interface Synced { type: "synced"; room: string; seq: number }
export interface Behind { type: "behind"; room: string; seq: number; head: number }
export interface Left { type: "left"; id?: string; room: string }
export interface Ack { type: "ack"; id: string; room: string; seq?: number; ts?: number; duplicate?: boolean }
export interface History { type: "history"; id?: string; room: string; messages: Past[]; more: boolean }
export interface Pong { type: "pong"; id?: string }
export interface Failure { type: "error"; id?: string; room?: string; code: string; message: string; retry_after?: number }

export interface Closing { type: "closing"; code: number; reason?: string; retry_after_ms?: number }

/** What is said in passing of people in a room. */
export type Signal = Typing | Status | Step | Read;

export interface Typing { type: "typing"; room: string; user: string; name: string; on: boolean }
export interface Status { type: "status"; room: string; user: string; name: string; text: string; seq?: number }
export interface Step { type: "step"; room: string; user: string; seq: number; step: ToolRun }
export interface Read { type: "read"; room: string; user: string; name: string; seq: number }
export interface Presence { type: "presence"; id?: string; room: string; count: number; users?: Person[] }
/** Of each chunk the seq of its message, the gen, the offset and the text. */
export interface Appended { type: "appended"; room: string; chunks: [number, number, number, string][] }
export interface Grown { type: "stream"; id?: string; room: string; seq: number; gen: number; offset: number; text: string; done: boolean }

/** One step of an agent: a tool's run. */
export interface ToolRun { id: string; name: string; state: "running" | "done" | "error"; input?: string; output?: string }
/** Of a message's `meta` what agents put there; others put there what they like. */
export interface Meta { steps?: ToolRun[]; commands?: { name: string; description?: string; choices?: string[] }[]; [key: string]: unknown }

export interface Person { user: string; name: string }

export type Level = "everything" | "mentions" | "nothing";
export interface OwnState { rooms: FollowedRoom[] }
export interface FollowedRoom { room: string; level: Level; head: number; messages: number; read: number; unread: number; mentions: number; by?: string }

export interface Limits { text_chars: number; frame_bytes: number }

/** A message as `history` has it: as it is now. */
export type Past = Message & { edited?: number; reactions?: { [emoji: string]: string[] } };

/** The body of a refused handshake. */
export interface Refusal { error?: { code: string; message: string; retry_after?: number } }

/** The answers to POST /v1/session and POST /v1/poll. */
export interface Session { user: string; name: string; token: string }
export interface Polled { epoch: string; events: Event[]; cursors: { [room: string]: number }; more: boolean; errors?: { [room: string]: NonNullable<Refusal["error"]> }; state?: OwnState }
