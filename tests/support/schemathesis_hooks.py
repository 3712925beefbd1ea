"""What schemathesis has to be told: how MessagePack is written and read."""

from __future__ import annotations

from typing import Any

import msgpack
import schemathesis


@schemathesis.serializer("application/msgpack")
def _msgpack(context: Any, value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, default=str)
    return packed


@schemathesis.deserializer("application/msgpack")
def _unpacked(context: Any, response: Any) -> Any:
    return msgpack.unpackb(response.content)
