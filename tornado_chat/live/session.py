"""What one client may say, and what happens then.

A connection's commands take effect in the order sent. What is to be published (`send`, `edit`, `delete`, `react`,
`read`) is pipelined: it joins the next commit and is answered after it. What asks something about a room (`join`,
`leave`, `history`, `presence`) waits until all that was published before it is answered, and is waited for by all
that comes after it. A client with too much unfinished is not read until it has less.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any, TypeVar

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, CloseCode, ErrorCode, LogUnavailable
from tornado_chat.live.connection import Connection
from tornado_chat.live.context import Context
from tornado_chat.live.limits import Account, TokenBucket, rate_limited
from tornado_chat.live.member import Member
from tornado_chat.live.presence import RoomPresence
from tornado_chat.log import Appended, Entry
from tornado_chat.wire.codec import Codec, encoding
from tornado_chat.wire.commands import (
    Command,
    Delete,
    Edit,
    History,
    Join,
    Leave,
    Ping,
    Presence,
    React,
    Read,
    Send,
    Typing,
    command_id,
    parse,
)
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)

C = TypeVar("C", Join, History, Presence)

UNFINISHED = 64
"""Commands of one client that are not answered yet; it is read again when there are half as many."""

ROOMS = 1000
"""Rooms that one connection may be in."""

FLOOD_RATE, FLOOD_BURST = 10.0, 100.0
"""Refusals for their rate that a client may collect, a second and at once, before it is cut off with 1008."""

UNHEARD_SECONDS, UNHEARD = 1.0, 1000
"""In the first second the client may not have heard the first refusal yet: so many do not count."""

HISTORY_BYTES = 1024 * 1024
"""The answer to one `history`, nearly."""

PRESENT_USERS = 200
"""Users named in the answer to one `presence`."""

FLUSH_SECONDS = 10.0
"""A join that waits longer than this for the room to have delivered what the log has is answered `unavailable`."""


class Session:
    """One signed-in device on one connection; the Receiver of its messages."""

    __slots__ = (
        "account",
        "address",
        "connection",
        "context",
        "encoding",
        "flood",
        "held",
        "identity",
        "members",
        "replies",
        "task",
        "unanswered",
        "unheard",
        "user",
    )

    connection: Connection

    def __init__(self, context: Context, identity: Identity, address: Account, codec: Codec, window_bits: int) -> None:
        """`address` is the account that this connection was entered into; `window_bits` is 0 without deflate."""
        self.context = context
        self.identity = identity
        self.user = identity.user
        self.address = address
        self.account = context.limits.users.enter(identity.user)
        self.encoding = encoding(codec, window_bits)
        self.members: dict[str, Member] = {}
        self.unanswered = 0  # entries on their way through the log
        self.held: list[Command] = []  # commands that wait for their turn
        self.task: asyncio.Task[None] | None = None  # the question that is being asked
        self.replies: list[bytes] = []  # of the commit that is being announced
        self.flood: TokenBucket | None = None  # of refusals
        self.unheard = 0

    def begin(
        self, connection: Connection, response: bytes, token: str | None, join: Join | None, early: bytes
    ) -> None:
        """Answer the handshake, say `welcome` (with a guest's `token`), join what the address asked for, read."""
        self.connection = connection
        connection.expires_at = self.identity.expires_at
        self.context.revocations.enter(self)
        welcome: Data = {
            "type": "welcome",
            "user": self.user,
            "name": self.identity.name,
            "device": self.identity.device,
        }
        if token is not None:
            welcome["token"] = token
        welcome["epoch"] = self.context.hub.log.epoch
        welcome["server_time"] = time.time_ns() // 1_000_000
        welcome["limits"] = self.context.welcome_limits
        welcome["ping_interval"] = self.context.settings.ping_interval
        connection.write(response + self.encoding.frame(welcome))
        self.context.hub.metrics.handshakes += 1
        if join is not None:
            self._take(join)
        connection.start(early)

    def write(self, data: Data) -> None:
        self.connection.write(self.encoding.frame(data))

    # Receiver: what the connection tells

    def on_message(self, opcode: int, payload: bytes) -> None:
        codec = self.encoding.codec
        if opcode != codec.opcode:
            right = "text" if codec.name == "chat.v1.json" else "binary"
            self.connection.close(CloseCode.UNSUPPORTED_DATA, f"{codec.name} takes {right} frames")
            return
        obj: object = None
        try:
            obj = codec.decode(payload)
            command = parse(obj, self.context.settings.text_chars)
        except ChatError as error:
            self._error(error, command_id(obj))
        else:
            self._take(command)

    @property
    def unfinished(self) -> bool:
        """Something that was read is not answered yet, and not because the client does not read answers."""
        if self.held and self.connection.outbox_bytes <= self.context.settings.high_water_mark:
            return True
        return bool(self.unanswered or self.task)

    def on_drained(self) -> None:
        for name, member in self.members.items():
            room = self.context.hub.rooms[name]
            if member.state:
                self.context.hub.feed_soon(member, room)
        self.resume()

    def on_closed(self, code: int, reason: str) -> None:
        hub = self.context.hub
        for name, member in self.members.items():
            hub.rooms[name].leave(member)
        self.members = {}
        self.held = []
        if self.task is not None:
            self.task.cancel()
        self.context.revocations.leave(self)
        self.account.connections -= 1
        self.address.connections -= 1
        logger.debug("closed user=%s code=%d reason=%s", self.user, code, reason)

    # Order and back-pressure

    def _take(self, command: Command) -> None:
        if self.held or not self._begin(command):
            self.held.append(command)
        if self.unanswered + len(self.held) >= UNFINISHED:
            self.connection.pause_reading()

    def _begin(self, command: Command) -> bool:
        """Begin to carry out `command`; False if its turn has not come."""
        if self.task is not None:
            return False
        try:
            return _HANDLERS[type(command)](self, command)
        except ChatError as error:
            self._error(error, command.id)
            return True

    def resume(self) -> None:
        """Something that commands waited for has happened: go on with them, and read on."""
        connection = self.connection
        while self.held and not connection.closing:
            if connection.outbox_bytes > self.context.settings.high_water_mark:
                connection.want_drained()  # answers fill an outbox like anything else
                break
            if not self._begin(self.held[0]):
                break
            del self.held[0]
        if self.unanswered + len(self.held) <= UNFINISHED // 2 and not self.context.draining:
            self.connection.resume_reading()

    def _error(self, error: ChatError, id: str | None) -> None:
        self.context.hub.metrics.errors[error.code] += 1
        data: Data = {"type": "error"}
        if id is not None:
            data["id"] = id
        data["code"] = error.code
        data["message"] = error.message
        if error.retry_after is not None:
            data["retry_after"] = error.retry_after
        self.write(data)
        if error.code is ErrorCode.RATE_LIMITED and self._floods():
            self.connection.close(CloseCode.POLICY_VIOLATION, "flooding although told to wait: see retry_after")

    def _floods(self) -> bool:
        """Whether this client goes on although it must have heard that it is to wait."""
        now = self.context.limits.time()
        if self.flood is None or (self.flood.full(now) and now - self.flood.filled > 2 * UNHEARD_SECONDS):
            self.flood = TokenBucket(FLOOD_RATE, FLOOD_BURST, now + UNHEARD_SECONDS)
            self.unheard = UNHEARD
        if now < self.flood.filled and self.unheard:
            self.unheard -= 1
            return False
        return self.flood.take(max(now, self.flood.filled)) > 0

    def _check_room(self, room: str) -> None:
        if not self.identity.may_enter(room):
            raise ChatError(ErrorCode.FORBIDDEN, f"your token does not let you into {room}: ask for one that does")

    def _charge(self) -> None:
        """One of the user's sends; also for what costs the others in a room as much."""
        wait = self.account.bucket.take(self.context.limits.time())
        if wait:
            settings = self.context.settings
            raise rate_limited(f"at most {settings.send_rate} a second, {settings.send_burst} at once", wait)

    # Publishing

    def _publish(self, command: Send | Edit | Delete | React | Read, entry: Callable[[], Entry]) -> bool:
        self._check_room(command.room)
        publisher = self.context.publisher
        waiting = publisher.congestion(command.room)
        if waiting is not None:
            waiting.append(self)
            return False
        self._charge()
        self.unanswered += 1
        publisher.submit(self, entry())
        return True

    def _entry(self, type: Any, command: Send | Edit | Delete | React | Read, **fields: Any) -> Entry:
        key = command.id or self.context.hidden_key()
        return Entry(type, command.room, self.user, self.identity.name, key=key, id=command.id, **fields)

    def _send(self, command: Send) -> bool:
        return self._publish(
            command,
            lambda: self._entry("message", command, text=command.text, reply_to=command.reply_to, meta=command.meta),
        )

    def _edit(self, command: Edit) -> bool:
        return self._publish(command, lambda: self._entry("edited", command, target=command.seq, text=command.text))

    def _delete(self, command: Delete) -> bool:
        return self._publish(command, lambda: self._entry("deleted", command, target=command.seq))

    def _react(self, command: React) -> bool:
        return self._publish(
            command,
            lambda: self._entry("reacted", command, target=command.seq, emoji=command.emoji, on=command.on),
        )

    def _read(self, command: Read) -> bool:
        return self._publish(command, lambda: self._entry("read", command, seq=command.seq, lapses=self.identity.guest))

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """The log has answered; `flush_replies` follows when it has answered the whole batch."""
        self.unanswered -= 1
        if self.connection.closing:
            return
        if isinstance(outcome, ChatError):
            self._error(outcome, entry.id)
        elif entry.id is not None:
            ack: Data = {"type": "ack", "id": entry.id, "room": entry.room}
            if entry.type != "read":
                ack["seq"] = outcome.seq
            ack["ts"] = outcome.ts
            if outcome.duplicate:
                ack["duplicate"] = True
            self.replies.append(self.encoding.frame(ack))

    def flush_replies(self) -> None:
        """Write the acks of a commit at once, and go on with what waited for them."""
        if self.replies:
            replies, self.replies = self.replies, []
            self.connection.write(b"".join(replies))
        self.resume()

    # Questions

    async def _answer(self, ask: Callable[[C], Coroutine[object, object, None]], command: C) -> None:
        try:
            await ask(command)
        except ChatError as error:
            self._error(error, command.id)
        except (LogUnavailable, TimeoutError) as error:
            self.context.log_warning.warning("log unavailable reason=%s", error)
            unavailable = ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", retry_after=1.0)
            self._error(unavailable, command.id)
        except Exception:
            logger.exception("command failed user=%s", self.user)
            self.connection.close(CloseCode.INTERNAL_ERROR, "the server failed on a command")
        finally:
            self.task = None
        self.resume()

    def _join(self, command: Join) -> bool:
        if self.unanswered:
            return False
        self._check_room(command.room)
        if len(self.members) >= ROOMS and command.room not in self.members:
            raise ChatError(ErrorCode.TOO_LARGE, f"a connection may be in {ROOMS:,} rooms: leave one first")
        self.context.limits.check_join(self.address)
        self.task = self.context.hub.tasks.spawn(self._answer(self._enter, command))
        return True

    async def _enter(self, command: Join) -> None:
        hub, name = self.context.hub, command.room
        room = hub.open_room(name)
        room.holds += 1
        try:
            mark = await hub.marks.get((name, self.user))
            await asyncio.shield(room.opened)  # shared with others who join
            after, target = command.after, room.head
            if after is not None and after > target:
                target = min(after, await hub.heads.get(name))
                room.mend(target)
            async with asyncio.timeout(FLUSH_SECONDS):
                while room.flushed < target:
                    await room.flush_begun()
            head = room.flushed
            if after is None:
                after = head - (command.last or 0)
            cursor = max(0, min(after, head))
            self._exit(name)
            member = self.members[name] = Member(self, cursor)
            joined: Data = {"type": "joined"}
            if command.id is not None:
                joined["id"] = command.id
            joined |= {"room": name, "head": head, "cursor": cursor, "read": mark, "epoch": hub.log.epoch}
            self.write(joined)
            room.enter(member)
        finally:
            room.holds -= 1
            room.release()

    def _exit(self, name: str) -> None:
        member = self.members.pop(name, None)
        if member is not None:
            self.context.hub.rooms[name].leave(member)

    def _leave(self, command: Leave) -> bool:
        if self.unanswered:  # its ack would come after `left`
            return False
        self._exit(command.room)
        self._reply("left", command)
        return True

    def _history(self, command: History) -> bool:
        if self.unanswered:
            return False
        self._check_room(command.room)
        self._charge()
        self.task = self.context.hub.tasks.spawn(self._answer(self._recount, command))
        return True

    async def _recount(self, command: History) -> None:
        messages, more = await self.context.hub.log.history(
            command.room, before=command.before, limit=command.limit, max_bytes=HISTORY_BYTES
        )
        reply = self._addressed("history", command) | {"messages": messages, "more": more}
        # Not deflated: a mebibyte takes 15 ms, for which everybody else would wait.
        self.connection.write(encoding(self.encoding.codec, 0).frame(reply))

    def _presence(self, command: Presence) -> bool:
        if self.unanswered:
            return False
        self._check_room(command.room)
        self._charge()
        room = self.context.hub.rooms.get(command.room)
        if room is not None:
            self._tell_presence(command, room.presence)
        else:
            self.task = self.context.hub.tasks.spawn(self._answer(self._look_up_presence, command))
        return True

    async def _look_up_presence(self, command: Presence) -> None:
        self._tell_presence(command, await self.context.hub.presence.look_up(command.room))

    def _tell_presence(self, command: Presence, presence: RoomPresence) -> None:
        users = [{"user": user, "name": name} for user, name in islice(presence.users(), PRESENT_USERS)]
        self._reply("presence", command, count=presence.count(), users=users)

    # Signals and the rest

    def _typing(self, command: Typing) -> bool:
        self._check_room(command.room)
        self._charge()
        room = self.context.hub.rooms.get(command.room)
        if room is not None:
            room.set_typing(self, on=command.on)
        return True

    def _ping(self, command: Ping) -> bool:
        reply: Data = {"type": "pong"}
        if command.id is not None:
            reply["id"] = command.id
        self.write(reply)
        return True

    def _reply(self, type: str, command: Leave | Presence, **fields: Any) -> None:
        self.write(self._addressed(type, command) | fields)

    def _addressed(self, type: str, command: Leave | History | Presence) -> Data:
        id = {} if command.id is None else {"id": command.id}
        return {"type": type, **id, "room": command.room}


_HANDLERS: dict[type[Command], Callable[[Session, Any], bool]] = {
    Join: Session._join,
    Leave: Session._leave,
    Send: Session._send,
    Edit: Session._edit,
    Delete: Session._delete,
    React: Session._react,
    History: Session._history,
    Read: Session._read,
    Typing: Session._typing,
    Presence: Session._presence,
    Ping: Session._ping,
}
"""Each carries out one command, or returns False if its turn has not come."""
