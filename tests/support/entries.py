"""Entries for a log, in few words, and the whole of a room."""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson

from tornado_chat.errors import ChatError, Reason
from tornado_chat.log import Appended, Entry, Log
from tornado_chat.log.growing import Begin, Finish
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.events import Data

MIB = 1 << 20
numbers = count(1)


def message(
    text: str = "hello", room: str = "lobby", user: str = "alice", key: str | None = None, **more: Any
) -> Entry:
    """A message with an id, its key; one with a hidden key if `key` is not given. `meta` is an object."""
    hidden = f"hidden-{next(numbers)}"
    if "meta" in more:
        more["meta"] = orjson.dumps(more["meta"])
    return Entry("message", room, user, user.title(), key=key or hidden, id=key, text=text, **more)


def edited(target: int, text: str = "better", user: str = "alice", room: str = "lobby", key: str = "") -> Entry:
    return Entry("edited", room, user, user.title(), key=key or f"hidden-{next(numbers)}", target=target, text=text)


def deleted(target: int, user: str = "alice", room: str = "lobby", key: str = "") -> Entry:
    return Entry("deleted", room, user, user.title(), key=key or f"hidden-{next(numbers)}", target=target)


def reacted(target: int, emoji: str = "+1", on: bool = True, user: str = "bob", room: str = "lobby") -> Entry:
    return Entry("reacted", room, user, user.title(), key=f"hidden-{next(numbers)}", target=target, emoji=emoji, on=on)


def read_mark(seq: int, user: str = "alice", room: str = "lobby") -> Entry:
    return Entry("read", room, user, user.title(), seq=seq)


def guests_mark(seq: int, user: str, room: str = "lobby") -> Entry:
    return Entry("read", room, user, user.title(), seq=seq, lapses=True)


def followed(room: str, user: str = "alice", level: str = "everything", key: str = "", *, by: str = "") -> Entry:
    """That `user` follows `room`; `by`: who has invited them."""
    who = by or user
    key = f"={key or next(numbers)}"
    return Entry("followed", f"~{user}", who, who.title(), key=key, about=room, level=level)


def unfollowed(room: str, user: str = "alice", key: str = "") -> Entry:
    return Entry("unfollowed", f"~{user}", user, user.title(), key=f"={key or next(numbers)}", about=room)


def begun(id: str = "re:1", user: str = "bot", room: str = "lobby", home: str = "here", **more: Any) -> Begin:
    return Begin(room, user, user.title(), id=id, home=home, **more)


def finished(
    target: int,
    text: str,
    user: str = "bot",
    room: str = "lobby",
    *,
    key: str = "",
    reason: Reason = "done",
    gen: int = 1,
    home: str = "here",
    **more: Any,
) -> Finish:
    key = key or f"hidden-{next(numbers)}"
    return Finish(
        room, user, user.title(), key=key, target=target, text=text, reason=reason, gen=gen, home=home, **more
    )


async def append(log: Log, *batch: Entry) -> list[Appended]:
    """Append what must all succeed."""
    outcomes = await log.append(batch)
    assert len(outcomes) == len(batch)
    done = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    assert len(done) == len(batch), [str(outcome) for outcome in outcomes]
    return done


async def refused(log: Log, entry: Entry) -> ChatError:
    (outcome,) = await log.append([entry])
    assert isinstance(outcome, ChatError)
    return outcome


def plain(data: Data) -> Data:
    """An event, or a message of the history, as a client decodes it."""
    decoded: Data = orjson.loads(JSON.encode(data))
    return decoded


async def everything(log: Log, room: str = "lobby") -> list[Data]:
    """The room's events, a page at a time; they must be numbered 1, 2, 3 ..."""
    events: list[Data] = []
    while page := await log.read(room, len(events), max_events=100, max_bytes=MIB):
        for event in page:
            assert event.seq == event.data["seq"] == len(events) + 1
            events.append(plain(event.data))
    assert await log.heads([room]) == {room: len(events)}
    return events


async def past(log: Log, room: str = "lobby") -> list[Data]:
    """The room's messages as they are now, through pages of history."""
    messages: list[Data] = []
    before: int | None = None
    while True:
        page, more = await log.history(room, before=before, limit=7, max_bytes=MIB)
        messages = [*map(plain, page), *messages]
        if not more:
            return messages
        before = page[0]["seq"]
