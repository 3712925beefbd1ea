"""Every kind of event, once: the command that asks for it, its fields, what it does to the message that it targets.

`edited`, `deleted` and `reacted` target a message: they are refused where there is none, or where it was deleted. They
are folded into it where a message is told as it is now (`history`): the databases keep the last edit and the reactions
that stand (`Kind.folds` says which), so that a page of history needs no events but messages. `finished` targets a
message that grew: it has that message's text (log/growing.py).

`followed`, `unfollowed`, `marked` and `mentioned` are events of logs of one's own (`log/own.py`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import orjson

from tornado_chat.log import own
from tornado_chat.wire.codec import Encoded
from tornado_chat.wire.commands import Delete, Edit, Follow, Invite, React, Send, Unfollow
from tornado_chat.wire.events import Data, Event, EventType

Folds = Literal["text", "erasure", "reaction", "growth"]
Publishing = Send | Edit | Delete | React | Follow | Unfollow | Invite
"""The commands that become events."""


AGENT = "agent"
"""The `emoji` of a message that an agent said."""


class Entry:
    """One thing to be written: an event to be, a message that shall grow (`begin`), or (`read`) a user's read mark.

    `key` names the event of (room, user) for ever: the client's `id`, or a hidden one that no client can guess.
    `id` is what readers of the event see; None for a hidden key. `seq` (of a `read`) is the mark that is asked for,
    `lapses` says that it is a guest's, which goes when it was neither moved nor asked for during 31 days.
    A `message` or `edited` whose `text` is None was erased by a `deleted`. `meta` is JSON. A `message` whose `on` is
    False does not move its sender's mark; one that grew has True. `mentions` are the users that it names, each once. Of
    a `finished`, `emoji` is the reason and `reply_to` the length in code points, and of a `message` that an agent said
    `emoji` is AGENT: no kind is wider for it.

    In a log of one's own: `about` is the room that the event is about, `level` that of a `followed`; of a `marked`,
    `target` is the mark.
    """

    __slots__ = (
        "about",
        "emoji",
        "id",
        "key",
        "lapses",
        "level",
        "mentions",
        "meta",
        "name",
        "on",
        "reply_to",
        "room",
        "seq",
        "target",
        "text",
        "type",
        "user",
    )

    def __init__(
        self,
        type: EventType | Literal["read", "begin"],
        room: str,
        user: str,
        name: str,
        *,
        key: str = "",
        id: str | None = None,
        text: str | None = None,
        reply_to: int | None = None,
        meta: bytes | None = None,
        target: int | None = None,
        emoji: str | None = None,
        on: bool | None = None,
        seq: int | None = None,
        lapses: bool = False,
        mentions: tuple[str, ...] = (),
        about: str = "",
        level: str | None = None,
    ) -> None:
        self.type = type
        self.room = room
        self.user = user
        self.name = name
        self.key = key
        self.id = id
        self.text = text
        self.reply_to = reply_to
        self.meta = meta
        self.target = target
        self.emoji = emoji
        self.on = on
        self.seq = seq
        self.lapses = lapses
        self.mentions = mentions
        self.about = about
        self.level = level


def _message(entry: Entry, seq: int, n: int, ts: int) -> Data:
    data: Data = {"type": "message", "room": entry.room, "seq": seq, "n": n, "user": entry.user, "name": entry.name}
    if entry.emoji is not None and entry.emoji == AGENT:
        data["agent"] = True
    if entry.on:
        data["streaming"] = True
    if entry.text is None:
        data["deleted"] = True
    else:
        data["text"] = entry.text
    data["ts"] = ts
    if entry.id is not None:
        data["id"] = entry.id
    if entry.reply_to is not None:
        data["reply_to"] = entry.reply_to
    if entry.meta is not None:
        data["meta"] = Encoded(entry.meta)
    if entry.mentions:
        data["mentions"] = list(entry.mentions)
    return data


def _edited(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    data: Data = {"type": "edited", "room": entry.room, "seq": seq, "target": entry.target, "user": entry.user}
    if entry.text is None:
        data["deleted"] = True
    else:
        data["text"] = entry.text
    data["ts"] = ts
    return data


def _deleted(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    return {"type": "deleted", "room": entry.room, "seq": seq, "target": entry.target, "user": entry.user, "ts": ts}


def _reacted(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    return {
        "type": "reacted",
        "room": entry.room,
        "seq": seq,
        "target": entry.target,
        "user": entry.user,
        "emoji": entry.emoji,
        "on": entry.on,
        "ts": ts,
    }


def _finished(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    data: Data = {"type": "finished", "room": entry.room, "seq": seq, "target": entry.target, "user": entry.user}
    data |= {"ts": ts, "reason": entry.emoji, "length": entry.reply_to}
    if entry.text is None:
        data["deleted"] = True
    else:
        data["crc"] = zlib.crc32(entry.text.encode())
        data["text"] = entry.text
        if entry.meta is not None:
            data["meta"] = Encoded(entry.meta)
    return data


def _followed(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    data: Data = {"type": "followed", "room": own.NAME, "seq": seq, "about": entry.about, "level": entry.level}
    if entry.room != own.room_of(entry.user):
        data["by"] = entry.user
    data["user"] = entry.user
    data["ts"] = ts
    return data


def _unfollowed(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    return {"type": "unfollowed", "room": own.NAME, "seq": seq, "about": entry.about, "user": entry.user, "ts": ts}


def _marked(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    return {
        "type": "marked",
        "room": own.NAME,
        "seq": seq,
        "about": entry.about,
        "read": entry.target,
        "user": entry.user,
        "ts": ts,
    }


def _mentioned(entry: Entry, seq: int, _n: int, ts: int) -> Data:
    return {
        "type": "mentioned",
        "room": own.NAME,
        "seq": seq,
        "about": entry.about,
        "target": entry.target,
        "user": entry.user,
        "name": entry.name,
        "ts": ts,
    }


class Kind:
    """One kind of event. `command` asks for it, `data` makes what clients see of an entry, its seq, its n and its ts.

    `command` is None where others lead to it, or log/growing.py makes the entries.

    `folds` is what it does to the message that it targets; None for the message itself. Only whoever wrote that message
    may do it where `own` is true.
    """

    __slots__ = ("command", "data", "folds", "own", "type")

    def __init__(
        self,
        type: EventType,
        command: type[Publishing] | None,
        data: Callable[[Entry, int, int, int], Data],
        *,
        folds: Folds | None = None,
        own: bool = False,
    ) -> None:
        self.type = type
        self.command = command
        self.data = data
        self.folds = folds
        self.own = own


KINDS: dict[str, Kind] = {
    kind.type: kind
    for kind in (
        Kind("message", Send, _message),
        Kind("edited", Edit, _edited, folds="text", own=True),
        Kind("deleted", Delete, _deleted, folds="erasure", own=True),
        Kind("reacted", React, _reacted, folds="reaction"),
        Kind("finished", None, _finished, folds="growth"),
        Kind("followed", Follow, _followed),
        Kind("unfollowed", Unfollow, _unfollowed),
        Kind("marked", None, _marked),
        Kind("mentioned", None, _mentioned),
    )
}
"""By `type`."""

BY_COMMAND = {kind.command: kind for kind in KINDS.values() if kind.command is not None} | {Invite: KINDS["followed"]}

_DATA = {kind.type: kind.data for kind in KINDS.values()} | {"begin": _message}


def entry_of(command: Publishing, user: str, name: str, key: str) -> Entry:
    """What `command` of `user` is to become; `key`: its id, or else a hidden one."""
    entry = Entry(BY_COMMAND[command.__class__].type, command.room, user, name, key=key, id=command.id)
    match command:
        case Send():
            entry.text, entry.reply_to = command.text, command.reply_to
            if command.meta is not None:
                # A copy: what orjson returns keeps the buffer that it was made in, 4 KiB and more for the least.
                entry.meta = bytes(memoryview(orjson.dumps(command.meta)))
            if command.mentions is not None:
                entry.mentions = tuple(dict.fromkeys(other for other in command.mentions if other != user))
            if not command.mark:
                entry.on = False
        case Edit():
            entry.target, entry.text = command.seq, command.text
        case Delete():
            entry.target = command.seq
        case React():
            entry.target, entry.emoji, entry.on = command.seq, command.emoji, command.on
        case Follow() | Unfollow() | Invite():
            entry.room, entry.about = own.room_of(command.user if isinstance(command, Invite) else user), command.room
            entry.key = f"={key}"  # never that of an event which is made along with another
            if not isinstance(command, Unfollow):
                entry.level = command.level if isinstance(command, Follow) else "everything"
    return entry


def made_along(entry: Entry, seq: int) -> list[Entry]:
    """The events in logs of one's own that `entry` makes, which has become `seq` of its room, or moved a mark there.

    Their keys are the log's to make.
    """
    type: EventType = "marked" if entry.type == "read" else "mentioned"
    users = (entry.user,) if entry.type == "read" else entry.mentions
    return [Entry(type, own.room_of(user), entry.user, entry.name, about=entry.room, target=seq) for user in users]


def rooms_of(entry: Entry) -> tuple[str, ...]:
    """The rooms and logs of one's own that `entry` may write to, or name."""
    if entry.type == "read":
        return entry.room, own.room_of(entry.user)
    if entry.mentions:
        return entry.room, *map(own.room_of, entry.mentions)
    return (entry.room, entry.about) if entry.about else (entry.room,)


def portion(batch: Sequence[Entry], limit: int | None) -> Sequence[Entry]:
    """The first entries of `batch`, at least one, that make `limit` events at most with those in logs of one's own."""
    if limit is None or (len(batch) <= limit and not [entry for entry in batch if entry.mentions]):
        return batch
    count = 0
    for place, entry in enumerate(batch):
        count += 1 + len(entry.mentions)
        if count > limit and place:
            return batch[:place]
    return batch


def event_of(entry: Entry, seq: int, n: int, ts: int) -> Event:
    """The event that clients see; `n` counts for a message only."""
    return Event(seq, _DATA[entry.type](entry, seq, n, ts))


ERASING = frozenset(kind.type for kind in KINDS.values() if kind.folds == "erasure")
"""The types of events that erase the texts of their target."""

ENDING = frozenset(kind.type for kind in KINDS.values() if kind.folds == "growth")
"""The types of events that end a message that grew; members who were told its text get them without it."""

EDITING = frozenset(kind.type for kind in KINDS.values() if kind.folds in ("text", "growth"))
"""The types of events whose text is erased with that of their target."""
