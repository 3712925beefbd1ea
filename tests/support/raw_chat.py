"""A chat client on a plain socket, with frames made by hand: quick, and able to stop in the middle of anything."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import zlib
from collections import deque
from types import TracebackType
from typing import Any, Self

import msgpack

from tests.support.raw_websocket import client_frame

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
UNMASKED = b"\0\0\0\0"  # a masking key under which the payload stays what it is
TIMEOUT = 15.0


def text_frame(payload: bytes) -> bytes:
    return client_frame(TEXT, payload, key=UNMASKED)


def commands(*objects: dict[str, Any]) -> bytes:
    """The frames of some commands, in one piece."""
    return b"".join(text_frame(json.dumps(obj, separators=(",", ":")).encode()) for obj in objects)


class Closed(Exception):
    """The server sent a close frame, or hung up (1006)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The handshake was not answered with 101."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer.decode("latin-1"))
        self.answer = answer


def is_presence_signal(obj: Any) -> bool:
    return isinstance(obj, dict) and obj.get("type") == "presence" and "users" not in obj


class Frames:
    """Takes bytes from a server and gives the objects in them, whatever the codec, deflated or not; no I/O."""

    def __init__(self) -> None:
        self.rest = b""
        self.pings: deque[bytes] = deque()
        self.presence: list[Any] = []  # its signals, apart: they come when their second is over, whatever is tested
        self.closed: Closed | None = None

    def feed(self, data: bytes) -> list[Any]:
        data = self.rest + data
        objects: list[Any] = []
        at = 0
        while len(data) >= at + 2:
            opcode, size, start = data[at] & 15, data[at + 1], at + 2
            assert size < 128, "a server must not mask"
            if size >= 126:
                width = 2 if size == 126 else 8
                if len(data) < start + width:
                    break
                size = int.from_bytes(data[start : start + width], "big")
                start += width
            if len(data) < start + size:
                break
            assert data[at] & 0x80, "the server sends each message in one frame"
            payload = data[start : start + size]
            if data[at] & 0x40:
                payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
            at = start + size
            if opcode in (TEXT, BINARY):
                obj = json.loads(payload) if opcode == TEXT else msgpack.unpackb(payload)
                (self.presence if is_presence_signal(obj) else objects).append(obj)
            elif opcode == PING:
                self.pings.append(payload)
            elif opcode == CLOSE:
                self.closed = Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())
        self.rest = data[at:]
        return objects


def handshake(port: int, path: str = "/ws", *headers: str) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *headers,
    ]
    return "".join(line + "\r\n" for line in (*lines, "")).encode("latin-1")


def reset(sock: socket.socket) -> None:
    """Be gone at once: the kernel sends RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def get(port: int, path: str, *headers: str) -> bytes:
    """The whole answer to one plain request."""
    more_headers = "".join(f"{header}\r\n" for header in headers)
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more_headers}\r\n".encode())
        said = b""
        while more := sock.recv(1 << 18):
            said += more
    return said


class RawChat:
    """One blocking connection; every read has a time limit. `welcome` has been read when it is made."""

    def __init__(self, port: int, path: str = "/ws", *headers: str, buffer: int | None = None) -> None:
        """`buffer`: what the kernel may hold for us unread, about, in bytes."""
        self.sock = socket.socket()
        try:
            self.sock.settimeout(TIMEOUT)
            if buffer is not None:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.connect(("127.0.0.1", port))
            self.sock.sendall(handshake(port, path, *headers))
            data = b""
            while b"\r\n\r\n" not in data:
                more = self.sock.recv(65536)
                if not more:
                    raise Refused(data)
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                raise Refused(data)
            self.frames = Frames()
            self.unread: deque[Any] = deque(self.frames.feed(rest))
            self.welcome = self.hear()
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def say(self, *objects: dict[str, Any]) -> None:
        self.sock.sendall(commands(*objects))

    def receive(self) -> list[Any]:
        """What one read gives, perhaps nothing yet; raises Closed when there is no more."""
        if self.unread:
            objects = list(self.unread)
            self.unread.clear()
            return objects
        if self.frames.closed is not None:
            raise self.frames.closed
        data = self.sock.recv(1 << 18)
        if not data:
            raise self.frames.closed or Closed(1006, "")
        objects = self.frames.feed(data)
        while self.frames.pings:
            self.sock.sendall(client_frame(PONG, self.frames.pings.popleft(), key=UNMASKED))
        return objects

    def read_to_close(self) -> tuple[list[Any], Closed]:
        """All that comes before the end, and how it ended."""
        objects: list[Any] = []
        while True:
            try:
                objects += self.receive()
            except Closed as closed:
                return objects, closed

    def hear(self) -> Any:
        """The next object."""
        while not self.unread:
            self.unread.extend(self.receive())
        return self.unread.popleft()

    def until(self, type: str, **fields: Any) -> Any:
        """Read on to an object of this type with these fields."""
        while True:
            got = self.hear()
            if got["type"] == type and all(got.get(key) == value for key, value in fields.items()):
                return got

    def ask(self, **command: Any) -> Any:
        """Send one command and read on to the reply with its id."""
        self.say(command)
        while True:
            got = self.hear()
            if got.get("id") == command["id"] and got["type"] != "message":
                return got

    def join(self, room: str, **fields: Any) -> Any:
        """Join, and read to `synced`, which must come without an event before it; the `joined`."""
        joined = self.ask(type="join", room=room, id="join", **fields)
        assert self.hear()["type"] == "synced"
        return joined

    def answer_close(self) -> None:
        """Answer the server's close frame, and hang up after it."""
        self.sock.sendall(client_frame(CLOSE, b"\x03\xe8"))
        while self.sock.recv(65536):
            pass
        self.sock.close()

    def reset(self) -> None:
        reset(self.sock)


