"""A room in a terminal: `tail` prints it, `send` and `stream` write to it. Each returns its command's exit code."""

from __future__ import annotations

import asyncio
import sys
import time
import unicodedata
from collections.abc import AsyncIterator
from json import dumps  # not orjson: what leaves here for a terminal is ASCII
from typing import TextIO

from tornado_chat.client import Choice, Client, Closed, Reply
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.log.kinds import KINDS
from tornado_chat.wire.events import Data

WINDOW = 64
"""Messages of `send` on their way at once."""
END_SECONDS = 5.0
"""How long a message that grows may take to end after Ctrl-C."""
NAMES = 1000
"""People whose names `tail` remembers."""
OWN_FAULT = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE})
"""Errors that say something of one message only: the others can still be sent."""

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


async def tail(
    url: str,
    room: str,
    *,
    transport: Choice = "auto",
    token: str | None,
    name: str | None,
    last: int,
    json: bool,
    out: TextIO,
) -> int:
    """Print the room to `out`, from `last` events ago on, until cancelled; 1 when the server will not have us.

    A lost connection is told on stderr, and costs nothing. With `json`, each event is one object a line, as
    docs/protocol.md has it; `reset` is one too, and of `~` `state`. BrokenPipeError: nobody reads `out` any more.
    """
    printer = Printer()

    def show(event: Data) -> None:
        print(dumps(event) if json else _encodable(printer.line(event), out), file=out, flush=True)

    try:
        async with Client(url, transport=transport, token=token, name=name, notify=_notify) as chat:
            while True:
                try:
                    joined = await chat.join(room, last=last)
                    break
                except TimeoutError as error:
                    _notify(f"{error}, trying on")
            if "state" in joined:
                show({"type": "state", "room": room, "cursor": joined["cursor"], "state": joined["state"]})
            async for event in chat:
                if event["type"] == "left":
                    return _fail(f"{room}: {event['message']}")
                if event["type"] in KINDS or event["type"] in ("reset", "state"):
                    show(event)
    except (ChatError, Closed) as error:
        return _fail(f"{room}: {error}")
    return 0


async def send(
    url: str,
    room: str,
    texts: AsyncIterator[str],
    *,
    transport: Choice = "auto",
    token: str | None,
    name: str | None,
    patience: float = 10.0,
) -> int:
    """Send each of `texts` (empty ones are left out) and wait for the acks; 0 if there is one for each.

    Up to WINDOW are on their way at once, in order. Gives up when none was acknowledged for `patience` seconds.
    """
    async with Client(url, transport=transport, token=token, name=name, timeout=None, notify=_notify) as chat:
        return await _Sending(chat, room, patience).send(texts)


async def stream(
    url: str,
    room: str,
    pieces: AsyncIterator[str],
    *,
    transport: Choice = "auto",
    token: str | None,
    name: str | None,
) -> int:
    """Send all `pieces` as one message that grows as they come; 0 when the log has all of it.

    1 if somebody stops it, or the server refuses it. Cancelled (by Ctrl-C), it ends as `stopped`; where `pieces` raise,
    as `error`.
    """
    try:
        async with Client(url, transport=transport, token=token, name=name, timeout=None, notify=_notify) as chat:
            async with chat.stream(room) as reply:
                try:
                    async for piece in _until_stopped(pieces, reply):
                        await reply.write(piece)
                    if reply.stopped_by is not None:
                        await reply.finish("stopped")
                except asyncio.CancelledError:
                    async with asyncio.timeout(END_SECONDS):
                        await reply.finish("stopped")
                    raise
            if reply.reason == "stopped":
                by = "somebody" if reply.stopped_by is None else reply.stopped_by
                return _fail(f"{room}: message {reply.seq} was stopped by {by}; no more is read")
    except TimeoutError:
        return _fail(f"{room}: the end was not acknowledged within {END_SECONDS:g} s")
    except (ChatError, Closed) as error:
        return _fail(f"{room}: {error}")
    return 0


async def _until_stopped(pieces: AsyncIterator[str], reply: Reply) -> AsyncIterator[str]:
    """Of `pieces` what comes before somebody stops the message: who has nothing to say hears of it, too."""
    over = asyncio.create_task(reply.over())
    try:
        while True:
            reading = asyncio.ensure_future(anext(pieces, None))
            try:
                await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() or (piece := reading.result()) is None:
                    return
            finally:
                reading.cancel()
                await asyncio.wait({reading})
            yield piece
    finally:
        over.cancel()


class _Stop(Exception):
    """No more can be sent; its text says why."""


