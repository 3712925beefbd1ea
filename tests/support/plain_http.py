"""Plain HTTP on one connection, by hand: requests as a test wants them, and answers unchanged."""

from __future__ import annotations

import asyncio
import json
import socket
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.chat import Running

PATIENCE = 10.0

UPGRADE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
"""The headers of a handshake."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        """The `error` of a refusal, which must be the whole body."""
        assert self.headers["content-type"] == "application/json"
        document = json.loads(self.body)
        assert document.keys() == {"error"}
        assert document["error"].keys() - {"retry_after"} == {"code", "message"}
        assert document["error"]["message"]
        return document["error"]


class HungUp(AssertionError):
    """There is no whole answer."""


class HTTP:
    """A plain connection that can ask several times; a handshake that is accepted is dropped at once."""

    def __init__(self, here: Running | int) -> None:
        """`here`: the server, or the port on loopback of one in another process."""
        self.port = here if isinstance(here, int) else int(here.address.rpartition(":")[2])
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.data = b""
        self.first_lines: list[str] = []

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().sock_connect(self.sock, ("127.0.0.1", self.port))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    async def tell(
        self, method: str, path: str, body: object = None, *, bearer: str | None = None, **headers: str
    ) -> Answer:
        """One request; `body` is sent as JSON unless it is bytes."""
        sent = {"Host": "localhost", **headers}
        if bearer is not None:
            sent["Authorization"] = f"Bearer {bearer}"
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
            sent["Content-Length"] = str(len(data))
        return await self.ask(path, sent, method=method, body=data)

    async def ask(
        self,
        path: str,
        headers: dict[str, str],
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
        body: bytes = b"",
    ) -> Answer:
        lines = [*self.first_lines, *(f"{name}: {value}" for name, value in headers.items())]
        request = "\r\n".join([f"{method} {path} {version}", *lines, "", ""])
        await asyncio.get_running_loop().sock_sendall(self.sock, request.encode("latin-1") + body)
        return await self.answer(head=method == "HEAD")

    async def answer(self, *, head: bool = False) -> Answer:
        """The next answer; `head`: it has no body, whatever its length is."""
        lines = (await self._until(b"\r\n\r\n")).decode("latin-1")
        first, *rest = lines.split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        size = 0 if head else int(found.get("content-length", 0))
        while len(self.data) < size:
            await self._receive()
        said, self.data = self.data[:size], self.data[size:]
        return Answer(int(first.split()[1]), found, said)

    async def _until(self, end: bytes) -> bytes:
        while end not in self.data:
            await self._receive()
        found, _, self.data = self.data.partition(end)
        return found

    async def _receive(self) -> None:
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 18)
        if not data:
            raise HungUp(f"the server hung up after {self.data!r}")
        self.data += data


async def get(here: Running, path: str, **headers: str) -> Answer:
    async with HTTP(here) as http:
        return await http.ask(path, {"Host": "localhost", **headers})


async def shake(
    here: Running, path: str = "/ws", headers: dict[str, str | None] | None = None, **options: Any
) -> Answer:
    """Try a handshake; a header of None is left out."""
    asked = {name: value for name, value in (UPGRADE | (headers or {})).items() if value is not None}
    async with HTTP(here) as http:
        return await http.ask(path, asked, **options)
