"""The two codecs of the protocol, and the encodings that the members of a room share. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from math import isfinite
from typing import Any

import msgpack
import msgspec
import orjson

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.wire.deflate import deflate
from tornado_chat.wire.frames import BINARY, TEXT, frame

ODD_MAPS_MAX = 1000
"""Maps in a MessagePack message that only the slow way reads, at 0.3 us each; a `meta` of 2,048 bytes has under 700."""
_TOO_ODD = f"message: over {ODD_MAPS_MAX:,} maps, and a string that is not UTF-8 or a key that is not a string"

DEFLATE_FROM = 256
"""Smaller payloads go plain. Deflate takes 22 % off a JSON event of this size, 15 % off a MessagePack one, in 5 us."""


class Codec:
    """How an object becomes the payload of a message and back.

    `encode` takes what the server made itself. `decode` takes anything, and raises ChatError(bad_request) for what is
    not the codec. It may give values that JSON does not have (bytes, extension types, NaN out of MessagePack) and
    strings with lone surrogates: commands.parse refuses them where a command uses them, and can name the field.
    """

    __slots__ = ("decode", "encode", "name", "opcode")

    def __init__(
        self,
        name: str,
        opcode: int,
        encode: Callable[[dict[str, Any]], bytes],
        decode: Callable[[bytes], object],
    ) -> None:
        self.name = name
        self.opcode = opcode
        self.encode = encode
        self.decode = decode


class Encoding:
    """One way of turning an object into a frame; members with the same one share the bytes. Made by `encoding`."""

    __slots__ = ("codec", "window_bits")

    def __init__(self, codec: Codec, window_bits: int) -> None:
        self.codec = codec
        self.window_bits = window_bits

    def frame(self, data: dict[str, Any]) -> bytes:
        """The whole WebSocket frame; deflated (RFC 7692) where that was negotiated and pays."""
        codec = self.codec
        payload = codec.encode(data)
        if self.window_bits and len(payload) >= DEFLATE_FROM:
            deflated = deflate(payload, self.window_bits)
            if len(deflated) < len(payload):
                return frame(codec.opcode, deflated, rsv1=True)
        return frame(codec.opcode, payload)


@cache
def encoding(codec: Codec, window_bits: int) -> Encoding:
    """The one Encoding of `codec` with a window of 2**window_bits bytes (9 to 15), or without deflate (0)."""
    return Encoding(codec, window_bits)


class MapWithOtherKeys:
    """In the place of a MessagePack map whose keys are not all strings.

    They were never hashed: integers made to collide would cost a second for each 64 KiB.
    """

    __slots__ = ()


# Not orjson: it turns integers past 64 bits into floats, which no later check could tell from floats that were sent.
_decode_strict = msgspec.json.Decoder().decode


def _decode_json(payload: bytes) -> object:
    try:
        return _decode_strict(payload)
    except RecursionError:
        return _decode_deep_json(payload)
    except ValueError as error:
        return _decode_odd_json(payload, error)


def _decode_deep_json(payload: bytes) -> object:
    """What the interpreter's recursion limit refused but orjson's limit of 1,024 levels, on the C stack, takes."""
    try:
        return orjson.loads(payload)
    except ValueError as error:
        raise _not("JSON", error) from None


def _decode_odd_json(payload: bytes, error: ValueError) -> object:
    """What is JSON by the grammar of RFC 8259 all the same: lone surrogates as escapes, numbers of any size."""
    try:
        # Thirty digits are past 64 bits as surely as the 4,301 that int() refuses.
        obj = json.loads(payload.decode(), parse_int=lambda digits: int(digits[:30]))
        for field, value in obj.items() if isinstance(obj, dict) else [("message", obj)]:
            if not _is_finite(value):
                raise ChatError(ErrorCode.BAD_REQUEST, f"{ascii(field[:32])[1:-1]}: JSON has no NaN and no Infinity")
    except UnicodeDecodeError:
        raise _not("JSON", "it must be UTF-8") from None
    except (ValueError, RecursionError):
        raise _not("JSON", error) from None
    return obj


def _is_finite(value: object) -> bool:
    parts = [value]
    for part in parts:  # grows on the way
        if isinstance(part, float):
            if not isfinite(part):
                return False
        elif isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            parts += part.values()
    return True


def _decode_msgpack(payload: bytes) -> object:
    try:
        return msgpack.unpackb(payload)
    except ValueError:
        return _decode_odd_msgpack(payload)


def _decode_odd_msgpack(payload: bytes) -> object:
    """What holds strings that are not UTF-8 (as lone surrogates), or maps whose keys are not all strings."""
    maps = 0

    def count_map(pairs: list[tuple[object, object]]) -> object:
        nonlocal maps
        maps += 1
        if maps > ODD_MAPS_MAX:
            raise ChatError(ErrorCode.BAD_REQUEST, _TOO_ODD)
        return _map_of_strings(pairs)

    try:
        return msgpack.unpackb(
            payload, unicode_errors="surrogateescape", strict_map_key=False, object_pairs_hook=count_map
        )
    except ValueError as error:
        raise _not("MessagePack", str(error) or "it is malformed, or nested more than 1,024 deep") from None


def _map_of_strings(pairs: list[tuple[object, object]]) -> object:
    return dict(pairs) if all(type(key) is str for key, _ in pairs) else MapWithOtherKeys()


def _not(codec: str, reason: object) -> ChatError:
    return ChatError(ErrorCode.BAD_REQUEST, f"message: is not {codec}: {reason}")


JSON = Codec("chat.v1.json", TEXT, orjson.dumps, _decode_json)
# One Packer keeps its buffer from call to call: 0.3 us for a message where packb takes 0.46.
MSGPACK = Codec("chat.v1.msgpack", BINARY, msgpack.Packer().pack, _decode_msgpack)

CODECS = {codec.name: codec for codec in (JSON, MSGPACK)}
"""By the name of the WebSocket sub-protocol."""
