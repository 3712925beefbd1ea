"""A WebSocket and its peer over real TCP on loopback, for the tests of live/."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.raw_websocket import Frame, client_frame
from tornado_chat.live.socket_line import Lines
from tornado_chat.live.websocket import WebSocket
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.frames import BINARY, CLOSE, TEXT

TIMEOUT = 10.0


async def until(condition: Callable[[], object]) -> None:
    """Wait, for a limited time, until `condition` holds."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110  # what is waited for is not always an event of this process
            await asyncio.sleep(0.002)


class Recorder:
    """A listener that remembers what it was told; `reaction` is called for each message."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.overhead = 0
        self.drained = 0
        self.closed: list[tuple[int, str]] = []
        self.reaction: Callable[[int, bytes], object] = lambda opcode, payload: None
        self.drained_reaction: Callable[[], object] = lambda: None
        self.closed_reaction: Callable[[], object] = lambda: None

    def on_message(self, payload: bytes) -> None:
        self.take(TEXT, payload)

    def take(self, opcode: int, payload: bytes) -> None:
        self.messages.append((opcode, payload))
        self.reaction(opcode, payload)

    def on_overhead(self, size: int) -> None:
        self.overhead += size

    def on_drained(self) -> None:
        self.drained += 1
        self.drained_reaction()

    def on_closed(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))
        self.closed_reaction()


def new_lines(*, high_water_mark: int = 1 << 20, close_timeout: float = 1000.0) -> Lines:
    return Lines(
        asyncio.get_running_loop(),
        max_frame_bytes=65536,
        high_water_mark=high_water_mark,
        close_timeout=close_timeout,
    )


def tcp_pair(buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """The client's end and the server's, not blocking; `buffers` as for Pair."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        if buffers is not None:
            for each in (listener, client):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
    client.setblocking(False)
    server.setblocking(False)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server


class Both(WebSocket):
    """One that takes text and binary messages."""

    def _take_other_kind(self, payload: bytes) -> None:
        if not self.closing and isinstance(self.listener, Recorder):
            self._lines.messages_in += 1
            self.listener.take(BINARY, payload)


class Pair:
    """`connection` with its `listener`, and the peer's end of the socket. Nothing of it is left after the block."""

    def __init__(self, lines: Lines | None = None, *, buffers: int | None = None) -> None:
        """`buffers`: what the kernel may hold, about, on each side; None: as it likes."""
        self.lines = lines or new_lines()
        self.listener = Recorder()
        self.sock, server = tcp_pair(buffers)
        self.connection = Both(self.lines, server, self.listener, JSON, deflate=False)
        self.buffer = b""

    async def __aenter__(self) -> Self:
        self.connection.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()
        self.connection.abort(1006)
        await until(lambda: self.listener.closed)
        assert len(self.listener.closed) == 1
        assert self.connection not in self.lines.open

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def say(self, opcode: int, payload: bytes = b"") -> None:
        await self.send(client_frame(opcode, payload))

    async def receive(self, size: int = 65536) -> bytes:
        """What came; b"" when the server hung up."""
        async with asyncio.timeout(TIMEOUT):
            return await asyncio.get_running_loop().sock_recv(self.sock, size)

    async def _read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            data = await self.receive()
            if not data:
                raise EOFError(f"the server hung up; before: {self.buffer[:100]!r}")
            self.buffer += data
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def read(self) -> Frame:
        """The next frame from the server."""
        first, second = await self._read(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self._read(2 if size == 126 else 8), "big")
        return Frame(first & 15, await self._read(size), first >> 4 & 7, bool(first & 0x80))

    async def read_close(self) -> tuple[int, str]:
        """Read a close frame, and that the server hangs up after it."""
        frame = await self.read()
        assert frame.opcode == CLOSE, frame
        assert self.buffer == b""
        assert await self.receive() == b""
        return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()

    def stall(self) -> int:
        """Write more than the kernel's buffers will take (with `buffers`), 8 KiB at a time; how many times."""
        count = 0
        while self.connection.outbox_bytes < 160_000:
            self.connection.write(bytes(8192))
            count += 1
        return count

    async def read_exactly(self, size: int) -> bytes:
        return await self._read(size)
