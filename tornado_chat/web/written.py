"""What a request that makes an event is answered with, and the id of one that came without."""

from __future__ import annotations

import secrets
import time

from msgspec import Struct


class Written(Struct):
    """The event is on the disk; `ts` is in ms since 1970."""

    room: str
    seq: int
    ts: int
    id: str


def new_id() -> str:
    """An id that nobody else chooses; ids in the order of time are cheap to keep."""
    return f"{time.time_ns() // 1000:x}-{secrets.token_hex(8)}"
