"""Server-sent events as a client sees them (HTML Standard, 9.2.6), written for verify alone. No I/O.

The standard forgives everything. The protocol does not need that: one `data` line, no comments, lines that end with LF.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tornado_chat.verify.endings import Broken
from tornado_chat.verify.frames import MAX_MESSAGE_BYTES


class Block(NamedTuple):
    """What stands between two empty lines; None for a field that is not there. `retry` is in milliseconds."""

    id: str | None
    event: str | None
    data: str | None
    retry: int | None


class EventStream:
    """Bytes of a stream in, its blocks out. Raises Broken."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Block]:
        """The blocks that `data` completes; to be taken to the end before the next are fed."""
        *whole, rest = (self._rest + data).split(b"\n\n")
        if len(rest) > MAX_MESSAGE_BYTES:
            raise Broken(f"a block of more than {MAX_MESSAGE_BYTES} bytes")
        self._rest = rest
        for block in whole:
            yield _block(block)

    def end(self) -> None:
        """The stream has ended as it should."""
        if self._rest:
            raise Broken(f"a stream that ends in the middle of a block: {self._rest[:80]!r}")


def _block(data: bytes) -> Block:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Broken(f"a block that is not UTF-8: {error}") from None
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if name not in Block._fields or not colon or "\r" in line:
            raise Broken(f"a block with the line {line[:80]!r}")
        if name in fields:
            raise Broken(f"a block with two lines of {name}: {text[:80]!r}")
        fields[name] = value.removeprefix(" ")
    retry = fields.get("retry")
    if retry is not None and not (retry.isascii() and retry.isdigit() and len(retry) < 10):
        raise Broken(f"a block with retry: {retry[:80]!r}")
    if "\0" in fields.get("id", ""):
        raise Broken("a block whose id has U+0000, which a browser drops")
    return Block(fields.get("id"), fields.get("event"), fields.get("data"), None if retry is None else int(retry))
