"""A WebSocket client that can do everything wrong: frames built by hand, a blocking socket, no library between."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import NamedTuple, Self

KEY = b"\x37\xfa\x21\x3d"  # the masking key of RFC 6455's examples


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    length: bytes | None = None,
) -> bytes:
    """A frame as a client sends it. `rsv`: the three bits; no `key`: not masked; `length`: these bytes instead."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if length is None:
        size = len(payload)
        if size < 126:
            length = bytes([size])
        elif size < 65536:
            length = b"\x7e" + size.to_bytes(2, "big")
        else:
            length = b"\x7f" + size.to_bytes(8, "big")
    if key is None:
        return bytes([first]) + length + payload
    head = bytes([first, length[0] | 0x80]) + length[1:] + key
    return head + mask(payload, key)


def mask(payload: bytes, key: bytes = KEY) -> bytes:
    """Masks by RFC 6455 section 5.3, not with the code under test."""
    if key == b"\0\0\0\0":
        return payload
    size = len(payload)
    pattern = int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ pattern).to_bytes(size, "big")


class Frame(NamedTuple):
    """A frame as it came from the server."""

    opcode: int
    payload: bytes
    rsv: int = 0
    fin: bool = True


class RawClient:
    """One connection. Reads have a time limit; a frame that breaks RFC 6455 fails the test."""

    def __init__(self, port: int, path: str = "/echo", *, headers: str = "", after: bytes = b"") -> None:
        """Connect and shake hands; `after` goes out in the same segment as the request."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
        self.sock.sendall(request.encode() + after)
        head = self.read_until(b"\r\n\r\n").decode()
        self.status = int(head.split()[1])
        self.headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, *pieces: bytes) -> None:
        """Each piece in a segment of its own."""
        for piece in pieces:
            self.sock.sendall(piece)

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self._receive()
        found, self.buffer = self.buffer.split(end, 1)
        return found

    def _receive(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError(f"the server hung up; before: {self.buffer[:100]!r}")
        self.buffer += data

    def _read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._receive()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read(self) -> Frame:
        """The next frame; EOFError if the server hung up."""
        first, second = self._read(2)
        assert not second & 0x80, "a server must not mask"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self._read(2 if size == 126 else 8), "big")
        return Frame(first & 15, self._read(size), first >> 4 & 7, bool(first & 0x80))

    def read_to_end(self) -> list[Frame]:
        """All frames until the server hangs up; a connection that just breaks raises an OSError."""
        frames = []
        while True:
            try:
                frames.append(self.read())
            except EOFError:
                assert not self.buffer, "a frame was cut off"
                return frames
