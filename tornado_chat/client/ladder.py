"""Which transports are tried, from which on; no I/O. Times are the loop's, in seconds."""

from __future__ import annotations

from collections.abc import Sequence

from tornado_chat.client.transport import TransportKind

YOUNG = 30.0
"""What dies before this age dies young."""
DEATHS = 2
"""So many young ones in a row, and the transport is held to be at fault."""
UPGRADE_AFTER = 600.0
"""On a lower transport, until a better one is tried again."""


class Ladder:
    """The transports from the best one down, and the rung on which the client is."""

    __slots__ = ("_deaths", "_first", "_kinds", "upgrade_at")

    def __init__(self, kinds: Sequence[TransportKind]) -> None:
        self._kinds = kinds
        self._first = 0
        self._deaths = 0
        self.upgrade_at: float | None = None  # None: nothing is better

    @property
    def kinds(self) -> Sequence[TransportKind]:
        """What to try now, in this order."""
        return self._kinds[self._first :]

    @property
    def better(self) -> Sequence[TransportKind]:
        """What an upgrade tries."""
        return self._kinds[: self._first]

    def on_opened(self, kind: TransportKind, now: float) -> None:
        if kind != self._kinds[self._first]:
            self._deaths = 0
        self._move(self._kinds.index(kind), now)

    def on_died(self, age: float, now: float, *, suspect: bool) -> None:
        """The transport in use has ended; `age`: from its first to its last sign of life."""
        if age >= YOUNG:
            self._deaths = 0
        elif suspect:
            self._deaths += 1
        if self._deaths == DEATHS:
            self._deaths = 0
            self._move((self._first + 1) % len(self._kinds), now)

    def on_nothing(self, *, suspect: bool) -> None:
        """No transport came about. Where the server cannot be reached at all, no transport is to blame for before."""
        if suspect:
            self._first = 0
            self.upgrade_at = None
        else:
            self._deaths = 0

    def on_no_upgrade(self, now: float) -> None:
        self.upgrade_at = now + UPGRADE_AFTER

    def _move(self, first: int, now: float) -> None:
        if first == 0:
            self.upgrade_at = None
        elif first != self._first or self.upgrade_at is None:
            self.upgrade_at = now + UPGRADE_AFTER
        self._first = first
