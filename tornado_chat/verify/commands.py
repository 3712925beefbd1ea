"""What a device says, and whether it is answered as the protocol promises: each command in the end, and once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import Growth, finished
from tornado_chat.verify.messages import ERRORS
from tornado_chat.verify.own_log import OwnLog, Setting
from tornado_chat.verify.record import promised
from tornado_chat.verify.speaker import Done, Speaker
from tornado_chat.verify.witness import Witness

MAX_UNANSWERED = 32
"""Commands of one device on their way; the server takes 64 before it stops reading."""
ACKED_KEPT = 200
MESSAGES_KEPT = 50


UNNUMBERED = ("read", "follow", "unfollow", "invite")
"""Commands whose ack has no seq: no room has an event of theirs."""


class Sent:
    """A command that must become one event, however often it is sent, or be carried out (one of UNNUMBERED).

    `setting` is that of one that changes how a room is followed. `growth` is that of a `begin` or a `finish`, `before`
    the `begin` of a `finish`, which stands before it in the same request.
    """

    __slots__ = ("before", "command", "event", "floor", "growth", "id", "room", "seq", "setting", "since", "writes")

    def __init__(self, command: Data, user: str, floor: int, setting: Setting | None = None, *, agent: bool) -> None:
        self.command = command
        self.event = None if command["type"] in UNNUMBERED else promised(command, user, agent=agent)
        self.setting = setting
        self.growth: Growth | None = None
        self.before: Sent | None = None
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
        self.begun: set[str] = set()  # ids of each `begin` that was said on this connection
        self.given_up: list[Sent] = []  # they may have become events
        self.all_begun: dict[str, Sent] = {}  # by id, each `begin` that was ever said by this device

    def open(self) -> None:
        """A new connection: what has no answer is sent again."""
        for sent in list(self.unanswered.values()):
            self._write(sent)

    def close(self) -> None:
        """The connection is gone, and with it the answers that it would have brought."""
        self._sending.clear()
        self.begun.clear()

    def make(self, command: Data) -> Sent:
        """`command` with an id; from now on it must be answered."""
        self._count += 1
        floor = self._device.ledger.records[command["room"]].head  # whatever anybody has heard of is in the log
        device, room = self._device, command["room"]
        setting: Setting | None = None
        if command["type"] in ("follow", "unfollow", "invite"):
            by = device.user if command["type"] == "invite" else None
            setting = Setting("everything" if by else command.get("level"), by)
            self._set_of(command).set(room, setting)
        named = command | {"id": f"{device.name}.{self._count}"}
        sent = Sent(named, device.user, floor, setting, agent=device.agent)
        self.unanswered[sent.id] = sent
        if command["type"] == "read":
            device.own.ask_mark(room, command["seq"], floor)
        elif command["type"] == "begin" or command.get("mark") is False:
            device.ledger.records[room].unmarked.add((device.user, sent.id))
        device.ledger.counts["sent"] += 1
        return sent

    def _set_of(self, command: Data) -> OwnLog:
        """Whose own log a `follow`, `unfollow` or `invite` is for."""
        return self._device.ledger.own_log(command.get("user", self._device.user))

    def speak(self, command: Data) -> None:
        """Give `command` an id and send it until it is answered."""
        self._write(self.make(command))

    def repeat(self, sent: Sent) -> None:
        """Send once more what this user has sent before, from this device or another."""
        if self._device.connected and sent.id not in self._sending:
            self._device.ledger.counts["resent"] += 1
            self._write(sent)

    def give_up(self, sent: Sent) -> None:
        """It need not be answered, and is not sent again."""
        if self.unanswered.pop(sent.id, None) is not None:
            self.given_up.append(sent)

    def _write(self, sent: Sent) -> None:
        self.say(sent)

    def say(self, sent: Sent, more: Sequence[Data] = (), done: Done | None = None) -> None:
        """Write `sent`, and `more` behind it. What grows has its `begin` before it, unless that was said here."""
        device = self._device
        if not device.connected:
            return
        group = [sent]
        if sent.before is not None and not (device.one_worker and sent.before.id in self.begun):
            group.insert(0, sent.before)
        for one in group:
            one.writes += 1
            if one.setting is not None:
                one.setting.writes += 1
            one.since = time.monotonic()
            self._sending[one.id] = one
            witness = device.rooms[one.room]
            witness.pending.append(one.id)
            growth = device.ledger.records[one.room].growths.get(one.command.get("seq", 0))
            if growth is not None and growth.end is None and one.command["type"] == "delete":
                witness.late.add(one.id)
            if one.command["type"] == "begin":
                self.begun.add(one.id)
                self.all_begun[one.id] = one
        if len(group) > 1 or more or done is not None:
            device.send_together([*(one.command for one in group), *more], done)
        else:
            device.send(sent.command)

    def take_ack(self, room: str, witness: Witness, ack: Data) -> Sent | None:
        """The command that is acknowledged for the first time, if it is one."""
        device = self._device
        id, seq = ack["id"], ack.get("seq")
        sent = self._sending.get(id)
        numbered = sent is None or sent.event is not None
        if sent is not None and sent.growth is not None and sent.command["type"] == "finish":
            sent.event = finished(sent.growth, sent.command)
        if numbered is (seq is None) or (numbered and ack.get("ts") is None):
            device.violation(Finding("ack", f"{id}: an ack with the seq {seq} and the ts {ack.get('ts')}"), room)
            return None
        finding = witness.take_ack(id, seq, ack.get("duplicate") is True)
        if finding is not None:
            device.violation(finding, room, seq or 0)
        if sent is None or sent.room != room:
            return None
        if id not in witness.pending:
            del self._sending[id]
        first = self.unanswered.pop(id, None) is not None
        now = time.monotonic()
        if seq is None or sent.event is None:
            if first:
                device.ledger.counts["acked"] += 1
                self._carried_out(sent)
            return None
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
        if sent.growth is not None and sent.command["type"] == "finish":
            sent.growth.finish = sent.command["reason"], sent.command["length"]
            if not sent.growth.deleting:
                self.messages.append((room, sent.growth.seq))
        elif sent.command["type"] == "send":
            answers = device.ledger.answers
            if answers is None or not answers.is_question(room, device.user, id):
                self.messages.append((room, seq))
            if sent.command.get("mark", True):
                device.own.take_mark(room, seq)
        elif sent.command["type"] == "react" and sent.command["on"]:
            self.reactions.append(sent.command)
        return sent

    def _carried_out(self, sent: Sent, *, refused: bool = False) -> None:
        """One of UNNUMBERED was answered."""
        if sent.setting is not None:
            self._set_of(sent.command).take_setting(sent.room, sent.setting, refused=refused)
        else:
            self._device.own.take_mark(sent.room, min(sent.command["seq"], sent.floor))

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
        elif code == "too_large" and sent.command["type"] == "invite":
            self.unanswered.pop(sent.id, None)  # others have invited the user to as many rooms as may be
            self._carried_out(sent, refused=True)
        elif code == "conflict" and self._may_conflict(sent):
            self.unanswered.pop(sent.id, None)
        elif (
            code == "not_found" and not sent.seq and (sent.command["type"] in ("edit", "react") or self._is_gone(sent))
        ):
            self.unanswered.pop(sent.id, None)
            self._not_found.append(sent)
        else:
            self.unanswered.pop(sent.id, None)
            device.violation(Finding("error", f"{sent.id}: {text}"), sent.room, sent.command.get("seq", 0))
        return sent

    def _is_gone(self, sent: Sent) -> bool:
        """A message that was also deleted while it grew."""
        growth = self._device.ledger.records[sent.room].growths.get(sent.command.get("seq", 0))
        return growth is not None and growth.deleting

    def _may_conflict(self, sent: Sent) -> bool:
        """It is the end of a message that has ended, or is not as long; or an edit of one that grows."""
        kind: str = sent.command["type"]
        target: int = sent.command.get("seq", 0)
        growth = self._device.ledger.records[sent.room].growths.get(target)
        return kind == "finish" or (kind == "edit" and growth is not None and sent.floor <= growth.ends_with)

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
