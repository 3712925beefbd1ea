"""Messages that name many users wait beside the queue, so that a commit has few events in logs of one's own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from tornado_chat.live.line import Sender
from tornado_chat.log import Entry

NAMED = 64
"""Users named in one commit, or those of one message: each costs as much as a message, so 1,000 of them 6 ms."""

FEW = 4
"""A message that names no more waits for no other user's."""

Waiting = tuple[Sender, float, Entry]
"""With when it was submitted."""


class Naming:
    """What waits, in its order. Behind a message that waits does all of its room, and all of its sender's user.

    A connection has two senders: itself, and the one of what it writes of messages that grow.
    """

    __slots__ = ("_named", "_whose", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self._whose: Counter[str] = Counter()  # the rooms of what waits, and with an @ the users
        self._named = 0  # users that what is in the queue names

    def keeps(self, sender: Sender, entry: Entry, born: float) -> bool:
        """Let `entry` wait if it has to; False: it may go into the queue, and counts there."""
        user = f"@{sender.user}"
        if user in self._whose or entry.room in self._whose or not self._fits(entry):
            self.waiting.append((sender, born, entry))
            self._whose.update((user, entry.room))
            return True
        self._named += len(entry.mentions)
        return False

    def freed(self, committed: Sequence[Entry]) -> Iterator[Waiting]:
        """What may go into the queue when these have left it."""
        self._named -= sum([len(entry.mentions) for entry in committed])
        while self.waiting and self._fits(self.waiting[0][2]):
            waiting = self.waiting.popleft()
            sender, _, entry = waiting
            for whose in (f"@{sender.user}", entry.room):
                self._whose[whose] -= 1
                if not self._whose[whose]:
                    del self._whose[whose]
            self._named += len(entry.mentions)
            yield waiting

    def _fits(self, entry: Entry) -> bool:
        count = len(entry.mentions)
        return count <= FEW or not self._named or self._named + count <= NAMED
