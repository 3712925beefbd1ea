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
SOON = 5.0
"""The same where a better one was good before: at first, and each time RISE times as long, up to UPGRADE_AFTER."""
RISE = 3.0


class Ladder:
    """The transports from the best one down, and the rung on which the client is."""

    __slots__ = ("_best", "_deaths", "_first", "_kinds", "_upgrades", "upgrade_at")

    def __init__(self, kinds: Sequence[TransportKind]) -> None:
        self._kinds = kinds
        self._first = 0
        self._deaths = 0
        self._best = len(kinds)  # the best rung that passes, as far as is known
        self._upgrades = 0  # that were tried since the uppermost rung bore, or nobody was there
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
        rung = self._kinds.index(kind)
        if rung != self._first:
            self._deaths = 0
        self._best = min(self._best, rung)
        self._move(rung, now)

    def on_died(self, age: float, now: float, *, suspect: bool, silent: bool = False) -> None:
        """The transport in use has ended; `age`: from its first to its last sign of life."""
        if age >= YOUNG:
            self._deaths = 0
            if self._first == 0:
                self._upgrades = 0
        elif suspect:
            self._deaths += 1
        if self._deaths == DEATHS:
            self._deaths = 0
            if silent:  # no server's end is, and to find it out again would take as long
                self._best = max(self._best, self._first + 1)
            self._move((self._first + 1) % len(self._kinds), now)

    def on_nothing(self, *, suspect: bool) -> None:
        """No transport came about: nobody is there, which says nothing of any transport, nor of those that died before.

        Where some of them were `suspect` all are tried again. Which comes about first is chance then.
        """
        self._deaths = 0
        if suspect:
            self._first = self._best = self._upgrades = 0
            self.upgrade_at = None

    def on_upgrade(self) -> None:
        """One is tried."""
        self._upgrades += 1

    def on_no_upgrade(self, now: float) -> None:
        self.upgrade_at = now + self._pause()

    def _move(self, first: int, now: float) -> None:
        before, self._first = self._first, first
        if first == 0:
            self.upgrade_at = None
        elif first != before or self.upgrade_at is None:
            self.upgrade_at = now + self._pause()

    def _pause(self) -> float:
        """Until the next upgrade."""
        if self._best >= self._first:
            return UPGRADE_AFTER
        return min(SOON * RISE ** min(self._upgrades, 30), UPGRADE_AFTER)
