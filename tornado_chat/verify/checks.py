"""The promises, held against what clients were shown. No I/O, no clock: times are passed in.

`Witness` is one client's view of one room: nothing missing, nothing twice, nothing out of order, acks in the order of
the commands. `Record` is what all clients together know of one room: every one was shown the same, each acknowledged
event is in the log once and is what was sent, and the log holds nothing else. What is wrong is a Finding.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import NamedTuple

import orjson

from tornado_chat.wire.events import Data

EVENTS = frozenset({"message", "edited", "deleted", "reacted"})
SIGNALS = frozenset({"typing", "read", "presence"})

SEQ_LEAP = 1_000_000
"""A seq so far beyond all others is not believed, nor given memory."""
MISSING_KEPT = 10_000


class Finding(NamedTuple):
    """Something that breaks a promise: `kind` is one word, `text` says what was seen and what would be right."""

    kind: str
    text: str
    seq: int = 0
    """Where it is not of the event that revealed it: the one that is missing."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A Finding, and where: the room, the seq (0: of no event) and the client that saw it."""

    kind: str
    room: str
    seq: int
    client: str
    text: str
    second: float
    """Since the run began."""

    def __str__(self) -> str:
        where = [f"room={self.room}"] if self.room else []
        where += [f"seq={self.seq}"] if self.seq else []
        where += [f"client={self.client}"] if self.client else []
        return f"{self.kind} at {self.second:.1f} s: {' '.join((*where, ''))}{self.text}"

    def as_json(self) -> Data:
        return asdict(self)


_FIELDS: dict[str, dict[str, type]] = {
    "welcome": {"user": str, "name": str, "epoch": str, "server_time": int, "limits": dict},
    "joined": {"room": str, "head": int, "cursor": int, "read": int, "epoch": str},
    "synced": {"room": str, "seq": int},
    "behind": {"room": str, "seq": int, "head": int},
    "message": {"room": str, "seq": int, "user": str, "name": str, "ts": int},
    "edited": {"room": str, "seq": int, "target": int, "user": str, "ts": int},
    "deleted": {"room": str, "seq": int, "target": int, "user": str, "ts": int},
    "reacted": {"room": str, "seq": int, "target": int, "user": str, "emoji": str, "on": bool, "ts": int},
    "ack": {"id": str, "room": str, "seq": int, "ts": int},
    "error": {"code": str, "message": str},
    "left": {"room": str},
    "typing": {"room": str, "user": str, "on": bool},
    "read": {"room": str, "user": str, "seq": int},
    "presence": {"room": str, "count": int},
    "pong": {},
}
_TEXTED = frozenset({"message", "edited"})


def malformed(message: Data) -> str | None:
    """What keeps `message` from being one of the protocol's; None if nothing does."""
    name = message.get("type")
    fields = _FIELDS.get(name) if isinstance(name, str) else None
    if fields is None:
        return f"a message of the type {name!r}"
    for field, kind in fields.items():
        if type(message.get(field)) is not kind:
            return f"{name}: the field {field} is {message.get(field)!r}, not of the type {kind.__name__}"
    if name in EVENTS and message["seq"] < 1:
        return f"{name}: the seq is {message['seq']}"
    if name in _TEXTED and isinstance(message.get("text"), str) is (message.get("deleted") is True):
        return f"{name}: neither a text nor deleted" if "text" not in message else f"{name}: deleted, with a text"
    return None


