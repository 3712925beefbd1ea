"""The two codecs of the protocol, for verify alone: what `json` and `msgpack` do not take is broken. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import msgpack

from tornado_chat.verify.endings import Broken
from tornado_chat.verify.frames import BINARY, TEXT

Data = dict[str, Any]
"""An object as a codec has it: a command, or what the server says."""


class Codec(NamedTuple):
    name: str
    """Of the WebSocket sub-protocol."""
    media_type: str
    """Of a body over HTTP."""
    opcode: int
    encode: Callable[[Data | list[Data]], bytes]
    decode: Callable[[bytes], object]
    """Raises Broken for what is not the codec, and for an object that names a field twice."""


def _encode_json(data: Data | list[Data]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _encode_msgpack(data: Data | list[Data]) -> bytes:
    packed: bytes = msgpack.packb(data)
    return packed


def _once(pairs: list[tuple[str, object]]) -> Data:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Broken(f"an object that names a field twice: {str(pairs)[:80]}")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_json = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


def _decode_json(payload: bytes) -> object:
    try:
        return _json.decode(payload.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise Broken(f"a message that is not JSON: {error}") from None


def _decode_msgpack(payload: bytes) -> object:
    try:
        return msgpack.unpackb(payload, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Broken(f"a message that is not MessagePack: {error or 'it is malformed'}") from None


JSON = Codec("chat.v1.json", "application/json", TEXT, _encode_json, _decode_json)
MSGPACK = Codec("chat.v1.msgpack", "application/msgpack", BINARY, _encode_msgpack, _decode_msgpack)
