"""A server in this process and plain clients, for tests that look inside."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.support.raw_chat import is_presence_signal
from tornado_chat.broker.opening import open_broker
from tornado_chat.config import Settings
from tornado_chat.log.opening import open_log
from tornado_chat.server import Server

SECRET = b"a secret of tests, 32 bytes long"
SECONDS = 10.0


class Client:
    """One WebSocket; what it receives is a list of objects in order."""

    def __init__(self, socket: WebSocketClientConnection, codec: str) -> None:
        self.socket = socket
        self.codec = codec
        self.closed = False
        self.presence: list[Any] = []
        self.asked = itertools.count()
        self.welcome: Any = None
        self.joined: Any = None

    async def send(self, **command: Any) -> None:
        if self.codec == "chat.v1.msgpack":
            await self.socket.write_message(msgpack.packb(command), binary=True)
        else:
            await self.socket.write_message(json.dumps(command))

    async def receive(self) -> Any:
        """The next object but for signals of presence, which go to `presence`; None when the connection has closed."""
        while not self.closed:  # Tornado's client says so only once
            message = await asyncio.wait_for(self.socket.read_message(), SECONDS)
            if message is None:
                self.closed = True
                return None
            obj = msgpack.unpackb(message) if isinstance(message, bytes) else json.loads(message)
            if not is_presence_signal(obj):
                return obj
            self.presence.append(obj)
        return None

    async def until(self, type: str, **fields: Any) -> Any:
        """Read on to an object of this type with these fields."""
        while True:
            got = await self.receive()
            assert got is not None, f"closed before {type} {fields}"
            if got["type"] == type and all(got.get(key) == value for key, value in fields.items()):
                return got

    async def ask(self, **command: Any) -> Any:
        """Send, and read on to the reply with the same id."""
        command.setdefault("id", f"ask {next(self.asked)}")
        await self.send(**command)
        while True:
            got = await self.receive()
            assert got is not None, f"closed before the answer to {command}"
            if got.get("id") == command["id"] and got["type"] not in ("message",):
                return got

    async def collect(self, last: int) -> list[Any]:
        """Events up to the one with seq `last`; what has no seq of an event is left out."""
        events: list[Any] = []
        while not events or events[-1]["seq"] < last:
            got = await self.receive()
            assert got is not None, "closed"
            if got["type"] in ("message", "edited", "deleted", "reacted"):
                events.append(got)
        return events

    async def close(self) -> None:
        """Close, and read what is left: Tornado's client sees the server's close frame only behind it."""
        self.socket.close()
        while await self.receive() is not None:
            pass


class Running:
    """A server that listens on a free port of loopback."""

    def __init__(self, server: Server, address: str) -> None:
        self.server = server
        self.address = address
        self.clients: list[Client] = []

    async def connect(
        self,
        path: str = "/ws",
        *,
        protocols: list[str] | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Client:
        """Connect, and read the welcome into `client.welcome`."""
        request = HTTPRequest(
            "ws" + self.address.removeprefix("http") + path, headers=headers or {}, connect_timeout=SECONDS
        )
        socket = await websocket_connect(request, subprotocols=protocols, **options)
        client = Client(socket, socket.selected_subprotocol or "chat.v1.json")
        self.clients.append(client)
        client.welcome = await client.receive()
        return client

    async def join(self, room: str, path: str = "/ws", **fields: Any) -> Client:
        """Connect and join `room`; returns after `synced`."""
        client = await self.connect(path)
        client.joined = await client.ask(type="join", room=room, **fields)
        await client.until("synced")
        return client


@asynccontextmanager
async def running(path: Path, *, siblings: int = 0, secret: bytes = SECRET, **settings: Any) -> AsyncIterator[Running]:
    """Start a server, on a log in `path` unless told otherwise; it must be empty again at the end.

    `siblings` others use the same log.
    """
    settings.setdefault("guests", True)
    settings.setdefault("send_rate", 0)
    settings.setdefault("database", f"sqlite:///{path / 'chat.db'}")
    made = Settings(port=0, **settings)
    log = await open_log(made.database)
    server = Server(made, secret, log, open_broker(replace(made, workers=1 + siblings), log.epoch, secret))
    await server.open()
    here = Running(server, server.start())
    try:
        yield here
        for client in here.clients:
            await client.close()
        await eventually(lambda: not server.lines.open and not server.context.polls.waiting)
        server.context.polls.stays.end_idle()
        await eventually(lambda: not server.hub.rooms and not server.hub.shared.budget.order)  # a large ring bit by bit
        assert server.hub.shared.budget.bytes == 0
    finally:
        await server.stop()
        for client in here.clients:
            await client.close()


async def eventually(condition: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Return when `condition` holds; fail when it does not in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not come about in time"
        await asyncio.sleep(0.005)


async def present(client: Client, count: int, room: str = "r") -> Any:
    """The answer to `presence` as soon as it tells so many."""
    answer = None
    async with asyncio.timeout(15):
        while answer is None or answer["count"] != count:
            answer = await client.ask(type="presence", room=room)
            await asyncio.sleep(0.02)
    return answer
