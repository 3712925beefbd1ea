"""One device's view of one room: nothing missing, nothing twice, nothing out of order, nothing after it left, acks in
the order of the commands. No I/O, no clock.
"""

from __future__ import annotations

from collections import deque

from tornado_chat.verify.findings import Finding

MISSING_KEPT = 10_000


class Witness:
    """Over all connections of the device. Each `take_` is told what came, and returns what is wrong with it."""

    __slots__ = (
        "after",
        "asked",
        "counted_from",
        "cursor",
        "fresh_ack",
        "joined",
        "known",
        "late",
        "left",
        "missing",
        "owed_before_left",
        "pending",
        "synced",
        "then_known",
    )

    def __init__(self) -> None:
        self.cursor = 0
        """The last seq that was shown."""
        self.missing: set[int] = set()  # skipped, and perhaps still to come: those would be out of order
        self.counted_from = 0  # events up to this seq came by catching up: their lateness says nothing
        self.after: int | None = 0
        self.known: object = None
        """Of the join that was answered last: its `after`, and what was known when it was asked for."""
        self.open()

    def open(self) -> None:
        """A new connection: it is a member of nothing yet."""
        self.joined = self.synced = False
        self.left = False  # `left` was said, and no `joined` since
        self.asked: deque[int | None] = deque()  # the `after` of each join that was not answered; None: without
        self.then_known: deque[object] = deque()  # and what was known when it was asked
        self.owed_before_left: set[str] | None = None  # commands that were sent before a leave; None: there was none
        self.lose_answers()

    def lose_answers(self) -> None:
        """What was sent will not be answered any more."""
        self.pending: deque[str] = deque()  # ids of commands that were not answered, in the order sent
        self.late: set[str] = set()  # of these, those whose ack waits for the end of a message that grows
        self.fresh_ack = 0  # the seq of the last ack that was no duplicate

    def ask(self, after: int | None, known: object = None) -> None:
        """A join with this `after`, or without one, was sent when so much was `known`."""
        self.asked.append(after)
        self.then_known.append(known)

    def leave(self) -> None:
        """A leave was sent, once."""
        self.owed_before_left = set(self.pending) - self.late

    @property
    def wanted(self) -> int | None:
        """What it is to be joined after: the last that was asked for and not answered, else all that was shown.

        None: without an `after`.
        """
        return self.asked[-1] if self.asked else self.cursor

    @property
    def settled(self) -> bool:
        """Joined, and nothing asked that would change it."""
        return self.joined and not self.asked and self.owed_before_left is None

    def take_left(self) -> Finding | None:
        owed, self.owed_before_left = self.owed_before_left, None
        if owed is None:
            return Finding("protocol", "left, though no leave was sent")
        self.joined = self.synced = False
        self.left = True
        if owed:
            return Finding("ack", f"left before the answer to {min(owed)}, which was sent before it")
        return None

    def take_joined(self, cursor: int, *, anew: bool = False) -> Finding | None:
        """`anew`: with a state, so that it need not go on where it was to."""
        if not self.asked:
            return Finding("protocol", "joined, though no join was sent")
        if self.owed_before_left is not None:
            return Finding("protocol", "joined, before the answer to a leave that was sent before it")
        self.after = after = self.asked.popleft()
        self.known = self.then_known.popleft()
        self.joined, self.synced, self.left = True, False, False
        self.cursor = cursor
        self.missing.clear()
        if anew and (after is None or cursor >= after):
            return None
        if after is None:
            return Finding("protocol", "joined without a cursor, and without a state")
        if cursor != after:
            return Finding("lost", f"joined after {after}, which was shown before, but the log starts at {cursor}")
        return None

    def take_refusal(self) -> int | None:
        """A join was answered with an error: its `after`."""
        self.then_known.popleft()
        return self.asked.popleft()

    def take_event(self, seq: int) -> Finding | None:
        if not self.joined:
            return self._not_joined("an event")
        expected = self.cursor + 1
        if seq == expected:
            self.cursor = seq
            return None
        if seq > expected:
            if len(self.missing) < MISSING_KEPT:
                self.missing.update(range(expected, min(seq, expected + MISSING_KEPT)))
            self.cursor = seq
            missing = "it" if seq == expected + 1 else f"it and all to {seq - 1}"
            return Finding("hole", f"missing: {seq} came without {missing}", expected)
        if seq in self.missing:
            self.missing.discard(seq)
            return Finding("disorder", f"came after {self.cursor}")
        return Finding("double", f"came again, {self.cursor} had been shown")

    def take_synced(self, seq: int) -> Finding | None:
        if not self.joined:
            return self._not_joined("synced")
        if self.synced:
            return Finding("protocol", "synced twice")
        self.synced = True
        if seq != self.cursor:
            return Finding("hole", f"synced at {seq}, but the last event shown was {self.cursor}", self.cursor + 1)
        return None

    def take_behind(self, seq: int) -> Finding | None:
        if not self.joined:
            return self._not_joined("behind")
        if not self.synced:
            return Finding("protocol", "behind before synced")
        self.synced = False
        if seq != self.cursor:
            return Finding("hole", f"behind at {seq}, but the last event shown was {self.cursor}", self.cursor + 1)
        return None

    def take_signal(self, kind: str = "typing") -> Finding | None:
        """A signal, or a text that is told like one."""
        if not self.joined:
            return self._not_joined(f"a signal, {kind},")
        return None if self.synced else Finding("protocol", f"a signal, {kind}, before synced")

    def _not_joined(self, what: str) -> Finding:
        if self.left:
            return Finding("left", f"{what} of a room that was left, and not joined again")
        return Finding("protocol", f"{what} before joined")

    def take_ack(self, id: str, seq: int | None, duplicate: bool) -> Finding | None:
        """`seq` None: of what makes no event in a room."""
        late = id in self.late  # then what was sent after it was carried out before it
        found = self._answered(id, "an ack")
        if found is None and not duplicate and not late and seq is not None:
            if seq <= self.fresh_ack:
                found = Finding("ack", f"{id}: acknowledged with {seq} after one sent before it with {self.fresh_ack}")
            self.fresh_ack = seq
        return found

    def take_error(self, id: str) -> Finding | None:
        """Errors may overtake acks."""
        if id not in self.pending:
            return Finding("ack", f"{id}: an error for what was not sent on this connection")
        self._strike(id)
        return None

    def _answered(self, id: str, what: str) -> Finding | None:
        if id not in self.pending:
            return Finding("ack", f"{id}: {what} for what was not sent on this connection, or a second one")
        first = next((one for one in self.pending if one not in self.late), id)
        late = id in self.late
        self._strike(id)
        if late or first == id:
            return None
        return Finding("ack", f"{id}: acknowledged before {first}, which was sent before it")

    def _strike(self, id: str) -> None:
        self.pending.remove(id)
        self.late.discard(id)
        if self.owed_before_left is not None:
            self.owed_before_left.discard(id)
