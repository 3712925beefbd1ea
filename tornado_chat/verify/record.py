"""What all devices together know of one room: every one was shown the same, each acknowledged event is in the log once
and is what was sent, its messages are counted without a hole, and it holds nothing else. No I/O, no clock: times are
passed in.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Collection, Iterator
from typing import NamedTuple

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import Growth
from tornado_chat.verify.messages import CHANGES, EVENTS, FIELDS, plain

SEQ_LEAP = 1_000_000
"""A seq so far beyond all others is not believed, nor given memory."""

_ERASED = ("text", "meta", "mentions", "deleted", "crc")
_LASTING = {kind: [name for name in map(plain, FIELDS[kind]) if name not in (*_ERASED, "streaming")] for kind in EVENTS}
"""The fields of each event that a deletion leaves alone."""
_SHAPE = ("type", "room", "user", "agent", "id", "target", "emoji", "on", "reply_to")
_BECOMES = {
    "begin": "message",
    "finish": "finished",
    "send": "message",
    "edit": "edited",
    "delete": "deleted",
    "react": "reacted",
}

_MESSAGE, _CHANGE, _END = 1, 2, 3


def promised(command: Data, user: str, *, agent: bool = False) -> Data:
    """The event that `command` of `user` must become, without `seq`, `ts` and `name`; `agent`: by a token that says so.

    What a `finish` becomes is known when its message has a seq: `growth.finished`.
    """
    event = {key: value for key, value in command.items() if key not in ("type", "id", "seq", "mentions", "mark")}
    event |= {"type": _BECOMES[command["type"]], "user": user}
    if agent and event["type"] == "message":
        event["agent"] = True
    if command["type"] == "begin":
        return {key: value for key, value in event.items() if key != "replica"} | {"id": command["id"], "text": ""}
    if command["type"] == "finish":
        return event
    if command["type"] == "send":
        named = [one for one in dict.fromkeys(command.get("mentions", ())) if one != user]
        return event | {"id": command["id"]} | ({"mentions": named} if named else {})
    return event | {"target": command["seq"]}


def lasting_of(event: Data) -> int:
    """64 bits that stand for all of an event that a deletion does not change; never 0. What is not known counts not."""
    kind: str = event["type"]
    return hash((kind, *map(event.get, _LASTING[kind]))) % 2**64 | 1


def shape_of(event: Data) -> int:
    """Of what the sender of an event knows of it, but for its body; never 0."""
    return hash(tuple(map(event.get, _SHAPE))) % 2**64 | 1


def text_digest(event: Data) -> int:
    """Of the end of a message that grew its CRC-32: not all are shown its text."""
    crc: int | None = event.get("crc")
    return hash(("text", event.get("text")) if crc is None else ("crc", crc)) % 2**32


def meta_digest(event: Data) -> int:
    """Of the JSON of its meta (1, 1.0 and true are three values) and its mentions."""
    found = [event.get("meta"), event.get("mentions")]
    return 0 if found == [None, None] else hash(json.dumps(found, sort_keys=True, default=repr)) % 2**32


def body_of(event: Data) -> int:
    """Of what a deletion erases: its text in the upper 32 bits, the rest in the lower; 0 if it has been."""
    return 0 if event.get("deleted") is True else text_digest(event) << 32 | meta_digest(event) or 1


class Change(NamedTuple):
    """What an `edited`, `deleted`, `reacted` or `finished` did to its message."""

    seq: int
    type: str
    ts: int
    user: str
    emoji: str
    on: bool


class Record:
    """About 160 bytes an event."""

    __slots__ = (
        "_ack_bodies",
        "_ack_shapes",
        "_bodies",
        "_born",
        "_kinds",
        "_lasting",
        "_numbers",
        "_shapes",
        "changes",
        "deleted",
        "erased",
        "growths",
        "head",
        "marking",
        "name",
        "naming",
        "saying",
        "stopping",
        "unmarked",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.head = 0
        """The highest seq that anybody was shown or acknowledged."""
        self.deleted: set[int] = set()  # targets of `deleted`
        self.erased: dict[int, tuple[int, str]] = {}  # seq: (whose deletion erased it, who was shown it so)
        self.changes: dict[int, list[Change]] = {}  # by the message's seq, in the order of theirs
        self.naming: dict[int, tuple[str, tuple[str, ...]]] = {}  # by the message's seq: who names whom
        self.marking: dict[str, array[int]] = {}  # by user: the seqs of messages that move their sender's mark
        self.saying: dict[tuple[str, str], Growth] = {}  # messages that grow, by user and id
        self.growths: dict[int, Growth] = {}  # by seq
        self.stopping: set[tuple[str, float]] = (
            set()
        )  # who wants all stopped that they may, without an answer so far; since
        self.unmarked: set[tuple[str, str]] = set()  # user and id of the sends that move none
        # Of each seq, from 1; 0: not known yet.
        self._kinds = array("B")
        self._lasting = array("Q")  # digests
        self._numbers = array("Q")  # which message of the room it says that it is
        self._shapes = array("Q")
        self._bodies = array("Q")
        self._ack_shapes = array("Q")  # as its sender has it
        self._ack_bodies = array("Q")
        self._born = array("d")  # when the first of all devices heard of it

    def see(self, event: Data, device: str, now: float) -> tuple[Finding | None, float]:
        """`device` was shown `event`: what is wrong with it, and how many seconds after the first it heard of it."""
        seq: int = event["seq"]
        if not self._grow(seq, now):
            return Finding("content", f"a seq far beyond {self.head}"), 0.0
        at, body = seq - 1, body_of(event)
        lasting = lasting_of(event)
        if not body:
            self.erased.setdefault(seq, (event.get("target", seq), device))
        if event["type"] == "deleted":
            self.deleted.add(event["target"])
        grows = event.get("streaming") is True
        if event["type"] == "message" and self._lasting[at] and (seq in self.growths) is not grows:
            return Finding("content", f"was shown to others as one that grows, or as none: {short(event)}"), 0.0
        late = now - self._born[at]
        if not self._lasting[at]:
            self._lasting[at], self._shapes[at], self._bodies[at] = lasting, shape_of(event), body
            self._fold(event)
            return self._mismatch(at), late
        if self._lasting[at] != lasting:
            return Finding("content", f"differs from what others were shown: {short(event)}"), late
        if body and self._bodies[at] not in (0, body):
            return Finding("content", f"its text differs from what others were shown: {short(event)}"), late
        if body and not self._bodies[at]:
            self._bodies[at] = body
            return self._mismatch(at), late
        return None, late

    def _fold(self, event: Data) -> None:
        """Into what became of the messages; each event once, in the order of their seq."""
        kind = event["type"]
        at = event["seq"] - 1
        self._kinds[at] = _MESSAGE if kind == "message" else _END if kind == "finished" else _CHANGE
        if kind == "message":
            self._numbers[at] = event["n"]
            user = sys.intern(event["user"])
            if (user, event.get("id")) not in self.unmarked:
                self.marking.setdefault(user, array("Q")).append(event["seq"])
            self._name(event["seq"], event)
            growth = self.saying.get((user, event.get("id", ""))) if event.get("streaming") is True else None
            if growth is not None:
                growth.seq = growth.seq or event["seq"]
                self.growths[event["seq"]] = growth
        elif kind in CHANGES:
            # Strings of events are many copies of few.
            user, emoji = sys.intern(event["user"]), sys.intern(event.get("emoji", ""))
            change = Change(event["seq"], kind, event["ts"], user, emoji, event.get("on", False))
            self.changes.setdefault(event["target"], []).append(change)

    def _name(self, seq: int, event: Data) -> None:
        if event.get("mentions"):
            self.naming[seq] = sys.intern(event["user"]), tuple(map(sys.intern, event["mentions"]))

    def reach(self, seq: int, now: float) -> None:
        """There are events up to `seq`, by what somebody was told besides them; 0: none."""
        if seq:
            self._grow(seq, now)

    def is_known(self, seq: int) -> bool:
        """Somebody was shown the event."""
        return 0 < seq <= self.head and self._lasting[seq - 1] != 0

    def counts(self) -> array[int]:
        """How many messages there are up to each seq, from 0 on, as far as all events are known."""
        found, count = array("Q", [0]), 0
        for kind in self._kinds:
            if not kind:
                break
            count += kind == _MESSAGE
            found.append(count)
        return found

    def is_message(self, seq: int) -> bool:
        return 0 < seq <= self.head and self._kinds[seq - 1] == _MESSAGE

    def first_message(self, start: int, end: int) -> int:
        """The first seq of a message from `start` on, below `end`; 0 if there is none."""
        try:
            return self._kinds.index(_MESSAGE, max(start, 1) - 1, max(end, 1) - 1) + 1
        except ValueError:
            return 0

    def is_the_same(self, message: Data) -> bool:
        """Whether the lasting part of `message` is that of the event with its seq."""
        seq: int = message["seq"]
        return self._lasting[seq - 1] == lasting_of(message)

    def digests(self, seq: int) -> tuple[int, int] | None:
        """Of the text and the meta that came with `seq`; None if nobody was shown them."""
        body = self._bodies[seq - 1] or self._ack_bodies[seq - 1]
        return divmod(body, 2**32) if body else None

    def acknowledge(self, seq: int, event: Data, now: float) -> Finding | None:
        """An ack has told that `event` (as `promised` makes it) is `seq`."""
        if seq < 1 or not self._grow(seq, now):
            return Finding("ack", f"acknowledged with the seq {seq}, but the head is about {self.head}")
        at, shape, body = seq - 1, shape_of(event), body_of(event)
        if self._ack_shapes[at]:
            if (self._ack_shapes[at], self._ack_bodies[at]) == (shape, body):
                return None
            return Finding("ack", f"acknowledged for another command, and now for {short(event)}")
        self._ack_shapes[at], self._ack_bodies[at] = shape, body
        self._name(seq, event)  # a deletion erases them from what is shown
        return self._mismatch(at)

    def audit(self, head: int, unanswered: Collection[int]) -> Iterator[tuple[int, Finding]]:
        """At the end, once the whole log was read up to `head`; `unanswered` are shapes that may be in it or not."""
        for seq in range(1, max(head, self.head) + 1):
            shown, acked = self._lasting[seq - 1], self._ack_shapes[seq - 1]
            if seq > head:
                if not (shown or acked):
                    continue
                what = "acknowledged" if acked else "shown to devices"
                yield seq, Finding("lost", f"{what}, but not in the log, whose head is {head}")
            elif not shown:
                yield seq, Finding("lost", "not in the log, though others after it are")
            elif not acked and not self._grew(seq) and self._shapes[seq - 1] not in unanswered:
                yield seq, Finding("foreign", "in the log, but nobody sent it, or it is there a second time")
        yield from self._misnumbered(head)
        for seq, (target, device) in self.erased.items():
            if target not in self.deleted:
                yield seq, Finding("erased", f"came to {device} without its text, but nobody deleted {target}")

    def _grew(self, seq: int) -> bool:
        """It is a message that grows, or the end of one: those are judged by themselves."""
        return self._kinds[seq - 1] == _END or (seq in self.growths and self.growths[seq].seq == seq)

    def _misnumbered(self, head: int) -> Iterator[tuple[int, Finding]]:
        count = 0
        for seq in range(1, head + 1):
            kind, number = self._kinds[seq - 1], self._numbers[seq - 1]
            if not kind:
                return  # it is lost, and perhaps was a message
            if kind == _MESSAGE:
                count += 1
                if number != count:
                    yield (
                        seq,
                        Finding("content", f"says that it is message {number} of its room, and is message {count}"),
                    )
                    count = number

    def survives(self, event: Data) -> Finding | None:
        """Of an event that was read after all deletions were: its text must be gone if one erased it."""
        if (
            event["type"] in ("message", "edited")
            and event.get("target", event["seq"]) in self.deleted
            and body_of(event)
        ):
            return Finding("erased", "its text is still in the log, after its deletion")
        return None

    def _mismatch(self, at: int) -> Finding | None:
        """Whether what was shown is what was acknowledged, as far as both are known."""
        if not self._lasting[at] or not self._ack_shapes[at]:
            return None
        if self._shapes[at] != self._ack_shapes[at]:
            return Finding("ack", "was acknowledged for another command than the one that is in the log")
        if self._bodies[at] and self._bodies[at] != self._ack_bodies[at]:
            return Finding("content", "its text is not the one that was sent")
        return None

    def _grow(self, seq: int, now: float) -> bool:
        """Make room for `seq`; False for one that cannot be."""
        if seq > self.head:
            if seq > self.head + SEQ_LEAP:
                return False
            more = seq - self.head
            for column in (
                self._lasting,
                self._numbers,
                self._shapes,
                self._bodies,
                self._ack_shapes,
                self._ack_bodies,
            ):
                column.frombytes(bytes(8 * more))
            self._born.frombytes(bytes(8 * more))
            self._kinds.frombytes(bytes(more))
            self.head = seq
        if not self._born[seq - 1]:
            self._born[seq - 1] = now
        return True


def short(event: Data) -> str:
    text = json.dumps(event, default=repr, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
