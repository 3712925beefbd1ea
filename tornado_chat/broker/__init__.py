"""The news between processes: what a broker carries, and what nobody may trust it with.

The log is the truth. What a broker loses, doubles or reorders is found by the rooms, which number, drop and fetch; so
a publish is never waited for, and a broker that is away costs time, not messages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from tornado_chat.wire.events import Data, Event
from tornado_chat.wire.replies import Chunk, Signal, Stop

LAPSE_SECONDS = 20
"""How long a process counts as alive that gives no sign of it."""

EVERYBODY = "!"
"""The channel that each process hears, whichever rooms it has: named as no room is."""


def channel_to(worker: str) -> str:
    """The channel that one process hears."""
    return EVERYBODY + worker


class Change:
    """What changed in a room's presence in the process `worker`: its version `after` became `version`.

    `joined` has names by user id, `left` has user ids. `after` 0: `joined` is all that the process has, or nothing.
    """

    __slots__ = ("after", "joined", "left", "version", "worker")

    def __init__(self, worker: str, version: int, after: int, joined: dict[str, str], left: Collection[str]) -> None:
        self.worker = worker
        self.version = version
        self.after = after
        self.joined = joined
        self.left = left


Records = dict[str, tuple[int, dict[str, str] | None]]
"""Of one room, by worker: its version and its users (names by id); None for users that are known already. A worker that
has died may be among them."""


class Receiver(Protocol):
    """Who gets the news; plain calls on the event loop. A process does not get its own."""

    def on_events(self, room: str, events: list[Data]) -> None:
        """Committed events of `room`: ascending, without holes among themselves; late, doubled or out of order."""
        ...

    def on_head(self, room: str, seq: int) -> None:
        """The log holds the events of `room` up to `seq`; said in place of events that were too big to be sent."""
        ...

    def on_signal(self, room: str, signal: Signal, not_for: str | None) -> None:
        """For the live members of `room`, but for the user `not_for`."""
        ...

    def on_presence(self, room: str, change: Change) -> None: ...

    def on_appended(self, room: str, worker: str, chunks: list[Chunk]) -> None:
        """What messages of `room` grew by, which the process `worker` has: late, doubled, or with what is missing."""
        ...

    def on_wanted(self, room: str, seq: int, gen: int, offset: int) -> None:
        """Another process lacks what a message that grows here has from the code point `offset` on."""
        ...

    def on_moved(self) -> None:
        """A message that grew here may grow in another process: the log is to be asked."""
        ...

    def on_stop(self, user: str, told: Stop) -> None:
        """A message of `user` is to end: for all sessions of that user, and the process that has it."""
        ...

    def on_refused(self) -> None:
        """Something came that nobody may say here, or that this version cannot read: the log is to be asked.

        Said at most once a second.
        """
        ...

    def on_link(self) -> None:
        """A link is back, or was found deaf: what was published meanwhile may be missing, so the log is to be asked."""
        ...


class Broker(Protocol):
    """Publishing is a plain call that never waits and never raises; its queue is bounded."""

    @property
    def carries(self) -> bool:
        """There may be somebody to tell, and records of presence; False for a process without Redis."""
        ...

    def counts(self) -> dict[str, int]:
        """Messages since the start, by what became of them."""
        ...

    @property
    def available(self) -> bool:
        """Every link hears. While it is False, the heads are to be polled often."""
        ...

    async def start(self, receiver: Receiver) -> None:
        """Begin to connect. Returns after a short time limit at the latest: a broker that is away stops no start."""
        ...

    async def subscribe(self, room: str) -> None:
        """Returns when all that is published from now on will be received; while the broker is away, at once.

        After a time limit at the latest; does not raise for a broker that is away.
        """
        ...

    def unsubscribe(self, room: str) -> None: ...

    def publish_events(self, room: str, events: Sequence[Event]) -> None:
        """Tell the other processes what was committed; ascending, without holes."""
        ...

    def publish_signal(self, room: str, signal: Signal, not_for: str | None) -> None: ...

    def publish_appended(self, room: str, worker: str, chunks: Sequence[Chunk]) -> None:
        """Tell the others what messages that the process `worker`, this one, has grew by."""
        ...

    def publish_wanted(self, worker: str, room: str, seq: int, gen: int, offset: int) -> None:
        """Ask `worker` to tell again what a message has from the code point `offset` on."""
        ...

    def publish_moved(self, worker: str) -> None:
        """Tell `worker` that a message has moved from there."""
        ...

    def publish_stop(self, user: str, told: Stop) -> None: ...

    def publish_presence(self, room: str, change: Change, users: Mapping[str, str]) -> None:
        """Record that the process of `change` has `users` now, and tell the other processes, in this order."""
        ...

    async def presence(self, rooms: Mapping[str, Mapping[str, int]]) -> dict[str, Records]:
        """The records of `rooms`, which name the versions that are known already, by worker.

        A room of which the broker does not tell is absent.
        """
        ...

    async def renew_presence(self, worker: str, version: int, rooms: Collection[str]) -> list[str]:
        """Give a sign of life of `worker`; `version` is greater than all that it said before.

        Returns those of `rooms`, all that are open here, whose records have to be written anew: they were lost.
        """
        ...

    async def signs(self, workers: Collection[str]) -> dict[str, int] | None:
        """The last sign of life of each of `workers`, a version; who gave none for LAPSE_SECONDS is absent.

        None: the broker does not tell.
        """
        ...

    async def close(self) -> None: ...
