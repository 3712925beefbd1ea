"""What somebody is told of an answer, so that nothing given is doubled, or mixed with something else. No I/O."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tornado_chat.bridges.answer import NO_RUN, Answer
from tornado_chat.errors import Reason
from tornado_chat.wire.events import Data


class Begun(NamedTuple):
    """The agent has begun the message `seq`, perhaps anew."""

    seq: int


class Text(NamedTuple):
    """What the text gained; `offset` code points stand before it."""

    text: str
    offset: int


class Restart(NamedTuple):
    """What was given is void: the answer begins anew."""


class Doing(NamedTuple):
    """What the agent does; "": nothing any more."""

    status: str


class Step(NamedTuple):
    """A step on the way, told anew under its `id` as it goes: `id`, `name`, `state`, `input`?, `output`?."""

    step: Data


class Asked(NamedTuple):
    """The agent wants to know something of the asker, whose next message in the room it waits for."""

    text: str


class End(NamedTuple):
    """It is over, as `reason` tells; None: for now, since the agent has asked."""

    reason: Reason | None


Told = Begun | Text | Restart | Doing | Step | Asked | End


class Mark(NamedTuple):
    """Up to where somebody has a text: `crc` is that of the UTF-8, as far as `mask` goes."""

    offset: int
    crc: int
    mask: int = 0xFFFF_FFFF

    def fits(self, text: str) -> bool:
        return len(text) >= self.offset and crc_of(text[: self.offset]) & self.mask == self.crc


def crc_of(text: str, before: int = 0) -> int:
    """The CRC-32 of the text in UTF-8, behind one that has the CRC-32 `before`."""
    return zlib.crc32(text.encode(), before)


class Telling:
    """To one who has the text up to `mark`, or nothing. It goes on where the text does, whoever gives it."""

    __slots__ = ("_answer", "_given", "_mark", "_run", "_seq", "_status", "_steps")

    def __init__(self, answer: Answer, mark: Mark | None = None) -> None:
        self._answer = answer
        self._mark = mark
        self._given = ""
        self._run = answer.run if answer.run != NO_RUN else None
        self._seq = 0
        self._status = ""
        self._steps: dict[str, Data] = {}

    def news(self) -> Iterator[Told]:
        """What came since this was asked last. A text that begins anew is waited for while it may become the same."""
        answer = self._answer
        if answer.seq != self._seq and answer.grows:
            self._seq = answer.seq
            yield Begun(answer.seq)
        if answer.asks and answer.grows:
            yield from self._text()
            yield Asked(answer.asks)
            yield End(None)
            return
        if answer.status != self._status:
            self._status = answer.status
            yield Doing(self._status)
        for id, step in answer.steps.items():
            if self._steps.get(id) != step:
                self._steps[id] = step
                yield Step(step)
        if answer.lacking:
            return
        yield from self._text()
        if answer.over:
            yield End("stopped" if answer.withdrawn and answer.reason is None else answer.reason)

    def _text(self) -> Iterator[Told]:
        answer, text = self._answer, self._answer.text
        if self._mark is not None:
            if len(text) < self._mark.offset and not answer.over:
                return
            if self._mark.fits(text):
                self._given = text[: self._mark.offset]
            else:
                yield Restart()
            self._mark, self._run = None, answer.run
        if answer.run != self._run or len(text) < len(self._given):
            if self._given.startswith(text) and not answer.over:
                return  # it may come to be the same
            if not text.startswith(self._given):
                self._given = ""
                self._steps = {}
                yield Restart()
            self._run = answer.run
        if len(text) > len(self._given):
            before, self._given = len(self._given), text
            yield Text(text[before:], before)
