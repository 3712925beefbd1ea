"""One session in one room, and its cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tornado_chat.wire.events import Event

if TYPE_CHECKING:
    from tornado_chat.live.session import Session

LIVE, CATCHING, GONE = 0, 1, 2


class Member:
    """`cursor` is the last seq that was written to it; a live member's is the room's `flushed` and not kept here."""

    __slots__ = ("connection", "cursor", "due", "page", "session", "state")

    def __init__(self, session: Session, cursor: int) -> None:
        self.session = session
        self.connection = session.connection
        self.cursor = cursor
        self.state = CATCHING
        self.due = False  # it stands in the hub's queue for its next chunk
        self.page: list[Event] | None = None  # events from the log that it shall be fed next
