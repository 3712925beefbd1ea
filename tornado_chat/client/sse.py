"""Server-sent events out of bytes, by the HTML standard (section 9.2.6). No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class Parser:
    """One stream. `feed` takes its bytes as they come, and gives each event whose end they bring.

    An event is its type (`message` without an `event:` field) and its data. Events without data are none, and comments,
    `id` and `retry` are passed over: the cursors are in the data. ValueError: an event has more than `max_bytes`.
    """

    __slots__ = ("_bytes", "_data", "_max_bytes", "_rest", "_started", "_type")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = b""  # of a line whose end has not come
        self._started = False  # a byte order mark may come no more
        self._type = b""
        self._data: list[bytes] = []
        self._bytes = 0  # of `_data`

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        # A \r at the end may be the first half of \r\n: it waits for what follows, and only then ends its line.
        searched = max(len(self._rest) - 1, 0)
        held = self._rest + chunk
        if not self._started and len(held) >= len(_BOM):
            self._started = True
            held, searched = held.removeprefix(_BOM), 0
        at = 0
        for end in _LINE_END.finditer(held, searched):
            if end.group() == b"\r" and end.end() == len(held):
                break
            if event := self._take(held[at : end.start()]):
                yield event
            at = end.end()
        self._started = self._started or at > 0
        self._rest = held[at:]
        self._check(len(self._rest))

    def _take(self, line: bytes) -> tuple[str, bytes] | None:
        if not line:
            type, data = self._type, self._data
            self._type, self._data, self._bytes = b"", [], 0
            return (type.decode(errors="replace") or "message", b"\n".join(data)) if data else None
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._bytes += len(value)
            self._check(0)
        elif name == b"event":
            self._type = value
        return None

    def _check(self, more: int) -> None:
        if self._bytes + more > self._max_bytes:
            raise ValueError(f"an event of more than {self._max_bytes:,} bytes")
