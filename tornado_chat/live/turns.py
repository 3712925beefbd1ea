"""Shares of the loop: flushes of big rooms, feeding of members that are behind, and answers take turns in slices."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from tornado_chat.live.member import Member

FEEDS, FEED_SECONDS = 16, 0.001
"""Chunks for members that catch up in one loop turn, over all rooms, and about how long they may take together."""

HOLD_SECONDS = 0.001
"""How long the flushes of big rooms wait for a commit, once for each commit and for each slice."""

ANSWERS, ANSWER_SECONDS = 16, 0.001
"""Answers of the log that are told in one loop turn, and about how long that may take: most let somebody join."""

POLLS, POLL_SECONDS = 16, 0.001
"""Answers to polls in one loop turn, over all rooms in turn, and about how long they may take together."""

TELLS, TELL_SECONDS = 16, 0.001
"""Streams of many rooms that are told their cursors in one loop turn, and about how long that may take: 50 us each."""

T = TypeVar("T")


class Share:
    """Calls that are made in loop turns to come, first come first served: in one turn at most `most`, for `seconds`."""

    __slots__ = ("_due", "_loop", "_most", "_seconds", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, seconds: float) -> None:
        self._loop = loop
        self._most = most
        self._seconds = seconds
        self._waiting: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._due = False

    def add(self, call: Callable[[T], None], argument: T) -> None:
        self._waiting.append((call, argument))
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        until = monotonic() + self._seconds
        try:
            for _ in range(min(self._most, len(self._waiting))):
                if monotonic() > until:
                    break
                call, argument = self._waiting.popleft()
                call(argument)
        finally:
            self._due = bool(self._waiting)
            if self._due:
                self._loop.call_soon(self._turn)


class FairShare:
    """As a Share, with a queue for each key: the keys take turns, a call of each."""

    __slots__ = ("_due", "_loop", "_most", "_order", "_queues", "_seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, seconds: float) -> None:
        self._loop = loop
        self._most = most
        self._seconds = seconds
        self._queues: dict[str, deque[Callable[[], None]]] = {}  # none of them is empty
        self._order: deque[str] = deque()  # their keys, the next one first
        self._due = False

    def add(self, key: str, *calls: Callable[[], None]) -> None:
        queue = self._queues.get(key)
        if queue is not None:
            queue.extend(calls)
        elif calls:
            self._queues[key] = deque(calls)
            self._order.append(key)
            if not self._due:
                self._due = True
                self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        until = monotonic() + self._seconds
        try:
            for _ in range(self._most):
                if not self._order or monotonic() > until:
                    break
                key = self._order.popleft()
                queue = self._queues[key]
                call = queue.popleft()
                if queue:
                    self._order.append(key)
                else:
                    del self._queues[key]
                call()
        finally:
            self._due = bool(self._order)
            if self._due:
                self._loop.call_soon(self._turn)


class Turns:
    """The queues of what is to go on in a loop turn to come."""

    __slots__ = (
        "_committing",
        "_feeding",
        "_flush_due",
        "_flushing",
        "_held",
        "_hold",
        "_loop",
        "answer",
        "polls",
        "tell_cursors",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._flushing: deque[Callable[[], bool]] = deque()
        self._flush_due = False
        self._committing = False
        self._hold: asyncio.TimerHandle | None = None  # the slice that is due waits for the commit
        self._held = False  # it waits, or has waited: it goes next, whatever begins meanwhile
        self._feeding = Share(loop, FEEDS, FEED_SECONDS)
        self.answer = Share(loop, ANSWERS, ANSWER_SECONDS).add
        self.polls = FairShare(loop, POLLS, POLL_SECONDS)
        self.tell_cursors = Share(loop, TELLS, TELL_SECONDS).add

    def flush(self, flush_slice: Callable[[], bool]) -> None:
        """A big room's flush: one slice in each loop turn, the big rooms in turn, until it returns False."""
        self._flushing.append(flush_slice)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_turn)

    def commit_begins(self) -> None:
        """Flushes wait for it, for a moment: the log's thread needs the processor that they would keep.

        On one core it waited 3 ms for it (docs/performance.md), and who has sent something small waited with it.
        """
        self._committing = True

    def commit_ended(self) -> None:
        self._committing = False
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
            self._loop.call_soon(self._flush_turn)

    def _end_hold(self) -> None:
        self._hold = None
        self._flush_turn()

    def _flush_turn(self) -> None:
        if self._committing and not self._held:
            self._held = True
            self._hold = self._loop.call_later(HOLD_SECONDS, self._end_hold)
            return
        self._held = False
        try:
            flush_slice = self._flushing.popleft()
            if flush_slice():
                self._flushing.append(flush_slice)
        finally:
            self._flush_due = bool(self._flushing)
            if self._flush_due:
                # Every other turn only: a message passes through three turns from its arrival to its delivery.
                self._loop.call_soon(self._loop.call_soon, self._flush_turn)

    def feed(self, member: Member, feed: Callable[[Member], None]) -> None:
        """Let `feed` give `member`, which is catching up, its next chunk in a loop turn to come."""
        if not member.due:
            member.due = True
            self._feeding.add(_feed, (member, feed))


def _feed(due: tuple[Member, Callable[[Member], None]]) -> None:
    member, feed = due
    member.due = False
    feed(member)
