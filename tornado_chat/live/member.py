"""One session in one room, its cursor, and the page of the log that it is fed from; those of one session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from tornado_chat.live.growing import Told
from tornado_chat.live.line import Line
from tornado_chat.wire.encodings import Encoding
from tornado_chat.wire.events import Event

LIVE, CATCHING, GONE = 0, 1, 2


class Page:
    """Events from the log for members that are behind. It holds a permit until the last of them lets go of it."""

    __slots__ = ("events", "held", "holders", "permits")

    def __init__(self, permits: asyncio.Semaphore, held: set[Page]) -> None:
        self.permits = permits
        self.held = held  # the room's pages; this one is among them while somebody holds it
        self.holders = 0
        self.events: list[Event] = []

    def after(self, seq: int, last: int) -> list[Event]:
        """The events seq+1 to `last`, as far as they are here; none if seq+1 is not."""
        if not self.events or not self.events[0].seq <= seq + 1 <= self.events[-1].seq:
            return []
        start = seq + 1 - self.events[0].seq
        return self.events[start : start + last - seq]


class Member:
    """`cursor` is the last seq that was written to it; a live member's is the room's `flushed` and not kept here."""

    __slots__ = ("cursor", "due", "encoding", "has", "line", "name", "page", "place", "room", "state", "synced", "user")

    def __init__(self, line: Line, user: str, name: str, encoding: Encoding) -> None:
        self.line = line
        self.user = user
        self.name = name
        self.encoding = encoding
        self.room = ""  # its name, once it has entered
        self.cursor = 0
        self.state = GONE  # until it enters a room
        self.place = 0  # in its group, while it is live
        self.due = False  # it stands in the queue for its next chunk
        self.page: Page | None = None
        self.synced = False  # it was told so, and lacks nothing but text of messages that grow
        self.has: Told | None = None  # what it was told of these, while it is not live

    def write(self, reply: Any) -> None:
        self.line.write(self.encoding.frame(reply))

    def take_page(self, page: Page) -> None:
        self.drop_page()
        page.holders += 1
        page.held.add(page)
        self.page = page

    def drop_page(self) -> None:
        page, self.page = self.page, None
        if page is not None:
            page.holders -= 1
            if not page.holders:
                page.held.discard(page)
                page.permits.release()


class Memberships:
    """Those of one session, by room. Most sessions are in one room: a dict of one, 190 bytes, comes with a second."""

    __slots__ = ("_many", "_one")

    def __init__(self) -> None:
        self._one: Member | None = None
        self._many: dict[str, Member] | None = None

    def __len__(self) -> int:
        return len(self._many) if self._many is not None else int(self._one is not None)

    def __iter__(self) -> Iterator[Member]:
        """Nobody may be added or removed meanwhile."""
        if self._many is not None:
            yield from self._many.values()
        elif self._one is not None:
            yield self._one

    def get(self, room: str) -> Member | None:
        if self._many is not None:
            return self._many.get(room)
        one = self._one
        return one if one is not None and one.room == room else None

    def add(self, member: Member) -> None:
        """There is none of its room."""
        if self._many is not None:
            self._many[member.room] = member
        elif self._one is None:
            self._one = member
        else:
            self._many = {self._one.room: self._one, member.room: member}
            self._one = None

    def remove(self, room: str) -> Member | None:
        """The one that was there."""
        if self._many is not None:
            return self._many.pop(room, None)
        member = self.get(room)
        if member is not None:
            self._one = None
        return member
