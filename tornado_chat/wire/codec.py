"""The two codecs of the protocol: how an object becomes bytes and back. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import orjson

from tornado_chat.errors import ChatError, ErrorCode

ODD_MAX = 1000
"""Maps, and arrays, in a MessagePack message that only the slow way reads, at 0.3 us each; a `meta` of 2,048 bytes has
under 700."""
_TOO_ODD = f"message: over {ODD_MAX:,} maps or arrays, and a string that is not UTF-8 or a key that is not a string"


class Codec:
    """One codec. Objects are what the server made itself (dict or Struct) to `encode`, and anything to `decode`.

    `decode` raises ChatError(bad_request) for what is not the codec. It may give values that JSON does not have (bytes,
    NaN out of MessagePack) and strings with U+0000 or lone surrogates: commands.parse refuses them where a command uses
    them, and names the field. `decoder` makes a decoder of one type, which skips the fields that the type lacks.
    """

    __slots__ = ("decode", "decoder", "encode", "name")

    def __init__(
        self,
        name: str,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], object],
        decoder: Callable[[Any], Callable[[bytes], Any]],
    ) -> None:
        self.name = name
        self.encode = encode
        self.decode = decode
        self.decoder = decoder


class MapWithOtherKeys:
    """A decoded map that JSON does not have: not all of its keys are strings.

    Its content is gone. One key may be an array of many numbers, and hashing it with each of many other keys would cost
    a second for each 64 KiB.
    """

    __slots__ = ()


# Not orjson: it turns integers past 64 bits into floats, which no later check could tell from floats that were sent.
# float_hook: without it a number like 1e300 takes 8 us, and 64 KiB of them 80 ms.
_decode_strict = msgspec.json.Decoder(float_hook=float).decode

_HEX = rb"[0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB]%b(?!\\u[dD][c-fC-F]%b)|[c-fC-F]%b(?<!\\u[dD][89abAB]..\\u[dD]...))" % (_HEX, _HEX, _HEX)
)


def _decode_json(payload: bytes) -> object:
    try:
        return _decode_strict(payload)
    except RecursionError:
        return _decode_deep_json(payload)
    except ValueError as error:
        sound = without_lone_surrogates(payload)
        if sound is None:
            raise _not("JSON", error) from None
        return _decode_json(sound)


def without_lone_surrogates(payload: bytes) -> bytes | None:
    r"""JSON with `\u0000` in place of the escapes that are half of a surrogate pair; None if there are none.

    RFC 8259 allows such escapes, decoders refuse them. Both are refused in the fields that a command uses, and ignored
    elsewhere. Each step is one call for all of the payload: 64 KiB of such escapes take 1 ms.
    """
    # From here on each backslash begins an escape.
    plain = payload.replace(rb"\\", rb"\u005c")
    sound = _LONE_SURROGATE.sub(rb"\\u0000", plain)
    return sound if sound != plain else None


def _decode_deep_json(payload: bytes) -> object:
    """What the interpreter's recursion limit refused but orjson's limit of 1,024 levels, on the C stack, takes."""
    try:
        return orjson.loads(payload)
    except ValueError as error:
        raise _not("JSON", error) from None


def _decode_msgpack(payload: bytes) -> object:
    try:
        return msgpack.unpackb(payload, ext_hook=_refuse_extension, max_ext_len=0)
    except ValueError:
        return _decode_odd_msgpack(payload)


def _decode_odd_msgpack(payload: bytes) -> object:
    """What holds strings that are not UTF-8 (as lone surrogates), or maps whose keys are not all strings."""
    maps = arrays = 0

    def count_map(pairs: list[tuple[object, object]]) -> object:
        nonlocal maps
        maps += 1
        if maps > ODD_MAX:
            raise ChatError(ErrorCode.BAD_REQUEST, _TOO_ODD)
        return _map_of_strings(pairs)

    def count_array(values: list[object]) -> object:
        nonlocal arrays
        arrays += 1
        if arrays > ODD_MAX:
            raise ChatError(ErrorCode.BAD_REQUEST, _TOO_ODD)
        return values

    try:
        return msgpack.unpackb(
            payload,
            unicode_errors="surrogateescape",
            strict_map_key=False,
            object_pairs_hook=count_map,
            list_hook=count_array,
            ext_hook=_refuse_extension,
            max_ext_len=0,
        )
    except ValueError as error:
        raise _not("MessagePack", str(error) or "it is malformed, or nested more than 1,024 deep") from None


def _refuse_extension(code: int, data: bytes) -> object:
    raise ChatError(ErrorCode.BAD_REQUEST, "message: holds an extension value, which JSON does not have")


def _map_of_strings(pairs: list[tuple[object, object]]) -> object:
    return dict(pairs) if all(type(key) is str for key, _ in pairs) else MapWithOtherKeys()


def _not(codec: str, reason: object) -> ChatError:
    why = str(reason).removeprefix("JSON is malformed: ")
    return ChatError(ErrorCode.BAD_REQUEST, f"message: is not {codec}: {why}")


class Encoded:
    """A value that is kept as JSON, and parsed only for another codec: `meta` of 2 KiB may be 50 KiB of objects."""

    __slots__ = ("json",)

    def __init__(self, json: bytes) -> None:
        self.json = json


def _json_of(obj: object) -> bytes:
    if isinstance(obj, Encoded):
        return obj.json
    raise TypeError(f"{type(obj).__name__} cannot be encoded")


def _into_orjson(obj: object) -> orjson.Fragment:
    return orjson.Fragment(_json_of(obj))


def _into_json(obj: object) -> msgspec.Raw:
    return msgspec.Raw(_json_of(obj))


def _into_msgpack(obj: object) -> Any:
    return orjson.loads(_json_of(obj))


_encode_struct = msgspec.json.Encoder(enc_hook=_into_json).encode


def _encode_json(obj: Any) -> bytes:
    # An event is a dict, and most of what is encoded: orjson takes 0.14 us for it, msgspec 0.21.
    return orjson.dumps(obj, _into_orjson) if type(obj) is dict else _encode_struct(obj)


JSON = Codec("json", _encode_json, _decode_json, lambda type: msgspec.json.Decoder(type, float_hook=float).decode)
MSGPACK = Codec(
    "msgpack",
    msgspec.msgpack.Encoder(enc_hook=_into_msgpack).encode,
    _decode_msgpack,
    lambda type: msgspec.msgpack.Decoder(type).decode,
)
