"""A proxy that knows WebSockets, streams and other requests apart, and does each what networks do to them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from types import TracebackType
from typing import Literal, Self

Way = Literal["websocket", "stream", "request"]
WAYS: tuple[Way, ...] = ("websocket", "stream", "request")

CHUNK_BYTES = 65536
PAGES = {
    "refuse": (b"403 Forbidden", b"<html><body>Blocked by your administrator</body></html>"),
    "away": (b"503 Service Unavailable", b"<html><body>No server is available to handle this request</body></html>"),
}


class MeddlingProxy:
    """Listens on a free port of 127.0.0.1 for a server at another one; an async context manager.

    A connection is what its first request is. `modes` says what happens to those that come from now on:
    `pass`; `refuse`: answered with 403 and a page; `away`: with 503 and a page, as if no server were there; `reset`;
    `swallow`: nothing comes back, not even the head; `buffer`: the head comes back, and the body only when it is whole,
    which that of a stream never is.
    `vanish` is for those that are open: they stay open, and nothing comes through any more. `cut` resets them.
    """

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._tls = tls  # what its clients speak to it
        self.modes: dict[Way, str] = dict.fromkeys(WAYS, "pass")
        self.seen: dict[Way, int] = dict.fromkeys(WAYS, 0)
        self._target_port = target_port
        self._open: dict[Way, set[_Link]] = {way: set() for way in WAYS}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next turn

    def open(self, way: Way) -> int:
        return len(self._open[way])

    def cut(self, *ways: Way) -> None:
        for way in ways or WAYS:
            for link in self._open[way]:
                _reset(link.client)

    def vanish(self, *ways: Way) -> None:
        for way in ways or WAYS:
            for link in self._open[way]:
                link.flows = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            way = _way(head)
            mode = self.modes[way]
            self.seen[way] += 1
            if mode in PAGES:
                status, page = PAGES[mode]
                writer.write(b"HTTP/1.1 %b\r\nContent-Type: text/html\r\nConnection: close\r\n" % status)
                writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(page), page))
                await writer.drain()
                await reader.read()
                return
            if mode == "reset":
                _reset(writer)
                return
            back, target = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(target)
            target.write(head)
            link = _Link(writer, target)
            self._open[way].add(link)
            try:
                pumps = [
                    asyncio.create_task(link.up(reader)),
                    asyncio.create_task(link.down(back, mode)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                self._open[way].discard(link)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # one of the two has gone, or the proxy closes: that ends the connection
        finally:
            for end in ends:
                end.close()
            self._tasks.discard(task)


class _Link:
    """A connection, both ways."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.client = client
        self.target = target
        self.flows = True

    async def up(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self.flows:
                self.target.write(data)
                await self.target.drain()

    async def down(self, reader: asyncio.StreamReader, mode: str) -> None:
        if mode == "buffer":
            self.client.write(await reader.readuntil(b"\r\n\r\n"))
            self.client.write(await reader.read())
            return
        while data := await reader.read(CHUNK_BYTES):
            if self.flows and mode != "swallow":
                self.client.write(data)
                await self.client.drain()


def _way(head: bytes) -> Way:
    if b"\r\nupgrade:" in head.lower():
        return "websocket"
    return "stream" if b"text/event-stream" in head else "request"


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        # Closed while it lingers for no time, a socket says RST and not FIN.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
