"""Connecting to a server as RFC 6455 section 4.1 tells a client to, and holding its answer to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from tornado_chat.verify.codecs import Codec
from tornado_chat.verify.frames import Broken
from tornado_chat.verify.websocket import WebSocket

CONNECT_SECONDS = 10.0
SMALL_BUFFER, SMALL_SEGMENT = 4096, 536
"""Of a client that lets the kernels hold little for it, so that the server soon notices when it does not read."""

_HEAD_BYTES = 65536
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_WINDOW_MIN, _WINDOW_MAX = 8, 15


class Refused(Exception):
    """The handshake was answered with the HTTP `status` instead of 101; `retry_after` is in seconds."""

    def __init__(self, status: int, message: str, retry_after: float | None) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server's WebSocket is."""

    host: str
    port: int
    target: str  # path and query
    tls: bool

    @staticmethod
    def of(url: str) -> ServerAddress:
        """Of a server's URL (http, https, ws or wss), with or without `/ws`."""
        parts: SplitResult = urlsplit(url)
        tls = parts.scheme in ("https", "wss")
        path = parts.path.rstrip("/")
        target = (path if path.endswith("/ws") else path + "/ws") + (f"?{parts.query}" if parts.query else "")
        return ServerAddress(parts.hostname or "", parts.port or (443 if tls else 80), target, tls)

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Offer:
    """How a device connects. `window_bits`: the server's deflate is to use so many at most (None: it is not offered);
    `small`: with SMALL_BUFFER.
    """

    codec: Codec
    window_bits: int | None = None
    small: bool = False

    @property
    def extension(self) -> str:
        bits = self.window_bits
        return "permessage-deflate" + (f"; server_max_window_bits={bits}" if bits != _WINDOW_MAX else "")


async def connect(address: ServerAddress, token: str | None, offer: Offer) -> WebSocket:
    """Connect and shake hands; Refused, OSError (TimeoutError is one) or Broken."""
    async with asyncio.timeout(CONNECT_SECONDS):
        sock = await _dial(address, offer.small)
        try:
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=ssl.create_default_context() if address.tls else None,
                server_hostname=address.host if address.tls else None,
                limit=SMALL_BUFFER if offer.small else _HEAD_BYTES,
            )
        except BaseException:
            sock.close()
            raise
        try:
            return await _shake_hands(reader, writer, address, token, offer)
        except BaseException:
            writer.transport.abort()
            raise


async def _dial(address: ServerAddress, small: bool) -> socket.socket:
    loop = asyncio.get_running_loop()
    error: OSError = OSError(f"{address.host} has no address")
    for family, kind, protocol, _, where in await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
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


async def _shake_hands(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: ServerAddress,
    token: str | None,
    offer: Offer,
) -> WebSocket:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {address.target} HTTP/1.1",
        f"Host: {address.authority}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: {offer.codec.name}",
        *([f"Sec-WebSocket-Extensions: {offer.extension}"] if offer.window_bits is not None else []),
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        raise ConnectionResetError("hung up during the handshake") from None
    except asyncio.LimitOverrunError:
        raise Broken("an endless answer to the handshake") from None
    status = re.match(r"HTTP/1\.[01] (\d{3})", head)
    if status is None:
        raise Broken(f"an answer to the handshake that is not HTTP: {head[:80]!r}")
    headers = _headers(head)
    if status[1] != "101":
        raise await _refusal(int(status[1]), headers, reader)
    return WebSocket(reader, writer, offer.codec, agreed(headers, key, offer))


def _headers(head: str) -> dict[str, str]:
    """By name in lower case; one that comes several times is one value with commas."""
    headers: dict[str, str] = {}
    for line in head.split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def agreed(headers: dict[str, str], key: str, offer: Offer) -> int | None:
    """Hold the 101 with these `headers` to RFC 6455 section 4.1: the window of the server's deflate; None without."""
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    if headers.get("sec-websocket-accept") != accept:
        raise Broken("a handshake with a wrong Sec-WebSocket-Accept")
    if headers.get("upgrade", "").lower() != "websocket":
        raise Broken("a handshake without Upgrade: websocket")
    if "upgrade" not in [token.strip() for token in headers.get("connection", "").lower().split(",")]:
        raise Broken("a handshake without Connection: Upgrade")
    if headers.get("sec-websocket-protocol") != offer.codec.name:
        raise Broken(f"a handshake for {headers.get('sec-websocket-protocol')} in place of {offer.codec.name}")
    extensions = headers.get("sec-websocket-extensions")
    return None if extensions is None else _agreed_window(extensions, offer)


def _agreed_window(extensions: str, offer: Offer) -> int:
    """RFC 7692 section 7.1, and both no_context_takeover, which the protocol promises."""
    if offer.window_bits is None:
        raise Broken(f"a handshake with an extension that was not offered: {extensions}")
    name, *parameters = (part.strip() for part in extensions.split(";"))
    given = dict(parameter.replace(" ", "").partition("=")[::2] for parameter in parameters)
    bits = given.get("server_max_window_bits", "")
    if name != "permessage-deflate" or len(given) < len(parameters):
        raise Broken(f"a handshake with extensions that answer no offer: {extensions}")
    for must in ("server_no_context_takeover", "client_no_context_takeover"):
        if given.pop(must, None) != "":
            raise Broken(f"a handshake without {must}: {extensions}")
    if given.keys() - {"server_max_window_bits"}:
        raise Broken(f"a handshake with parameters that were not offered: {extensions}")
    if not given and offer.window_bits == _WINDOW_MAX:
        return _WINDOW_MAX
    if not bits.isdigit() or not _WINDOW_MIN <= int(bits) <= offer.window_bits:
        raise Broken(f"a handshake whose server_max_window_bits is not as offered ({offer.window_bits}): {extensions}")
    return int(bits)


async def _refusal(status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> Refused:
    body = b""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        length = headers.get("content-length", "0")
        body = await reader.readexactly(min(int(length), _HEAD_BYTES) if length.isdigit() else 0)
    message = "refused"
    with contextlib.suppress(ValueError, KeyError, TypeError):  # a proxy's page, or nothing
        message = str(json.loads(body)["error"]["message"])
    after = headers.get("retry-after", "")
    return Refused(status, message, float(after) if re.fullmatch("[0-9]{1,9}", after) else None)
