"""Requests by HTTP/1.1 on a connection, and their answers as they come: nothing is repeated, nothing forgiven."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import NamedTuple, Self

from tornado_chat.verify.address import ServerAddress, open_connection
from tornado_chat.verify.endings import Broken
from tornado_chat.verify.responses import Answer, Chunks, Head, read_head

READ_BYTES = 65536
ANSWER_SECONDS = 30.0
"""For an answer that need not wait for anything."""


class Request(NamedTuple):
    """`path` is what follows `/v1`, with its query; `headers` besides Host and Content-Length."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes = b""

    def head(self, address: ServerAddress) -> bytes:
        lines = [
            f"{self.method} {address.under_v1(self.path)} HTTP/1.1",
            f"Host: {address.authority}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            *([f"Content-Length: {len(self.body)}"] if self.body or self.method not in ("GET", "DELETE") else []),
        ]
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


class HTTPConnection:
    """One connection; one request after another. OSError where the server hangs up before an answer is whole."""

    def __init__(self, address: ServerAddress, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.keeps = True  # another request may follow
        self._address = address
        self._reader = reader
        self._writer = writer
        self._left: int | Chunks = 0  # of the body that is being read: its bytes, or its chunks

    @classmethod
    async def open(cls, address: ServerAddress, *, small: bool = False) -> Self:
        return cls(address, *await open_connection(address, small=small))

    async def ask(self, request: Request, *, patience: float = ANSWER_SECONDS) -> Answer:
        """The whole answer; TimeoutError if it is not there after so many seconds."""
        async with asyncio.timeout(patience):
            head = await self.begin(request)
            parts = []
            while data := await self.read():
                parts.append(data)
            return Answer(head, b"".join(parts))

    async def begin(self, request: Request) -> Head:
        """The head of the answer; `read` gives its body."""
        head = request.head(self._address)
        if request.headers.get("Expect") == "100-continue":
            self._write(head)
            answer = await self._head()
            if answer.status != 100:
                self._begun(answer)
                self.keeps = False  # whether the body was awaited is not known
                return answer
            head = b""
        self._write(head + request.body)
        await self._writer.drain()
        return self._begun(await self._head())

    async def begin_body(self, request: Request) -> None:
        """`request`, whose body is to come in chunks: `send_chunk` sends one, `end_body` the end."""
        lines = request.head(self._address).split(b"\r\n")
        self._write(b"\r\n".join(b"Transfer-Encoding: chunked" if _is_length(line) else line for line in lines))
        await self._writer.drain()

    async def send_chunk(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end_body(self) -> Answer:
        """The whole answer."""
        self._write(b"0\r\n\r\n")
        head = self._begun(await self._head())
        parts = []
        while data := await self.read():
            parts.append(data)
        return Answer(head, b"".join(parts))

    async def begin_and_cut(self, request: Request, part: float) -> None:
        """Only the first `part` (0 to 1) of the request's bytes, and gone."""
        data = request.head(self._address) + request.body
        self._write(data[: max(1, int(len(data) * part))])
        with contextlib.suppress(OSError):
            await self._writer.drain()
        self.cut()

    def _write(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError("it was cut")
        self._writer.write(data)

    async def _head(self) -> Head:
        try:
            return read_head(await self._reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            where = "in the head of an answer" if error.partial else "before an answer"
            raise ConnectionResetError(f"hung up {where}") from None
        except asyncio.LimitOverrunError:
            raise Broken("an answer with an endless head") from None

    def _begun(self, head: Head) -> Head:
        length = head.length
        self.keeps = head.keeps
        self._left = Chunks() if length is None else length
        return head

    async def read(self) -> bytes:
        """More of the answer's body; b"" at its end."""
        while True:
            left = self._left
            if not left or (isinstance(left, Chunks) and left.ended):
                return b""
            data = await self._reader.read(READ_BYTES if isinstance(left, Chunks) else min(left, READ_BYTES))
            if not data:
                raise ConnectionResetError("hung up in the middle of an answer")
            if isinstance(left, int):
                self._left = left - len(data)
                return data
            if inner := left.feed(data):
                return inner

    def cut(self) -> None:
        """Be gone at once."""
        self.keeps = False
        self._writer.transport.abort()

    async def hang_up(self) -> None:
        """Leave no socket behind."""
        self.cut()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _is_length(line: bytes) -> bool:
    return line.startswith(b"Content-Length:")


class HTTPClient:
    """Requests one after another, on a connection that is kept as long as the server keeps it."""

    def __init__(self, address: ServerAddress, *, small: bool = False) -> None:
        self._address = address
        self._small = small
        self._connection: HTTPConnection | None = None

    async def connect(self) -> HTTPConnection:
        """The connection for the next request: the one that there is, or another."""
        if self._connection is None or not self._connection.keeps:
            await self.hang_up()
            self._connection = await HTTPConnection.open(self._address, small=self._small)
        return self._connection

    async def ask(self, request: Request, *, patience: float = ANSWER_SECONDS) -> Answer:
        connection = await self.connect()
        try:
            return await connection.ask(request, patience=patience)
        except BaseException:
            connection.cut()
            raise

    def cut(self) -> None:
        """Whoever waits for an answer gets an OSError."""
        if self._connection is not None:
            self._connection.cut()

    async def hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.hang_up()
