"""The rooms of this process: opened, found, forgotten; who is admitted to them, and what the broker tells of them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from tornado_chat.broker import Broker, Change
from tornado_chat.errors import LogReplaced
from tornado_chat.live.fanout import Direct
from tornado_chat.live.growing_elsewhere import GrowingElsewhere
from tornado_chat.live.limits import AddressAccount, RoomLimits
from tornado_chat.live.line import Line
from tornado_chat.live.lookup import Lookup
from tornado_chat.live.member import Member, Memberships
from tornado_chat.live.presence import PresenceTracker
from tornado_chat.live.room import Room
from tornado_chat.live.room_growing import Pace, RoomGrowing
from tornado_chat.live.room_signals import RoomSignals
from tornado_chat.live.shared import Shared
from tornado_chat.log import Log, own
from tornado_chat.metrics import Metrics
from tornado_chat.wire.commands import Join
from tornado_chat.wire.events import Data, Event
from tornado_chat.wire.replies import Chunk, Joined, OwnState, Signal, Status, Stop, Typing

FLUSH_SECONDS = 10.0
"""A join that waits longer than this for the room to have delivered what the log has is answered `unavailable`."""

CLEARED = 1000
"""Events of a closed room's ring that are let go in one loop turn."""

SIGNAL_ROOMS = 10_000
"""Rooms that are not open here of which is known who types there, or has a status; of more, nobody is told."""

POLL_SECONDS = 5
"""How often the log is asked for the heads of the rooms here: finds what was committed and never announced. Each second
while the broker is away, and after a commit with an unknown outcome."""


class Writers(Protocol):
    """Who has the messages that grow here: as the methods of `Receiver` say."""

    def on_wanted(self, room: str, seq: int, gen: int, offset: int) -> None: ...

    def on_moved(self) -> None: ...

    def on_stop(self, user: str, told: Stop) -> None: ...


