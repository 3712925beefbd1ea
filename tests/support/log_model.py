"""What a log should hold, kept the plainest way, and entries at random to compare by."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from tests.support.entries import deleted, edited, message, reacted, read_mark
from tornado_chat.errors import ErrorCode
from tornado_chat.log import Entry


class Model:
    """The same events in lists and dictionaries."""

    def __init__(self) -> None:
        self.events: dict[str, list[Entry]] = {}
        self.keys: dict[tuple[str, str, str], int] = {}
        self.marks: dict[tuple[str, str], int] = {}

    def apply(self, entry: Entry) -> tuple[Any, ...]:
        events = self.events.get(entry.room, [])
        if entry.type == "read":
            old = self.marks.get((entry.room, entry.user), 0)
            new = max(old, min(entry.seq or 0, len(events)))
            if new:
                self.marks[entry.room, entry.user] = new
            return new, 0, False, new > old
        name = (entry.room, entry.user, entry.key)
        if name in self.keys:
            return self.keys[name], 0, True, True
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
        return len(events) + 1, n or 0, False, True

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


def random_entry(dice: random.Random, head: int, plain: bool) -> Entry:
    room, user = dice.choice(("a", "b")), dice.choice(("alice", "bob", "carol"))
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
