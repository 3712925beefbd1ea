"""A proxy between `tornado-chat verify` and a sound server that breaks one promise, once: verify's negative control."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.raw_websocket import client_frame
from tornado_chat.verify.frames import TEXT, ServerFrames

EVENTS = ("message", "edited", "deleted", "reacted")
OWN_EVENTS = ("followed", "unfollowed", "marked", "mentioned")

Message = dict[str, Any]
Tamper = Callable[["Tampering", Message], list[Message | bytes] | None]
"""What is passed on in place of a message, bytes as they are; None: it does not fit, and passes unchanged."""


class Tampering:
    """Passes everything on, but for what is tampered with on one connection that speaks JSON.

    Deflate is not offered on. `at` is what was tampered with, once it was. `everywhere`: on all connections.
    """

    def __init__(self, port: int, tamper: Tamper, *, begin_after: int = 100, everywhere: bool = False) -> None:
        self.port = 0
        self.at: Message | None = None
        self.held: Message | None = None
        self._target = port
        self._tamper = tamper
        self._left = begin_after  # messages
        self._everywhere = everywhere
        self._victim: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Tampering:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        back, target = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await self._relay(reader, writer, back, target)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side has gone
        finally:
            writer.transport.abort()
            target.transport.abort()
            with contextlib.suppress(asyncio.CancelledError):  # the test ends as well
                await asyncio.sleep(0)
            self._links.discard(task)

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        """What a client says on one connection, and what the server does; until either ends."""
        request = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        target.write(b"\r\n".join(line for line in request if not line.startswith(b"Sec-WebSocket-Ext")))
        up = asyncio.create_task(self._up(reader, target))
        try:
            await self._down(back, writer)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        """All that either side says, as it is; until the server ends."""
        up = asyncio.create_task(self._up(reader, target))
        try:
            await self._rest(back, writer)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)

    async def _rest(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await back.read(65536):
            writer.write(data)

    async def _up(self, reader: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            target.write(data)
        target.transport.abort()

    async def _down(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await back.readuntil(b"\r\n\r\n")
        writer.write(head)
        if b" 101 " not in head.partition(b"\r\n")[0]:  # a request that is no handshake
            await self._rest(back, writer)
            return
        frames = ServerFrames(None)
        while data := await back.read(65536):
            for opcode, payload in frames.feed(data):
                if writer.is_closing():
                    return
                if opcode != TEXT:
                    writer.write(server_frame(opcode, payload))
                    continue
                message = json.loads(payload)
                for one in self.changed(message):
                    writer.write(one if isinstance(one, bytes) else server_frame(TEXT, json.dumps(one).encode()))

    def changed(self, message: Message) -> list[Message | bytes]:
        """What a client gets in place of `message`."""
        self._left -= 1
        if self._left > 0 or self._victim not in (None, asyncio.current_task()):
            return [message]
        changed = self._tamper(self, message)
        if changed is None:
            return [message]
        if not self._everywhere:
            self._victim = asyncio.current_task()
        return changed


def server_frame(opcode: int, payload: bytes, **wrong: Any) -> bytes:
    """As a server sends it: not masked. `wrong` is what client_frame takes."""
    return client_frame(opcode, payload, key=None, **wrong)


def drop(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] not in EVENTS:
        return None
    proxy.at = message
    return []


def double(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] not in EVENTS:
        return None
    proxy.at = message
    return [message, message]


def swap(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """The next event of its room overtakes one; what comes between does not."""
    if proxy.at is not None or message["type"] not in EVENTS:
        return None
    if proxy.held is None:
        proxy.held = message
        return []
    if proxy.held["room"] != message["room"]:
        return None
    proxy.at = proxy.held
    return [message, proxy.held]


def alter(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] != "message" or "text" not in message:
        return None
    proxy.at = message
    return [message | {"text": message["text"] + "!"}]


def miscount(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """A message that says that it is another one of its room than it is."""
    if proxy.at is not None or message["type"] != "message":
        return None
    proxy.at = message
    return [message | {"n": message["n"] + 1}]


def forge(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """An event that nobody sent and nobody else is shown, after the last one."""
    if proxy.at is not None or message["type"] != "message":
        return None
    proxy.at = message | {"seq": message["seq"] + 1, "id": "forged"}
    return [message, proxy.at]


def renumber_ack(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] != "ack" or "seq" not in message:
        return None
    proxy.at = message | {"seq": message["seq"] + 1}
    return [proxy.at]


def lose_event(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """An ack for what no log holds."""
    if proxy.at is not None or message["type"] != "ack" or "seq" not in message:
        return None
    proxy.at = message | {"seq": message["seq"] + 100_000}
    return [proxy.at]


def refuse(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """An error in place of an ack."""
    if proxy.at is not None or message["type"] != "ack" or "seq" not in message:
        return None
    proxy.at = message
    return [{"type": "error", "id": message["id"], "code": "forbidden", "message": "no"}]


# One's own log.


def drop_own(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] not in OWN_EVENTS:
        return None
    proxy.at = message
    return []


class ChangeOwn:
    """An event of this type in an own log says something else, to the first who is shown it and to nobody else."""

    def __init__(self, type: str, **changed: Any) -> None:
        self._type = type
        self._changed = changed

    def __call__(self, proxy: Tampering, message: Message) -> list[Message | bytes] | None:
        if proxy.at is not None or message["type"] != self._type:
            return None
        proxy.at = message
        return [message | self._changed]


class FalsifyState:
    """A state in which a room stands otherwise."""

    def __init__(self, falsify: Callable[[Message], Message | None]) -> None:
        """`falsify` makes another room of one, or None where it cannot."""
        self._falsify = falsify

    def __call__(self, proxy: Tampering, message: Message) -> list[Message | bytes] | None:
        rooms = (message.get("state") or {}).get("rooms", ())
        for place, room in enumerate(rooms):
            changed = self._falsify(room)
            if proxy.at is None and changed is not None:
                proxy.at = {"room": "~", "seq": message["cursor"]}
                return [message | {"state": {"rooms": [*rooms[:place], changed, *rooms[place + 1 :]]}}]
        return None


def another_level(room: Message) -> Message | None:
    return room | {"level": "nothing" if room["level"] != "nothing" else "mentions"}


def one_more_unread(room: Message) -> Message | None:
    more = room["unread"] + 1
    return room | {"unread": more} if more <= min(room["messages"], room["head"] - room["read"]) else None


def an_older_mark(room: Message) -> Message | None:
    return room | {"read": room["read"] - 1} if room["read"] else None


def forget_mark(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """Somebody who has said something in a room is told that it was not read."""
    if proxy.at is not None or message["type"] != "joined" or not message["read"]:
        return None
    proxy.at = message | {"seq": 0}
    return [message | {"read": 0}]


def mark_by_signal(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """A signal tells of a mark that nobody has asked for."""
    if proxy.at is not None or message["type"] != "read":
        return None
    proxy.at = message | {"seq": 10**6}
    return [proxy.at]


# Messages that grow.


def alter_chunk(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] != "appended":
        return None
    (seq, gen, offset, text), *others = message["chunks"]
    proxy.at = message | {"seq": seq}
    return [message | {"chunks": [[seq, gen, offset, text[:-1] + "!"], *others]}]


def shift_chunk(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """Its text as if it came later."""
    if proxy.at is not None or message["type"] != "appended":
        return None
    (seq, gen, offset, text), *others = message["chunks"]
    proxy.at = message | {"seq": seq}
    return [message | {"chunks": [[seq, gen, offset + 1, text], *others]}]


def alter_end(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] != "finished" or "crc" not in message:
        return None
    proxy.at = message
    return [message | {"crc": message["crc"] ^ 1}]


def change_epoch(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    if proxy.at is not None or message["type"] != "joined":
        return None
    proxy.at = message | {"seq": 0}
    return [message | {"epoch": "another"}]


def stop_delivery(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """From some event on nothing more of its room is shown; everything else goes on."""
    if message["type"] not in EVENTS:
        return None
    proxy.at = proxy.at or message
    return [] if message["room"] == proxy.at["room"] else None


def withhold(type: str) -> Tamper:
    """No answer of this type, once."""

    def tamper(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
        if proxy.at is not None or message["type"] != type or "id" not in message:
            return None
        proxy.at = message | {"seq": 0}
        return []

    return tamper


ChangePage = Callable[[list[Message]], Message | None]


class FalsifyHistory:
    """Each of `changes` to a page of its own: it falsifies the messages, and says which of them.

    It says None where it finds none that fits. `done` holds what was changed, by the name of the change.
    """

    def __init__(self, *changes: ChangePage) -> None:
        self.left = list(changes)
        self.done: dict[str, Message] = {}

    def __call__(self, proxy: Tampering, message: Message) -> list[Message | bytes] | None:
        if message["type"] == "history":
            for change in self.left:
                harmed = change(message["messages"])
                if harmed is not None:
                    self.left.remove(change)
                    self.done[change.__name__] = harmed
                    return [message]
        return None


def show_old_text(messages: list[Message]) -> Message | None:
    """An edited message as it was before."""
    for message in messages:
        if "edited" in message and "text" in message:
            message["text"] = "before"
            return message
    return None


def show_deleted(messages: list[Message]) -> Message | None:
    for message in messages:
        if message.pop("deleted", None):
            message["text"] = "still there"
            return message
    return None


def drop_reaction(messages: list[Message]) -> Message | None:
    for message in messages:
        if "reactions" in message:
            del message["reactions"]
            return message
    return None


def leave_out(messages: list[Message]) -> Message | None:
    return messages.pop(len(messages) // 2) if len(messages) > 2 else None


def miscount_one(messages: list[Message]) -> Message | None:
    if not messages:
        return None
    messages[-1]["n"] -= 1
    return messages[-1]


def show_another(messages: list[Message]) -> Message | None:
    if not messages:
        return None
    messages[0]["user"] = "eve"
    return messages[0]


def deny_presence(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """A room said to be empty, to somebody who is in it."""
    if proxy.at is not None or message["type"] != "presence" or "id" not in message:
        return None
    proxy.at = message | {"seq": 0}
    return [message | {"count": 0, "users": []}]


def go_on_after_left(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """One more event of a room that was left."""
    if message["type"] == "message":
        proxy.held = message
    if proxy.at is not None or proxy.held is None or message["type"] != "left" or message["room"] == "~":
        return None
    proxy.at = {**proxy.held, "room": message["room"]}
    return [message, proxy.at]


class Malform:
    """Each of `frames` in place of one event, on a connection of its own, until all were sent."""

    def __init__(self, frames: Iterable[bytes]) -> None:
        self.frames = list(frames)
        self._spoiled: set[object] = set()

    def __call__(self, proxy: Tampering, message: Message) -> list[Message | bytes] | None:
        connection = asyncio.current_task()
        if not self.frames or connection in self._spoiled or message["type"] not in EVENTS:
            return None
        self._spoiled.add(connection)
        return [self.frames.pop()]
