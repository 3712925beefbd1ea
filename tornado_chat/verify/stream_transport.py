"""A device's conversation over HTTP: it hears a stream of server-sent events, and speaks by requests beside it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import NoReturn
from urllib.parse import quote

from tornado_chat.verify.codecs import JSON, Data
from tornado_chat.verify.endings import ABNORMAL, NORMAL, Broken, Ended, Refused
from tornado_chat.verify.event_stream import Block, EventStream
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.http_connection import ANSWER_SECONDS, HTTPConnection, Request
from tornado_chat.verify.messages import ERRORS, EVENTS, malformed
from tornado_chat.verify.posts import Posts, signed
from tornado_chat.verify.responses import Answer, Head, refusal
from tornado_chat.verify.transport import Listener

STREAM = "text/event-stream"
SILENT_PINGS = 2.5
"""A stream without a heartbeat for so many `ping_interval` is dead, or broken where other things came."""
ANSWERS = ("ack", "history", "left", "pong")
"""What a stream has no command for."""
IDS = ("Last-Event-ID", "last_event_id", "lastEventId")
"""The header, and the parameters of the query, that bring a cursor back."""


class StreamTransport:
    """One stream. A device in one room has `GET /v1/rooms/{room}/events`, in several one of the two `/v1/events`."""

    prompt = True
    one_worker = False

    def __init__(self, device: Listener) -> None:
        self._device = device
        self._posts = Posts(device, self)
        self._connection: HTTPConnection | None = None
        self._blocks = EventStream()
        self._alone = next(iter(device.rooms)) if len(device.rooms) == 1 else None
        self._with_ids = self._alone is not None or device.dice.random() < 0.5
        self._epoch = ""
        self._welcomed = False
        self._whole = False  # a refusal with its length
        self._closed = False  # by us
        self._retry: int | None = None
        self._end: Ended | Refused | None = None  # said, and to be followed by the stream's
        self._ping_seconds = ANSWER_SECONDS / SILENT_PINGS
        self._pinged = time.monotonic()

    # What the device does.

    def begin(self) -> None:
        """The rooms are in the request."""

    def send(self, command: Data) -> None:
        self._posts.send(command)

    def send_together(self, commands: list[Data], done: Callable[[bool], None] | None) -> None:
        self._posts.send_together(commands, done)

    def join_again(self, room: str, after: int | None) -> None:
        """By another stream."""
        self._device.ask(room, after)
        self._device.last_event_id = ""
        self.close()

    def leave(self, room: str) -> bool:
        return False

    def cut(self, command: Data | None, part: float) -> bool:
        """A command's request, or the stream."""
        if command is not None:
            self._posts.cut(command, part)
            return False
        if self._connection is not None:
            self._connection.cut()
        return True

    def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.cut()

    # What it hears.

    async def run(self) -> NoReturn:
        await self._posts.beside(self._hear())

    async def _hear(self) -> NoReturn:
        device = self._device
        self._connection = connection = await HTTPConnection.open(device.address, small=device.offer.small)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await connection.begin(self._request(device.opening()))
                if head.status != 200:
                    raise refusal(Answer(head, await _rest(connection)))
            _check(head)
            self._whole = head.length is not None
            device.ledger.counts["streams"] += 1
            self._pinged = time.monotonic()
            while data := await self._read(connection):
                for block in self._blocks.feed(data):
                    self._take(block)
                self._check_heartbeat()
                await device.idle()
            self._blocks.end()
            raise self._end or Broken("a stream that ends in good order, without closing")
        except OSError as error:
            if self._closed:
                raise Ended(NORMAL) from None
            if not self._welcomed:
                raise
            raise Ended(ABNORMAL, error.strerror or str(error)) from None
        finally:
            await connection.hang_up()

    async def _read(self, connection: HTTPConnection) -> bytes:
        try:
            async with asyncio.timeout(SILENT_PINGS * self._ping_seconds):
                return await connection.read()
        except TimeoutError:
            raise Ended(ABNORMAL, f"silent for {SILENT_PINGS * self._ping_seconds:g} s, without a heartbeat") from None

    def _request(self, cursors: Mapping[str, int | None]) -> Request:
        """A stream of all rooms after these cursors, which come in one of the ways that there are."""
        device, dice = self._device, self._device.dice
        headers = signed(device.token, Accept=STREAM)
        parameters: list[str] = []
        given = dict(cursors)
        if self._with_ids and device.last_event_id and dice.random() < 0.8:
            came = self._returned(device.last_event_id)
            # It wins, whatever else is said. What it does not name is told by the address.
            given = {room: dice.randint(0, after or 0) if room in came else after for room, after in cursors.items()}
            for room, after in came.items():
                device.rooms[room].asked[0] = after
            where = dice.choice(IDS)
            if where == IDS[0]:
                headers[where] = device.last_event_id
            else:
                parameters.append(f"{where}={quote(device.last_event_id)}")
            device.ledger.counts["resumed by id"] += 1
        device.last_event_id = ""
        if self._alone is not None:
            place = given[self._alone]
            if place is not None or dice.random() < 0.5:
                parameters.append("last=3" if place is None else f"after={place}")
            return Request("GET", _with(f"/rooms/{self._alone}/events", parameters), headers)
        if self._with_ids:
            parameters.append("ids=1")
        if parameters or dice.random() < 0.5:
            joins = [f"join={room}" if after is None else f"join={room}:{after}" for room, after in given.items()]
            return Request("GET", _with("/events", [*joins, *parameters]), headers)
        asked = {room: {"last": 3} if after is None else {"after": after} for room, after in given.items()}
        body = {"join": [{"room": room, **at} for room, at in asked.items()]}
        return Request("POST", "/events", headers | {"Content-Type": JSON.media_type}, JSON.encode(body))

    def _returned(self, last_event_id: str) -> dict[str, int]:
        """What a `Last-Event-ID` says of our rooms."""
        return read_id(last_event_id, self._alone)[1]

    def _take(self, block: Block) -> None:
        if self._end is not None:
            raise Broken(f"a block after the end was told: {str(block)[:200]}")
        if block.retry is not None:
            self._retry = block.retry
        if block.event is not None:
            self._take_ping(block)
        elif block.data is not None:
            self._take_data(block)
        elif block.id is not None:
            self._take_ids(block.id)
        elif block.retry is None:
            raise Broken("a block without a field")

    def _take_ping(self, block: Block) -> None:
        if block.event != "ping" or block.data != "{}":
            raise Broken(f"a block of the event {block.event!r}, which can only be ping with {{}}: {str(block)[:200]}")
        if not self._welcomed:
            raise Broken("a ping before welcome")
        self._device.ledger.counts["pings"] += 1
        self._pinged = time.monotonic()
        self._take_cursors(block)

    def _take_cursors(self, block: Block) -> None:
        """With `?ids=1` a heartbeat and a `closing` bring them back to those browsers that heed no id without data."""
        if block.id is not None:
            self._take_ids(block.id)
        elif self._with_ids and self._alone is None:
            raise Broken(f"without the cursors that were asked for: {str(block)[:200]}")

    def _check_heartbeat(self) -> None:
        """It comes whatever else does: by it a page knows that nothing holds the stream back."""
        silent = time.monotonic() - max(self._pinged, self._device.resumed)
        if self._welcomed and silent > SILENT_PINGS * self._ping_seconds:
            raise Broken(f"a stream without a heartbeat for {silent:.0f} s, though other things came")

    def _take_data(self, block: Block) -> None:
        assert block.data is not None
        message = JSON.decode(block.data.encode())
        if not isinstance(message, dict):
            raise Broken(f"a message that is not an object: {block.data[:80]}")
        kind = message.get("type")
        if kind == "closing":
            self._end = self._closing(message)
        elif kind == "error":
            self._take_error(message)
        elif kind in ANSWERS or (kind == "presence" and message.get("id") is not None):
            raise Broken(f"an answer in a stream, which nobody asked there: {str(message)[:200]}")
        else:
            self._device.take(self, message)
            if kind == "welcome":
                if self._whole:
                    raise Broken("a stream whose length was told before it began, and not in chunks")
                self._welcomed = True
                self._epoch = message["epoch"]
                self._ping_seconds = message["ping_interval"]
            elif kind == "joined":
                self._epoch = message["epoch"]
        self._check_id(block, message)

    def _closing(self, message: Data) -> Ended:
        wrong = malformed(message)
        if wrong is not None:
            raise Broken(wrong)
        after: int | None = message.get("retry_after_ms")
        if after is not None and after != self._retry:
            raise Broken(f"closing with retry_after_ms {after}, but retry: {self._retry}")
        reason = message.get("reason") or ""
        return Ended(message["code"], reason if after is None else f"retry_after_ms={after}")

    def _take_error(self, message: Data) -> None:
        """Of a room that cannot be joined for now, after which the stream ends; or in place of the whole stream."""
        wrong = malformed(message)
        if wrong is not None:
            raise Broken(wrong)
        code, room = message["code"], message.get("room")
        self._device.ledger.errors[code] += 1
        if not ERRORS[code]:
            self._device.violation(Finding("error", f"a stream: {code}: {message['message']}"), room or "")
        if room is not None:
            return
        if self._welcomed:
            raise Broken(f"an error without a room after welcome: {str(message)[:200]}")
        if self._retry is None:
            raise Broken("an error in place of a stream, without retry, so that a browser would not wait")
        status = 429 if code == "rate_limited" else 503
        self._end = Refused(status, message["message"], self._retry / 1000, code)

    def _check_id(self, block: Block, message: Data) -> None:
        """Of a stream of one room: what a browser would bring back must be what it was shown."""
        if self._alone is None:
            if message["type"] == "closing":
                self._take_cursors(block)
            elif block.id is not None:
                raise Broken(f"an id in a stream of several rooms, in one block with data: {block.id[:80]}")
            return
        if block.id is None:
            if message["type"] in EVENTS:
                raise Broken(f"an event without an id: {str(message)[:200]}")
            return
        right = f"{self._epoch}.{self._device.rooms[self._alone].cursor}"
        if block.id != right:
            text = f"came with the id {block.id[:80]!r}, and must come with {right!r}"
            self._device.violation(Finding("id", text), self._alone, message.get("seq", 0))
        self._device.last_event_id = block.id

    def _take_ids(self, id: str) -> None:
        """Of a stream of several rooms: all cursors as they stand here. Heartbeats and `closing` may have them, too."""
        if not self._with_ids or self._alone is not None:
            raise Broken(f"an id with cursors, where none is due: {id[:80]}")
        epoch, cursors = read_id(id, None)
        if epoch != self._epoch:
            self._device.violation(Finding("id", f"an id of the epoch {epoch!r} in a log of {self._epoch!r}"))
        for room, witness in self._device.rooms.items():
            right = witness.cursor if witness.joined else witness.wanted
            told = cursors.pop(room, None if witness.joined else right)
            if right is not None and told != right:
                self._device.violation(Finding("id", f"{right} was shown, and the id says {id[:200]}"), room, right)
        if cursors:
            self._device.violation(Finding("id", f"an id names rooms that are not in this stream: {id[:200]}"))
        self._device.last_event_id = "" if cursors else id


