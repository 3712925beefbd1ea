"""The rooms that one stream, or one poll, brings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tornado_chat.wire.events import Data

ROOMS = 100
"""Of one request: no server takes more."""


class Asked:
    """A room, and where its events are to go on."""

    __slots__ = ("after", "id", "last", "room", "started", "synced")

    def __init__(self, join: Data) -> None:
        self.room: str = join["room"]
        self.id: str = join.get("id", "")  # of the join; empty until it comes
        self.after: int | None = join.get("after")  # the last seq that was passed on; None until `joined` tells
        self.last: int | None = join.get("last")
        self.started = self.synced = False  # a poll has told `joined`, and `synced`

    def field(self) -> Data:
        """What asks for it in `POST /v1/events`."""
        where = {"after": self.after, "last": self.last if self.after is None else None}
        return {"room": self.room, **{key: value for key, value in where.items() if value is not None}}

    def pass_by(self, message: Data) -> None:
        """An event was passed on."""
        if self.after is None or message["seq"] > self.after:
            self.after = message["seq"]

    def claim(self, join: Data) -> bool:
        """Let `join` have what was asked for before it came, if that is enough for it; seq drops the rest."""
        after = join.get("after")
        if self.after is None or after is None:
            fits = self.after is after and self.last == join.get("last")
        else:
            fits = self.after <= after
        if self.id or not fits:
            return False
        self.id, self.after = join["id"], after
        return True


class Portion:
    """Up to ROOMS rooms; `changed` is set while the request that is under way asks for others."""

    __slots__ = ("changed", "rooms")

    def __init__(self, joins: Sequence[Data] = ()) -> None:
        self.rooms = {join["room"]: Asked(join) for join in joins}
        self.changed = asyncio.Event()

    def join(self, join: Data) -> None:
        asked = self.rooms.get(join["room"])
        if asked is None or not asked.claim(join):
            self.rooms[join["room"]] = Asked(join)
            self.changed.set()

    def leave(self, room: str) -> None:
        if self.rooms.pop(room, None) is not None:
            self.changed.set()

    def drop_unclaimed(self) -> None:
        """What was asked for and left again while the transport opened."""
        for asked in list(self.rooms.values()):
            if not asked.id:
                self.leave(asked.room)

    def forget(self, asked: Asked) -> None:
        """The server refused it, so that the request under way does not ask for it."""
        if self.rooms.get(asked.room) is asked:
            del self.rooms[asked.room]
