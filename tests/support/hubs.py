"""A hub whose log is in memory, and lines that stall and take bytes when a test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence

from tornado_chat.broker.local import LocalBroker
from tornado_chat.errors import ChatError, LogUnavailable
from tornado_chat.live.fanout import NO_KEY, Direct
from tornado_chat.live.hub import Hub
from tornado_chat.live.limits import AddressAccount, RoomLimits, TokenBucket
from tornado_chat.live.member import Member, Memberships
from tornado_chat.log import Appended, Deliveries, Entry, Revocation, State
from tornado_chat.log.growing import Checkpoint, Grown, Held, Open, Orphan, Part
from tornado_chat.metrics import Metrics
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import Join
from tornado_chat.wire.encodings import websocket
from tornado_chat.wire.events import Data, Event
from tornado_chat.wire.replies import Left

MARK = 4096
PLAIN = websocket(JSON)


class MemoryLog:
    """The events of one room, and pages of them that come when they come: after some turns of the loop."""

    epoch = "e"

    def __init__(self) -> None:
        self.events: list[Data] = []
        self.reads = 0
        self.fail_next = False
        self.delay = 0

    def add(self, text: str, *, target: int | None = None) -> Event:
        seq = len(self.events) + 1
        data: Data = {"type": "message", "room": "r", "seq": seq, "text": text}
        if target is not None:
            data = {"type": "deleted", "room": "r", "seq": seq, "target": target}
            self.events[target - 1] = {"type": "message", "room": "r", "seq": target, "deleted": True}
        self.events.append(data)
        return Event(seq, dict(data))

    async def read(
        self, room: str, after: int, *, before: int | None = None, max_events: int, max_bytes: int
    ) -> list[Event]:
        self.reads += 1
        found = self.events[after : before - 1 if before is not None else None][: min(max_events, 7)]
        page = [Event(data["seq"], dict(data)) for data in found]
        for _ in range(self.delay):
            await asyncio.sleep(0)
        if self.fail_next:
            self.fail_next = False
            raise LogUnavailable("of the test")
        return page

    async def heads(self, rooms: Collection[str]) -> dict[str, int]:
        return dict.fromkeys(rooms, len(self.events))

    async def openings(self, rooms: Collection[str]) -> dict[str, tuple[int, bool]]:
        return dict.fromkeys(rooms, (len(self.events), False))

    async def marks(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        return {}

    async def floors(self, rooms: Collection[str]) -> dict[str, int]:
        raise NotImplementedError

    async def state(self, user: str) -> State:
        raise NotImplementedError

    async def append(self, batch: Sequence[Entry], limit: int | None = None) -> list[Appended | ChatError]:
        raise NotImplementedError

    async def history(self, room: str, *, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
        raise NotImplementedError

    async def checkpoint(self, home: str, parts: Sequence[Checkpoint]) -> list[bool]:
        raise NotImplementedError

    async def hand_over(self, home: str, parts: Sequence[Checkpoint]) -> None:
        raise NotImplementedError

    async def stop(self, room: str, seqs: Collection[int], by: str) -> None:
        raise NotImplementedError

    async def held(self, home: str) -> list[Held]:
        return []

    async def open(self, room: str, seq: int | None = None) -> list[Open]:
        return []

    async def growing(self, room: str | None = None) -> list[Grown]:
        return []

    async def parts(self, wanted: Sequence[Part]) -> list[str]:
        return [""] * len(wanted)

    async def orphan(self, home: str) -> list[Orphan]:
        return []

    async def lapsed(self) -> list[Open]:
        return []

    async def probe(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def revoke(self, jti: str) -> None:
        raise NotImplementedError

    async def sweep(self) -> bool:
        raise NotImplementedError

    def delays(self) -> dict[str, float]:
        return {}

    async def deliveries(self) -> Deliveries:
        return Deliveries(0, 0, 0)

    async def revocations(self, after: int) -> list[Revocation]:
        return []

    async def new_epoch(self) -> str:
        raise NotImplementedError

    async def read_epoch(self) -> str:
        return self.epoch


class Peer:
    """A line and its session in one: what was written, and an outbox that drains when it is told to.

    It joins and leaves as a session does: by the hub.
    """

    def __init__(self, hub: Hub, user: str) -> None:
        self.hub = hub
        self.user = user
        self.closing = False
        self.key = NO_KEY
        self.asked_bytes = 0
        self.written: list[Data] = []
        self.outbox_bytes = 0
        self.most = 0
        self.stalled = False
        self.closed = False
        self.drain_wanted = False
        self.memberships = Memberships()
        self.address = AddressAccount(TokenBucket(0, 0, 0))
        self.doing: asyncio.Task[None] | None = None
        self.everybody: list[Peer] = []

    @property
    def member(self) -> Member | None:
        return self.memberships.get("r")

    def write(self, data: bytes) -> None:
        frames = unframe(data)
        along = {frame["target"] for frame in frames if frame["type"] == "deleted"}
        for written in frames:
            self.written.append(written | {"along": True} if written.get("seq") in along else written)
            if written["type"] == "deleted":
                for peer in self.everybody:
                    peer.written.append({"type": "mark", "erased": written["target"]})
        if self.stalled:
            self.outbox_bytes += len(data)
            self.most = max(self.most, self.outbox_bytes)

    def sent(self, data: bytes, taken: int) -> None:
        raise AssertionError("it has no key")

    def cork(self) -> None: ...

    def uncork(self) -> None: ...

    def close(self, code: int, reason: str = "") -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def want_drained(self) -> None:
        self.drain_wanted = True
        if not self.stalled:
            self.hub.shared.loop.call_soon(self.drain)

    def drain(self) -> None:
        self.stalled = False
        self.outbox_bytes = 0
        if self.drain_wanted:
            self.drain_wanted = False
            self.hub.drained(self.memberships)

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` when what was begun before is done: as a session does with `join` and `leave`."""
        self.doing = self.hub.shared.loop.create_task(self._do(self.doing, work))

    async def _do(self, before: asyncio.Task[None] | None, work: Callable[[], Awaitable[None]]) -> None:
        if before is not None:
            await before
        await work()

    async def join(self, after: int | None, *, at_once: bool = False) -> None:
        """`at_once`: without a look-up, if the room allows it."""
        member, join = Member(self, self.user, "name", PLAIN), Join(room="r", after=after)
        mark = 0 if at_once else await self.hub.marks.get(("r", self.user))
        if not (at_once and self.hub.admit_at_once(member, join, mark, self.memberships, self.address)):
            await self.hub.admit(member, join, mark, self.memberships, self.address)

    async def leave(self) -> None:
        if self.member is not None:
            self.hub.leave("r", self.memberships, self.address)
            self.write(PLAIN.frame(Left(room="r")))

    @property
    def busy(self) -> bool:
        return self.doing is not None and not self.doing.done()


def unframe(data: bytes) -> list[Data]:
    found, at = [], 0
    while at < len(data):
        length = data[at + 1]
        at += 2
        if length == 126:
            length = int.from_bytes(data[at : at + 2], "big")
            at += 2
        found.append(json.loads(data[at : at + length]))
        at += length
    return found


def made_hub(log: MemoryLog, ring_bytes: int) -> Hub:
    loop, broker, limits = asyncio.get_running_loop(), LocalBroker(alone=True), RoomLimits(0, 0)
    return Hub(
        loop, log, broker, "here", Metrics(), Direct(), high_water_mark=MARK, ring_bytes=ring_bytes, limits=limits
    )


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