def digest(value: object) -> int:
    """64 bits that stand for `value`, an object that JSON can hold; never 0."""
    data = orjson.dumps(value, default=repr, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") | 1


def body_of(event: Data) -> int:
    """Of what a deletion erases; 0 if it has been."""
    return 0 if event.get("deleted") is True else digest([event.get("text"), event.get("meta")])


_SHAPE = ("type", "room", "user", "id", "target", "emoji", "on", "reply_to")
_BECOMES = {"send": "message", "edit": "edited", "delete": "deleted", "react": "reacted"}


def shape_of(event: Data) -> int:
    """Of what the sender of an event knows of it, but for its body."""
    return digest([event.get(field) for field in _SHAPE])


def promised(command: Data, user: str) -> Data:
    """The event that `command` of `user` must become, without `seq`, `ts` and `name`."""
    event = {key: value for key, value in command.items() if key not in ("type", "id", "seq")}
    event |= {"type": _BECOMES[command["type"]], "user": user}
    if command["type"] == "send":
        return event | {"id": command["id"]}
    return event | {"target": command["seq"]}


class Witness:
    """One client's view of one room, over all its connections."""

    __slots__ = ("asked", "counted_from", "cursor", "fresh_ack", "joined", "missing", "pending", "synced")

    def __init__(self) -> None:
        self.cursor = 0
        """The last seq that was shown."""
        self.missing: set[int] = set()  # skipped, and perhaps still to come: those would be out of order
        self.counted_from = 0  # events up to this seq came by catching up: their lateness says nothing
        self.open()

    def open(self) -> None:
        """A new connection: it is a member of nothing yet."""
        self.joined = self.synced = False
        self.asked: deque[int] = deque()  # the `after` of each join that was not answered
        self.pending: deque[str] = deque()  # ids of commands that were not answered, in the order sent
        self.fresh_ack = 0  # the seq of the last ack that was no duplicate

    def ask(self, after: int) -> None:
        """A join with this `after` was sent."""
        self.asked.append(after)

    def take_joined(self, cursor: int) -> Finding | None:
        if not self.asked:
            return Finding("protocol", "joined, though no join was sent")
        after = self.asked.popleft()
        self.joined, self.synced = True, False
        self.cursor = cursor
        self.missing.clear()
        if cursor != after:
            return Finding("lost", f"joined after {after}, which was shown before, but the log starts at {cursor}")
        return None

    def take_event(self, seq: int) -> Finding | None:
        if not self.joined:
            return Finding("protocol", "an event before joined")
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
            return Finding("protocol", "synced before joined")
        if self.synced:
            return Finding("protocol", "synced twice")
        self.synced = True
        if seq != self.cursor:
            return Finding("hole", f"synced at {seq}, but the last event shown was {self.cursor}", self.cursor + 1)
        return None

    def take_behind(self) -> Finding | None:
        if not self.synced:
            return Finding("protocol", "behind before synced")
        self.synced = False
        return None

    def take_signal(self) -> Finding | None:
        return None if self.synced else Finding("protocol", "a signal before synced")

    def take_ack(self, id: str, seq: int, duplicate: bool) -> Finding | None:
        found = self._answered(id, "an ack")
        if found is None and not duplicate:
            if seq <= self.fresh_ack:
                found = Finding("ack", f"{id}: acknowledged with {seq} after one sent before it with {self.fresh_ack}")
            self.fresh_ack = seq
        return found

    def take_error(self, id: str) -> Finding | None:
        """Errors may overtake acks."""
        if id not in self.pending:
            return Finding("ack", f"{id}: an error for what was not sent on this connection")
        self.pending.remove(id)
        return None

    def _answered(self, id: str, what: str) -> Finding | None:
        if self.pending and self.pending[0] == id:
            self.pending.popleft()
            return None
        if id not in self.pending:
            return Finding("ack", f"{id}: {what} for what was not sent on this connection, or a second one")
        first = self.pending[0]
        self.pending.remove(id)
        return Finding("ack", f"{id}: acknowledged before {first}, which was sent before it")


class Record:
    """What all clients together know of one room. 48 bytes an event."""

    __slots__ = (
        "_ack_bodies",
        "_ack_shapes",
        "_bodies",
        "_born",
        "_outers",
        "_shapes",
        "deleted",
        "erased",
        "head",
        "name",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.head = 0
        """The highest seq that anybody was shown or acknowledged."""
        self.deleted: set[int] = set()  # targets of `deleted`
        self.erased: dict[int, tuple[int, str]] = {}  # seq: (whose deletion erased it, who was shown it so)
        # Of each seq, from 1; 0: not known yet.
        self._outers = array("Q")  # digests of all but the body
        self._shapes = array("Q")
        self._bodies = array("Q")
        self._ack_shapes = array("Q")  # as its sender has it
        self._ack_bodies = array("Q")
        self._born = array("d")  # when the first of all clients heard of it

    def see(self, event: Data, client: str, now: float) -> tuple[Finding | None, float]:
        """`client` was shown `event`: what is wrong with it, and how many seconds after the first it heard of it."""
        seq: int = event["seq"]
        if not self._grow(seq, now):
            return Finding("content", f"a seq far beyond {self.head}"), 0.0
        at, body = seq - 1, body_of(event)
        outer = digest({key: value for key, value in event.items() if key not in ("text", "meta", "deleted")})
        if not body:
            self.erased.setdefault(seq, (event.get("target", seq), client))
        if event["type"] == "deleted":
            self.deleted.add(event["target"])
        late = now - self._born[at]
        if not self._outers[at]:
            self._outers[at], self._shapes[at], self._bodies[at] = outer, shape_of(event), body
            return self._mismatch(at), late
        if self._outers[at] != outer:
            return Finding("content", f"differs from what others were shown: {_short(event)}"), late
        if body and self._bodies[at] not in (0, body):
            return Finding("content", f"its text differs from what others were shown: {_short(event)}"), late
        if body and not self._bodies[at]:
            self._bodies[at] = body
            return self._mismatch(at), late
        return None, late

    def acknowledge(self, seq: int, event: Data, now: float) -> Finding | None:
        """An ack has told that `event` (as `promised` makes it) is `seq`."""
        if seq < 1 or not self._grow(seq, now):
            return Finding("ack", f"acknowledged with the seq {seq}, but the head is about {self.head}")
        at, shape, body = seq - 1, shape_of(event), body_of(event)
        if self._ack_shapes[at]:
            if (self._ack_shapes[at], self._ack_bodies[at]) == (shape, body):
                return None
            return Finding("ack", f"acknowledged for another command, and now for {_short(event)}")
        self._ack_shapes[at], self._ack_bodies[at] = shape, body
        return self._mismatch(at)

    def audit(self, head: int, unanswered: Collection[int]) -> Iterator[tuple[int, Finding]]:
        """At the end, once the whole log was read up to `head`; `unanswered` are shapes that may be in it or not."""
        for seq in range(1, max(head, self.head) + 1):
            shown, acked = self._outers[seq - 1], self._ack_shapes[seq - 1]
            if seq > head:
                if not (shown or acked):
                    continue
                what = "acknowledged" if acked else "shown to clients"
                yield seq, Finding("lost", f"{what}, but not in the log, whose head is {head}")
            elif not shown:
                yield seq, Finding("lost", "not in the log, though others after it are")
            elif not acked and self._shapes[seq - 1] not in unanswered:
                yield seq, Finding("foreign", "in the log, but nobody sent it, or it is there a second time")
        for seq, (target, client) in self.erased.items():
            if target not in self.deleted:
                yield seq, Finding("erased", f"came to {client} without its text, but nobody deleted {target}")

    def survives(self, event: Data) -> Finding | None:
        """Of an event that was read after all deletions were: its text must be gone if one erased it."""
        if event["type"] in _TEXTED and event.get("target", event["seq"]) in self.deleted and body_of(event):
            return Finding("erased", "its text is still in the log, after its deletion")
        return None

    def _mismatch(self, at: int) -> Finding | None:
        """Whether what was shown is what was acknowledged, as far as both are known."""
        if not self._outers[at] or not self._ack_shapes[at]:
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
            zeros = bytes(8 * (seq - self.head))
            for column in (self._outers, self._shapes, self._bodies, self._ack_shapes, self._ack_bodies, self._born):
                column.frombytes(zeros)
            self.head = seq
        if not self._born[seq - 1]:
            self._born[seq - 1] = now
        return True


def _short(event: Data) -> str:
    text = orjson.dumps(event, default=repr).decode()
    return text if len(text) <= 200 else text[:197] + "..."
