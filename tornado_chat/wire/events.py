"""A room's events, numbered and durable, and their encoded frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from tornado_chat.wire.codec import Codec
from tornado_chat.wire.encodings import Encoding

Data = dict[str, Any]

EventType = Literal[
    "message", "edited", "deleted", "reacted", "finished", "followed", "unfollowed", "marked", "mentioned"
]

OWN_LOG = "~"
"""What users call the log of their own, a room whose name is ~USER."""

OWN_TYPES: frozenset[EventType] = frozenset({"followed", "unfollowed", "marked", "mentioned"})
"""The types of events that are there, and nowhere else."""


class Event:
    """One numbered event of a room, encoded at most once for each encoding.

    `data` is the object that clients get (`type`, `room`, `seq` ... as the protocol names them);
    it must not be changed once a frame was made of it: `erase` replaces it.
    """

    __slots__ = ("born", "cost", "data", "frames", "seq")

    def __init__(self, seq: int, data: Data) -> None:
        self.seq = seq
        self.data = data
        self.frames: dict[Encoding, bytes] = {}
        self.born = 0.0  # time.monotonic() when it was submitted to the log; 0.0: not in this process
        self.cost = 0  # bytes charged to the ring that holds it; 0: no ring does

    def encode(self, encodings: Iterable[Encoding]) -> int:
        """Make the frames that are missing, and return their bytes; a codec serialises once, whatever the framings."""
        frames = self.frames
        payloads: dict[Codec, bytes] | None = None
        added = 0
        for encoding in encodings:
            if encoding in frames:
                continue
            codec = encoding.codec
            if payloads is None:
                payloads = {codec: codec.encode(self.data)}
            elif codec not in payloads:
                payloads[codec] = codec.encode(self.data)
            made = frames[encoding] = encoding.wrap_at(payloads[codec], self.seq)
            added += len(made)
        return added

    def erase(self) -> None:
        """Forget what was said, as a `deleted` asks: whoever comes by later gets `deleted: true` and no `text`."""
        self.data = {key: value for key, value in self.data.items() if key not in ("text", "meta", "mentions", "crc")}
        self.data["deleted"] = True
        self.frames = {}
