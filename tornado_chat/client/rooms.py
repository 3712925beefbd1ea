"""The client's rooms: each has its cursor, and what comes of them is put in order and waits to be taken."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from tornado_chat.client.answers import Answers
from tornado_chat.client.ends import LONGEST_WAIT, Closed
from tornado_chat.client.link import Link
from tornado_chat.client.outbound import Outbound, new_id
from tornado_chat.client.replies import Replies
from tornado_chat.client.texts import Texts
from tornado_chat.errors import TRANSIENT_ERRORS, ChatError, ErrorCode
from tornado_chat.log.kinds import KINDS
from tornado_chat.logs import Repeated
from tornado_chat.wire.events import Data

log = logging.getLogger(__name__)

NOTES = frozenset({"synced", "behind", "typing", "status", "step", "read", "presence"})
OWN = "~"
"""The log of one's own."""
EVENT_FIELDS = frozenset({"seq", "user", "ts"})
"""Every event has them, and nothing else has all three (docs/protocol.md, Events)."""


class JoinedRoom:
    """A room that is joined, or about to be."""

    __slots__ = (
        "back",
        "cursor",
        "epoch",
        "failures",
        "hole",
        "join_id",
        "joining",
        "last",
        "live",
        "name",
        "quiet",
        "retold",
        "timer",
    )

    def __init__(self, name: str, after: int | None, last: int | None, epoch: str | None, *, quiet: bool) -> None:
        self.name = name
        self.quiet = quiet  # it is read for answers alone, and nothing of it comes out
        self.cursor = after  # the last seq held; None until `joined` tells
        self.back: int | None = None  # the cursor of answers to which more is told again, below the other
        self.epoch = epoch  # of `cursor`
        self.last = last
        self.live = False  # `joined` has come on this connection: events count from here on
        self.retold = 0  # the `finished` that was asked for again, for its text
        self.hole: int | None = None  # the cursor when a hole was seen
        self.join_id = ""
        self.joining: asyncio.Future[Data] = asyncio.get_running_loop().create_future()  # for the caller of join()
        self.timer: asyncio.TimerHandle | None = None  # to ask again
        self.failures = 0

    def join(self) -> Data:
        """What asks for its events."""
        where = {"after": self.after, "last": self.last}
        return {"room": self.name, **{key: value for key, value in where.items() if value is not None}}

    @property
    def after(self) -> int | None:
        return self.cursor if self.back is None else self.back

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def refuse(self, error: Exception) -> bool:
        """Tell the caller of join(); False if it has returned already."""
        if self.joining.done():
            return False
        self.joining.set_exception(error)
        return True


