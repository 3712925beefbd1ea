"""What a run has found and counted: shared by all its devices and faults, and what the report is made of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from tornado_chat.verify.answers import Answers
from tornado_chat.verify.findings import Finding, Violation
from tornado_chat.verify.growth import Growth, Span
from tornado_chat.verify.own_log import OwnLog
from tornado_chat.verify.record import Record

VIOLATIONS_KEPT = 1000
HISTORY_KEPT = 1000
RESERVE_SECONDS = 15.0
"""How long after a fault of the installation a broken connection is put down to it."""


EFFECT_SECONDS = 10.0
"""How long after harm was done and mended its effects may be seen."""


class Times:
    """Durations, counted by the millisecond."""

    __slots__ = ("_counts", "longest")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._counts[min(int(seconds * 1000), 600_000)] += 1
        if seconds > self.longest:
            self.longest = seconds

    def quantile(self, part: float) -> float:
        """In seconds; 0.0 if nothing was counted."""
        left = part * self._counts.total()
        for milliseconds in sorted(self._counts):
            left -= self._counts[milliseconds]
            if left <= 0:
                return milliseconds / 1000
        return 0.0

    def summary(self) -> dict[str, float]:
        """In milliseconds."""
        return {
            "p50": self.quantile(0.5) * 1000,
            "p99": self.quantile(0.99) * 1000,
            "max": round(self.longest * 1000, 1),
        }


STOP_SECONDS = 30.0
"""For so long a stop without an answer may be under way."""


class Ledger:
    """`record` a room's events, `report` what is wrong, count the rest."""

    def __init__(self, rooms: Sequence[str]) -> None:
        self.began = time.monotonic()
        self.records = {name: Record(name) for name in rooms}
        self.own: dict[str, OwnLog] = {}
        """By user."""
        self.growing: list[Growth] = []
        """Messages that are said bit by bit, and have not ended, or only just."""
        self.answers: Answers | None = None
        """Those of the agent, if there is one."""
        self.breaks: list[Span] = []
        """When workers were killed or replaced: on a busy machine the last of a roll goes long after its signal."""
        self.epoch: str | None = None
        self.users: dict[str, set[str]] = {name: set() for name in rooms}
        """By room: everybody who has joined it."""
        self.violations: list[Violation] = []
        self.violation_count = 0
        self.counts: Counter[str] = Counter()
        """Of: sent, acked, resent, duplicates, delivered, behind, connects, refused ..."""
        self.closes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.history: list[str] = []
        """The harm that was done to the installation, and when."""
        self.late = Times()
        """From the first device that heard of an event to each member of a WebSocket or a stream, not catching up."""
        self.latest = ("", 0, "")
        """The room, the seq and the device of the longest of them."""
        self.polled = Times()
        """The same to each who waited for it in a poll."""
        self.answer = Times()
        """From a command's (last) way out to its ack."""
        self.first_words = Times()
        """From a question, where its asker had no other, to the first word of its answer that anybody had."""
        self.left = Times()
        """From the wish that a reply ends until its model was left alone."""
        self._harmed_until = 0.0
        self._harms = 0
        self._harm: list[Span] = []  # when some was done

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def grow(self, growth: Growth) -> None:
        """A device begins to say it."""
        record = self.records[growth.room]
        since = time.monotonic() - STOP_SECONDS
        stopping = {user for user, asked in record.stopping if asked > since}  # the server may do it only now
        growth.stopped = not stopping.isdisjoint((growth.user, growth.asker))
        self.growing.append(growth)
        record.saying[growth.user, growth.id] = growth
        self.counts["growing"] += 1

    def still_growing(self) -> list[Growth]:
        """Those of which somebody was told, and which have not ended."""
        self.growing = [growth for growth in self.growing if growth.end is None]
        return [growth for growth in self.growing if growth.seq]

    def own_log(self, user: str) -> OwnLog:
        return self.own.get(user) or self.own.setdefault(user, OwnLog(user))

    def report(self, finding: Finding, *, room: str = "", seq: int = 0, device: str = "") -> None:
        self.violation_count += 1
        if len(self.violations) < VIOLATIONS_KEPT:
            seconds = round(self.seconds, 2)
            self.violations.append(Violation(finding.kind, room, finding.seq or seq, device, finding.text, seconds))

    def note(self, line: str) -> None:
        if len(self.history) < HISTORY_KEPT:
            self.history.append(f"{self.seconds:.1f} s: {line}")

    def take_late(self, seconds: float, room: str, seq: int, device: str) -> None:
        if seconds > self.late.longest:
            self.latest = room, seq, device
        self.late.add(seconds)

    def take_epoch(self, epoch: str, device: str) -> None:
        if self.epoch is None:
            self.epoch = epoch
        elif self.epoch != epoch:
            self.report(Finding("epoch", f"{epoch}, which was {self.epoch}"), device=device)
            self.epoch = epoch

    def begin_harm(self) -> None:
        """From now on broken connections are expected."""
        self._harms += 1

    def end_harm(self) -> None:
        self._harms -= 1
        self._harmed_until = time.monotonic() + RESERVE_SECONDS

    def take_harm(self, since: float) -> None:
        """Some was done since then, to what is between the devices and the agent, to that or to the server."""
        self._harm.append((since, time.monotonic()))

    def was_harmed(self, since: float, until: float) -> bool:
        """Whether some was, or what came of it may have gone on."""
        return any(begin < until and since < end + EFFECT_SECONDS for begin, end in self._harm)

    @property
    def harmed(self) -> bool:
        return self._harms > 0 or time.monotonic() < self._harmed_until
