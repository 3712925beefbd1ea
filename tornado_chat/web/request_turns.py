"""Requests that have come wait for their turn: some are begun in each loop turn, for which everybody else waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

from tornado_chat.metrics import Metrics
from tornado_chat.web import shedding

FIRST_REQUESTS, MORE_REQUESTS = 16, 2
"""Requests that are begun in one loop turn: those that are the first of their connection, as a handshake mostly is, and
others, half of them polls if there are such. They take 4 ms together at most, for which everybody else waits."""

_POLL = b"POST /v1/poll "


class RequestTurns:
    """Those of one server."""

    __slots__ = ("_due", "_first", "_loop", "_metrics", "_more", "_polls")

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        self._metrics = metrics
        self._due = False  # a turn comes, or is taken: what is answered at once may let another request wait in it
        # What begins a request, and since when it waits.
        self._first: deque[tuple[float, Callable[[], None]]] = deque()
        self._more: deque[tuple[float, Callable[[], None]]] = deque()
        self._polls: deque[tuple[float, Callable[[], None]]] = deque()

    def turn_away(self, head: bytes) -> bytes | None:
        """What is answered to a request that is not the first of its connection, if there is no time for it now."""
        waiting = self._lane(head)
        if not waiting or monotonic() - waiting[0][0] <= shedding.WAIT_SECONDS:
            return None
        self._metrics.refusals[503] += 1
        return shedding.overloaded().answer(head)

    def wait(self, begin: Callable[[], None], head: bytes | None = None) -> None:
        """A request is begun when it is its turn; `head`: of one that is not the first of its connection."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)
        (self._first if head is None else self._lane(head)).append((monotonic(), begin))

    def _lane(self, head: bytes) -> deque[tuple[float, Callable[[], None]]]:
        """Polls have their own: those who poll a busy room come back all at once, and nobody else is to wait for it."""
        return self._polls if head.startswith(_POLL) or b"wait=" in head[: head.find(b"\r")] else self._more

    def _turn(self) -> None:
        try:
            for _ in range(min(FIRST_REQUESTS, len(self._first))):
                _, begin = self._first.popleft()
                begin()
            for number in range(MORE_REQUESTS):
                lanes = (self._more, self._polls) if number % 2 else (self._polls, self._more)
                requests = lanes[0] or lanes[1]
                if not requests:
                    break
                _, begin = requests.popleft()
                begin()
        finally:
            self._due = bool(self._first or self._more or self._polls)
            if self._due:
                self._loop.call_soon(self._turn)