class AsyncChat:
    """The same for many at once, on the event loop; nothing is read but by `receive`."""

    def __init__(self, sock: socket.socket, frames: Frames, unread: list[Any]) -> None:
        self.sock = sock
        self.frames = frames
        self.unread = deque(unread)
        self.welcome: Any = None

    @classmethod
    async def connect(cls, port: int, path: str = "/ws", *headers: str, buffer: int | None = None) -> Self:
        """As RawChat is made."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(TIMEOUT):
                await loop.sock_connect(sock, ("127.0.0.1", port))
                await loop.sock_sendall(sock, handshake(port, path, *headers))
                data = b""
                while b"\r\n\r\n" not in data:
                    more = await loop.sock_recv(sock, 65536)
                    if not more:
                        raise Refused(data)
                    data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                raise Refused(data)
            frames = Frames()
            chat = cls(sock, frames, frames.feed(rest))
            chat.welcome = await chat.hear()
        except BaseException:
            sock.close()
            raise
        return chat

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    async def say(self, *objects: dict[str, Any]) -> None:
        await self.send(commands(*objects))

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, size: int = 1 << 18) -> list[Any]:
        """What one read gives, perhaps nothing yet; raises Closed when there is no more."""
        if self.unread:
            objects = list(self.unread)
            self.unread.clear()
            return objects
        if self.frames.closed is not None:
            raise self.frames.closed
        try:
            async with asyncio.timeout(TIMEOUT):
                data = await asyncio.get_running_loop().sock_recv(self.sock, size)
        except ConnectionError:
            data = b""
        if not data:
            raise self.frames.closed or Closed(1006, "")
        objects = self.frames.feed(data)
        while self.frames.pings:
            await self.send(client_frame(PONG, self.frames.pings.popleft(), key=UNMASKED))
        return objects

    async def read_to_close(self) -> tuple[list[Any], Closed]:
        """All that comes before the end, and how it ended."""
        objects: list[Any] = []
        while True:
            try:
                objects += await self.receive()
            except Closed as closed:
                return objects, closed

    async def hear(self) -> Any:
        """The next object."""
        while not self.unread:
            self.unread.extend(await self.receive())
        return self.unread.popleft()

    async def until(self, type: str, **fields: Any) -> Any:
        """Read on to an object of this type with these fields."""
        while True:
            got = await self.hear()
            if got["type"] == type and all(got.get(key) == value for key, value in fields.items()):
                return got

    async def ask(self, **command: Any) -> Any:
        """Send one command and read on to the reply with its id."""
        await self.say(command)
        while True:
            got = await self.hear()
            if got.get("id") == command["id"] and got["type"] != "message":
                return got

    async def answer_close(self) -> None:
        """Answer the server's close frame, and hang up after it."""
        await self.send(client_frame(CLOSE, b"\x03\xe8"))
        async with asyncio.timeout(TIMEOUT):
            while await asyncio.get_running_loop().sock_recv(self.sock, 65536):
                pass
        self.sock.close()

    def reset(self) -> None:
        reset(self.sock)
