"""How long a busy room waits after a long flush before it begins the next, so that more events go in one write."""

from __future__ import annotations

SHARE = 0.5
"""Of what the flush cost: a room that never stops flushing gives a third of the processor to the others."""

LEAST, MOST = 0.001, 0.005
"""Seconds. The loop's timers count whole milliseconds; nobody waits longer than MOST for the sake of others."""

ENOUGH = 32
"""With so many events waiting, one more saves too little of a write to be waited for."""

MOST_SKIPPED = 64
"""Rests in a row that are left out when the ones before were in vain."""


class Rest:
    """The rests of one room: `after` a flush, `over` when it has rested.

    Only a flush that was cut into slices is followed by one, and only while events wait already: an idle room waits for
    nothing. A rest in which no event came was in vain, and then 1, 2, 4 ... are left out.
    """

    __slots__ = ("_left_out", "_skip", "_waiting")

    def __init__(self) -> None:
        self._skip = 0  # rests that are to be left out now
        self._left_out = 0  # how many were, the last time
        self._waiting = 0  # events that waited when the rest began

    def after(self, cost: float, waiting: int) -> float:
        """The seconds to rest after a sliced flush that took `cost` of them, while so many events wait; 0.0: none."""
        seconds = min(cost * SHARE, MOST)
        if seconds < LEAST or not 0 < waiting < ENOUGH:
            return 0.0
        if self._skip:
            self._skip -= 1
            return 0.0
        self._waiting = waiting
        return seconds

    def over(self, waiting: int) -> None:
        """So many events wait at the end of the rest."""
        if waiting > self._waiting:
            self._left_out = 0
        else:
            self._left_out = min(max(1, 2 * self._left_out), MOST_SKIPPED)
        self._skip = self._left_out
