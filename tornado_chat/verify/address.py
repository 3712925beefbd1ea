"""Where a server is, and connecting to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urlsplit

CONNECT_SECONDS = 10.0
SMALL_BUFFER, SMALL_SEGMENT = 4096, 536
"""Of a client that lets the kernels hold little for it, so that the server soon notices when it does not read."""

HEAD_BYTES = 65536
"""The longest head of an answer that is read; SMALL_BUFFER where that is less."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server's WebSocket is. `via` is a port of 127.0.0.1 that leads there, and is connected to instead."""

    host: str
    port: int
    target: str  # path and query
    tls: bool
    via: int | None = None

    @staticmethod
    def of(url: str) -> ServerAddress:
        """Of a server's URL (http, https, ws or wss), with or without `/ws`."""
        parts: SplitResult = urlsplit(url)
        tls = parts.scheme in ("https", "wss")
        path = parts.path.rstrip("/")
        target = (path if path.endswith("/ws") else path + "/ws") + (f"?{parts.query}" if parts.query else "")
        return ServerAddress(parts.hostname or "", parts.port or (443 if tls else 80), target, tls)

    def through(self, port: int) -> ServerAddress:
        return replace(self, via=port)

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def under_v1(self, path: str) -> str:
        """The target of a request for `/v1` and `path`, which may have a query."""
        place, _, query = self.target.partition("?")
        target = f"{place.removesuffix('/ws')}/v1{path}"
        return f"{target}{'&' if '?' in path else '?'}{query}" if query else target


async def open_connection(address: ServerAddress, *, small: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection in which nothing was said yet, with TLS where there is some. OSError (TimeoutError is one)."""
    async with asyncio.timeout(CONNECT_SECONDS):
        sock = await _dial(address, small)
        try:
            return await asyncio.open_connection(
                sock=sock,
                ssl=ssl.create_default_context() if address.tls else None,
                server_hostname=address.host if address.tls else None,
                limit=SMALL_BUFFER if small else HEAD_BYTES,
            )
        except BaseException:
            sock.close()
            raise


async def _dial(address: ServerAddress, small: bool) -> socket.socket:
    loop = asyncio.get_running_loop()
    host, port = (address.host, address.port) if address.via is None else ("127.0.0.1", address.via)
    error: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, where in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            if small:  # before it connects: the peer's buffer grows by them
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
            await loop.sock_connect(sock, where)
            return sock
        except OSError as reason:
            sock.close()
            error = reason
        except BaseException:
            sock.close()
            raise
    raise error
