"""What a log should hold, kept the plainest way, and entries at random to compare by."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from tests.support.entries import deleted, edited, followed, message, reacted, read_mark, unfollowed
from tornado_chat.errors import ErrorCode
from tornado_chat.log import Entry


class Model:
    """The same events in lists and dictionaries."""

    def __init__(self) -> None:
        self.events: dict[str, list[Entry]] = {}
        self.keys: dict[tuple[str, str, str], int] = {}
        self.marks: dict[tuple[str, str], int] = {}
        self.owns: dict[str, list[tuple[Any, ...]]] = {}  # by user: the events of the own log, as `told` has them
        self.follows: dict[str, dict[str, tuple[str, str | None]]] = {}  # by user and room: the level, and who invited

    def apply(self, entry: Entry) -> tuple[Any, ...]:
        """Its seq, n, whether it is a duplicate, whether it changed anything, the seqs of what it made along."""
        if entry.about:
            return self._follow(entry)
        events = self.events.get(entry.room, [])
        if entry.type == "read":
            old = self.marks.get((entry.room, entry.user), 0)
            new = max(old, min(entry.seq or 0, len(events)))
            if new == old:
                return new, 0, False, False, []
            self.marks[entry.room, entry.user] = new
            return new, 0, False, True, [self._tell(entry.user, "marked", entry.room, new)]
        name = (entry.room, entry.user, entry.key)
        if name in self.keys:
            return self.keys[name], 0, True, True, []
        if entry.type != "message":
            assert entry.target is not None
            target = events[entry.target - 1] if 0 < entry.target <= len(events) else None
            if target is None or target.type != "message":
                return (ErrorCode.NOT_FOUND,)
            if entry.type != "reacted" and target.user != entry.user:
                return (ErrorCode.FORBIDDEN,)
            if any(event.type == "deleted" and event.target == entry.target for event in events):
                return (ErrorCode.NOT_FOUND,)
        self.events[entry.room] = [*events, entry]
        self.keys[name] = len(events) + 1
        n = self.numbers(entry.room)[-1]
        seq = len(events) + 1
        if entry.type == "message" and entry.on is not False:
            self.marks[entry.room, entry.user] = seq
        along = [self._tell(user, "mentioned", entry.room, seq, entry.user) for user in entry.mentions]
        return seq, n or 0, False, True, along

    def _tell(self, user: str, *event: Any) -> int:
        log = self.owns.setdefault(user, [])
        log.append(event)
        return len(log)

    def _follow(self, entry: Entry) -> tuple[Any, ...]:
        name = (entry.room, entry.user, entry.key)
        if name in self.keys:
            return self.keys[name], 0, True, True, []
        user = entry.room[1:]
        by = None if user == entry.user else entry.user
        follows = self.follows.setdefault(user, {})
        there = follows.get(entry.about)
        if entry.type == "unfollowed":
            changed = there is not None
            follows.pop(entry.about, None)
        else:
            assert entry.level is not None
            changed = there is None if by else there != (entry.level, None)
            if changed:
                follows[entry.about] = (entry.level, by)
        if not changed:
            return 0, 0, False, False, []
        seq = self.keys[name] = self._tell(user, entry.type, entry.about, entry.level, by)
        return seq, 0, False, True, []

    def state(self, user: str) -> list[dict[str, Any]]:
        rooms = []
        for room, (level, by) in sorted(self.follows.get(user, {}).items()):
            numbers = self.numbers(room)
            mark = self.marks.get((room, user), 0)
            mentions = {
                event[2] for event in self.owns.get(user, []) if event[:2] == ("mentioned", room) and event[2] > mark
            }
            data = {"room": room, "level": level, "head": len(numbers), "read": mark, "mentions": len(mentions)}
            data |= {"messages": sum(number is not None for number in numbers)}
            data |= {"unread": sum(number is not None for number in numbers[mark:])}
            rooms.append(data | ({"by": by} if by else {}))
        return rooms

    def numbers(self, room: str) -> list[int | None]:
        """Of each event its `n`; None of what is no message."""
        messages = count(1)
        return [next(messages) if event.type == "message" else None for event in self.events.get(room, [])]

    def texts(self, room: str) -> list[str | None]:
        events = self.events.get(room, [])
        gone = {event.target for event in events if event.type == "deleted"}
        return [
            None if (seq if event.type == "message" else event.target) in gone else event.text
            for seq, event in enumerate(events, 1)
        ]

    def past(self, room: str) -> list[tuple[int, str | None, dict[str, set[str]]]]:
        messages: dict[int, tuple[str | None, dict[str, set[str]]]] = {}
        for seq, event in enumerate(self.events.get(room, []), 1):
            if event.type == "message":
                messages[seq] = (event.text, {})
                continue
            assert event.target is not None
            reactions = messages[event.target][1]
            if event.type == "edited":
                messages[event.target] = (event.text, reactions)
            elif event.type == "deleted":
                messages[event.target] = (None, {})
            else:
                assert event.emoji is not None
                users = reactions.setdefault(event.emoji, set())
                (users.add if event.on else users.discard)(event.user)
        return [
            (seq, text, {emoji: users for emoji, users in reactions.items() if users})
            for seq, (text, reactions) in messages.items()
        ]


USERS = ("alice", "bob", "carol")


def told(event: dict[str, Any]) -> tuple[Any, ...]:
    """What an event of a log of one's own says, as the model keeps it."""
    fields = {
        "marked": ("read",),
        "mentioned": ("target", "user"),
        "followed": ("level", "by"),
        "unfollowed": ("level", "by"),
    }
    return event["type"], event["about"], *(event.get(field) for field in fields[event["type"]])


def random_entry(dice: random.Random, head: int, plain: bool) -> Entry:
    room, user = dice.choice(("a", "b")), dice.choice(USERS)
    key = f"k{dice.randrange(60)}"
    target = dice.randint(0, max(1, head))
    kind = dice.choice(("message", "message", "read") if plain else ("message", "edited", "deleted", "reacted", "read"))
    if kind == "message":
        return message(f"text {dice.random()}", room, user, key if dice.random() < 0.3 else None)
    if kind == "edited":
        return edited(target, f"edit {dice.random()}", user, room, key if dice.random() < 0.3 else "")
    if kind == "deleted":
        return deleted(target, user, room, key if dice.random() < 0.3 else "")
    if kind == "read":
        return read_mark(dice.randint(0, head + 5), user, room)
    return reacted(target, dice.choice("xyz"), dice.random() < 0.7, user, room)


def random_own_entry(dice: random.Random) -> Entry:
    """What makes an event in a log of one's own, but for a mark."""
    room, user, other = dice.choice(("a", "b", "empty")), dice.choice(USERS), dice.choice(USERS)
    kind = dice.choice(("mentions", "follow", "follow", "unfollow", "invite"))
    key = f"k{dice.randrange(60)}" if dice.random() < 0.3 else f"hidden-{dice.random()}"
    if kind == "mentions":
        named = tuple(name for name in USERS if name != user and dice.random() < 0.7)
        more: dict[str, Any] = {"on": False} if dice.random() < 0.3 else {}
        return message(f"text {dice.random()}", dice.choice(("a", "b")), user, key, mentions=named, **more)
    if kind == "follow":
        return followed(room, user, dice.choice(("everything", "mentions", "nothing")), key)
    if kind == "unfollow":
        return unfollowed(room, user, key)
    return followed(room, other, "everything", key, by=user)
