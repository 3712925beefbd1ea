"""What a device says of messages that grow: `begin`, `append` and `finish`, and `begin` again after each loss."""

from __future__ import annotations

import time

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.commands import Commands, Sent
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import Growth
from tornado_chat.verify.messages import ERRORS
from tornado_chat.verify.speaker import Speaker

PAUSES = (0.03, 0.1, 0.1, 0.3, 1.0)
"""Seconds between two appends of one message."""
PIECES = (1, 5, 20, 20, 60, 400)
"""Characters of one append at most."""
REQUEST_SECONDS = 0.4
"""Over HTTP the appends of so many seconds are in one request."""
FORESTALLED = 0.3
"""Of those who come back so many do not wait for the `length` that the server has."""


class _Writing:
    """One message that is being written by this device."""

    __slots__ = ("began_at", "begin", "due", "finish", "growth", "pause", "size", "waits")

    def __init__(self, growth: Growth, begin: Sent, pause: float, size: int) -> None:
        self.growth = growth
        self.begin = begin
        self.finish: Sent | None = None
        self.pause = pause
        self.size = size
        self.due = 0.0  # when it goes on
        self.began_at = 0  # the length that the last answer to `begin` has told
        self.waits = False  # for the answer to a request


class Authoring:
    """Those of one device, over all its connections."""

    def __init__(self, device: Speaker, commands: Commands) -> None:
        self._device = device
        self._commands = commands
        self._writing: dict[str, _Writing] = {}  # by the id of the begin
        self._stops: dict[str, tuple[int | None, float]] = {}  # by room: what it has asked to stop, and when
        self._told: set[tuple[str, int]] = set()  # to stop messages of which nobody knew yet

    @property
    def open(self) -> int:
        return len(self._writing)

    def waits(self) -> str | None:
        """The room of a message that is not finished yet, or of a stop without an answer."""
        return next((one.growth.room for one in self._writing.values()), None) or next(iter(self._stops), None)

    # Its connection

    def connect(self) -> None:
        """A new one: what grows is begun again on it."""
        for writing in self._writing.values():
            writing.waits = False
            if self._device.dice.random() > FORESTALLED or not self._device.one_worker:
                writing.growth.at = None

    def close(self) -> None:
        now = time.monotonic()
        for writing in self._writing.values():
            writing.growth.leave(now)
        self._stops.clear()

    # Writing

    def begin(self, command: Data, text: str, asker: str | None) -> None:
        device = self._device
        sent = self._commands.make(command)
        growth = Growth(sent.room, device.user, sent.id, text, asker=asker, watched=device.watched)
        sent.growth = growth
        device.ledger.grow(growth)
        self._writing[sent.id] = _Writing(growth, sent, device.dice.choice(PAUSES), device.dice.choice(PIECES))

    def turn(self, now: float, *, ending: bool) -> None:
        """Say what is due; `ending`: all the rest."""
        for writing in list(self._writing.values()):
            if writing.growth.end is not None:
                self._drop(writing)
            elif self._device.connected and writing.due <= now and writing.finish is None:
                writing.due = now + (writing.pause if self._device.one_worker else max(writing.pause, REQUEST_SECONDS))
                self._go_on(writing, ending=ending)

    def _go_on(self, writing: _Writing, *, ending: bool) -> None:
        if self._device.one_worker:
            if writing.begin.id not in self._commands.begun:
                self._commands.say(writing.begin)
            for piece in self._pieces(writing, 1, ending=ending):
                self._device.send(piece)
            self._finish_at_end(writing)
        elif not writing.waits:
            writing.waits = True
            count, start = max(1, int(REQUEST_SECONDS / writing.pause)), writing.growth.at
            pieces = self._pieces(writing, count, ending=ending)
            end = writing.growth.at
            self._commands.say(writing.begin, pieces, lambda sound: self._take_request(writing, start, end, sound))

    def _pieces(self, writing: _Writing, count: int, *, ending: bool) -> list[Data]:
        growth, dice = writing.growth, self._device.dice
        pieces: list[Data] = []
        while growth.at is not None and growth.at < len(growth.text) and len(pieces) < count:
            size = 4000 if ending else dice.randint(1, writing.size)
            text = growth.text[growth.at : growth.at + size]
            piece = {"type": "append", "room": growth.room, "stream": growth.id, "offset": growth.at, "text": text}
            if dice.random() < 0.1:
                piece["gen"] = growth.gen
            pieces.append(piece)
            growth.at += len(text)
            growth.said = max(growth.said, growth.at)
        return pieces

    def _take_request(self, writing: _Writing, start: int | None, end: int | None, sound: bool) -> None:
        """A request was answered, without an error if `sound`: the `begin`, and what there is from `start` to `end`."""
        growth = writing.growth
        writing.waits = False
        growth.leave(time.monotonic())
        if not sound:
            growth.at = None
        elif start is not None and start > writing.began_at:
            growth.at = writing.began_at
        else:
            growth.kept = max(growth.kept, end or 0)
            self._finish_at_end(writing)

    def _finish_at_end(self, writing: _Writing) -> None:
        growth, dice = writing.growth, self._device.dice
        if growth.at == len(growth.text) and growth.id in self._writing:
            reason = dice.choices(("done", "error", "interrupted"), (16, 2, 1))[0]
            cut = dice.randint(0, growth.at) if dice.random() < 0.1 else 0
            self._finish(writing, reason, growth.at - cut)

    def _finish(self, writing: _Writing, reason: str, length: int) -> None:
        growth = writing.growth
        command: Data = {"type": "finish", "room": growth.room, "stream": growth.id, "length": length, "reason": reason}
        if self._device.dice.random() < 0.1:
            command["meta"] = {"tokens": length}
        growth.may_end.add((reason, length))
        writing.finish = sent = self._commands.make(command)
        sent.growth, sent.before = growth, writing.begin
        self._commands.say(sent)

    def _drop(self, writing: _Writing) -> None:
        self._writing.pop(writing.growth.id, None)

    def die(self) -> int:
        """The author of all that grows here never comes back; how many those were."""
        count, now = len(self._writing), time.monotonic()
        for writing in self._writing.values():
            writing.growth.go(now)
            for sent in filter(None, (writing.begin, writing.finish)):
                self._commands.give_up(sent)
        self._writing.clear()
        return count

    # What it is answered

    def take_begun(self, sent: Sent, ack: Data) -> None:
        """An answer to a `begin` of this user."""
        growth, writing = sent.growth, self._writing.get(sent.id)
        assert growth is not None
        length, reason = ack.get("length"), ack.get("reason")
        if length is None or ack.get("gen") != growth.gen or ack.get("held") is True:
            self._device.violation(
                Finding("ack", f"{sent.id}: a begin acknowledged with {ack}"), growth.room, ack["seq"]
            )
            return
        growth.seq = growth.seq or ack["seq"]
        if reason is not None:
            if growth.end is not None and growth.end[1:3] != (reason, length):
                text = (
                    f"{sent.id}: a begin is told that it ended with {reason} and {length}, and it did with {growth.end}"
                )
                self._device.violation(Finding("reason", text), growth.room, ack["seq"])
            if writing is not None:
                self._drop(writing)
            return
        self._check_length(growth, length)
        if writing is not None:
            growth.come_back(time.monotonic())
            writing.began_at = length
            if growth.at is None:
                growth.at = length

    def _check_length(self, growth: Growth, length: int) -> None:
        if not growth.cut_at(growth.kept) <= length <= growth.said:
            text = f"{growth.id}: the server has {length} characters; {growth.kept} were kept and {growth.said} said"
            self._device.violation(Finding("text", text), growth.room, growth.seq)

    def take_conflict(self, error: Data) -> None:
        """The answer to an `append` or a `finish`: the text is not as far, or has ended."""
        writing = self._writing.get(error["stream"])
        if writing is None:
            return
        growth = writing.growth
        if writing.finish is not None:
            self._commands.give_up(writing.finish)
            writing.finish = None
        if error.get("reason") is not None:
            self._drop(writing)
        elif error.get("length") is None:
            growth.at = None
            self._commands.begun.discard(growth.id)
        else:
            self._check_length(growth, error["length"])
            growth.at = error["length"]

    # Stopping

    def ask_stop(self, room: str, seq: int | None) -> None:
        """One message, or all that this user may stop in the room."""
        device = self._device
        if device.connected and room not in self._stops:
            for growth in device.ledger.growing:
                if growth.room == room and (seq in (None, growth.seq)) and device.user in (growth.user, growth.asker):
                    growth.stopped, growth.stopped_at = True, time.monotonic()
            self._stops[room] = seq, time.monotonic()
            if seq is None:
                device.ledger.records[room].stopping.add((device.user, self._stops[room][1]))
            device.send({"type": "stop", "id": f"stop {room}", "room": room} | ({} if seq is None else {"seq": seq}))

    def take_stopped(self, room: str) -> None:
        """An ack."""
        if room in self._stops:
            self._answered(room)
            self._device.ledger.counts["stops"] += 1
        else:
            self._device.violation(Finding("protocol", "an answer to a stop that was not asked for"), room)

    def take_refused_stop(self, room: str, error: Data) -> None:
        seq = self._answered(room)
        if not ERRORS[error["code"]] and not (error["code"] == "not_found" and seq is None):
            self._device.violation(Finding("error", f"stop: {error['code']}: {error['message']}"), room, seq or 0)

    def _answered(self, room: str) -> int | None:
        seq, asked = self._stops.pop(room, (0, 0.0))
        self._device.ledger.records[room].stopping.discard((self._device.user, asked))
        return seq

    def take_orphaned(self, orphaned: Data) -> None:
        """The signal that the author's connection has ended, to the other sessions of the user."""
        device = self._device
        device.ledger.counts["orphaned"] += 1
        record = device.ledger.records.get(orphaned["room"])
        if record is None or (device.user, orphaned["id"]) not in record.saying:
            text = f"told that {orphaned['id']} is orphaned, which is no message of {device.user}"
            device.violation(Finding("reason", text), orphaned["room"], orphaned["seq"])

    def take_stop(self, stop: Data) -> None:
        """The signal to an author's user."""
        device = self._device
        record = device.ledger.records.get(stop["room"])
        growth = record.growths.get(stop["seq"]) if record is not None else None
        device.ledger.counts["told to stop"] += 1
        if growth is None:  # the order may come before anybody was shown the message
            self._told.add((stop["room"], stop["seq"]))
            return
        if not self._check_told(stop["room"], stop["seq"], growth):
            return
        writing = self._writing.get(growth.id)
        if writing is not None and writing.finish is None and growth.at is not None and device.dice.random() < 0.5:
            self._finish(writing, "stopped", growth.at)

    def _check_told(self, room: str, seq: int, growth: Growth | None) -> bool:
        right = growth is not None and growth.user == self._device.user and growth.stopped
        if not right:
            text = "told to stop a message that is not this user's, or that nobody wanted to be stopped"
            self._device.violation(Finding("reason", f"{text}: {growth and growth.id}"), room, seq)
        return right

    def audit(self) -> None:
        """At the end, when all is known."""
        for room, seq in self._told:
            record = self._device.ledger.records.get(room)
            self._check_told(room, seq, record.growths.get(seq) if record is not None else None)
