"""A TCP proxy that does harm: it stands before a server, Redis or PostgreSQL, and is told what to do."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT = 5.0
CLOSE_TIMEOUT = 1.0

REPLIES = b">*+-:_%#,"
"""What a reply of RESP may begin with, and no part of a message does (a size does with `$`)."""

Predicate = Callable[[bytes, bytes], bool]
"""Of a channel and a payload: whether that pub/sub message is to be dropped."""


class Proxy:
    """Listens on a free port of 127.0.0.1 from `start` (or `async with`) to `close`; every call works at once.

    It holds what it delays or stalls without a limit: an instrument of tests.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target_host = target_host
        self.target_port = target_port
        self.port = 0
        self.dropped = 0  # pub/sub messages
        self._dropping: Predicate | None = None
        self._delay = 0.0
        self._held: tuple[float, int, float] = 0.0, 0, 0.0  # as `hold` has them
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Nothing is left: no socket and no task."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def links(self) -> int:
        """Connections through it that are open."""
        return len(self._links)

    def cut(self) -> None:
        """Reset all connections; new ones are taken."""
        for writer in self._writers:
            _reset(writer)

    def refuse(self) -> None:
        """`cut`, and reset each new connection until `accept`."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    def stall(self) -> None:
        """Pass on nothing, both ways, and keep the connections open; new ones stall too."""
        self._flowing.clear()

    def flow(self) -> None:
        """The end of `stall`: what was held goes on its way, in order."""
        self._flowing.set()

    def delay(self, seconds: float) -> None:
        """Hold each chunk from the server for so long; 0 ends it."""
        self._delay = seconds

    def hold(self, part: float, size: int, seconds: float) -> None:
        """Buffer, as proxies of the web do: on this `part` (0 to 1) of the connections that begin from now on, pass on
        what the server says only when there are `size` bytes, or `seconds` after the first of them.
        """
        self._held = part, size, seconds

    def drop(self, which: Predicate | float) -> None:
        """Drop these of Redis's pub/sub messages to clients: a fraction of them, or those that a predicate names.

        0 ends it. Subscriptions, replies and pings pass. Only for connections without TLS.
        """
        if callable(which):
            self._dropping = which
        elif which > 0:
            self._dropping = lambda channel, payload: random.random() < which
        else:
            self._dropping = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self._writers.add(writer)
        ends = [writer]
        try:
            if self._refusing:
                _reset(writer)
                return
            async with asyncio.timeout(CONNECT_TIMEOUT):
                back, target = await asyncio.open_connection(self.target_host, self.target_port)
            ends.append(target)
            self._writers.add(target)
            part, size, seconds = self._held
            down = self._down(back, writer, (size, seconds) if random.random() < part else (0, 0.0))
            ways = [asyncio.create_task(self._up(reader, target)), asyncio.create_task(down)]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                end.close()
            async with asyncio.timeout(CLOSE_TIMEOUT):  # what was said last goes out
                await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the target is away, or the proxy closes: the connection ends, which is all there is to tell
        finally:
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()
            await asyncio.sleep(0)  # an aborted transport closes its socket in the next turn
            self._links.discard(task)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From the client to the server."""
        while data := await reader.read(CHUNK_BYTES):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, holding: tuple[int, float]
    ) -> None:
        """From the server to the client."""
        loop = asyncio.get_running_loop()
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send(held, writer))
        sieve = Sieve()
        whole = True  # the chunk before ended where a reply may have
        try:
            while data := await _gathered(reader, *holding):
                passed = data
                if sieve.holds or (self._dropping is not None and whole and data[:1] in REPLIES):
                    passed = sieve.pass_on(data, self._dropping or _nothing)
                    self.dropped, sieve.dropped = self.dropped + sieve.dropped, 0
                whole = data.endswith(b"\r\n")
                if passed:
                    held.put_nowait((loop.time() + self._delay, passed))
            held.put_nowait((0.0, b""))
            await sender
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, held: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await held.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            await self._flowing.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()


async def _gathered(reader: asyncio.StreamReader, size: int, seconds: float) -> bytes:
    """What has come once it is `size` bytes, or `seconds` after the first of them; b"" at the end."""
    data = await reader.read(CHUNK_BYTES)
    if len(data) < size:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(data) < size and (more := await reader.read(CHUNK_BYTES)):
                    data += more
    return data


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        # Closed while it lingers for no time, a socket says RST and not FIN.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def _nothing(channel: bytes, payload: bytes) -> bool:
    return False


class Sieve:
    """Cuts what a Redis server says (RESP 2 and 3) into replies, and leaves out pub/sub messages."""

    def __init__(self) -> None:
        self.dropped = 0
        self._begun = b""  # of a reply whose end has not come

    @property
    def holds(self) -> bool:
        return bool(self._begun)

    def pass_on(self, data: bytes, drops: Predicate) -> bytes:
        """What of the replies that are whole now is not to be dropped."""
        data = self._begun + data
        parts = []
        at = 0
        while (end := _end(data, at)) > 0:
            reply = data[at:end]
            message = _message(reply)
            if message is not None and drops(*message):
                self.dropped += 1
            else:
                parts.append(reply)
            at = end
        self._begun = data[at:]
        return b"".join(parts)


def _end(data: bytes, at: int) -> int:
    """Where the reply that begins at `at` ends; 0 if its end has not come."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return 0
    kind, size, at = data[at : at + 1], data[at + 1 : line], line + 2
    if kind in b"$=!":
        at += int(size) + 2 if int(size) >= 0 else 0  # $-1: nothing
        return at if at <= len(data) else 0
    if kind in b"*>~%|":
        for _ in range(int(size) * (2 if kind in b"%|" else 1)):
            at = _end(data, at)
            if not at:
                return 0
    return at


def _message(reply: bytes) -> tuple[bytes, bytes] | None:
    """Channel and payload, if it is a pub/sub message of RESP 2 or 3."""
    if not reply.startswith((b">3\r\n$7\r\nmessage", b">3\r\n$8\r\nsmessage", b"*3\r\n$7\r\nmessage")):
        return None
    rest = reply.split(b"\r\n", 4)[4]
    channel, _, rest = rest.partition(b"\r\n")
    size, _, payload = rest.partition(b"\r\n")
    return channel, payload[: int(size[1:])]
