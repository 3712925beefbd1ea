"""Brokers side by side, as in processes of their own, and a receiver that remembers what it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from tests.support.connections import until
from tornado_chat.broker import Change
from tornado_chat.broker.redis import RedisBroker
from tornado_chat.wire.events import Data, Event
from tornado_chat.wire.replies import Chunk, Signal, Stop, Typing

SECRET = b"a secret of brokers in tests"


class News:
    """A `Receiver`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []  # room and seq, one by one
        self.data: list[Data] = []  # of them
        self.heads: list[tuple[str, int]] = []
        self.signals: list[tuple[str, Signal, str | None]] = []
        self.changes: list[tuple[str, Change]] = []
        self.appended: list[tuple[str, str, Chunk]] = []  # one by one
        self.wanted: list[tuple[str, int, int, int]] = []
        self.moved = 0
        self.stops: list[tuple[str, Stop]] = []
        self.links = 0
        self.refused = 0

    def on_events(self, room: str, events: list[Data]) -> None:
        self.events += [(room, data["seq"]) for data in events]
        self.data += events

    def on_head(self, room: str, seq: int) -> None:
        self.heads.append((room, seq))

    def on_signal(self, room: str, signal: Signal, not_for: str | None) -> None:
        self.signals.append((room, signal, not_for))

    def on_presence(self, room: str, change: Change) -> None:
        self.changes.append((room, change))

    def on_appended(self, room: str, worker: str, chunks: list[Chunk]) -> None:
        self.appended += [(room, worker, chunk) for chunk in chunks]

    def on_wanted(self, room: str, seq: int, gen: int, offset: int) -> None:
        self.wanted.append((room, seq, gen, offset))

    def on_moved(self) -> None:
        self.moved += 1

    def on_stop(self, user: str, told: Stop) -> None:
        self.stops.append((user, told))

    def on_refused(self) -> None:
        self.refused += 1

    def on_link(self) -> None:
        self.links += 1


Process = tuple[RedisBroker, News]


@asynccontextmanager
async def processes(
    urls: Sequence[str], count: int = 2, *, epoch: str = "log", secret: bytes = SECRET
) -> AsyncIterator[list[Process]]:
    """So many started brokers with their receivers."""
    async with AsyncExitStack() as stack:
        started = []
        for _ in range(count):
            broker, news = RedisBroker(urls, epoch, secret), News()
            stack.push_async_callback(broker.close)
            await broker.start(news)
            started.append((broker, news))
        yield started


def event(room: str, seq: int, text: str = "hello") -> Event:
    data = {"type": "message", "room": room, "seq": seq, "n": seq, "user": "ann", "name": "Ann", "text": text, "ts": 1}
    return Event(seq, data)


def typing(room: str, user: str = "ann") -> Typing:
    return Typing(room=room, user=user, name=user.title(), on=True)


async def can_tell(sender: RedisBroker, receiver: News, room: str) -> None:
    """Publish signals, which may be lost, until one arrives."""
    before = len(receiver.signals)

    def tried() -> bool:
        sender.publish_signal(room, typing(room), None)
        return len(receiver.signals) > before

    await until(tried)
