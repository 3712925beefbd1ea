"""What all devices of one user together know of the user's own log: every one was shown the same, it tells each mention
once, each mark that was asked for and each change of a room that is followed, in their order; and a `state` is what its
events and the rooms lead to. No I/O, no clock: times are passed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.messages import OWN
from tornado_chat.verify.record import Record, short

MENTIONS_COUNTED = 1000
"""Unread mentions of one user that the protocol lets a server know; of more than that it may forget."""

Register = tuple[str, str | None] | None
"""How a room is followed: the level, and who has invited the user if that was not their own doing. None: it is not."""


class Known(NamedTuple):
    """What a state that is asked for now must at least have: the own log's seq, and by room the head and the mark."""

    seq: int
    heads: dict[str, int]
    marks: dict[str, int]


class Setting:
    """A `follow`, `unfollow` or `invite` of a room. No other of that room and user is said before it is answered."""

    __slots__ = ("answered", "by", "level", "refused", "writes")

    def __init__(self, level: str | None, by: str | None) -> None:
        """`level` None: an unfollow; `by`: who invites."""
        self.level = level
        self.by = by
        self.answered = False
        self.refused = False
        self.writes = 0  # a copy that the network held back may come later, if it made no event

    def leads_to(self, now: Register) -> Register:
        """How the room is followed after it, where it was followed like this: no event if that is the same."""
        if self.level is None:
            return None
        if self.by is not None:
            return now or (self.level, self.by)
        return self.level, None


class _Place(NamedTuple):
    """A room in a state, judged at the end. `marked`: the highest mark that a `marked` before it had told."""

    cursor: int
    device: str
    room: Data
    marked: int


