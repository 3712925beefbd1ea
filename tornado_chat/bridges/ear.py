"""A member of a room that is this process itself: what a room tells its line is heard here."""

from __future__ import annotations

import logging
from collections.abc import Callable

import orjson

from tornado_chat.live.fanout import NO_KEY
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.encodings import Encoding
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)

LINES = Encoding(JSON, lambda payload: payload + b"\n")
"""A JSON object has no line break in it, so what came in one write can be taken apart."""


class Ear:
    """A Line whose other end is here: it takes all, at once."""

    __slots__ = ("_hear", "_lost", "asked_bytes", "closing", "key", "outbox_bytes")

    def __init__(self, hear: Callable[[Data], None], lost: Callable[[], None]) -> None:
        """`lost`: what was told is not all."""
        self._hear = hear
        self._lost = lost
        self.key = NO_KEY
        self.closing = False
        self.outbox_bytes = self.asked_bytes = 0

    def write(self, data: bytes) -> None:
        if self.closing:
            return
        try:
            for line in data.split(b"\n"):
                if line:
                    self._hear(orjson.loads(line))
        except Exception:  # a flush of the room is under way, which is not to fail for it
            logger.exception("answer not followed")
            self.close(0)

    def close(self, code: int, reason: str = "") -> None:
        if not self.closing:
            self.closing = True
            self._lost()

    def sent(self, data: bytes, taken: int) -> None: ...

    def cork(self) -> None: ...

    def uncork(self) -> None: ...

    def want_drained(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...