def read_id(id: str, alone: str | None) -> tuple[str, dict[str, int]]:
    """The epoch and the cursors of an id: `EPOCH.SEQ` in a stream of one room, `alone`, else `EPOCH room:seq ...`."""
    if alone is not None:
        epoch, _, seq = id.rpartition(".")
        if epoch and _is_cursor(seq):
            return epoch, {alone: int(seq)}
        raise Broken(f"the id of an event is {id[:80]!r}, and must be EPOCH.SEQ")
    epoch, *parts = id.split(" ")
    cursors: dict[str, int] = {}
    for part in parts:
        room, _, seq = part.rpartition(":")
        if not room or room in cursors or not _is_cursor(seq):
            raise Broken(f"an id of several rooms that is {id[:200]!r}, and must be EPOCH room:seq room:seq ...")
        cursors[room] = int(seq)
    return epoch, cursors


def _is_cursor(text: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]{0,18}", text) is not None


def _with(path: str, parameters: list[str]) -> str:
    return f"{path}?{'&'.join(parameters)}".removesuffix("?")


def _check(head: Head) -> None:
    """Of a stream: what keeps those between from holding it back, or from keeping it."""
    if head.media_type != STREAM:
        raise Broken(f"a stream with Content-Type: {head.headers.get('content-type')}")
    if missing := {"no-store", "no-transform"} - set(head.listed("cache-control")):
        raise Broken(f"a stream whose Cache-Control has no {', '.join(sorted(missing))}")
    if head.headers.get("x-accel-buffering", "no") != "no":  # absent: nginx takes it away
        raise Broken(f"a stream with X-Accel-Buffering: {head.headers['x-accel-buffering']}")


async def _rest(connection: HTTPConnection) -> bytes:
    parts = []
    while data := await connection.read():
        parts.append(data)
    return b"".join(parts)
