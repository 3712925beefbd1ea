"""What a device asks about its rooms, `history` and `presence`, and whether the answers are true."""

from __future__ import annotations

import math
import time

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.commands import Sent
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.history import Page, faults
from tornado_chat.verify.messages import ERRORS, PRESENT_MAX
from tornado_chat.verify.speaker import Speaker

FAULTS_KEPT = 5
"""Of one page: one fault often is many."""


class _History:
    """A question, and its answer until that can be judged."""

    __slots__ = ("answer", "answered", "before", "high", "limit", "low", "owed", "pages")

    def __init__(self, before: int | None, limit: int, pages: int, low: int, owed: set[str]) -> None:
        self.before = before
        self.limit = limit
        self.pages = pages
        self.low = low  # what the log had reached when it was asked
        self.owed = owed  # ids of commands that were sent before it: what they did must be in the answer
        self.answer: Data | None = None
        self.answered = math.inf  # by the clock
        self.high = 0  # a seq that was given after the answer; 0: none is known


class Questions:
    """Those of one device: in each room one of each kind at a time. They end with their connection."""

    def __init__(self, device: Speaker) -> None:
        self._device = device
        self._histories: dict[str, _History] = {}  # by room
        self._presence: dict[str, bool] = {}  # by room: whether this device must be among those who are there

    def close(self) -> None:
        """The connection is gone; what was answered is still judged."""
        for room, asked in list(self._histories.items()):
            asked.owed.clear()
            if asked.answer is None:
                del self._histories[room]
        self._presence.clear()

    def waits(self) -> str | None:
        """The room of a question that was not answered; None: all were."""
        open_ones = (room for room, asked in self._histories.items() if asked.answer is None)
        return next(open_ones, None) or next(iter(self._presence), None)

    # history

    def ask_history(self, room: str, before: int | None, limit: int, pages: int = 1) -> None:
        """Ask for a page, and while there are more for the ones before it, up to `pages`; unless one is asked there."""
        if self._device.connected and room not in self._histories:
            self._write(room, before, limit, pages)

    def _write(self, room: str, before: int | None, limit: int, pages: int) -> None:
        device = self._device
        low = device.ledger.records[room].head  # whatever anybody has heard of is in the log
        witness = device.rooms[room]
        self._histories[room] = _History(before, limit, pages, low, set(witness.pending) - witness.late)
        command: Data = {"type": "history", "id": f"history {room}", "room": room, "limit": limit}
        device.send(command if before is None else command | {"before": before})

    def take_history(self, room: str, answer: Data) -> None:
        asked = self._histories.get(room)
        if asked is None or asked.answer is not None or answer.get("id") != f"history {room}":
            self._device.violation(Finding("protocol", "history that was not asked for"), room)
            return
        self._device.ledger.counts["histories"] += 1
        asked.answer, asked.answered = answer, time.monotonic()
        if self._device.last:  # everything is known, and nothing goes on
            self._judge(room)
            if answer["more"] and answer["messages"] and asked.pages > 1:
                self.ask_history(room, answer["messages"][0]["seq"], asked.limit, asked.pages - 1)

    def take_ack(self, sent: Sent) -> None:
        """Of a command of this device, for the first time."""
        asked = self._histories.get(sent.room)
        if asked is None:
            return
        if sent.id in asked.owed:
            asked.owed.discard(sent.id)
            if sent.growth is None or sent.writes == 1:  # else it was said again when its message went on, after this
                asked.low = max(asked.low, sent.seq)
        if not asked.high and sent.writes == 1 and sent.since > asked.answered:
            asked.high = sent.seq

    def take_failure(self, sent: Sent) -> None:
        """A command of this device got an error: it is sent again, or never, and need not be in an answer."""
        if sent.room in self._histories:
            self._histories[sent.room].owed.discard(sent.id)

    def take_event(self, room: str, seq: int) -> None:
        """The device was shown all up to `seq`: perhaps a page can be judged."""
        asked = self._histories.get(room)
        if asked is not None and 0 < asked.high <= seq:
            self._judge(room)

    def _judge(self, room: str) -> None:
        """The page that was answered in `room`; all that it may show is known."""
        asked = self._histories.pop(room)
        assert asked.answer is not None
        record = self._device.ledger.records[room]
        page = Page(asked.before, asked.limit, asked.low, asked.answer["messages"], asked.answer["more"])
        for number, finding in enumerate(faults(record, page, asked.high or record.head)):
            if number < FAULTS_KEPT:
                self._device.violation(finding, room)

    def audit(self) -> None:
        """At the end, when all is known."""
        for room in [room for room, asked in self._histories.items() if asked.answer is not None]:
            self._judge(room)

    # presence

    def ask_presence(self, room: str) -> None:
        if self._device.connected and room not in self._presence:
            self._write_presence(room)

    def _write_presence(self, room: str) -> None:
        self._presence[room] = self._device.one_worker and self._device.rooms[room].settled
        self._device.send({"type": "presence", "id": f"presence {room}", "room": room})

    def take_presence(self, room: str, answer: Data) -> None:
        device = self._device
        here = self._presence.pop(room, None)
        if here is None or answer.get("id") != f"presence {room}":
            device.violation(Finding("protocol", "an answer to presence that was not asked for"), room)
            return
        device.ledger.counts["presences"] += 1
        users = {one["user"] for one in answer["users"]}
        if here and (not answer["count"] or (len(users) < PRESENT_MAX and device.user not in users)):
            text = f"{device.user} is in the room, and not among the {answer['count']} who are said to be"
            device.violation(Finding("presence", text), room)
        strangers = users - device.ledger.users[room]
        if strangers:
            device.violation(Finding("presence", f"{min(strangers)} is said to be there, and is nobody of ours"), room)

    # Errors. Both are asked again where that may help, and are waited for meanwhile.

    def take_error(self, kind: str, room: str, error: Data, wait: float) -> None:
        """In place of an answer; `wait` is how long to wait before it is asked again."""
        asked, here = self._histories.get(room), self._presence.get(room)
        if ERRORS[error["code"]] and kind == "history" and asked is not None and asked.answer is None:
            self._device.later(wait, lambda: self._write(room, asked.before, asked.limit, asked.pages))
        elif ERRORS[error["code"]] and kind == "presence" and here is not None:
            self._device.later(wait, lambda: self._write_presence(room))
        else:
            self._device.violation(Finding("error", f"{kind}: {error['code']}: {error['message']}"), room)
