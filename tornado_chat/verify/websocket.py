"""A WebSocket seen from the client's side that hides nothing: no resending, no joining of frames, no forgiving."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import ssl
import zlib
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from tornado_chat.errors import ChatError, CloseCode
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.deflate import Inflater, deflate
from tornado_chat.wire.encodings import DEFLATE_FROM, opcode_of, subprotocol_of
from tornado_chat.wire.events import Data
from tornado_chat.wire.frames import ABNORMAL, BINARY, CLOSE, PING, PONG, TEXT, FrameError, parse_close, unmask
from tornado_chat.wire.handshake import accept_value

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 15.0
"""After so long without a byte the server is pinged, and given up after as long again."""

MAX_MESSAGE_BYTES = 16 << 20
READ_BYTES = 65536
SMALL_BUFFER, SMALL_SEGMENT = 4096, 536
"""Of a client that lets the kernels hold little for it, so that the server soon notices when it does not read."""

_HEAD_BYTES = 65536


class Broken(Exception):
    """The server broke RFC 6455, RFC 7692 or the protocol's form of a message; the text says how."""


class Ended(Exception):
    """The connection is over; `code` is that of the close frame, 1006 where there was none."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason


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


class ServerFrames:
    """Bytes from a server in, (opcode, payload) out, inflated; no I/O. Raises Broken."""

    __slots__ = ("_deflate", "_rest")

    def __init__(self, deflate: bool) -> None:
        self._deflate = deflate
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        data = self._rest + data if self._rest else data
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, length, start = data[at], data[at + 1], at + 2
            if length & 0x80:
                raise Broken("a frame from the server is masked")
            if length >= 126:
                size = 2 if length == 126 else 8
                if end - start < size:
                    break
                length = int.from_bytes(data[start : start + size], "big")
                start += size
            if length > MAX_MESSAGE_BYTES:
                raise Broken(f"a frame of {length} bytes")
            if end - start < length:
                break
            frames.append(self._frame(first, data[start : start + length]))
            at = start + length
        self._rest = data[at:]
        return frames

    def _frame(self, first: int, payload: bytes) -> tuple[int, bytes]:
        opcode = first & 0x0F
        if not first & 0x80:
            raise Broken("a message in several frames")
        if opcode not in (TEXT, BINARY, CLOSE, PING, PONG):
            raise Broken(f"a frame with the opcode {opcode}")
        if first & 0x30 or (first & 0x40 and not (self._deflate and opcode in (TEXT, BINARY))):
            raise Broken("a frame with a reserved bit set")
        if first & 0x40:
            inflater = Inflater(MAX_MESSAGE_BYTES)
            try:
                payload = inflater.inflate(payload) + inflater.finish()
            except zlib.error as error:
                raise Broken(f"a deflated frame that cannot be inflated: {error}") from None
        return opcode, payload


def client_frame(opcode: int, payload: bytes, *, compress: bool = False) -> bytes:
    """A whole frame as a client sends it: final, masked, deflated if that pays."""
    first = 0x80 | opcode
    if compress and len(payload) >= DEFLATE_FROM:
        first, payload = first | 0x40, deflate(payload, 15)
    length, mask = len(payload), os.urandom(4)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 65536:
        head = bytes((first, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + length.to_bytes(8, "big")
    return head + mask + unmask(mask, payload)


class WebSocket:
    """One open connection. `read` raises what ended it: Ended or Broken."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, codec: Codec, compressed: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._codec = codec
        self._compressed = compressed
        self._frames = ServerFrames(compressed)
        self._said_close = False
        self._end: Ended | None = None

    async def read(self) -> list[Data]:
        """The messages that the next bytes complete, perhaps none; answers pings on the way."""
        if self._end is not None:
            raise self._end
        messages: list[Data] = []
        for opcode, payload in self._frames.feed(await self._bytes()):
            if opcode == PING:
                self._write(client_frame(PONG, payload))
            elif opcode == CLOSE:
                self.close()
                try:
                    code, reason = parse_close(payload)
                except FrameError as error:
                    raise Broken(f"a close frame that is none: {error}") from None
                self._end = Ended(code, reason)  # once what stood before it was taken
                break
            elif opcode != PONG:
                messages.append(self._message(opcode, payload))
        return messages

    async def _bytes(self) -> bytes:
        for pinged in (False, True):
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    data = await self._reader.read(READ_BYTES)
            except TimeoutError:
                if not pinged:
                    self._write(client_frame(PING, b"verify"))
            except OSError as error:
                raise Ended(ABNORMAL, error.strerror or str(error)) from None
            else:
                if not data:
                    raise Ended(ABNORMAL)
                return data
        raise Ended(ABNORMAL, f"silent for {2 * SILENCE_SECONDS:g} s, though pinged")

    def _message(self, opcode: int, payload: bytes) -> Data:
        if opcode != opcode_of(self._codec):
            raise Broken(f"a frame with the opcode {opcode} on a connection that speaks {subprotocol_of(self._codec)}")
        try:
            message = self._codec.decode(payload)
        except ChatError as error:
            raise Broken(error.message) from None
        if not isinstance(message, dict):
            raise Broken(f"a message that is not an object: {str(message)[:80]}")
        return message

    def send(self, command: Data) -> None:
        """Never waits: a client has only so many commands unanswered."""
        self._write(self._frame(command))

    def send_half(self, command: Data, part: float) -> None:
        """Only the first `part` (0 to 1) of the frame's bytes, one at least and never all; for `cut` to follow."""
        frame = self._frame(command)
        self._write(frame[: max(1, min(len(frame) - 1, int(len(frame) * part)))])

    def _frame(self, command: Data) -> bytes:
        return client_frame(opcode_of(self._codec), self._codec.encode(command), compress=self._compressed)

    def _write(self, data: bytes) -> None:
        if not self._writer.is_closing() and not self._said_close:  # else the reader is about to be told
            self._writer.write(data)

    def close(self) -> None:
        """Say good-bye, once; `read` then ends when the server has answered."""
        if not self._said_close:
            self._write(client_frame(CLOSE, CloseCode.NORMAL.to_bytes(2, "big")))
            self._said_close = True

    def cut(self) -> None:
        """Be gone at once."""
        self._writer.transport.abort()

    async def hang_up(self) -> None:
        """Leave no socket behind."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def connect(
    address: ServerAddress, *, token: str | None, codec: Codec, compressed: bool, small: bool
) -> WebSocket:
    """Connect and shake hands; Refused, OSError (TimeoutError is one) or Broken. `small`: with SMALL_BUFFER."""
    async with asyncio.timeout(CONNECT_SECONDS):
        sock = await _dial(address, small)
        try:
            reader, writer = await asyncio.open_connection(
                sock=sock,
                ssl=ssl.create_default_context() if address.tls else None,
                server_hostname=address.host if address.tls else None,
                limit=SMALL_BUFFER if small else _HEAD_BYTES,
            )
        except BaseException:
            sock.close()
            raise
        try:
            return await _shake_hands(reader, writer, address, token, codec, compressed)
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
    codec: Codec,
    compressed: bool,
) -> WebSocket:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {address.target} HTTP/1.1",
        f"Host: {address.authority}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: {subprotocol_of(codec)}",
        *(["Sec-WebSocket-Extensions: permessage-deflate"] if compressed else []),
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
    headers = {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(":") for line in head.split("\r\n")[1:])
        if colon
    }
    if status[1] != "101":
        raise await _refusal(int(status[1]), headers, reader)
    if headers.get("sec-websocket-accept") != accept_value(key):
        raise Broken("a handshake with a wrong Sec-WebSocket-Accept")
    if headers.get("sec-websocket-protocol") != subprotocol_of(codec):
        raise Broken(f"a handshake for {headers.get('sec-websocket-protocol')} in place of {subprotocol_of(codec)}")
    extensions = headers.get("sec-websocket-extensions", "")
    if extensions and not compressed:
        raise Broken(f"a handshake with an extension that was not offered: {extensions}")
    return WebSocket(reader, writer, codec, "permessage-deflate" in extensions)


async def _refusal(status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> Refused:
    body = b""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        length = headers.get("content-length", "0")
        body = await reader.readexactly(min(int(length), _HEAD_BYTES) if length.isdigit() else 0)
    message = "refused"
    with contextlib.suppress(ChatError, KeyError, TypeError):  # a proxy's page, or nothing
        message = str(JSON.decode(body)["error"]["message"])  # type: ignore[index]  # TypeError is expected
    after = headers.get("retry-after", "")
    return Refused(status, message, float(after) if re.fullmatch("[0-9]{1,9}", after) else None)