class Rooms:
    """All that are joined, and at most `max_events` items that nobody took; the LinkOwner of a Client."""

    def __init__(self, link: Link, outbound: Outbound, replies: Replies, answers: Answers, max_events: int) -> None:
        self.welcome: Data = {}
        self.joined: dict[str, JoinedRoom] = {}
        self.inbox: deque[Data] = deque()
        self._link = link
        self._outbound = outbound
        self._replies = replies
        self._answers = answers
        self._max_events = max_events
        self._texts = Texts()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._refusing = Repeated(log)  # signals beyond the rate, of which there may be as many as there are steps

    def join(
        self, name: str, after: int | None, last: int | None, epoch: str | None, *, quiet: bool = False
    ) -> asyncio.Future[Data]:
        """See Client.join; the future gets `joined`."""
        room = JoinedRoom(name, after, last, epoch, quiet=quiet)
        self._drop(name, ChatError(ErrorCode.BAD_REQUEST, f"another join of {name} took the place of this one"))
        self.joined[name] = room
        self._send_join(room)
        return room.joining

    async def listen(self, name: str) -> None:
        """Wait until the room is joined, by the caller of join() or for answers alone, so that these miss nothing."""
        while True:
            if name not in self.joined:
                self.join(name, None, None, None, quiet=True)
            room = self.joined[name]
            try:
                await asyncio.shield(room.joining)
            except asyncio.CancelledError:
                if not room.joining.cancelled():
                    raise
            except ChatError:
                if name not in self.joined:
                    raise
            except Closed:
                if self.joined.get(name) is room:
                    raise
            else:
                return

    def retell(self, name: str, after: int) -> None:
        """Let answers have the events after `after` once more, if the room was joined further on."""
        room = self.joined.get(name)
        if room is not None and room.after is not None and room.after > after:
            room.back = after
            self._send_join(room)

    def release(self, name: str) -> None:
        """No answer needs the room any more."""
        room = self.joined.get(name)
        if room is not None and room.quiet:
            self._leave(name)

    def give_up(self, name: str, joining: asyncio.Future[Data]) -> None:
        """Leave the room, unless it was joined anew."""
        room = self.joined.get(name)
        if room is not None and room.joining is joining:
            self.leave(name)

    def leave(self, name: str) -> None:
        room = self.joined.get(name)
        if room is not None:
            if name in self._answers.rooms and room.joining.done() and not room.joining.cancelled():
                room.quiet = True
            else:
                self._leave(name)
            self.inbox = deque(event for event in self.inbox if event["room"] != name)
            self._taken.set()

    def _leave(self, name: str) -> None:
        self._drop(name, Closed(f"{name} was left"))
        if self._link.transport is not None:
            self._link.transport.leave(name)

    def end(self, failure: Exception) -> None:
        """Nothing will come any more."""
        for room in self.joined.values():
            room.stop_timer()
            room.refuse(failure)
        self._arrived.set()

    async def arrival(self) -> None:
        """Wait until something is put into the inbox, or nothing will be."""
        self._arrived.clear()
        await self._arrived.wait()

    def take(self) -> Data:
        self._taken.set()
        item = self.inbox.popleft()
        if item["type"] == "grown":
            self._texts.taken(item)
        return item

    # What the link tells.

    def joins(self) -> list[Data]:
        return [room.join() for room in self.joined.values()]

    def on_welcome(self, welcome: Data) -> None:
        self.welcome = welcome
        for room in self.joined.values():
            self._send_join(room)
        self._outbound.on_welcome(welcome)
        self._replies.on_welcome(welcome)

    def on_lost(self) -> None:
        for room in self.joined.values():
            room.live = False
            room.stop_timer()
        self._outbound.on_lost()
        self._replies.on_lost()

    async def on_message(self, message: Data) -> None:
        kind = message["type"]
        note = kind in NOTES and "id" not in message  # with it, `presence` is an answer
        if note or message.keys() >= EVENT_FIELDS:
            await self._space()
            room = self.joined.get(message["room"])
            if room is None or not room.live:  # not live: it belongs to a join whose place another took
                return
            if kind == "finished" and not self._has_text(room, message):
                return
            # An event of a kind that came after this client counts, and is not shown.
            if note or (self._is_next(room, message["seq"]) and kind in KINDS):
                self._tell(message, room)
            elif room.back is not None and message["seq"] == room.back + 1:
                room.back = message["seq"] if message["seq"] < (room.cursor or 0) else None
                self._answers.heed(message, self.welcome["user"])
        elif kind == "appended":
            for seq, gen, offset, text in message["chunks"]:
                await self._grow(message["room"], seq, gen, offset, text)
        elif kind == "stream" and "id" not in message:
            await self._grow(message["room"], message["seq"], message["gen"], message["offset"], message["text"])
        elif kind == "joined":
            await self._space()
            self._on_joined(message)
        elif kind == "error":
            await self._on_error(message)
        elif kind == "stop":
            self._replies.on_stop(message)
        elif kind == "orphaned":
            await self._space()
            if OWN in self.joined:
                self._put(message)
        else:
            self._outbound.on_answer(message)

    async def _grow(self, name: str, seq: int, gen: int, offset: int, text: str) -> None:
        await self._space()
        room = self.joined.get(name)
        if room is None or not room.live:
            return
        fits, told = self._texts.grow(name, seq, gen, offset, text)
        if not fits:
            log.warning("hole in a text, joining again room=%s seq=%d", name, seq)
            self._send_join(room)
            return
        if name in self._answers.rooms:
            self._answers.grow(name, seq, self._texts.text(name, seq))
        if told is not None and not room.quiet:
            self._put(told)

    def _has_text(self, room: JoinedRoom, finished: Data) -> bool:
        """Whether `finished` has its text now; else it is asked for again, with the text, once."""
        if self._texts.complete(finished) or finished["seq"] != (room.cursor or 0) + 1:
            return True
        if room.retold == finished["seq"]:
            return True
        room.retold = finished["seq"]
        self._send_join(room)
        return False

    def _is_next(self, room: JoinedRoom, seq: int) -> bool:
        """What is held already is dropped; a hole is asked for once more."""
        assert room.cursor is not None
        if seq == room.cursor + 1:
            room.cursor = seq
            return True
        if seq > room.cursor:
            if room.hole == room.cursor:
                raise Closed(f"{room.name}: the server leaves out the events {room.cursor + 1} to {seq - 1}")
            log.warning("hole, joining again room=%s held=%d came=%d", room.name, room.cursor, seq)
            room.hole = room.cursor
            self._send_join(room)
        return False

    def _on_joined(self, message: Data) -> None:
        room = self.joined.get(message["room"])
        if room is None or message.get("id") != room.join_id:
            return
        room.failures = 0
        epoch, room.epoch = room.epoch, message["epoch"]
        if "state" in message:  # of the log of one's own, which goes on from there
            room.cursor, room.last = message["cursor"], None
            if room.joining.done():
                told = {"room": room.name, "cursor": room.cursor, "state": message["state"]}
                self._put({"type": "state", **told})
        elif room.cursor is None:
            room.cursor, room.last = message["cursor"], None
        elif (room.after or 0) > message["cursor"] or epoch not in (None, room.epoch):
            room.cursor, room.back = 0, None
            self._send_join(room)
            self._texts.forget(room.name)
            self._tell({"type": "reset", "room": room.name, "epoch": room.epoch}, room)
            return
        room.live = True
        if not room.joining.done():
            room.joining.set_result(message)

    async def _on_error(self, message: Data) -> None:
        id = message.get("id", "")
        code = next((code for code in ErrorCode if code == message["code"]), ErrorCode.BAD_REQUEST)
        error = ChatError(code, message.get("message", code.value), message.get("retry_after"))
        room = next((room for room in self.joined.values() if room.join_id == id), None)
        if not id and code is ErrorCode.CONFLICT and "stream" in message:
            self._replies.on_error(message)
        elif not id:
            self._refusing.warning("refused code=%s reason=%s", code, error)
        elif room is None:
            self._outbound.on_error(id, error, message.get("room"))
        elif code in TRANSIENT_ERRORS:
            delay = self._link.pause(room.failures) if error.retry_after is None else error.retry_after
            room.failures += 1
            room.stop_timer()
            room.timer = asyncio.get_running_loop().call_later(min(delay, LONGEST_WAIT), self._send_join, room)
        elif room.refuse(error):
            self._drop(room.name)
        else:
            await self._space()
            if self.joined.get(room.name) is room:  # not left in the meantime
                self._drop(room.name)
                self._tell({"type": "left", "room": room.name, "code": code.value, "message": error.message}, room)

    # How it is done.

    async def _space(self) -> None:
        """Wait until one more item fits into the queue; it is there until the caller waits for something else.

        So what is told by the link is either taken, wholly, or not at all: the link may stop listening at any time.
        """
        while len(self.inbox) >= self._max_events:
            self._taken.clear()
            await self._taken.wait()

    def _tell(self, item: Data, room: JoinedRoom) -> None:
        self._answers.heed(item, self.welcome["user"])
        if not room.quiet:
            self._put(item)

    def _put(self, item: Data) -> None:
        self.inbox.append(item)
        self._arrived.set()

    def _drop(self, name: str, reason: Exception | None = None) -> None:
        room = self.joined.pop(name, None)
        self._texts.forget(name)
        if room is not None:
            room.stop_timer()
            if reason is not None:
                room.refuse(reason)

    def _send_join(self, room: JoinedRoom) -> None:
        room.live = False
        room.join_id = new_id()
        if self._link.transport is not None:
            self._link.transport.join({**room.join(), "id": room.join_id})
