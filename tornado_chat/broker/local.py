"""The broker of a process without Redis. It tells nobody anything; what others commit is found by polling the log."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tornado_chat.broker import Change, Receiver, Records
from tornado_chat.wire.events import Event
from tornado_chat.wire.replies import Chunk, Signal, Stop


class LocalBroker:
    """`Broker` of a process that is alone, or whose siblings share a log with it and nothing else."""

    def __init__(self, *, alone: bool) -> None:
        """`alone`: no other process writes the log."""
        self.available = alone
        self.carries = False

    def counts(self) -> dict[str, int]:
        return {}

    async def start(self, receiver: Receiver) -> None: ...

    async def subscribe(self, room: str) -> None: ...

    def unsubscribe(self, room: str) -> None: ...

    def publish_events(self, room: str, events: Sequence[Event]) -> None: ...

    def publish_signal(self, room: str, signal: Signal, not_for: str | None) -> None: ...

    def publish_appended(self, room: str, worker: str, chunks: Sequence[Chunk]) -> None: ...

    def publish_wanted(self, worker: str, room: str, seq: int, gen: int, offset: int) -> None: ...

    def publish_moved(self, worker: str) -> None: ...

    def publish_stop(self, user: str, told: Stop) -> None: ...

    def publish_presence(self, room: str, change: Change, users: Mapping[str, str]) -> None: ...

    async def presence(self, rooms: Mapping[str, Mapping[str, int]]) -> dict[str, Records]:
        return {}

    async def renew_presence(self, worker: str, version: int, rooms: Collection[str]) -> list[str]:
        return []

    async def signs(self, workers: Collection[str]) -> dict[str, int] | None:
        return None

    async def close(self) -> None: ...
