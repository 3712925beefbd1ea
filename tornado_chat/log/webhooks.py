"""Endpoints that are told of events, as the log's database has them: which there are, and how far each is in each room.

The rows are few, and no client waits for them. A process that delivers has a connection of its own for them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tornado_chat.auth import matches
from tornado_chat.log import own

WEBHOOKS = 32
"""Endpoints that there may be: each looks for what it was not told yet."""

PAGE = 5000
"""Rooms of one transaction while an endpoint is made or removed."""

MAKING, ACTIVE, GIVEN_UP, REMOVING = "making", "active", "given up", "removing"

EVENTS = ("message", "finished", "edited", "deleted", "reacted")
"""The types of events that an endpoint can be told of."""


def is_wanted(patterns: Sequence[str], room: str) -> bool:
    """Whether an endpoint with these patterns is told of `room`; nobody is told of a log of one's own."""
    return not own.is_own(room) and any(matches(pattern, room) for pattern in patterns)


class Webhook:
    """One endpoint; times are in ms since 1970.

    `rooms` are patterns, `events` types. `former_secret` signs beside `secret` until `former_until`. `failing`: since
    when nothing was taken, None where the last attempt was a success; `error` says what the last one was. `fence` is
    how often another process began to deliver.
    """

    __slots__ = (
        "created",
        "error",
        "events",
        "failing",
        "fence",
        "former_secret",
        "former_until",
        "id",
        "rooms",
        "secret",
        "state",
        "url",
    )

    def __init__(
        self,
        id: int,
        url: str,
        rooms: list[str],
        events: list[str],
        secret: str,
        former_secret: str | None,
        former_until: int | None,
        created: int,
        state: str,
        failing: int | None,
        error: str | None,
        fence: int,
    ) -> None:
        self.id = id
        self.url = url
        self.rooms = rooms
        self.events = events
        self.secret = secret
        self.former_secret = former_secret
        self.former_until = former_until
        self.created = created
        self.state = state
        self.failing = failing
        self.error = error
        self.fence = fence


class Behind:
    """A room with events that an endpoint was not told: those after `seq`, up to `head`.

    The event after `seq` was refused `attempts` times, since `failing`; the next attempt is at `retry_at`. `given_up`:
    there is none any more. Times are in ms since 1970.
    """

    __slots__ = ("attempts", "failing", "given_up", "head", "id", "name", "retry_at", "seq")

    def __init__(
        self,
        id: int,
        name: str,
        head: int,
        seq: int = 0,
        failing: int | None = None,
        attempts: int = 0,
        retry_at: int = 0,
        given_up: int | None = None,
    ) -> None:
        self.id = id
        self.name = name
        self.head = head
        self.seq = seq
        self.failing = failing
        self.attempts = attempts
        self.retry_at = retry_at
        self.given_up = given_up


class Lag:
    """How far an endpoint is behind: `events` in `rooms`, and in how many rooms it was given up."""

    __slots__ = ("events", "given_up", "rooms")

    def __init__(self, events: int, rooms: int, given_up: int) -> None:
        self.events = events
        self.rooms = rooms
        self.given_up = given_up


class Found:
    """What `Webhooks.behind` found: `rooms`, and `last`, the greatest id of those looked at; None: these were all."""

    __slots__ = ("last", "newest", "rooms")

    def __init__(self, rooms: list[Behind], last: int | None, newest: int) -> None:
        self.rooms = rooms
        self.last = last
        self.newest = newest


class Webhooks(Protocol):
    """Every method raises LogUnavailable when the database cannot answer, and waits for a limited time only."""

    async def add(self, url: str, rooms: Sequence[str], events: Sequence[str], secret: str) -> int | None:
        """A new endpoint, which is told of what is committed after this has returned, and of nothing before the call.

        Its id; None if there are WEBHOOKS already.
        """
        ...

    async def all(self) -> list[Webhook]:
        """All that there are, by id."""
        ...

    async def lag(self, webhook: Webhook) -> Lag:
        """Looks at every room."""
        ...

    async def remove(self, id: int) -> bool:
        """Whether there was one."""
        ...

    async def resume(self, id: int, *, skip: bool) -> bool:
        """Let it go on where it stopped, or was refused, at once; whether there is one.

        `skip`: behind the event that was refused, in each room where one was.
        """
        ...

    async def rotate(self, id: int, secret: str, seconds: float) -> bool:
        """Sign with `secret`, and for so long with the one before, too; whether there is one."""
        ...

    async def claim(self, holder: str, seconds: float) -> list[Webhook]:
        """Take what is active and no other process delivers to, and keep what `holder` has, for so many seconds.

        By the clock of the database. Those that it has.
        """
        ...

    async def release(self, holder: str) -> None:
        """Another process may have what `holder` has at once."""
        ...

    async def version(self) -> str:
        """Equal to that of before where no other process has committed anything since."""
        ...

    async def behind(self, webhook: Webhook, after: int, limit: int, newest: int, also: Collection[int]) -> Found:
        """Rooms in which the endpoint lacks events, and has not been given up; none if it was removed.

        Looks at the first `limit` rooms with an id > `after`, at those with an id > `newest`, and at `also`.
        """
        ...

    async def move(
        self, webhook: Webhook, rooms: Sequence[Behind], *, failing: int | None, error: str | None, state: str
    ) -> bool:
        """Keep how far the endpoint is in `rooms`, and how it is itself, in one transaction.

        False, and nothing is kept, if another process delivers to it now, or it is not active any more.
        """
        ...

    async def close(self) -> None: ...
