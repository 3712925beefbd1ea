"""Messages that grow: the text of each in this process, which is the buffer, and who writes it.

A message grows in one process, which has it; in the others with its room open it is a copy, that follows. What is told
of it, and when, is in `room_growing`.

What is true of a `Growing` whenever the loop runs something else: `kept` <= `length` and `told` <= `length`. Every live
member of the room has been written the first `told` code points, or is about to be by a flush that runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain
from time import monotonic
from typing import Protocol

from tornado_chat.errors import Reason
from tornado_chat.wire.encodings import Encoding
from tornado_chat.wire.events import Event
from tornado_chat.wire.fragments import HTML
from tornado_chat.wire.replies import Stop, Stream

STREAM_CHARS = 262_144
"""Code points of one message that grows."""

Told = dict[int, tuple[int, int]]
"""Of a room's messages that grow, by seq: the gen and the code points that were told."""


class Hearer(Protocol):
    """The connection that writes a message."""

    user: str

    def hear(self, stop: Stop) -> None:
        """Somebody wants a message of its own, or of a user for whom it writes, to end."""


class Growing:
    """One message, or (`here` is False) a copy. `writer` is who writes it, None while nobody is connected.

    Of a copy: `home` is the process that has it, "" if that is not known, and `known` how much there is of it.
    """

    __slots__ = (
        "_fresh",
        "_pieces",
        "asked_at",
        "counted",
        "cut_short",
        "deaf",
        "done",
        "end_reason",
        "ending",
        "ends_at",
        "gap",
        "gen",
        "handed_by",
        "here",
        "home",
        "id",
        "kept",
        "kept_at",
        "known",
        "length",
        "linked",
        "missed",
        "name",
        "over",
        "room",
        "sent",
        "seq",
        "told",
        "unlinks_at",
        "user",
        "writer",
    )

    def __init__(
        self, room: str, seq: int, user: str, name: str, id: str, gen: int, text: str, *, here: bool = True
    ) -> None:
        """`text` is what the checkpoints hold."""
        self.here = here
        self.home = ""
        self.known = 0
        self.asked_at = 0.0  # by monotonic(): when `home` was asked for what is missing
        self.missed = 0  # looks at the log, one after the other, that did not find it
        self.counted = 0  # code points, for the bound of all copies
        self.deaf = False  # there is no room for its text
        self.room = room
        self.seq = seq
        self.user = user
        self.name = name
        self.id = id
        self.writer: Hearer | None = None
        self.done: asyncio.Future[None] | None = None  # for those who wait for the end
        self.over = False  # it ended, or is another process's: the room lets go of it with the next flush
        self.ending = False  # its `finished` is on its way through the log
        self.ends_at: float | None = None  # by monotonic(): when it is finished here, for `end_reason`
        self.end_reason: Reason = "interrupted"
        self.handed_by = 0.0  # by monotonic(): until then the process that had it may hand some more over
        self.linked = True  # as the log has it
        self.unlinks_at = 0.0  # by monotonic(): until then its author counts as connected
        self.kept_at = monotonic()
        self.begin(gen, text)

    def begin(self, gen: int, text: str = "") -> None:
        """The text begins again with `text`, which the log holds."""
        self.gen = gen
        self._pieces: list[str] = []  # what was told
        self._fresh = [text] if text else []  # what was not
        self.told = self.known = 0
        self.length = self.kept = self.sent = len(text)  # sent: what other processes were told
        self.gap = False  # its author was told of one, and has not come back to the end of the text
        self.cut_short = False  # the log may have more than its author says it has

    def add(self, text: str) -> None:
        self._fresh.append(text)
        self.length += len(text)

    def extend(self, gen: int, start: int, text: str) -> bool:
        """Take what is new of `text`, which begins at the code point `start`; False if something before is missing."""
        if gen < self.gen:
            return True
        if gen > self.gen:
            self.begin(gen)
        self.known = max(self.known, start + len(text))
        if start > self.length:
            return False
        if self.known > self.length:
            self.add(text[self.length - start :])
        return self.known <= self.length

    def ends_as(self, text: str | None) -> bool:
        """All of its `text` is known now, or that it was deleted: take what is missing.

        False if it is another one: who was told this one has to be told that.
        """
        if text is None:
            return True
        mine = self.text()
        if text.startswith(mine):
            if len(text) > len(mine):
                self.add(text[len(mine) :])
            return True
        return mine.startswith(text)

    def tell(self) -> str:
        """What was not told: it counts as told from now on."""
        text = "".join(self._fresh)
        self._fresh = []
        if text:
            self._pieces.append(text)
            self.told += len(text)
        return text

    def text(self) -> str:
        return "".join(self._pieces) + "".join(self._fresh)

    def since(self, start: int) -> str:
        """What begins at the code point `start`."""
        missing = self.length - start
        found: list[str] = []
        for piece in chain(reversed(self._fresh), reversed(self._pieces)):
            if missing <= 0:
                break
            found.append(piece if len(piece) <= missing else piece[len(piece) - missing :])
            missing -= len(piece)
        return "".join(reversed(found))

    def told_text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def cut(self, length: int) -> None:
        """Only the first `length` code points are its text."""
        if length < self.length:
            text = self.text()[:length]
            self._pieces, self._fresh = [text[: self.told]], [text[self.told :]]
            self.length = length
            self.cut_short = True
            self.told, self.sent = min(self.told, length), min(self.sent, length)
            if self.kept > length:
                self.kept = 0  # if it goes on to grow, all of it is kept anew


def snapshot(message: Growing, offset: int, id: str | None = None) -> Stream:
    """What was told of the message, from a code point on: the next chunk continues it."""
    offset = min(offset, message.told)
    return Stream(
        id=id,
        room=message.room,
        seq=message.seq,
        gen=message.gen,
        offset=offset,
        text=message.told_text()[offset:],
        done=False,
    )


class Short(Event):
    """A `finished` as those get it who were there while the message grew: without its text.

    A page of HTML cannot tell what it has: it gets the `whole`.
    """

    __slots__ = ("whole",)

    def __init__(self, whole: Event) -> None:
        super().__init__(whole.seq, {key: value for key, value in whole.data.items() if key != "text"})
        self.born = whole.born
        self.whole = whole

    def encode(self, encodings: Iterable[Encoding]) -> int:
        added = 0
        html = [encoding for encoding in encodings if encoding.codec is HTML and encoding not in self.frames]
        if html:
            payload = HTML.encode(self.whole.data)
            for encoding in html:
                made = self.frames[encoding] = encoding.wrap_at(payload, self.seq)
                added += len(made)
        return added + super().encode(encodings)
