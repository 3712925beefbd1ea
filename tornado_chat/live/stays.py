"""Who is in a room by polling it: present while a poll waits there, and for a moment after its answer.

The room stays open for as long, and with it the ring of its recent events. That is all that is kept between two polls,
and nothing depends on it but presence and speed.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from tornado_chat.live.hub import Hub
from tornado_chat.live.limits import AddressAccount, Limits
from tornado_chat.live.room import Room

LINGER_SECONDS = 15.0
"""From a poll's answer until its user is away: the next poll comes long before that."""

SWEEP_SECONDS = 0.5

SWEPT = 64
"""Stays that end in one loop turn."""

STAYS = 100_000
"""With so many of them, who is answered is away at once."""


class Poller(NamedTuple):
    """Who polls. Guests without a token are new ones each time: those of an address stay as one, and nobody sees it."""

    address: AddressAccount
    key: str
    user: str | None
    name: str
    proxied: bool
    """Its connection counts for a proxy: each of its polls that wait is a connection of `address`."""


class Stay:
    """One poller in one room; `polls` wait there now."""

    __slots__ = ("ended", "here", "key", "poller", "polls", "room", "until")

    def __init__(self, key: tuple[str, str], poller: Poller, room: Room) -> None:
        self.key = key
        self.poller = poller
        self.room = room
        self.polls = 0
        self.until = 0.0  # by the loop's time, while no poll waits
        self.here = False  # its user counts as present
        self.ended = False


class Stays:
    """Those of one process."""

    __slots__ = ("_hub", "_idle", "_limits", "_loop", "_stays", "_timer")

    def __init__(self, hub: Hub, limits: Limits) -> None:
        self._hub = hub
        self._limits = limits
        self._loop = hub.shared.loop
        self._stays: dict[tuple[str, str], Stay] = {}
        self._idle: dict[Stay, None] = {}  # where no poll waits, the one that ends first at the front
        self._timer = False

    def __len__(self) -> int:
        return len(self._stays)

    def enter(self, poller: Poller, name: str) -> Stay:
        """A poll begins to wait in the room `name`, which may have to be opened first: `appear` is to follow.

        ChatError: too many joins or rooms; who stays there still does not join anew.
        """
        key = poller.key, name
        hub = self._hub
        stay = self._stays.get(key)
        if stay is not None and hub.rooms.get(name) is not stay.room:  # it could not be opened
            self._end(stay)
            stay = None
        if stay is None:
            self._limits.check_join(poller.address)
            self._limits.rooms.take(poller.address, name, hub.rooms)
            room = hub.open_room(name)
            room.holds += 1
            stay = self._stays[key] = Stay(key, poller, room)
        elif not stay.polls:
            del self._idle[stay]
        stay.polls += 1
        return stay

    def appear(self, stay: Stay) -> None:
        """The room is open: the user is present there."""
        user = stay.poller.user
        if user is not None and not stay.here and not stay.ended:
            stay.here = True
            if stay.room.count_in(user):
                self._hub.presence.enter(stay.room, user, stay.poller.name)

    def leave(self, stay: Stay, *, linger: bool) -> None:
        """A poll waits there no more."""
        stay.polls -= 1
        if stay.polls or stay.ended:
            return
        if not linger or len(self._stays) > STAYS or stay.room.head < 0:
            self._end(stay)
            return
        stay.until = self._loop.time() + LINGER_SECONDS
        self._idle[stay] = None
        if not self._timer:
            self._timer = True
            self._loop.call_later(min(SWEEP_SECONDS, LINGER_SECONDS), self._sweep)

    def end_idle(self) -> None:
        """All who are between two polls are away now."""
        while self._idle:
            stay = next(iter(self._idle))
            del self._idle[stay]
            self._end(stay)

    def _sweep(self) -> None:
        self._timer = False
        now = self._loop.time()
        for stay in list(islice(self._idle, SWEPT)):
            if stay.until > now:
                break
            del self._idle[stay]
            self._end(stay)
        for stay in self._idle:
            self._timer = True
            self._loop.call_later(min(SWEEP_SECONDS, max(0.0, stay.until - now)), self._sweep)
            break

    def _end(self, stay: Stay) -> None:
        stay.ended = True
        del self._stays[stay.key]
        room, poller = stay.room, stay.poller
        if stay.here and poller.user is not None and room.count_out(poller.user):
            self._hub.presence.leave(room, poller.user)
        poller.address.leave_room(room.name)
        room.holds -= 1
        room.release()
