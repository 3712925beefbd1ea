"""What a device says, and whether it is answered as the protocol promises: each command in the end, and once."""

from __future__ import annotations

import time
from collections import deque

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.messages import ERRORS
from tornado_chat.verify.record import promised
from tornado_chat.verify.speaker import Speaker
from tornado_chat.verify.witness import Witness

MAX_UNANSWERED = 32
"""Commands of one device on their way; the server takes 64 before it stops reading."""
ACKED_KEPT = 200
MESSAGES_KEPT = 50


class Sent:
    """A command that must become one event, however often it is sent."""

    __slots__ = ("command", "event", "floor", "id", "room", "seq", "since", "writes")

    def __init__(self, command: Data, user: str, floor: int) -> None:
        self.command = command
        self.event = promised(command, user)
        self.id: str = command["id"]
        self.room: str = command["room"]
        self.floor = floor  # what the log had reached before it was made
        self.seq = 0  # 0: not acknowledged yet
        self.since = 0.0  # when it was written last
        self.writes = 0


class Commands:
    """Those of one device that must become events, over all its connections."""

    def __init__(self, device: Speaker) -> None:
        self.unanswered: dict[str, Sent] = {}  # by id, in the order of their first sending
        self.acked: list[Sent] = []  # a sample of all that were, to be sent again
        self.messages: deque[tuple[str, int]] = deque(maxlen=MESSAGES_KEPT)  # its own, not deleted
        self.reactions: deque[Data] = deque(maxlen=MESSAGES_KEPT)  # commands of reactions that stand
        self._device = device
        self._sending: dict[str, Sent] = {}  # by id: what this connection's answers are for
        self._count = 0
        self._acks = 0
        self._not_found: list[Sent] = []

    def open(self) -> None:
        """A new connection: what has no answer is sent again."""
        for sent in list(self.unanswered.values()):
            self._write(sent)

    def close(self) -> None:
        """The connection is gone, and with it the answers that it would have brought."""
        self._sending.clear()

    def make(self, command: Data) -> Sent:
        """`command` with an id; from now on it must be answered."""
        self._count += 1
        floor = self._device.ledger.records[command["room"]].head  # whatever anybody has heard of is in the log
        sent = Sent(command | {"id": f"{self._device.name}.{self._count}"}, self._device.user, floor)
        self.unanswered[sent.id] = sent
        self._device.ledger.counts["sent"] += 1
        return sent

    def speak(self, command: Data) -> None:
        """Give `command` an id and send it until it is answered."""
        self._write(self.make(command))

    def repeat(self, sent: Sent) -> None:
        """Send once more what this user has sent before, from this device or another."""
        if self._device.connected and sent.id not in self._sending:
            self._device.ledger.counts["resent"] += 1
            self._write(sent)

    def _write(self, sent: Sent) -> None:
        if self._device.connected:
            sent.writes += 1
            sent.since = time.monotonic()
            self._sending[sent.id] = sent
            self._device.rooms[sent.room].pending.append(sent.id)
            self._device.send(sent.command)

    def take_ack(self, room: str, witness: Witness, ack: Data) -> Sent | None:
        """The command that is acknowledged for the first time, if it is one."""
        device = self._device
        id, seq = ack["id"], ack.get("seq")
        if seq is None or ack.get("ts") is None:
            device.violation(Finding("ack", f"{id}: an ack without its seq or ts"), room)
            return None
        finding = witness.take_ack(id, seq, ack.get("duplicate") is True)
        sent = self._sending.get(id)
        if finding is not None:
            device.violation(finding, room, seq)
        if sent is None or sent.room != room:
            return None
        if id not in witness.pending:
            del self._sending[id]
        self.unanswered.pop(id, None)
        now = time.monotonic()
        if sent.seq:
            device.ledger.counts["duplicates"] += 1
            if sent.seq != seq:
                device.violation(Finding("ack", f"{id}: acknowledged with {sent.seq} before"), room, seq)
            return None
        sent.seq = seq
        if seq <= sent.floor:
            finding = Finding("ack", f"{id}: acknowledged with {seq}, but the log had reached {sent.floor} before")
            device.violation(finding, room, seq)
        device.ledger.counts["acked"] += 1
        if sent.since > device.resumed:
            device.ledger.answer.add(now - sent.since)
        finding = device.ledger.records[room].acknowledge(seq, sent.event, now)
        if finding is not None:
            device.violation(Finding(finding.kind, f"{id}: {finding.text}"), room, seq)
        self._keep(sent)
        if sent.command["type"] == "send":
            self.messages.append((room, seq))
        elif sent.command["type"] == "react" and sent.command["on"]:
            self.reactions.append(sent.command)
        return sent

    def _keep(self, sent: Sent) -> None:
        """A sample in which every ack so far is as likely: some are sent again long after."""
        self._acks += 1
        if len(self.acked) < ACKED_KEPT:
            self.acked.append(sent)
        elif (at := self._device.dice.randrange(self._acks)) < ACKED_KEPT:
            self.acked[at] = sent

    def take_error(self, error: Data, wait: float) -> Sent | None:
        """The command that it is about; `wait` is how long to wait before it is sent again."""
        device, code, id = self._device, error["code"], error.get("id")
        text = f"{code}: {error['message']}"
        sent = self._sending.get(id) if id is not None else None
        if sent is None:
            device.violation(Finding("error", f"{text} ({id!r}, which nothing sent on this connection has)"))
            return None
        witness = device.rooms[sent.room]
        finding = witness.take_error(sent.id)
        if finding is not None:
            device.violation(finding, sent.room)
        if sent.id not in witness.pending:
            del self._sending[sent.id]
        if ERRORS[code]:
            device.later(wait, lambda: self._retry(sent))
        elif code == "not_found" and sent.command["type"] in ("edit", "react") and not sent.seq:
            self.unanswered.pop(sent.id, None)
            self._not_found.append(sent)
        else:
            self.unanswered.pop(sent.id, None)
            device.violation(Finding("error", f"{sent.id}: {text}"), sent.room, sent.command.get("seq", 0))
        return sent

    def _retry(self, sent: Sent) -> None:
        if sent.id in self.unanswered and sent.id not in self._sending:
            self._write(sent)

    def audit(self) -> None:
        """At the end: what was not found must have been deleted."""
        for sent in self._not_found:
            target = sent.command["seq"]
            if target not in self._device.ledger.records[sent.room].deleted:
                finding = Finding("error", f"{sent.id}: answered with not_found, but nobody deleted the message")
                self._device.violation(finding, sent.room, target)
