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
"""Of the places for replies, for people who have none at the moment: nobody takes all of them."""

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
        self._people: Counter[str] = Counter()  # who has asked for these, but for those that rest
        self._resting: dict[asyncio.Timeout, None] = {}  # of those who wait for a person, the longest first
        self._hungry: dict[Looking, None] = {}

    def __len__(self) -> int:
        return len(self._given)

    @property
    def _left(self) -> int:
        """So many may begin."""
        return self._most - (len(self._given) - len(self._resting) + self._strays.total())

    @property
    def _strays(self) -> Counter[str]:
        """Threads that were stopped and go on, by who has asked: each of them takes a place, too."""
        return self.threads.alive - Counter(turn.question.user for turn in self._given if turn.in_thread)

    def has_place(self, user: str) -> bool:
        """Whether another reply may be given here, to `user`."""
        has_some = self._people[user] or self._strays[user]
        return self._left > (int(self._most * RESERVED) if has_some else 0)

    def begin(self, turn: Turn, on_end: Callable[[], None]) -> None:
        """Let it run; `on_end` is called when it is over."""
        self._given.add(turn)
        self._people[turn.question.user] += 1
        self._tasks.spawn(turn.run()).add_done_callback(lambda _: self._on_end(turn, on_end))

    def _on_end(self, turn: Turn, on_end: Callable[[], None]) -> None:
        self._given.discard(turn)
        self._leave(turn.question.user)
        on_end()
        self._feed()

    def _leave(self, user: str) -> None:
        self._people[user] -= 1
        if not self._people[user]:
            del self._people[user]

    @contextlib.contextmanager
    def resting(self, limit: asyncio.Timeout, user: str) -> Iterator[None]:
        """While a reply waits for `user`, until `limit`, it takes no place.

        Of RESTING that do so, the one that has waited longest waits no more when there is a further one.
        """
        if len(self._resting) >= RESTING:
            oldest = next(iter(self._resting))
            del self._resting[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        self._resting[limit] = None
        self._leave(user)
        self._feed()
        try:
            yield
        finally:
            self._resting.pop(limit, None)
            self._people[user] += 1

    def hunger(self, room: Looking) -> None:
        """The room has more questions than may be answered at a time: it is to look again when there is a place."""
        self._hungry[room] = None

    def forget(self, room: Looking) -> None:
        """It is left."""
        self._hungry.pop(room, None)

    def _feed(self) -> None:
        """Let the rooms look that have questions, as long as there are places.

        One that was given a place and wants more goes behind the others; one that was given none keeps its turn.
        """
        held: list[Looking] = []
        for room in list(self._hungry):
            if self._left <= 0:
                break
            del self._hungry[room]
            before = len(self._given)
            room.look()
            if room in self._hungry and len(self._given) == before:
                held.append(room)
        if held:
            self._hungry = dict.fromkeys([*held, *self._hungry])
