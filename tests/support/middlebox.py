"""What stands between a browser and the server on bad networks: a proxy that does not bear all ways in."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal

PATIENCE = 10.0
HEAD_END = b"\r\n\r\n"
STREAM = re.compile(rb"^content-type: text/event-stream", re.IGNORECASE | re.MULTILINE)
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Middlebox:
    """A proxy before the server at `port`, on a thread and a loop of its own; a context manager.

    Each request has a connection of its own, and is treated as is said at that moment. `websockets` are `passed`,
    `refused` with 400, begun and then without a frame of either side (`swallowed`), or without those of the browser
    (`deaf`). While `buffers`, a stream is held back until it ends. The server gets requests of the paths that it
    `loses`, and the browser no answer to them; those that it `holds` get nowhere, and stay open. While it finds the
    server `away`, it answers all of them with 503. For a path it connects to the server from a port that `fits`:
    each of several workers has the connections from some ports.
    """

    def __init__(self, port: int) -> None:
        self.url = ""
        self.websockets: Literal["passed", "refused", "swallowed", "deaf"] = "passed"
        self.buffers = False
        self.away = False
        self.loses: set[str] = set()
        self.holds: set[str] = set()
        self.fits: Callable[[str, int], bool] = lambda path, port: True
        self._port = port
        self._paths: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._links: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Middlebox:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(PATIENCE)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def cut(self) -> None:
        """All connections that are open end here."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(PATIENCE)

    def count(self, path: str) -> int:
        """How many requests of this path came."""
        return self._paths.count(path)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accepted, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        await self._server.wait_closed()

    async def _cut(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = self._loop.create_task(self._link((reader, writer)))
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        link.add_done_callback(lambda _: writer.close())

    async def _link(self, browser: Link) -> None:
        try:
            head = await browser[0].readuntil(HEAD_END)
            path = head.split(b" ")[1].decode("latin-1").partition("?")[0]
            self._paths.append(path)
            upgrade = b"\r\nupgrade: websocket\r\n" in head.lower()
            if self.away:
                browser[1].write(AWAY)
            elif path in self.holds:
                await browser[0].read()
            elif upgrade and self.websockets == "refused":
                browser[1].write(REFUSAL)
            else:
                server = await self._connect(path)
                try:
                    server[1].write(head if upgrade else _for_one_request(head))
                    await self._pass(path, upgrade, browser, server)
                finally:
                    server[1].close()
        except (OSError, asyncio.IncompleteReadError):
            pass  # a connection that was not used, or one end of which has gone

    async def _connect(self, path: str) -> Link:
        while True:
            server = await asyncio.open_connection("127.0.0.1", self._port)
            if self.fits(path, server[1].get_extra_info("sockname")[1]):
                return server
            server[1].close()

    async def _pass(self, path: str, upgrade: bool, browser: Link, server: Link) -> None:
        """Until either end has gone."""
        up = _pump(browser[0], None if upgrade and self.websockets != "passed" else server[1])
        lost = path in self.loses or (upgrade and self.websockets == "swallowed")
        down = self._answer(server[0], browser[1], upgrade, lost=lost)
        ends = [self._loop.create_task(up), self._loop.create_task(down)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _answer(
        self, server: asyncio.StreamReader, browser: asyncio.StreamWriter, upgrade: bool, *, lost: bool
    ) -> None:
        head = await server.readuntil(HEAD_END)
        if upgrade or not lost:
            browser.write(head)
        if self.buffers and STREAM.search(head):
            browser.write(await server.read())
        await _pump(server, None if lost else browser)


def _for_one_request(head: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> None:
    """Pass on what comes until it ends; without a `writer`, drop it."""
    while data := await reader.read(65536):
        if writer is not None:
            writer.write(data)
            await writer.drain()
