"""RFC 6455 and RFC 7692 as a client sees them, written for verify alone: a server's frames, read without forgiving, and
a client's. No I/O.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from tornado_chat.verify.endings import Broken

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

MAX_MESSAGE_BYTES = 16 << 20
DEFLATE_FROM = 128
"""Bytes of a message that a client deflates, where it may."""

_CONTINUATION = 0x0
_FIN, _RSV1, _RSV23, _MASK = 0x80, 0x40, 0x30, 0x80
_CONTROL_MAX = 125
_PIECE = 64

# What the sender cut off (RFC 7692 section 7.2.2), then an empty final block: only whole deflate data reaches its end.
_TAIL = b"\x00\x00\xff\xff" + b"\x01\x00\x00\xff\xff"


class ServerFrames:
    """Bytes from a server in, (opcode, payload) out, inflated. Raises Broken.

    The protocol promises each message in a single frame, so that fragments are broken here, although RFC 6455 has them.
    `window_bits` is what was agreed for the server's deflate; None: none was.
    """

    __slots__ = ("_closed", "_rest", "_window_bits")

    def __init__(self, window_bits: int | None) -> None:
        self._window_bits = window_bits
        self._rest = b""
        self._closed = False

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that `data` completes; to be taken to the end before the next are fed."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 2:
            first, length, start = data[at], data[at + 1], at + 2
            if self._closed:
                raise Broken("a frame after the close frame")
            self._check_head(first, length)
            if length >= 126:
                size = 2 if length == 126 else 8
                if end - start < size:
                    break
                length = _long_length(data[start : start + size])
                start += size
            if end - start < length:
                break
            opcode, payload = first & 0x0F, data[start : start + length]
            self._closed = opcode == CLOSE
            yield opcode, self._inflate(payload) if first & _RSV1 else payload
            at = start + length
        self._rest = data[at:]

    def _check_head(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        if second & _MASK:
            raise Broken("a frame from the server is masked")
        if opcode == _CONTINUATION or (opcode in (TEXT, BINARY) and not first & _FIN):
            raise Broken("a message in several frames, although the protocol promises one")
        if opcode not in (TEXT, BINARY, CLOSE, PING, PONG):
            raise Broken(f"a frame with the opcode {opcode}")
        if first & _RSV23 or (first & _RSV1 and (opcode >= CLOSE or self._window_bits is None)):
            raise Broken("a frame with a reserved bit set")
        if opcode >= CLOSE and not first & _FIN:
            raise Broken("a control frame in fragments")
        if opcode >= CLOSE and second > _CONTROL_MAX:
            raise Broken(f"a control frame of more than {_CONTROL_MAX} bytes")

    def _inflate(self, payload: bytes) -> bytes:
        """Of one message by itself: the answer to the handshake always has server_no_context_takeover."""
        assert self._window_bits is not None
        inflater = zlib.decompressobj(-self._window_bits)
        # zlib looks at what it has just written too, beyond the window: small pieces show what needs a larger one.
        piece = MAX_MESSAGE_BYTES if self._window_bits == zlib.MAX_WBITS else _PIECE
        out, left = bytearray(), payload + _TAIL
        try:
            while left:
                out += inflater.decompress(left, piece)
                if len(out) > MAX_MESSAGE_BYTES:
                    raise Broken(f"a deflated message of more than {MAX_MESSAGE_BYTES} bytes")
                left = inflater.unconsumed_tail
                if inflater.eof:  # a block marked as final need not be the last one (RFC 7692 section 7.2.3.4)
                    left = inflater.unused_data
                    inflater = zlib.decompressobj(-self._window_bits)
                elif not left:
                    raise Broken("a deflated frame whose data is not complete")
        except zlib.error as error:
            raise Broken(f"a deflated frame that cannot be inflated: {error}") from None
        return bytes(out)


def _long_length(data: bytes) -> int:
    """Of the 2 or 8 bytes that hold it, which must be needed for it (RFC 6455 section 5.2)."""
    length = int.from_bytes(data, "big")
    if length < (126 if len(data) == 2 else 65536):
        raise Broken(f"a length of {length} in {len(data)} bytes more than it needs")
    if length > MAX_MESSAGE_BYTES:
        raise Broken(f"a frame of {length} bytes")
    return length


def read_close(payload: bytes) -> tuple[int, str]:
    """The code and the reason of a close frame; 1005 where it has none. Broken if it must not be sent so."""
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise Broken(f"a close frame with the code {code}" if len(payload) > 1 else "a close frame of one byte")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise Broken("a close frame whose reason is not UTF-8") from None


def client_frame(opcode: int, payload: bytes, *, compress: bool = False) -> bytes:
    """A whole frame as a client sends it: final, masked, deflated if it may `compress` and that pays."""
    first = _FIN | opcode
    if compress and len(payload) >= DEFLATE_FROM:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        payload = (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL[:4])
        first |= _RSV1
    length = len(payload)
    if length < 126:
        head = bytes((first, _MASK | length))
    elif length < 65536:
        head = bytes((first, _MASK | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, _MASK | 127)) + length.to_bytes(8, "big")
    key = os.urandom(4)
    return head + key + _masked(key, payload)


def _masked(key: bytes, payload: bytes) -> bytes:
    """RFC 6455 section 5.3: byte by byte with the key over and over, here as one number."""
    length = len(payload)
    repeated = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")
