"""A proxy between `tornado-chat verify` and a sound server that breaks one promise, once: verify's negative control."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tornado_chat.verify.websocket import ServerFrames
from tornado_chat.wire.frames import TEXT, frame

EVENTS = ("message", "edited", "deleted", "reacted")

Message = dict[str, Any]
Tamper = Callable[["Tampering", Message], list[Message] | None]
"""What is passed on in place of a message; None: it does not fit, and passes unchanged."""


class Tampering:
    """Passes everything on, but for one message of one connection that speaks JSON; deflate is not offered on.

    `at` is what was tampered with, once it was.
    """

    def __init__(self, port: int, tamper: Tamper, *, begin_after: int = 100) -> None:
        self.port = 0
        self.at: Message | None = None
        self.held: Message | None = None
        self._target = port
        self._tamper = tamper
        self._left = begin_after  # messages
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
            request = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            target.write(b"\r\n".join(line for line in request if not line.startswith(b"Sec-WebSocket-Ext")))
            up = asyncio.create_task(self._up(reader, target))
            try:
                await self._down(back, writer)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side has gone
        finally:
            writer.transport.abort()
            target.transport.abort()
            await asyncio.sleep(0)
            self._links.discard(task)

    async def _up(self, reader: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            target.write(data)
        target.transport.abort()

    async def _down(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await back.readuntil(b"\r\n\r\n"))
        frames = ServerFrames(False)
        while data := await back.read(65536):
            for opcode, payload in frames.feed(data):
                if opcode != TEXT:
                    writer.write(frame(opcode, payload))
                    continue
                message = json.loads(payload)
                for one in self._changed(message):
                    writer.write(frame(TEXT, json.dumps(one).encode()))

    def _changed(self, message: Message) -> list[Message]:
        self._left -= 1
        if self._left > 0:
            return [message]
        self._victim = self._victim or asyncio.current_task()
        if self._victim is not asyncio.current_task():
            return [message]
        changed = self._tamper(self, message)
        return [message] if changed is None else changed


def drop(proxy: Tampering, message: Message) -> list[Message] | None:
    if proxy.at is not None or message["type"] not in EVENTS:
        return None
    proxy.at = message
    return []


def double(proxy: Tampering, message: Message) -> list[Message] | None:
    if proxy.at is not None or message["type"] not in EVENTS:
        return None
    proxy.at = message
    return [message, message]


def swap(proxy: Tampering, message: Message) -> list[Message] | None:
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


def alter(proxy: Tampering, message: Message) -> list[Message] | None:
    if proxy.at is not None or message["type"] != "message" or "text" not in message:
        return None
    proxy.at = message
    return [message | {"text": message["text"] + "!"}]


def forge(proxy: Tampering, message: Message) -> list[Message] | None:
    """An event that nobody sent and nobody else is shown, after the last one."""
    if proxy.at is not None or message["type"] != "message":
        return None
    proxy.at = message | {"seq": message["seq"] + 1, "id": "forged"}
    return [message, proxy.at]


def renumber_ack(proxy: Tampering, message: Message) -> list[Message] | None:
    if proxy.at is not None or message["type"] != "ack":
        return None
    proxy.at = message | {"seq": message["seq"] + 1}
    return [proxy.at]


def lose_event(proxy: Tampering, message: Message) -> list[Message] | None:
    """An ack for what no log holds."""
    if proxy.at is not None or message["type"] != "ack":
        return None
    proxy.at = message | {"seq": message["seq"] + 100_000}
    return [proxy.at]


def refuse(proxy: Tampering, message: Message) -> list[Message] | None:
    """An error in place of an ack."""
    if proxy.at is not None or message["type"] != "ack":
        return None
    proxy.at = message
    return [{"type": "error", "id": message["id"], "code": "forbidden", "message": "no"}]


def change_epoch(proxy: Tampering, message: Message) -> list[Message] | None:
    if proxy.at is not None or message["type"] != "joined":
        return None
    proxy.at = message | {"seq": 0}
    return [message | {"epoch": "another"}]


def stop_delivery(proxy: Tampering, message: Message) -> list[Message] | None:
    """From some event on nothing more of its room is shown; everything else goes on."""
    if message["type"] not in EVENTS:
        return None
    proxy.at = proxy.at or message
    return [] if message["room"] == proxy.at["room"] else None
