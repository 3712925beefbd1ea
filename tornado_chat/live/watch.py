"""Those who wait for a room's next events without being members, as long polls do, and when they are answered."""

from __future__ import annotations

from collections.abc import Callable

from tornado_chat.live.shared import Shared

ANSWER_SECONDS = 0.0005
"""The time that a room lets pass for each answer before it begins to give the next ones. An answer brings a request,
and both together take about half of it: 1,000 who poll a busy room are answered twice a second, and one at once."""

LONGEST_SECONDS = 2.0
"""No answer waits longer for the sake of the others."""


class Watch:
    """Of one room. Each of `waiting` is called once, in a loop turn to come, when there is something to answer.

    Answers are given in rounds, so that a busy room has few answers with many events each. The first round begins at
    once. Events that come while the room pays for the last one go together.
    """

    __slots__ = ("_due", "_flushed", "_paid", "_room", "_shared", "erased", "erasures", "reads", "told", "waiting")

    def __init__(self, shared: Shared, room: str, flushed: int) -> None:
        self._shared = shared
        self._room = room
        self._flushed = flushed
        self._due = False
        self._paid = 0.0  # when the next round may begin, by the loop's time
        self.told = flushed  # what the last round could tell: who lacks some of that is behind, and waits for no round
        self.waiting: dict[Callable[[], None], None] = {}
        self.reads = 0  # pages of the log that are on their way
        self.erased: set[int] = set()  # targets that were erased meanwhile
        self.erasures = 0  # how many there have been: what was made before may hold erased texts

    def wake(self, flushed: int) -> None:
        """The room has flushed events up to `flushed`."""
        self._flushed = flushed
        if self.waiting:
            self.want_round()

    def answers_now(self, cursor: int) -> bool:
        """Whether one who lacks events after `cursor` is to be answered now; else it waits for the round."""
        if cursor < self.told:
            return True
        if self._shared.loop.time() < self._paid:
            return False
        self.told = self._flushed
        self._pay(1)
        return True

    def want_round(self) -> None:
        """Answer those who wait as soon as the last answers are paid."""
        if not self._due:
            self._due = True
            loop = self._shared.loop
            if loop.time() < self._paid:
                loop.call_at(self._paid, self._round)
            else:
                self._round()

    def _round(self) -> None:
        self._due = False
        self.told = self._flushed
        waiting, self.waiting = self.waiting, {}
        self._pay(len(waiting))
        self._shared.turns.polls.add(self._room, *waiting)

    def _pay(self, answers: int) -> None:
        now = self._shared.loop.time()
        self._paid = min(max(self._paid, now) + answers * ANSWER_SECONDS, now + LONGEST_SECONDS)

    def erase(self, target: int) -> None:
        """A `deleted` was delivered: what was read before it may hold its texts."""
        self.erasures += 1
        if self.reads:
            self.erased.add(target)
