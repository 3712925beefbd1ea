"""Who is in a room, over all processes and devices.

Each process tells the others, by the broker, which users came to it and left it; the broker keeps the same record for
whoever opens the room later, and lets it lapse when a process does not renew it. Without a broker each process knows
its own users. Members get one signal a second at most for a room.

What is true of a `RoomPresence` whenever the loop runs something else: `elsewhere` holds what each other process was
last heard to have; `came` and `went` are what the members here were not told yet, and no user is in both.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from tornado_chat.broker import LAPSE_SECONDS, Change, Records
from tornado_chat.live.room import Room
from tornado_chat.live.room_presence import Elsewhere, RoomPresence
from tornado_chat.live.shared import Shared
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
"""How often a process renews its records and looks at those of the others: after the kill of a whole machine the rooms
elsewhere are right again within this and LAPSE_SECONDS."""

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
        self._dead: dict[str, float] = {}  # processes known to have died, and when: their records may outlive them

    # Here

    def enter(self, room: Room, user: str, name: str) -> None:
        """The first of the user's connections here has joined."""
        here = room.presence
        here.names[user] = name
        here.arrived[user] = name
        here.departed.discard(user)
        if not here.is_elsewhere(user):
            here.note([(user, name)], ())
        self._changed[room] = None

    def leave(self, room: Room, user: str) -> None:
        """The last of the user's connections here has left."""
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
            self._shared.broker.publish_presence(room.name, Change(self.uid, self._version(), 0, {}, ()))
            here.version, here.was_told = 0, False

    def _version(self) -> int:
        """Greater than all before it, those of an earlier process with the clock of today too: microseconds."""
        self._last_version = max(self._last_version + 1, time.time_ns() // 1000)
        return self._last_version

    # Elsewhere

    def on_change(self, room: Room, change: Change) -> None:
        """Another process tells what changed there."""
        here = room.presence
        known = here.elsewhere.get(change.worker)
        if change.worker in self._dead or (known is not None and change.version <= known.version):
            return
        now = self._shared.loop.time()
        if not change.after:
            self._replace(room, change.worker, Elsewhere(change.version, dict(change.joined), now))
        elif known is not None and change.after == known.version:
            users = {user: name for user, name in known.users.items() if user not in change.left} | change.joined
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
        if new is not None and new.users:
            here.elsewhere[worker] = new
        if (came or went) and here.compared:  # else they were there before anybody here
            here.note(came, went)
            self._changed[room] = None

    def ask(self, room: Room) -> None:
        """Read the broker's records of the others in `room`; soon, and together with those of other rooms."""
        if self._shared.broker.carries:
            self._to_ask[room] = None
            if not self._asking:
                self._asking = True
                self._shared.tasks.spawn(self._ask())

    async def _ask(self) -> None:
        try:
            while self._to_ask:
                rooms = [self._to_ask.popitem()[0] for _ in range(min(SLICE, len(self._to_ask)))]
                known = {
                    room.name: {worker: other.version for worker, other in room.presence.elsewhere.items()}
                    for room in rooms
                }
                found = await self._shared.broker.presence(known)
                for room in rooms:
                    if room.name in found and self._rooms.get(room.name) is room:
                        self._compare(room, found[room.name], known[room.name])
        finally:
            self._asking = False

    def _compare(self, room: Room, found: Records, known: dict[str, int]) -> None:
        here = room.presence
        now = self._shared.loop.time()
        for worker, (version, users) in found.items():
            other = here.elsewhere.get(worker)
            if worker == self.uid or worker in self._dead:
                continue
            if other is not None and other.version >= version:
                other.seen = now
            elif users is not None:
                self._replace(room, worker, Elsewhere(version, users, now))
        for worker in [worker for worker in known if worker not in found]:
            # Who goes says so: a record that is missing may have been lost with a Redis, and will be written anew.
            if worker in here.elsewhere and now - here.elsewhere[worker].seen > RENEW_SECONDS * 2:
                self._replace(room, worker, None)
        here.compared = True

    def on_died(self, uid: str) -> None:
        """A process is known to have ended: its users are not here any more, whatever its records say."""
        self._dead[uid] = self._shared.loop.time()
        for room in self._rooms.values():
            if uid in room.presence.elsewhere:
                self._replace(room, uid, None)
                # For other machines, too.
                self._shared.broker.publish_presence(room.name, Change(uid, self._version(), 0, {}, ()))

    async def look_up(self, name: str) -> RoomPresence:
        """Who is in a room that is not open here, by the broker's records; nobody if it does not tell."""
        found = RoomPresence()
        records = await self._shared.broker.presence({name: {}})
        for worker, (version, users) in records.get(name, {}).items():
            if users and worker not in self._dead:
                found.elsewhere[worker] = Elsewhere(version, users, 0.0)
        return found

    # In time

    async def run(self) -> None:
        """Tell what changed each second; renew and compare the records in time."""
        loop = self._shared.loop
        while True:
            await asyncio.sleep(SIGNAL_SECONDS)
            try:
                await self._tell()
                if loop.time() - self._renewed >= RENEW_SECONDS:
                    self._renewed = loop.time()
                    await self._renew()
            except Exception:
                logger.exception("presence not told")

    def renew_soon(self) -> None:
        """A Redis is back, perhaps with nothing in it."""
        self._renewed = 0.0

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
        version = self._version()
        joined, left = (here.arrived, tuple(here.departed)) if here.version else (dict(here.names), ())
        self._shared.broker.publish_presence(room.name, Change(self.uid, version, here.version, joined, left))
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
        now = self._shared.loop.time()
        self._dead = {uid: died for uid, died in self._dead.items() if now - died < 2 * LAPSE_SECONDS}
        if not self._shared.broker.carries:
            return
        rooms = [room for room in self._rooms.values() if room.presence.names or room.presence.elsewhere]
        for start in range(0, len(rooms), SLICE):
            part = [room for room in rooms[start : start + SLICE] if self._rooms.get(room.name) is room]
            told = {room.name: room.presence.version for room in part if room.presence.version}
            for name in await self._shared.broker.renew_presence(self.uid, told):
                self._tell_anew(name)
            for room in part:
                for worker, other in list(room.presence.elsewhere.items()):
                    if now - other.seen > RENEW_SECONDS + LAPSE_SECONDS:
                        self._replace(room, worker, None)
                self.ask(room)
            await asyncio.sleep(0)

    def _tell_anew(self, name: str) -> None:
        """The broker has lost this process's record of a room: it gets the whole again."""
        room = self._rooms.get(name)
        if room is not None and room.presence.names:
            here = room.presence
            here.version = 0
            here.arrived, here.departed = dict(here.names), set()
            self._changed[room] = None
