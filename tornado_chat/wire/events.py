"""What the server says about a room: events (numbered, durable) and their encoded frames."""

from __future__ import annotations

from typing import Any

from tornado_chat.wire.codec import Encoding

Data = dict[str, Any]


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

    def frame(self, encoding: Encoding) -> bytes:
        """The whole WebSocket frame for the members that speak `encoding`."""
        frame = self.frames.get(encoding)
        if frame is None:
            frame = self.frames[encoding] = encoding.frame(self.data)
        return frame

    def erase(self) -> None:
        """Forget text and meta, as a `deleted` asks: whoever comes by later gets `deleted: true` and no `text`."""
        self.data = {key: value for key, value in self.data.items() if key not in ("text", "meta")}
        self.data["deleted"] = True
        self.frames = {}
