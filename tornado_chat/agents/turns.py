"""The replies that one process gives at a time: how many may be, and whose turn comes when one has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from tornado_chat.agents.handlers import Threads
from tornado_chat.agents.turn import Turn
from tornado_chat.tasks import Tasks

RESERVED = 1 / 4
"""Of the places for replies, for people who are given none at the moment: nobody takes all of them."""

RESTING = 64
"""Replies that wait for what a person answers, and take no place from others: the server lets 128 grow."""


class Looking(Protocol):
    """A room with questions."""

    def look(self) -> None:
        """Begin the replies for which there are places now."""


class Turns:
    """`most` replies at a time; they run as `tasks`, and their handlers perhaps in `threads`."""

    def __init__(self, most: int, tasks: Tasks) -> None:
        self.threads = Threads(self._feed)
        self._most = most
        self._tasks = tasks
        self._given: set[Turn] = set()
        self._people: Counter[str] = Counter()  # who has asked for these
        self._resting: dict[asyncio.Timeout, None] = {}  # of those who wait for a person, the longest first
        self._hungry: dict[Looking, None] = {}

    def __len__(self) -> int:
        return len(self._given)

    @property
    def _left(self) -> int:
        """So many may begin; a thread that was stopped and goes on counts, too."""
        strays = self.threads.alive - sum(turn.in_thread for turn in self._given)
        return self._most - (len(self._given) - len(self._resting) + max(0, strays))

    def has_place(self, user: str) -> bool:
        """Whether another reply may be given here, to `user`."""
        return self._left > (int(self._most * RESERVED) if self._people[user] else 0)

    def begin(self, turn: Turn, on_end: Callable[[], None]) -> None:
        """Let it run; `on_end` is called when it is over."""
        self._given.add(turn)
        self._people[turn.question.user] += 1
        self._tasks.spawn(turn.run()).add_done_callback(lambda _: self._on_end(turn, on_end))

    def _on_end(self, turn: Turn, on_end: Callable[[], None]) -> None:
        user = turn.question.user
        self._given.discard(turn)
        self._people[user] -= 1
        if not self._people[user]:
            del self._people[user]
        on_end()
        self._feed()

    @contextlib.contextmanager
    def resting(self, limit: asyncio.Timeout) -> Iterator[None]:
        """While a reply waits for a person, until `limit`, it takes no place from others.

        Of RESTING that do so, the one that has waited longest waits no more when there is a further one.
        """
        if len(self._resting) >= RESTING:
            oldest = next(iter(self._resting))
            del self._resting[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        self._resting[limit] = None
        self._feed()
        try:
            yield
        finally:
            self._resting.pop(limit, None)

    def hunger(self, room: Looking) -> None:
        """The room has more questions than may be answered at a time: it is to look again when there is a place."""
        self._hungry[room] = None

    def forget(self, room: Looking) -> None:
        """It is left."""
        self._hungry.pop(room, None)

    def _feed(self) -> None:
        """Let the rooms look that have questions, as long as there are places; who has more comes behind the others."""
        for room in list(self._hungry):
            if self._left <= 0:
                break
            del self._hungry[room]
            room.look()
