"""A client of event streams on a plain socket, with its own reading of HTTP and of blocks; nothing is read unasked."""

from __future__ import annotations

import asyncio
import json
import socket
import zlib
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.raw_chat import is_presence_signal, reset

TIMEOUT = 15.0


class Block(NamedTuple):
    """What stood between two empty lines: `data` decoded, None if there was none."""

    data: Any
    id: str | None
    event: str | None
    retry: int | None


class Ended(Exception):
    """The body has ended; `whole` tells whether it did so properly."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__("whole" if whole else "cut off")
        self.whole = whole


class Body:
    """Bytes behind the head of an answer in, what is in the body out; no I/O."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.chunked = headers.get("transfer-encoding") == "chunked"
        self.left = int(headers["content-length"]) if "content-length" in headers else None
        self.inflate = zlib.decompressobj(31).decompress if headers.get("content-encoding") == "gzip" else None
        self.rest = b""
        self.ended = self.left == 0
        self.chunks = 0

    def feed(self, data: bytes) -> bytes:
        body = self._dechunk(data) if self.chunked else data
        if self.left is not None:
            self.left -= len(body)
            self.ended = self.left <= 0
        return self.inflate(body) if self.inflate else body

    def _dechunk(self, data: bytes) -> bytes:
        self.rest += data
        body = b""
        while b"\r\n" in self.rest:
            size, _, rest = self.rest.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                break
            assert rest[length : length + 2] == b"\r\n", self.rest
            body += rest[:length]
            self.rest = rest[length + 2 :]
            self.chunks += 1
            if not length:
                assert not self.rest, f"behind the last chunk: {self.rest!r}"
                self.ended = True
        return body


def parse_block(text: str) -> Block:
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, _, value = line.partition(": ")
        assert name in ("data", "id", "event", "retry"), text
        assert name not in fields, text
        fields[name] = value
    data = json.loads(fields["data"]) if "data" in fields else None
    return Block(data, fields.get("id"), fields.get("event"), int(fields["retry"]) if "retry" in fields else None)


class Stream:
    """One stream. `heard` are its blocks but for signals of presence and heartbeats, which are counted."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: Body = Body({})
        self.text = ""
        self.unread: deque[Block] = deque()
        self.pings = 0
        self.last_id: str | None = None
        self.retry: int | None = None
        self.welcome: Any = None

    @classmethod
    async def open(
        cls,
        where: int | str,
        path: str,
        *headers: str,
        method: str = "GET",
        version: str = "HTTP/1.1",
        accept: str = "text/event-stream",
        body: bytes | None = None,
        buffer: int | None = None,
        early: bytes = b"",
    ) -> Self:
        """Ask for `path` at a port of loopback or a Unix socket; the head has been read, and `welcome` if it is 200.

        `buffer`: what the kernel may hold for us unread, about, in bytes. `early`: what is sent behind the request.
        """
        sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        try:
            sock.setblocking(False)
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            stream = cls(sock)
            async with asyncio.timeout(TIMEOUT):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, ("127.0.0.1", where) if isinstance(where, int) else where)
                lines = [f"{method} {path} {version}", "Host: localhost", f"Accept: {accept}", *headers]
                if body is not None:
                    lines.append(f"Content-Length: {len(body)}")
                asked = "".join(line + "\r\n" for line in (*lines, "")).encode("latin-1") + (body or b"") + early
                await loop.sock_sendall(sock, asked)
                await stream._read_head()
                if stream.status == 200 and stream.headers.get("content-type") == "text/event-stream":
                    stream.welcome = await stream.hear()
        except BaseException:
            sock.close()
            raise
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    async def _read_head(self) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            assert more, f"the server hung up after {data!r}"
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.body = Body(self.headers)
        self._take(rest)

    def _take(self, data: bytes) -> None:
        self.text += self.body.feed(data).decode()
        *blocks, self.text = self.text.split("\n\n")
        for block in map(parse_block, blocks):
            if block.id is not None:
                self.last_id = block.id
            if block.retry is not None:
                self.retry = block.retry
            if block.event == "ping":
                assert block.data == {}
                self.pings += 1
            elif not is_presence_signal(block.data):
                self.unread.append(block)

    async def receive(self, size: int = 1 << 18) -> list[Block]:
        """What one read gives, perhaps nothing yet; Ended when there is no more."""
        if not self.unread:
            if self.body.ended:
                raise Ended(whole=True)
            try:
                async with asyncio.timeout(TIMEOUT):
                    data = await asyncio.get_running_loop().sock_recv(self.sock, size)
            except ConnectionError:
                raise Ended(whole=False) from None
            if not data:
                raise Ended(whole=not (self.body.chunked or self.body.left or self.text))
            self._take(data)
        blocks = list(self.unread)
        self.unread.clear()
        return blocks

    async def hear_block(self) -> Block:
        while not self.unread:
            self.unread.extend(await self.receive())
        return self.unread.popleft()

    async def hear(self) -> Any:
        """The next object; blocks without one are passed over."""
        while True:
            block = await self.hear_block()
            if block.data is not None:
                return block.data

    async def until(self, type: str, **fields: Any) -> Any:
        """Read on to an object of this type with these fields."""
        while True:
            got = await self.hear()
            if got["type"] == type and all(got.get(key) == value for key, value in fields.items()):
                return got

    async def read_to_end(self) -> tuple[list[Block], bool]:
        """All that comes before the end, and whether that was a proper one."""
        blocks: list[Block] = []
        while True:
            try:
                blocks += await self.receive()
            except Ended as end:
                return blocks, end.whole

    def reset(self) -> None:
        reset(self.sock)
