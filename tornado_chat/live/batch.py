"""What one flush of a room writes to the members of one encoding, a slice of them at a time."""

from __future__ import annotations

from array import array
from time import monotonic

from tornado_chat.live.fanout import UNTRIED, send_all
from tornado_chat.live.group import Group
from tornado_chat.live.growing import Told


class Batch:
    """For those who are in the group now; nobody in it moves until `Group.flushed`."""

    __slots__ = ("_end", "_place", "_users", "after", "data", "events", "frames", "group", "signals", "told")

    def __init__(self, group: Group, frames: list[bytes], after: int, signals: list[tuple[bytes, str | None]]) -> None:
        self.group = group
        self.after = after  # the seq before the batch: the cursor of a member that falls behind in it
        self.events = len(frames)
        self.frames = frames
        self.signals = signals  # with the user whom each is not for
        self.told: Told | None = None  # before the batch, where something grows: what who falls behind in it has got
        self.data = b"".join(frames + [frame for frame, _ in signals])
        self._users = {user for _, user in signals if user is not None}
        self._place = 0  # in the group: those before it were sent to, or told
        self._end = len(group.members)
        group.flushing = True

    @property
    def done(self) -> bool:
        return self._place == self._end

    def is_due(self, place: int) -> bool:
        """Whether who stands at `place` in the group is still to be written to."""
        return self._place <= place < self._end

    def of(self, user: str) -> bytes:
        """What of the batch is for this user; b"": nothing."""
        if user not in self._users:
            return self.data
        return b"".join(self.frames + [frame for frame, not_for in self.signals if not_for != user])

    def send(self, direct: array[int], most: int, seconds: float) -> tuple[int, list[tuple[int, int]]]:
        """Send to the next `most` members, or to fewer if that takes so many seconds.

        How many got all of it, and (place, bytes taken or UNTRIED) of the others, to whom it is still to be written:
        their lines are not direct, or the batch is not wholly for them.
        """
        begun, end, until = self._place, min(self._place + most, self._end), monotonic() + seconds
        odd: list[tuple[int, int]] = []
        for stop in (*self._apart(begun, end), end):
            self._place, found = send_all(self.data, self.group.keys, direct, self._place, stop, until - monotonic())
            odd += found
            if self._place < stop:
                break  # the time is up
            if stop < end:
                odd.append((stop, UNTRIED))
                self._place += 1
                if monotonic() > until:
                    break
        return self._place - begun - len(odd), odd

    def _apart(self, begin: int, end: int) -> list[int]:
        """The places between these of users whom some signal is not for."""
        users = self._users
        members = self.group.members[begin:end] if users else []
        return [place for place, member in enumerate(members, begin) if member is not None and member.user in users]
