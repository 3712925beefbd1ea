"""The rooms of this process, and the work that they share one loop for."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic

from tornado_chat.broker import Broker, Change
from tornado_chat.errors import LogReplaced
from tornado_chat.live.limits import TokenBucket
from tornado_chat.live.lookup import Lookup
from tornado_chat.live.member import CATCHING, Member
from tornado_chat.live.presence import PresenceTracker
from tornado_chat.live.ring import Budget
from tornado_chat.live.room import PENDING_EVENTS, Room
from tornado_chat.log import Log
from tornado_chat.metrics import Metrics
from tornado_chat.tasks import Tasks
from tornado_chat.wire.events import Data, Event

logger = logging.getLogger(__name__)

FEEDS, FEED_SECONDS = 16, 0.001
"""Chunks for members that catch up in one loop turn, over all rooms, and about how long they may take together."""

BATCH_BYTES = 64 * 1024
"""About this much of a room is written to one member at once, and never more than half the high-water mark."""

PAGE_READS = 8
"""Pages of the log that are on their way or held for members, over all rooms: bounds their memory."""

SIGNALS_A_SECOND = 200_000
"""Deliveries of signals (typing, read) in all rooms together; further ones are dropped: they may be lost."""

CLEARED = 1000
"""Events of a closed room's ring that are let go in one loop turn."""

POLL_SECONDS = 5
"""How often the log is asked for the heads of the rooms here: finds what was committed and never announced. Each second
while the broker is away, and after a commit with an unknown outcome."""


class Hub:
    """All rooms that have members here. `start` and `stop` belong to the server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: Log,
        broker: Broker,
        uid: str,
        metrics: Metrics,
        *,
        high_water_mark: int,
        ring_bytes: int,
    ) -> None:
        """`uid` names this process to the others."""
        self.loop = loop
        self.log = log
        self.broker = broker
        self.metrics = metrics
        self.high_water_mark = high_water_mark
        self.batch_bytes = min(BATCH_BYTES, high_water_mark // 2)
        self.budget = Budget(ring_bytes)
        self.rooms: dict[str, Room] = {}
        self.typing: set[Room] = set()
        self.signals = TokenBucket(SIGNALS_A_SECOND, SIGNALS_A_SECOND, monotonic())
        self.presence = PresenceTracker(self, uid)
        self.heads = Lookup(self, log.heads)
        self.marks = Lookup(self, log.marks)
        self.page_reads = asyncio.Semaphore(PAGE_READS)
        self.tasks = Tasks()
        self.poll_wanted = asyncio.Event()  # the heads are to be asked for now, not at the next turn
        self._flushing: deque[Room] = deque()
        self._flush_due = False
        self._feeding: deque[tuple[Member, Room]] = deque()
        self._feed_due = False

    async def stop(self) -> None:
        """End what still runs beside the callbacks; members are the server's to close first."""
        await self.tasks.stop()

    # Rooms

    def open_room(self, name: str) -> Room:
        """The room, perhaps still waiting for its head: `await room.opened`, which raises LogUnavailable."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(self, name)
            self.tasks.spawn(self._open(room))
        return room

    async def _open(self, room: Room) -> None:
        try:
            await self.broker.subscribe(room.name)  # before the head: what comes after it is heard
            head = await self.heads.get(room.name)
        except Exception as error:
            del self.rooms[room.name]
            room.shut()
            self.broker.unsubscribe(room.name)
            room.opened.set_exception(error)
            room.opened.exception()  # whoever waits gets it; nobody may be left
        else:
            room.open(head)
            self.presence.ask(room)
            room.release()

    def close_room(self, room: Room) -> None:
        """Forget a room without members; called by the room itself."""
        if room.opened.done() and self.rooms.get(room.name) is room:
            del self.rooms[room.name]
            self.presence.close_room(room)
            self.broker.unsubscribe(room.name)
            room.shut()
            self.typing.discard(room)
            room.ring.clear(CLEARED)
            if len(room.ring):
                self.tasks.spawn(self._clear(room))

    async def _clear(self, room: Room) -> None:
        while len(room.ring):
            await asyncio.sleep(0)
            room.ring.clear(CLEARED)

    async def poll(self) -> None:
        """Ask the log for the heads of all rooms here, and let those that lack something fetch it.

        LogReplaced if it is not the log that it was, or has lost events that were delivered here.
        """
        epoch = await self.log.read_epoch()
        if epoch != self.log.epoch:
            raise LogReplaced(f"its epoch is {epoch} and was {self.log.epoch}")
        before = {room.name: room.head for room in self.rooms.values() if room.head >= 0}
        for name, head in (await self.log.heads(before) if before else {}).items():
            if head < before[name]:
                raise LogReplaced(f"{name} ends at {head} and ended at {before[name]}")
            room = self.rooms.get(name)
            if room is not None and head > room.head:
                room.expect(head)

    # Receiver: what the broker tells

    def on_events(self, room: str, events: list[Data]) -> None:
        found = self.rooms.get(room)
        if found is None:
            return
        if len(found.pending) >= PENDING_EVENTS:
            found.mend(events[-1]["seq"])  # its sender cannot be stopped: fetched when the room has flushed
            return
        for data in events:
            seq = data["seq"]
            if seq > found.head:
                found.deliver(Event(seq, data))

    def on_head(self, room: str, seq: int) -> None:
        found = self.rooms.get(room)
        if found is not None:
            found.mend(seq)

    def on_signal(self, room: str, data: Data, not_for: str | None) -> None:
        found = self.rooms.get(room)
        if found is not None:
            found.signal(data, not_for)

    def on_presence(self, room: str, change: Change) -> None:
        found = self.rooms.get(room)
        if found is not None:
            self.presence.on_change(found, change)

    def on_refused(self) -> None:
        self.poll_wanted.set()

    def on_link(self) -> None:
        self.poll_wanted.set()
        self.presence.renew_soon()

    def signal(self, room: str, data: Data, not_for: str | None = None) -> None:
        """Tell the live members of `room`, in all processes, something that may be lost."""
        self.on_signal(room, data, not_for)
        self.broker.publish_signal(room, data, not_for)

    def lapse_typing(self) -> None:
        now = monotonic()
        for room in list(self.typing):
            room.lapse_typing(now)
            if not room.typing:
                self.typing.discard(room)

    # Shares of the loop

    def flush_in_slices(self, room: Room) -> None:
        """A big room's flush: one slice in each loop turn, the big rooms in turn."""
        self._flushing.append(room)
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        try:
            room = self._flushing.popleft()
            if room.flush_slice():
                self._flushing.append(room)
        finally:
            self._flush_due = bool(self._flushing)
            if self._flush_due:
                # Every other turn only: a message passes through three turns from its arrival to its delivery.
                self.loop.call_soon(self.loop.call_soon, self._flush_turn)

    def feed_soon(self, member: Member, room: Room) -> None:
        """Let `member`, which is catching up, have its next chunk in a loop turn to come."""
        if member.due:
            return
        member.due = True
        self._feeding.append((member, room))
        if not self._feed_due:
            self._feed_due = True
            self.loop.call_soon(self._feed_turn)

    def _feed_turn(self) -> None:
        until = monotonic() + FEED_SECONDS
        try:
            for _ in range(min(FEEDS, len(self._feeding))):
                if monotonic() > until:
                    break
                member, room = self._feeding.popleft()
                member.due = False
                if member.state == CATCHING and room.catching is not None:
                    room.catching.feed(member)
        finally:
            self._feed_due = bool(self._feeding)
            if self._feed_due:
                self.loop.call_soon(self._feed_turn)