class Hub:
    """All rooms that have members here. The server calls `stop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: Log,
        broker: Broker,
        uid: str,
        metrics: Metrics,
        direct: Direct,
        *,
        high_water_mark: int,
        ring_bytes: int,
        limits: RoomLimits,
    ) -> None:
        """`uid` names this process to the others; `direct` are the lines of its members that are."""
        self.shared = Shared(loop, log, broker, metrics, direct, high_water_mark=high_water_mark, ring_bytes=ring_bytes)
        self.log = log
        self.broker = broker
        self.metrics = metrics
        self.limits = limits
        self.tasks = self.shared.tasks
        self.rooms: dict[str, Room] = {}
        self.presence = PresenceTracker(self.shared, self.rooms, uid)
        self.heads = Lookup(self.tasks, self.shared.turns, log.heads, 0)
        self.openings = Lookup(self.tasks, self.shared.turns, log.openings, (0, False))
        self.marks = Lookup(self.tasks, self.shared.turns, log.marks, 0)
        self.signals: dict[str, RoomSignals] = {}  # in rooms that are not open here: members are elsewhere
        self.growing: dict[str, RoomGrowing] = {}  # by room, open here or not
        self.pace = Pace()
        self.elsewhere = GrowingElsewhere(self.shared, self.rooms, self.growing, self.pace, uid)
        self.writers: Writers | None = None  # of what grows here
        self.poll_wanted = asyncio.Event()  # the heads are to be asked for now, not at the next turn

    async def stop(self) -> None:
        """End what still runs beside the callbacks; members are the server's to close first."""
        for signals in self.signals.values():
            signals.shut()
        await self.tasks.stop()

    # Rooms

    def open_room(self, name: str) -> Room:
        """The room, perhaps still waiting for its head: `await room.opened`, which raises LogUnavailable."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room(self.shared, name, self._close_room)
            signals = self.signals.pop(name, None)
            if signals is not None:
                room.signals.take_over(signals)
            self.elsewhere.open(room)
            self.tasks.spawn(self._open(room))
        return room

    async def _open(self, room: Room) -> None:
        try:
            await self.broker.subscribe(room.name)  # before the head: what comes after it is heard
            head, grows = await self.openings.get(room.name)
            if grows:
                await self.elsewhere.load(room)
        except Exception as error:
            del self.rooms[room.name]
            room.shut()
            self.broker.unsubscribe(room.name)
            room.opened.set_exception(error)
            room.opened.exception()  # whoever waits gets it; nobody may be left
        else:
            room.open(head)
            if room.growing is not None:
                room.growing.want_now()  # what came meanwhile
            self.presence.ask(room)
            room.release()

    def _close_room(self, room: Room) -> None:
        """Forget a room that nobody needs."""
        if room.opened.done() and self.rooms.get(room.name) is room:
            del self.rooms[room.name]
            self.presence.close_room(room)
            self.broker.unsubscribe(room.name)
            room.shut()
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

    # Messages that grow

    def grow(self, name: str) -> RoomGrowing:
        """What grows in the room."""
        return self.elsewhere.grow(name)

    # Members

    async def admit(
        self,
        member: Member,
        join: Join,
        mark: int,
        memberships: Memberships,
        address: AddressAccount,
        state: OwnState | None = None,
    ) -> None:
        """Make `member` one of the room that `join` names: `joined` is written, then what it lacks, then what happens.

        `mark` is its user's read mark in the room, as the log has just told it; `state` that of the own log, at the
        cursor of `join`. The member takes its place among the
        `memberships` of its session, where an older one of the same room ends. The room is counted for `address`.
        ChatError: one too many; LogUnavailable, TimeoutError: the log does not answer.
        """
        name = join.room
        self.limits.take(address, name, self.rooms)
        try:
            room = self.open_room(name)
            room.holds += 1
            try:
                if not room.opened.done():
                    await asyncio.shield(room.opened)  # shared with others who join
                target = room.head
                known = max(join.after or 0, mark)  # perhaps by another process, of what was not told here yet
                if known > target:
                    target = min(known, await self.heads.get(name))
                    room.mend(target)
                if room.flushed < target:
                    async with asyncio.timeout(FLUSH_SECONDS):
                        while room.flushed < target:
                            await room.flush_begun()
                self._enter(room, member, join, mark, memberships, address, state, now=False)
            finally:
                room.holds -= 1
                room.release()
        except BaseException:
            if memberships.get(name) is not member:
                address.leave_room(name)
            raise

    def admit_at_once(
        self, member: Member, join: Join, mark: int, memberships: Memberships, address: AddressAccount
    ) -> bool:
        """As `admit`, with the first of what the member lacks; False, with nothing done, if one would have to wait."""
        name = join.room
        room = self.rooms.get(name)
        if room is None or room.head < 0 or not room.flushed == room.head >= max(join.after or 0, mark):
            return False
        self.limits.take(address, name, self.rooms)
        room.holds += 1  # the older membership may be its only one
        try:
            self._enter(room, member, join, mark, memberships, address, None, now=True)
        except BaseException:
            if memberships.get(name) is not member:
                address.leave_room(name)
            raise
        finally:
            room.holds -= 1
            room.release()
        return True

    def _enter(
        self,
        room: Room,
        member: Member,
        join: Join,
        mark: int,
        memberships: Memberships,
        address: AddressAccount,
        state: OwnState | None,
        *,
        now: bool,
    ) -> None:
        """Write `joined` and what can be said with it in one system call; `now`: the first of what it lacks, too."""
        head, after = room.flushed, join.after
        if after is None:
            after = head - (join.last or 0)
        member.cursor = max(0, min(after, head))
        self.leave(room.name, memberships, address)
        epoch = self.log.epoch
        member.line.cork()
        try:
            cursor, encoding = member.cursor, member.encoding
            name = own.shown(room.name)
            if state is not None:  # it is true at the cursor, and what has happened since comes as events
                head = cursor
            joined = Joined(id=join.id, room=name, head=head, cursor=cursor, read=mark, epoch=epoch, state=state)
            member.line.write(encoding.wrap_at(encoding.codec.encode(joined), cursor))
            member.room = room.name
            memberships.add(member)
            if room.enter(member, now=now):
                self.presence.enter(room, member.user, member.name)
        finally:
            member.line.uncork()

    def leave(self, name: str, memberships: Memberships, address: AddressAccount) -> None:
        """End the membership of the room, if there is one."""
        member = memberships.remove(name)
        if member is not None:
            address.leave_room(name)
            room = self.rooms[name]
            if room.leave(member):
                self.presence.leave(room, member.user)
            room.release()

    def drained(self, memberships: Memberships) -> None:
        """The line of these takes bytes again: those that are behind are fed."""
        for member in memberships:
            if member.state:
                self.rooms[member.room].feed_soon(member)

    # Receiver: what the broker tells

    def on_events(self, room: str, events: list[Data]) -> None:
        found = self.rooms.get(room)
        if found is None:
            return
        if found.is_full:
            found.mend(events[-1]["seq"])  # its sender cannot be stopped: fetched when the room has flushed
            return
        for data in events:
            seq = data["seq"]
            if seq > found.head:
                if "streaming" in data and found.head >= 0:
                    self.elsewhere.begin(found, data)
                found.deliver(Event(seq, data))

    def on_head(self, room: str, seq: int) -> None:
        found = self.rooms.get(room)
        if found is not None:
            found.mend(seq)

    def on_signal(self, room: str, signal: Signal, not_for: str | None) -> None:
        found = self.rooms.get(room)
        if found is not None:
            if isinstance(signal, Typing | Status):
                found.signals.heard_elsewhere(signal)
            found.signal(signal, not_for)

    def on_presence(self, room: str, change: Change) -> None:
        found = self.rooms.get(room)
        if found is not None:
            self.presence.on_change(found, change)

    def on_appended(self, room: str, worker: str, chunks: list[Chunk]) -> None:
        found = self.rooms.get(room)
        if found is not None:
            self.elsewhere.on_appended(found, worker, chunks)

    def on_wanted(self, room: str, seq: int, gen: int, offset: int) -> None:
        if self.writers is not None:
            self.writers.on_wanted(room, seq, gen, offset)

    def on_moved(self) -> None:
        if self.writers is not None:
            self.writers.on_moved()

    def on_stop(self, user: str, told: Stop) -> None:
        if self.writers is not None:
            self.writers.on_stop(user, told)

    def on_refused(self) -> None:
        self.poll_wanted.set()

    def on_link(self) -> None:
        self.poll_wanted.set()
        self.presence.renew_soon()

    def signal(self, room: str, signal: Signal, not_for: str | None = None) -> None:
        """Tell the live members of `room`, in all processes, something that may be lost."""
        self.on_signal(room, signal, not_for)
        self.broker.publish_signal(room, signal, not_for)

    def set_signal(self, signal: Typing | Status, line: Line | None) -> None:
        """As `RoomSignals.set`, also where the room is not open here."""
        found = self.rooms.get(signal.room)
        signals = found.signals if found is not None else self.signals.get(signal.room)
        if signals is None:
            if not self.broker.carries or len(self.signals) >= SIGNAL_ROOMS:
                return  # nobody to tell, or not kept
            signals = self.signals[signal.room] = RoomSignals(self.shared, partial(self._tell_signal, signal.room))
        signals.set(signal, line)
        if found is None and not signals.lasting:
            self._forget_signals(signal.room)

    def _tell_signal(self, room: str, signal: Signal, not_for: str | None) -> None:
        self.signal(room, signal, not_for)
        if not self.signals[room].lasting:
            self._forget_signals(room)

    def _forget_signals(self, room: str) -> None:
        signals = self.signals.pop(room, None)
        if signals is not None:
            signals.shut()
