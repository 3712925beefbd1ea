"""A message that grows, as its author knows it: the text that it says, what of it was taken, and how it may end.

What the author says is drawn in advance, so that every part of it that anybody is shown can be told right from wrong by
its place alone. No I/O, no clock: times are passed in.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding

LEASE_SECONDS = 15.0
"""For an author whose connection has died to come back."""
NOTICED_SECONDS = 2.0
"""The server may have seen a connection's end so much earlier than its client."""
RENEWED_SECONDS = 5.0
"""The log hears of an author that is there so often: a process that dies takes the rest of that with it."""
LATE_SECONDS = 15.0
"""A message that nobody writes any more ends so long after LEASE_SECONDS at most, but for a database that is away."""
KEPT_SECONDS = 6.0
"""What was shown so long before a worker was killed is in a checkpoint: they are 2 s apart."""

Span = tuple[float, float]
"""From when to when, by time.monotonic()."""


class End(NamedTuple):
    """What a `finished` tells."""

    seq: int
    reason: str
    length: int
    crc: int | None  # None: it was deleted since


class Growth:
    """One message. `at` is where its author goes on, None where the server has to be asked; `gone`: it never does."""

    __slots__ = (
        "_absence",
        "_away_since",
        "_shown",
        "asker",
        "at",
        "deleting",
        "end",
        "ended_at",
        "finish",
        "gen",
        "gone",
        "gone_at",
        "id",
        "kept",
        "may_end",
        "room",
        "said",
        "seq",
        "stopped",
        "stopped_at",
        "text",
        "user",
        "watched",
    )

    def __init__(self, room: str, user: str, id: str, text: str, *, asker: str | None, watched: bool) -> None:
        """`asker`: whom it answers. `watched`: we see when its author's connection ends, which a proxy may hide."""
        self.room = room
        self.user = user
        self.id = id
        self.text = text
        self.asker = asker
        self.watched = watched
        self.seq = 0  # 0: not known yet
        self.gen = 1
        self.at: int | None = 0
        self.said = 0  # code points that its author has sent at least once
        self.kept = 0  # those that are on the disk, as an answer has promised
        self.finish: tuple[str, int] | None = None  # the reason and the length that an ack has confirmed
        self.may_end: set[tuple[str, int]] = set()  # those that were asked for
        self.stopped = False  # somebody has asked for that, or to delete it
        self.stopped_at = math.inf  # when that was asked for last
        self.deleting = False  # somebody has asked to delete it while it grew
        self.gone = False
        self.gone_at = math.inf
        self.end: End | None = None
        self.ended_at = math.inf
        self._shown: list[tuple[float, int]] = []  # to any reader: when, how much, both ascending
        self._away_since: float | None = None
        self._absence = 0.0, 0.0  # the longest, and when it began

    @property
    def open(self) -> bool:
        """Its author has something to say yet."""
        return not self.gone and self.end is None and self.finish is None

    @property
    def ends_with(self) -> int:
        """The seq of its end; 2^63 while it has none."""
        return (1 << 63) if self.end is None else self.end.seq

    def cut_at(self, length: int) -> int:
        """So many code points of `length` must be there: a `finish` cuts the text, also one that was not answered."""
        return min([length, *(asked for _, asked in self.may_end)])

    # Its author

    def leave(self, now: float) -> None:
        """The author's connection has ended."""
        if self._away_since is None:
            self._away_since = now

    def come_back(self, now: float) -> None:
        """The server has answered its `begin`."""
        if self._away_since is not None:
            self._absence = max(self._absence, (now - self._away_since, self._away_since))
            self._away_since = None

    def go(self, now: float) -> None:
        """The author is no more."""
        self.gone, self.gone_at = True, now
        self.leave(now)

    # Its readers

    def has_gen(self, gen: int) -> bool:
        """Whether there may be a text with this `gen`."""
        return gen == self.gen

    def is_part(self, offset: int, text: str) -> bool:
        """Whether its author has said `text` at that place."""
        return offset + len(text) <= self.said and self.text.startswith(text, offset)

    def show(self, length: int, now: float) -> None:
        """A reader has so much of it."""
        if length > (self._shown[-1][1] if self._shown else 0):
            self._shown.append((now, length))

    @property
    def first_shown_at(self) -> float:
        """When a reader had something of it; infinite if nobody had."""
        return self._shown[0][0] if self._shown else math.inf

    def shown_at(self, now: float) -> int:
        return max((length for then, length in self._shown if then <= now), default=0)

    # Its end

    def take_end(self, event: Data, now: float) -> Iterator[Finding]:
        """A `finished` was shown: each time the same, as the record holds it to."""
        if event.get("deleted") is True:
            crc = text = None
        else:
            crc, text = event["crc"], event.get("text")
        if self.end is None:
            self.end = End(event["seq"], event["reason"], event["length"], crc)
            self.ended_at = now
        elif self.end.seq != event["seq"]:
            yield Finding("double", f"{self.seq} ends a second time, and has ended with {self.end.seq}")
        if crc is None:
            return
        if self.end.crc is None:
            self.end = self.end._replace(crc=crc)
        length = event["length"]
        if length > self.said:
            yield Finding("text", f"{self.seq} ends with {length} characters, and its author has said {self.said}")
        elif zlib.crc32(self.text[:length].encode()) != crc or text not in (None, self.text[:length]):
            yield Finding("text", f"{self.seq} ends with another text than its author has said")
        if not self.gone:
            self.come_back(now)

    def audit(self, breaks: Sequence[Span], *, sound: bool) -> Iterator[Finding]:
        """At the end. `breaks`: when workers were killed or replaced; `sound`: no database was ever away."""
        if not self.seq:
            return  # nobody has ever heard of it
        end = self.end
        if end is None:
            yield Finding("open", f"{self.id} of {self.user} has not ended", self.seq)
            return
        if sound and self.ended_at > self.gone_at + LEASE_SECONDS + LATE_SECONDS:
            yield Finding("open", f"ended {self.ended_at - self.gone_at:.0f} s after its author had died", self.seq)
        if self.finish is not None:
            if self.finish != (end.reason, end.length):
                text = f"ended with {end.reason} and {end.length}, and was acknowledged with {self.finish}"
                yield Finding("text", text, self.seq)
            return
        if (end.reason, end.length) in self.may_end:
            return
        match end.reason:
            case "stopped" if not self.stopped:
                yield Finding("reason", "was stopped, and nobody had asked for that", self.seq)
            # A database that is away hears of nobody, and gives up all alike.
            case "interrupted" if sound and self.watched and not self.gone and not self._was_away(breaks):
                text = f"was interrupted, and its author was never away for more than {self._absence[0]:.1f} s"
                yield Finding("reason", text, self.seq)
            case "done" | "error":
                yield Finding("reason", f"ended with {end.reason} and {end.length}, which nobody had said", self.seq)
        shown = self._shown_for_good(breaks, sound=sound)
        if end.length < self.cut_at(max(self.kept, shown)):
            had = f"{shown} had been shown and {self.kept} acknowledged as kept"
            yield Finding("text", f"{end.reason} with {end.length} characters, although {had}", self.seq)

    def _was_away(self, breaks: Sequence[Span]) -> bool:
        """For so long that it may have been given up."""
        seconds, since = self._absence
        killed = any(begin <= since + seconds and since - RENEWED_SECONDS <= end for begin, end in breaks)
        return seconds > LEASE_SECONDS - NOTICED_SECONDS - (RENEWED_SECONDS if killed else 0.0)

    def _shown_for_good(self, breaks: Sequence[Span], *, sound: bool) -> int:
        """What was shown, and cannot have been lost with a process."""
        if not self._shown:
            return 0
        first, last = self._shown[0][0], self._shown[-1][1]
        begins = [begin for begin, end in breaks if end > first - 1.0]
        if not begins:
            return last
        return self.shown_at(min(begins) - KEPT_SECONDS) if sound else 0


def finished(growth: Growth, finish: Data) -> Data:
    """The event that the `finish` of a message must become, as far as its author knows it."""
    event: Data = {"type": "finished", "room": growth.room, "user": growth.user, "target": growth.seq}
    event["crc"] = zlib.crc32(growth.text[: finish["length"]].encode())
    return event | {"meta": finish["meta"]} if "meta" in finish else event