class _Sending:
    """Lines on their way to the room."""

    def __init__(self, chat: Client, room: str, patience: float) -> None:
        self.chat = chat
        self.room = room
        self.patience = patience
        self.flying: set[int] = set()  # numbers of lines
        self.slots = asyncio.Semaphore(WINDOW)
        self.stall = asyncio.timeout(None)
        self.failed = False

    async def send(self, texts: AsyncIterator[str]) -> int:
        unread: Exception | None = None
        try:
            async with self.stall, asyncio.TaskGroup() as group:
                number = 0
                try:
                    async for text in texts:
                        number += 1
                        if text:
                            await self.slots.acquire()
                            self.flying.add(number)
                            if len(self.flying) == 1:
                                self._await_progress()
                            group.create_task(self._one(number, text))
                except Exception as error:  # of `texts`: what was read before is sent all the same
                    unread = error
        except* _Stop as stops:
            _fail(f"{self.room}: {stops.exceptions[0]}")
            self.failed = True
        except* TimeoutError:
            _fail(f"{self.room}: nothing acknowledged within {self.patience:g} s")
            self.failed = True
        if self.flying:
            became = "whether the server has them is not known" if self.chat.welcome else "not sent"
            _fail(f"{self.room}: {_lines(self.flying)}: {became}")
        if unread is not None:
            raise unread
        return 1 if self.failed else 0

    async def _one(self, number: int, text: str) -> None:
        try:
            await self.chat.send(self.room, text)
        except ChatError as error:
            if error.code not in OWN_FAULT:
                self.flying.remove(number)
                raise _Stop(f"line {number}: {error.message}") from error
            _fail(f"{self.room}: line {number}: {error.message}")
            self.failed = True
        except Closed as error:
            raise _Stop(str(error)) from error
        self.flying.remove(number)
        self.slots.release()
        self._await_progress()

    def _await_progress(self) -> None:
        deadline = asyncio.get_running_loop().time() + self.patience
        self.stall.reschedule(deadline if self.flying else None)


class Printer:
    """Events as lines for people; what other people wrote cannot move the cursor, forge a line or hide text."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # by user id: only a `message` tells the name

    def line(self, event: Data) -> str:
        if event["type"] == "reset":
            return "--- the room's log was replaced by another; it begins again ---"
        if event["type"] == "state":
            return f"--- you follow {', '.join(map(_followed, event['state']['rooms'])) or 'no rooms'} ---"
        user: str = event["user"]
        if "name" in event:
            self.names.pop(user, None)
            self.names[user] = event["name"]
            if len(self.names) > NAMES:
                del self.names[next(iter(self.names))]
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["ts"] / 1000))
        who = plain(self.names.get(user, user))
        text = "(deleted)" if "text" not in event else plain(event["text"])
        match event["type"]:
            case "message":
                answers = f" to #{event['reply_to']}" if "reply_to" in event else ""
                text = "(begins to write)" if "streaming" in event and not text else text
                return f"{when} #{event['seq']} {who}{answers}: {text}"
            case "edited":
                return f"{when} {who} edited #{event['target']}: {text}"
            case "deleted":
                return f"{when} {who} deleted #{event['target']}"
            case "finished":
                told = text if event.keys() & {"text", "deleted"} else f"({event['length']:,} characters)"
                why = "" if event["reason"] == "done" else f" ({plain(event['reason'])})"
                return f"{when} {who} finished #{event['target']}{why}: {told}"
            case "followed" if "by" in event:
                return f"{when} {who} invites you to {event['about']}"
            case "followed":
                return f"{when} you follow {event['about']} ({event['level']})"
            case "unfollowed":
                return f"{when} you do not follow {event['about']} any more"
            case "marked":
                return f"{when} you have read {event['about']} up to #{event['read']}"
            case "mentioned":
                return f"{when} {who} names you in {event['about']} #{event['target']}"
        done = "reacted to" if event["on"] else "took back a reaction to"
        return f"{when} {who} {done} #{event['target']}: {plain(event['emoji'])}"


def _followed(room: Data) -> str:
    """A room of the state of one's own log."""
    told = [f"{room['unread']:,} unread"] if room["unread"] else []
    told += [f"{room['mentions']:,} of them name you"] if room["mentions"] else []
    return f"{room['room']} ({', '.join(told)})" if told else str(room["room"])


def plain(text: str) -> str:
    """`text` without control characters, escape sequences and changes of direction; its later lines are indented."""
    return "".join(map(_plain, text.replace("\r\n", "\n")))


def _plain(char: str) -> str:
    if char == "\n":
        return "\n    "
    if char == "\t":
        return " "
    if char in BIDI or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
        return char.encode("unicode_escape").decode()
    return char


def _encodable(text: str, out: TextIO) -> str:
    """`text` with what `out` cannot take in its encoding shown as escapes."""
    encoding = out.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _lines(numbers: set[int]) -> str:
    first, last = min(numbers), max(numbers)
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _notify(line: str) -> None:
    print(f"tornado-chat: {plain(line)}", file=sys.stderr)


def _fail(line: str) -> int:
    print(f"tornado-chat: error: {plain(line)}", file=sys.stderr)
    return 1
