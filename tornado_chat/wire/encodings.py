"""The encodings that the members of a room share: how an object becomes the bytes that go to a line. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from tornado_chat.wire.codec import JSON, MSGPACK, Codec
from tornado_chat.wire.deflate import deflate
from tornado_chat.wire.frames import BINARY, TEXT, frame

DEFLATE_FROM = 256
"""Smaller payloads go plain. Deflate takes 22 % off a JSON event of this size, 15 % off a MessagePack one, in 5 us."""

SUBPROTOCOLS = {f"chat.v1.{codec.name}": codec for codec in (JSON, MSGPACK)}
"""The codecs by the name of the WebSocket sub-protocol."""


class Encoding:
    """A codec, and the framing of a kind of line; members with the same one share the bytes.

    `wrap` makes of a payload what goes to the line. `plain` is the same encoding without compression.
    A framing that tells the client its cursor besides is a subclass: it has a `wrap_at` of its own.
    """

    __slots__ = ("codec", "plain", "wrap")

    def __init__(self, codec: Codec, wrap: Callable[[bytes], bytes], plain: Encoding | None = None) -> None:
        self.codec = codec
        self.wrap = wrap
        self.plain = plain or self

    def frame(self, obj: Any) -> bytes:
        """`obj`, a dict or a Struct, as bytes for the line."""
        return self.wrap(self.codec.encode(obj))

    def wrap_at(self, payload: bytes, seq: int) -> bytes:
        """The same as `wrap`, for what moves a client's cursor in the room to `seq`: an event, or `joined`."""
        return self.wrap(payload)


def _bare(payload: bytes) -> bytes:
    return payload


BARE = Encoding(JSON, _bare)
"""JSON with nothing around it: pages and polls put commas between."""


def opcode_of(codec: Codec) -> int:
    """The opcode (RFC 6455 section 5.6) of a codec's messages."""
    return TEXT if codec is JSON else BINARY


def subprotocol_of(codec: Codec) -> str:
    return f"chat.v1.{codec.name}"


def websocket(codec: Codec, window_bits: int = 0) -> Encoding:
    """The one Encoding of whole WebSocket frames; deflated (RFC 7692) with a window of 2**window_bits bytes, 9 to 15.

    0: deflate was not negotiated.
    """
    return _websocket(codec, window_bits)


@cache
def _websocket(codec: Codec, window_bits: int) -> Encoding:
    opcode = opcode_of(codec)
    if not window_bits:
        return Encoding(codec, partial(frame, opcode))

    def wrap(payload: bytes) -> bytes:
        if len(payload) >= DEFLATE_FROM:
            deflated = deflate(payload, window_bits)
            if len(deflated) < len(payload):
                return frame(opcode, deflated, rsv1=True)
        return frame(opcode, payload)

    return Encoding(codec, wrap, websocket(codec))
