"""A server that answers each request with what a test has made of it: sound, or not."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.codecs import JSON
from tornado_chat.verify.device import Device
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger

HANG_UP = b"\0hang up\0"
"""In place of more: the connection ends here."""
WAIT = b"\0wait\0"
"""In place of more: nothing comes until the client goes."""


class Asked(NamedTuple):
    """`query` has each parameter as a list; `body` is what the JSON says, None without one."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


class ScriptedServer:
    """`answer` gives what is said to a request, in pieces; `asked` keeps the requests."""

    def __init__(self, answer: Callable[[Asked], list[bytes]]) -> None:
        self.port = 0
        self.asked: list[Asked] = []
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedServer:
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
        try:
            while True:
                asked = await read_request(reader, writer)
                self.asked.append(asked)
                for piece in self._answer(asked):
                    if piece == WAIT:
                        await reader.read(1)
                    if piece in (WAIT, HANG_UP):
                        return
                    writer.write(piece)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test ends
        finally:
            writer.close()
            await asyncio.sleep(0)
            self._links.discard(task)


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "expect" in headers:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    return Asked(method, parts.path, parse_qs(parts.query), headers, json.loads(body) if body else None)


@asynccontextmanager
async def driven(
    say: Callable[[Asked], list[bytes]], *rooms: str, kind: str, seed: int = 1
) -> AsyncIterator[tuple[Device, Ledger, ScriptedServer]]:
    """A device of verify's in `rooms` (r), which gets what `say` makes of each request, but for its session."""
    ledger = Ledger(rooms or ("r",))
    async with ScriptedServer(lambda asked: [SESSION] if asked.path == "/v1/session" else say(asked)) as server:
        device = Device(
            "c1",
            rooms or ("r",),
            ledger,
            ServerAddress("127.0.0.1", server.port, "/ws", False),
            kind=kind,
            token="t",
            offer=Offer(JSON),
            dice=random.Random(seed),
        )
        task = asyncio.create_task(device.run())
        try:
            yield device, ledger, server
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])


def answer(status: int, document: Any, *headers: str) -> bytes:
    """A whole answer with a JSON body."""
    body = json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


SESSION = answer(
    200, {"user": "u", "name": "U", "token": "t2"}, "Set-Cookie: chat_session=t2; Path=/; HttpOnly; SameSite=Lax"
)

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n"
    b"X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = chunk(b"")


def block(message: dict[str, Any] | None = None, **fields: str) -> bytes:
    """One block in a chunk of its own; `fields` come before the data."""
    lines = [f"{name}: {value}\n" for name, value in fields.items()]
    lines += [] if message is None else [f"data: {json.dumps(message)}\n"]
    return chunk("".join((*lines, "\n")).encode())
