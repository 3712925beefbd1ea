"""Who is in a room, over all processes and devices.

Each process tells the others, by the broker, which users came to it and left it. The broker keeps the same as a record,
for whoever opens the room later; it counts for as long as its process gives signs of life. Without a broker each
process knows its own users. Members get one signal a second at most for a room.

What is true of a `RoomPresence` whenever the loop runs something else: `elsewhere` holds what each other process was
last heard to have; `came` and `went` are what the members here were not told yet, and no user is in both.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping

from tornado_chat.broker import LAPSE_SECONDS, Change, Records
from tornado_chat.live.room import Room
from tornado_chat.live.room_presence import Elsewhere, RoomPresence
from tornado_chat.live.shared import Shared
from tornado_chat.live.signs import Signs
from tornado_chat.log import own
from tornado_chat.wire.replies import Presence, User

logger = logging.getLogger(__name__)

SIGNAL_SECONDS = 1.0
"""Changes of so long a time are told as one, to members and to other processes."""

NAMED = 50
"""With more users in the room, or more that came or went, a signal tells their number only."""

CROWD, CROWD_SECONDS = 1000, 5.0
"""In a room with more users the number is told only so often: while 50,000 came to one room, telling all who were there
already each second took as much of the processor as their handshakes."""

RENEW_SECONDS = 5.0
"""How often a process gives a sign of life and looks for those of the others: after the kill of a whole machine the
rooms elsewhere are right again within this and LAPSE_SECONDS."""

REFRESH_SECONDS = 1200.0
"""In so long a time each room's record is written anew and those of the others are read, some rooms at each renewal.
So a process with many rooms costs Redis little (30,000 rooms: 25 of them a second), and no record lapses."""

SLICE = 64
"""Rooms that are looked at in one loop turn."""


class PresenceTracker:
    """The presence of all rooms here."""

    def __init__(self, shared: Shared, rooms: Mapping[str, Room], uid: str) -> None:
        """`rooms` are those that are open here; `uid` names this process to the others."""
        self.uid = uid
        self._shared = shared
        self._rooms = rooms
        self._changed: dict[Room, None] = {}  # rooms with something to tell
        self._to_ask: dict[Room, None] = {}  # rooms whose records are to be read
        self._asking = False
        self._last_version = 0
        self._renewed = 0.0  # by the loop's time
        self._compare_all = False
        self._unswept: list[str] = []  # names of rooms
        self._missing: dict[Room, None] = {}  # rooms where a record of a living process is missing
        self.signs = Signs(shared.loop, shared.broker, uid)

    # Here

    def enter(self, room: Room, user: str, name: str) -> None:
        """The first of the user's connections here has joined."""
        if own.is_own(room.name):
            return  # nobody else may see it
        here = room.presence
        here.names[user] = name
        here.arrived[user] = name
        here.departed.discard(user)
        if not here.is_elsewhere(user):
            here.note([(user, name)], ())
        self._changed[room] = None

    def leave(self, room: Room, user: str) -> None:
        """The last of the user's connections here has left."""
        if own.is_own(room.name):
            return
        here = room.presence
        name = here.names.pop(user)
        here.arrived.pop(user, None)
        here.departed.add(user)
        if not here.is_elsewhere(user):
            here.note((), [(user, name)])
        self._changed[room] = None

    def close_room(self, room: Room) -> None:
        """Nobody is here any more: the others are told at once."""
        self._changed.pop(room, None)
        here = room.presence
        if here.was_told:
            self._tell_gone(room.name, self.uid)
            here.version, here.was_told = 0, False

    def _tell_gone(self, room: str, uid: str) -> None:
        self._shared.broker.publish_presence(room, Change(uid, self._version(), 0, {}, ()), {})

    def _version(self) -> int:
        """A version greater than all before it: microseconds since 1970."""
        self._last_version = max(self._last_version + 1, time.time_ns() // 1000)
        return self._last_version

    # Elsewhere

    def on_change(self, room: Room, change: Change) -> None:
        """Another process tells what changed there."""
        here = room.presence
        known = here.elsewhere.get(change.worker)
        if known is not None and change.version <= known.version:
            return
        if not self.signs.hear(change.worker, change.version):
            return  # said before it died
        now = self._shared.loop.time()
        if not change.after:
            self._replace(room, change.worker, Elsewhere(change.version, dict(change.joined), now))
        elif known is not None and change.after == known.version:
            left = set(change.left)
            users = {user: name for user, name in known.users.items() if user not in left} | change.joined
            self._replace(room, change.worker, Elsewhere(change.version, users, now))
        else:
            self.ask(room)  # something of it was not heard

    def _replace(self, room: Room, worker: str, new: Elsewhere | None) -> None:
        here = room.presence
        old = here.elsewhere.pop(worker, None)
        before = old.users if old else {}
        after = new.users if new else {}
        came = [(user, name) for user, name in after.items() if user not in before]
        went = [(user, name) for user, name in before.items() if user not in after]
        came = [(user, name) for user, name in came if user not in here.names and not here.is_elsewhere(user)]
        went = [(user, name) for user, name in went if user not in here.names and not here.is_elsewhere(user)]
        if new is not None:
            here.elsewhere[worker] = new
        if (came or went) and here.compared:  # the first time all are new to us, but none of them has just come
            here.note(came, went)
            self._changed[room] = None

    def ask(self, room: Room) -> None:
        """Read the broker's records of the others in `room`; soon, and together with those of other rooms."""
        if self._shared.broker.carries and not own.is_own(room.name):
            self._to_ask[room] = None
            if not self._asking:
                self._asking = True
                self._shared.tasks.spawn(self._ask())

    async def _ask(self) -> None:
        try:
            while self._to_ask:
                rooms = [self._to_ask.popitem()[0] for _ in range(min(SLICE, len(self._to_ask)))]
                known = {room.name: self._known(room) for room in rooms}
                found = await self._shared.broker.presence(known)
                await self.signs.meet({worker for records in found.values() for worker in records})
                for room in rooms:
                    if room.name in found and self._rooms.get(room.name) is room:
                        self._compare(room, found[room.name], known[room.name])
        finally:
            self._asking = False

    def _known(self, room: Room) -> dict[str, int]:
        """The versions of all records that the room should have, this process's too."""
        here = room.presence
        known = {worker: other.version for worker, other in here.elsewhere.items() if other.users}
        if here.version and here.names:
            known[self.uid] = here.version
        return known

    def _compare(self, room: Room, found: Records, known: dict[str, int]) -> None:
        """Take over the `found` records of the room; `known` are the versions from before they were asked for."""
        here = room.presence
        now = self._shared.loop.time()
        for worker, (version, users) in found.items():
            other = here.elsewhere.get(worker)
            if other is not None and other.version >= version:
                other.missed = 0.0
            elif users is not None and self.signs.is_alive(worker):
                self._replace(room, worker, Elsewhere(version, users, now))
        if self.uid in known and (self.uid not in found or found[self.uid][0] < known[self.uid]):
            self._tell_anew(room.name)
        for worker in [worker for worker in known if worker not in found]:
            # A process that leaves a room says so. A record lost with a Redis is written anew.
            other = here.elsewhere.get(worker)
            if other is not None and other.version == known[worker]:
                other.missed = other.missed or now
                if now - other.missed > RENEW_SECONDS * 2:
                    self._replace(room, worker, None)
                else:
                    self._missing[room] = None
        here.compared = True

    def on_died(self, uid: str) -> None:
        """A process is known to have ended: its users are not here any more, whatever its records say."""
        self.signs.on_died(uid)
        for room in self._rooms.values():
            if uid in room.presence.elsewhere:
                self._replace(room, uid, None)
                self._tell_gone(room.name, uid)  # for other machines, too

    async def look_up(self, name: str) -> RoomPresence:
        """Who is in a room that is not open here, by the broker's records; nobody if it does not tell."""
        found = RoomPresence()
        records = (await self._shared.broker.presence({name: {}})).get(name, {})
        await self.signs.meet(records)
        for worker, (version, users) in records.items():
            if users and self.signs.is_alive(worker):
                found.elsewhere[worker] = Elsewhere(version, users, 0.0)
        return found

    # In time

    async def run(self) -> None:
        """Tell what changed each second; give signs of life and compare the records in time."""
        loop = self._shared.loop
        while True:
            try:
                if loop.time() - self._renewed >= RENEW_SECONDS:
                    self._renewed = loop.time()
                    await self._renew()
                await self._tell()
            except Exception:
                logger.exception("presence not told")
            await asyncio.sleep(SIGNAL_SECONDS)

    def renew_soon(self) -> None:
        """A Redis is back, or a link to it: something may not have been heard, and it may have nothing in it."""
        self._renewed = 0.0
        self._compare_all = True

    async def _tell(self) -> None:
        changed, self._changed = self._changed, {}
        for number, room in enumerate(changed):
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if self._rooms.get(room.name) is not room:
                continue
            try:
                self._tell_processes(room)
                self._tell_members(room)
            except Exception:  # a fault of one room ends there: the others are told
                logger.exception("presence not told room=%s", room.name)

    def _tell_processes(self, room: Room) -> None:
        here = room.presence
        if not (here.arrived or here.departed) or not (here.names or here.version):
            return
        now = self._shared.loop.time()
        if now - here.published < CROWD_SECONDS and len(here.names) > CROWD:
            self._changed[room] = None  # later: the record of so many takes a millisecond to write
            return
        here.published = now
        version = self._version()
        joined, left = (here.arrived, tuple(here.departed)) if here.version else (dict(here.names), ())
        change = Change(self.uid, version, here.version, joined, left)
        self._shared.broker.publish_presence(room.name, change, here.names)
        here.version, here.was_told = version, True
        here.arrived, here.departed = {}, set()

    def _tell_members(self, room: Room) -> None:
        here = room.presence
        if not (here.came or here.went):
            return
        now = self._shared.loop.time()
        if now - here.told < CROWD_SECONDS and here.count() > CROWD:
            self._changed[room] = None  # later
            return
        here.told = now
        count = here.count()
        came, here.came = here.came, {}
        went, here.went = here.went, {}
        signal = Presence(room=room.name, count=count)
        if max(count, len(came), len(went)) <= NAMED:  # thousands may leave a room of which few remain
            signal.joined = [User(user, name) for user, name in came.items()]
            signal.left = [User(user, name) for user, name in went.items()]
        room.signal(signal)

    async def _renew(self) -> None:
        lapsed = await self.signs.look(RENEW_SECONDS * 2, RENEW_SECONDS + LAPSE_SECONDS)
        for worker in lapsed:
            for room in self._rooms.values():
                if worker in room.presence.elsewhere:
                    self._replace(room, worker, None)
        if not self._shared.broker.carries:
            return
        for name in await self._shared.broker.renew_presence(self.uid, self._version(), self._rooms):
            self._tell_anew(name)
        missing, self._missing = self._missing, {}
        for room in missing:
            self.ask(room)
        if self._compare_all:
            self._compare_all = False
            for room in self._rooms.values():
                self.ask(room)
        self._sweep()

    def _sweep(self) -> None:
        """Refresh the next rooms, so that each has its turn within REFRESH_SECONDS."""
        now = self._shared.loop.time()
        if not self._unswept:
            self._unswept = list(self._rooms)
        for _ in range(math.ceil(len(self._rooms) * RENEW_SECONDS / REFRESH_SECONDS)):
            room = self._rooms.get(self._unswept.pop()) if self._unswept else None
            if room is not None:
                for worker, other in list(room.presence.elsewhere.items()):
                    if not other.users and now - other.heard > RENEW_SECONDS + LAPSE_SECONDS:
                        del room.presence.elsewhere[worker]
                if room.presence.names:
                    self._tell_anew(room.name)
                self.ask(room)

    def _tell_anew(self, name: str) -> None:
        """The broker may not have this process's record of a room, or others not know it: they get the whole again."""
        room = self._rooms.get(name)
        if room is None or not room.presence.names:
            self._tell_gone(name, self.uid)
            return
        here = room.presence
        here.version = 0
        here.arrived, here.departed = dict(here.names), set()
        self._changed[room] = None