class OwnLog:
    """Told what devices are shown (`see`, `take_state`) and what the user's commands must lead to; `audit` at the end.

    Events are folded in their order, each once; a state is compared with what they have led to at its cursor.
    """

    __slots__ = (
        "_changes",
        "_cut",
        "_folded",
        "_marks",
        "_mentions",
        "_places",
        "_states",
        "_waiting",
        "any_mark",
        "asked_marks",
        "busy",
        "marks",
        "record",
        "settings",
        "user",
    )

    def __init__(self, user: str) -> None:
        self.user = user
        self.record = Record(OWN)
        self.asked_marks: dict[str, set[int]] = {}  # by room: those that its devices have asked for
        self.any_mark: set[str] = set()  # rooms in which they asked for one beyond the head
        self.marks: dict[str, int] = {}  # by room: the highest that was acknowledged
        self.settings: dict[str, list[Setting]] = {}  # by room, in the order of saying
        self.busy: set[str] = set()  # rooms whose last setting has no answer
        self._folded = 0  # all events up to here were seen, and have led to what follows
        self._waiting: dict[int, Data] = {}  # events beyond, by seq
        self._marks: dict[str, int] = {}
        self._mentions: dict[str, dict[int, str]] = {}  # by room and target: who has named the user
        self._changes: dict[str, list[Register]] = {}  # by room: how it was followed, one after another
        self._states: dict[int, list[tuple[str, Data]]] = {}  # by cursor, with the device: to be judged there
        self._places: list[_Place] = []
        self._cut = 0  # events up to here may be gone without having been shown to anybody

    # What devices are shown

    def see(self, event: Data, device: str, now: float) -> tuple[list[Finding], float]:
        """What is wrong with `event`, and how many seconds after the first device this one heard of it."""
        seq: int = event["seq"]
        fresh = not self.record.is_known(seq)
        finding, late = self.record.see(event, device, now)
        if finding is not None:
            return [finding], late
        if fresh:
            self._waiting[seq] = event
        return list(self._fold_on()), late

    def take_state(
        self, cursor: int, state: Data, device: str, known: Known, *, after: int | None, now: float
    ) -> list[Finding]:
        """`device` was given `state` in place of what is behind `after`; it had asked when so much was `known`."""
        found = [Finding("state", text, cursor) for text in _too_old(cursor, state, known)]
        self.record.reach(cursor, now)
        if after is not None:
            self._cut = max(self._cut, cursor)
        self._states.setdefault(cursor, []).append((device, state))
        return [*found, *self._fold_on()]

    def _fold_on(self) -> Iterator[Finding]:
        yield from self._judge()
        while (event := self._waiting.pop(self._folded + 1, None)) is not None:
            self._folded += 1
            wrong = self._fold(event)
            if wrong is not None:
                yield Finding(*wrong, self._folded)
            yield from self._judge()

    def _fold(self, event: Data) -> tuple[str, str] | None:
        about, user = event["about"], event["user"]
        match event["type"]:
            case "followed":
                self._changes.setdefault(about, []).append((event["level"], event.get("by")))
                if user != event.get("by", self.user):
                    return "content", f"was done by {user}: {short(event)}"
            case "unfollowed":
                self._changes.setdefault(about, []).append(None)
                if user != self.user:
                    return "content", f"was done by {user}: {short(event)}"
            case "marked":
                before, self._marks[about] = self._marks.get(about, 0), event["read"]
                if event["read"] <= before:
                    return "mark", f"moved back in {about}, to {event['read']} from {before}"
                if not self.may_mark(about, event["read"]):
                    return "mark", f"moved in {about} to {event['read']}, which nobody asked for"
            case "mentioned":
                told = self._mentions.setdefault(about, {})
                if event["target"] in told:
                    return "mention", f"message {event['target']} of {about} was told before"
                told[event["target"]] = user
        return None

    def may_mark(self, room: str, seq: int) -> bool:
        """Whether a device of the user has asked for this mark."""
        return room in self.any_mark or seq in self.asked_marks.get(room, ())

    def _judge(self) -> Iterator[Finding]:
        """The states at the seq up to which all is folded: each room's rest is judged when all is known."""
        for device, state in self._states.pop(self._folded, ()):
            told = {room["room"]: room for room in state["rooms"]}
            due = {room: changes[-1] for room, changes in self._changes.items() if changes[-1] is not None}
            for room in sorted(due.keys() - told.keys()):
                yield Finding("state", f"a state for {device} leaves out {room}, which is followed", self._folded)
            unread = {name: self._unread_mentions(name, room["read"]) for name, room in told.items()}
            forgotten = sum(map(len, self._mentions.values())) > MENTIONS_COUNTED
            for name, room in told.items():
                if (room["level"], room.get("by")) != due.get(name, (room["level"], room.get("by"))):
                    text = f"a state for {device} has {short(room)}, but {name} is followed as {due[name]}"
                    yield Finding("state", text, self._folded)
                if name in self._changes and name not in due:
                    yield Finding("state", f"a state for {device} has {name}, which is not followed", self._folded)
                if room["mentions"] != unread[name] and not (forgotten and room["mentions"] < unread[name]):
                    text = f"a state for {device} has {short(room)}, but {unread[name]} unread mentions were told"
                    yield Finding("state", text, self._folded)
                self._places.append(_Place(self._folded, device, room, self._marks.get(name, 0)))

    def _unread_mentions(self, room: str, read: int) -> int:
        return sum(target > read for target in self._mentions.get(room, ()))

    # What the user says

    def known(self, records: Mapping[str, Record]) -> Known:
        return Known(self.record.head, {room: record.head for room, record in records.items()}, dict(self.marks))

    def ask_mark(self, room: str, seq: int, head: int) -> None:
        """A `read` of `seq` is about to be said, when the room's head is at least `head`."""
        self.asked_marks.setdefault(room, set()).add(seq)
        if seq > head:
            self.any_mark.add(room)

    def take_mark(self, room: str, seq: int) -> None:
        """The user's mark is at `seq` at least, as an ack has told."""
        self.marks[room] = max(self.marks.get(room, 0), seq)

    def set(self, room: str, setting: Setting) -> None:
        self.settings.setdefault(room, []).append(setting)
        self.busy.add(room)

    def take_setting(self, room: str, setting: Setting, *, refused: bool = False) -> None:
        """It was answered."""
        setting.answered, setting.refused = True, refused
        self.busy.discard(room)

    # The end

    @property
    def read_to_the_end(self) -> bool:
        """All events were seen, and folded."""
        return self._folded == self.record.head

    def audit(self, records: Mapping[str, Record], counts: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
        """`counts`: of each room how many messages there are up to each seq, as `Record.counts` has it."""
        for seq in range(self._cut + 1, self.record.head + 1):
            if not self.record.is_known(seq):
                yield Finding("lost", "was never shown to any device, though the log goes on behind it", seq)
        if self.read_to_the_end:
            yield from self._audit_settings(records)
            yield from self._audit_mentions(records)
        for place in self._places:
            room: str = place.room["room"]
            if room in records:
                text = self._fault(place, records[room], counts[room])
                if text:
                    yield Finding("state", f"a state for {place.device} has {short(place.room)}, {text}", place.cursor)

    def _audit_settings(self, records: Mapping[str, Record]) -> Iterator[Finding]:
        for room, settings in self.settings.items():
            seen = self._changes.get(room, [])
            if not leads_to(settings, seen):
                said = ", ".join(
                    f"{setting.level or 'unfollow'}{f' by {setting.by}' if setting.by else ''}" for setting in settings
                )
                yield Finding("follow", f"{room} was followed as {seen}, but what was said is: {said}")
        for room in (self._changes.keys() - self.settings.keys()) & records.keys():
            yield Finding("follow", f"{room} was followed as {self._changes[room]}, but nobody has said so")

    def _audit_mentions(self, records: Mapping[str, Record]) -> Iterator[Finding]:
        for room, record in records.items():
            told = self._mentions.get(room, {})
            for seq, (user, named) in record.naming.items():
                if self.user in named and told.get(seq) != user:
                    yield Finding("mention", f"message {seq} of {room}, by {user}, names the user, who was not told so")
            for target in told:
                if self.user not in record.naming.get(target, ("", ()))[1]:
                    yield Finding("mention", f"message {target} of {room} was told, and does not name the user")

    def _fault(self, place: _Place, record: Record, counts: Sequence[int]) -> str:
        head, messages, read, unread = (place.room[name] for name in ("head", "messages", "read", "unread"))
        if head >= len(counts):
            return "" if head <= record.head else f"but the room's head is {record.head}"
        mine = (seq for seq in record.marking.get(self.user, ()) if seq <= head)
        mark = max(place.marked, max(mine, default=0))
        if read != mark:
            return f"but the mark was {mark}"
        if messages != counts[head] or unread != counts[head] - counts[mark]:
            return f"but of {counts[head]} messages {counts[head] - counts[mark]} were unread"
        return ""


def _too_old(cursor: int, state: Data, known: Known) -> Iterator[str]:
    if cursor < known.seq:
        yield f"a state as of {cursor}, although {known.seq} had been told before it was asked for"
    for room in state["rooms"]:
        head, mark = known.heads.get(room["room"], 0), known.marks.get(room["room"], 0)
        if room["head"] < head or room["read"] < mark:
            yield f"a state with {short(room)}, although the head was {head} and the mark {mark} before"


def leads_to(settings: Sequence[Setting], seen: Sequence[Register]) -> bool:
    """Whether these settings, one after another, may have led to `seen`, one event for each that changes something.

    One without an answer may have been carried out or not. A second copy of one that had changed nothing, so that its
    id stands in no event, may come whenever the network lets go of it.
    """
    ways: set[_Way] = {(0, frozenset())}
    copies: Counter[_Effect] = Counter()
    for setting in settings:
        after: set[_Way] = set()
        for count, came in _with_copies(ways, seen, copies):
            now = seen[count - 1] if count else None
            then = setting.leads_to(now)
            if setting.refused or not setting.answered or then == now:
                after.add((count, came))
            if not setting.refused and then != now and count < len(seen) and seen[count] == then:
                after.add((count + 1, came))
        ways = _least(after)
        if setting.writes > 1:
            copies[setting.level, setting.by] += 1
    return any(count == len(seen) for count, _ in _with_copies(ways, seen, copies))


_Effect = tuple[str | None, str | None]
"""The `level` and `by` of a Setting."""

_Way = tuple[int, frozenset[tuple[_Effect, int]]]
"""How many of the events are accounted for, and how many copies that came late, of each effect."""


def _with_copies(ways: set[_Way], seen: Sequence[Register], copies: Mapping[_Effect, int]) -> set[_Way]:
    found, fresh = set(ways), set(ways)
    while fresh:
        more: set[_Way] = set()
        for count, came in fresh:
            if count == len(seen):
                continue
            now, used = seen[count - 1] if count else None, dict(came)
            for effect, there in copies.items():
                then, number = Setting(*effect).leads_to(now), used.get(effect, 0) + 1
                if number <= there and then != now and seen[count] == then:
                    more.add((count + 1, frozenset((used | {effect: number}).items())))
        fresh = more - found
        found = _least(found | fresh)
        fresh &= found
    return found


def _least(ways: set[_Way]) -> set[_Way]:
    """Without those for which as much is accounted for by fewer copies: what may come after them is less."""
    least: dict[int, list[dict[_Effect, int]]] = {}
    for count, came in sorted(ways, key=lambda way: sum(number for _, number in way[1])):
        used, others = dict(came), least.setdefault(count, [])
        if not any(all(used.get(effect, 0) >= number for effect, number in other.items()) for other in others):
            others.append(used)
    return {(count, frozenset(used.items())) for count, others in least.items() for used in others}
