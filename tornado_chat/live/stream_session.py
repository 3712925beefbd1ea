"""The session of who reads a stream: what it says is said in its request, which rooms it joins."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from tornado_chat.auth import Identity
from tornado_chat.errors import TRANSIENT_ERRORS, ChatError, CloseCode, retry_reason
from tornado_chat.live.context import Context
from tornado_chat.live.limits import AddressAccount
from tornado_chat.live.session import Session
from tornado_chat.wire.commands import Join
from tornado_chat.wire.encodings import Encoding

_RETRY_SECONDS = 5.0  # after an error that tells no time
_SPREAD_MS = 1000


class StreamSession(Session):
    """A join that fails for now cannot be sent again on a stream: the stream ends when it may succeed."""

    __slots__ = ("_ending",)

    def __init__(self, context: Context, identity: Identity, address: AddressAccount, encoding: Encoding) -> None:
        super().__init__(context, identity, address, encoding)
        self._ending: asyncio.TimerHandle | None = None

    def cursors(self, joins: Sequence[Join]) -> bytes:
        """The line that tells up to where the line was written each room of `joins`.

        Of one that is not joined it is where it is to begin. Empty while no room has a cursor: an id without one would
        take the client's own away.
        """
        rooms = self.context.hub.rooms
        cursors = {}
        for join in joins:
            member = self.members.get(self.inner(join.room))
            if member is not None:
                cursors[join.room] = rooms[member.room].written(member)
            elif join.after is not None:
                cursors[join.room] = join.after
        return self.context.streams.cursors(cursors) if cursors else b""

    def on_closed(self, code: int, reason: str) -> None:
        if self._ending is not None:
            self._ending.cancel()
        super().on_closed(code, reason)

    def _refuse(self, error: ChatError, id: str | None, room: str | None = None, stream: str | None = None) -> None:
        super()._refuse(error, id, room, stream)
        if error.code in TRANSIENT_ERRORS and self._ending is None and not self.line.closing:
            seconds = error.retry_after or _RETRY_SECONDS
            reason = retry_reason(random.randint(0, _SPREAD_MS))
            loop = self.context.hub.shared.loop
            self._ending = loop.call_later(seconds, self.line.close, CloseCode.SERVICE_RESTART, reason)
