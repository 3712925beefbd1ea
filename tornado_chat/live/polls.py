"""Pages and long polls: what a room's log has after a cursor, now or as soon as there is something.

Nothing is kept for a poller: the cursors are in its request, and an answer that is lost is asked for again. A poll that
waits holds its rooms open and is woken by them (watch.py); what it gets comes from the ring of a room or from the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NamedTuple

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.hub import Hub
from tornado_chat.live.limits import Limits
from tornado_chat.live.lookup import Question
from tornado_chat.live.pages import MOST_BYTES, Page, Pages
from tornado_chat.live.ring import Chunk, Ring
from tornado_chat.live.room import Room
from tornado_chat.live.stays import Poller, Stay, Stays
from tornado_chat.wire.encodings import BARE
from tornado_chat.wire.events import Event

MOST_EVENTS = 500
"""Of one answer."""

ROOMS = 100
"""Of one poll."""


class Found(NamedTuple):
    """An answer: `events` are JSON objects with commas between; the cursors after them, and the heads, by room.

    `more`: others are there already.
    """

    events: bytes
    cursors: dict[str, int]
    heads: dict[str, int]
    more: bool


Told = Callable[[Found | Exception], None]
"""What is called once with the answer, unless the poll is cancelled: ChatError, or LogUnavailable."""


class Polls:
    """Those of one process."""

    __slots__ = ("_hub", "_limits", "draining", "pages", "stays", "waiting")

    def __init__(self, hub: Hub, limits: Limits) -> None:
        self.stays = Stays(hub, limits)
        self.waiting: set[Poll] = set()
        self._hub = hub
        self._limits = limits
        self.pages = Pages(hub)
        self.draining = False

    def begin(
        self, identity: Identity, poller: Poller, cursors: Mapping[str, int], limit: int, wait: float, told: Told
    ) -> Poll:
        """Let `told` have up to `limit` events after these `cursors`, and if there are none wait so many seconds.

        Who waits is in the rooms. ChatError: too many joins or rooms.
        """
        poll = Poll(self._hub, self, identity, cursors, limit, told)
        if wait and not self.draining:
            poll.wait(poller, wait)
        else:
            for _ in cursors:
                self._limits.check_join(poller.address)
            poll.look()
        return poll

    def end_sessions(self, revoked: Collection[str]) -> None:
        """Answer `unauthorized` to those who came with a token of these ids."""
        for poll in [poll for poll in self.waiting if poll.identity.jti in revoked]:
            poll.refuse("its session was revoked; sign in again")

    def drain(self) -> None:
        """Answer all with what there is. From now on nobody waits, and who was here is away."""
        self.draining = True
        for poll in list(self.waiting):
            poll.hurry()
        self.stays.end_idle()


class Poll:
    """One request, until it is answered."""

    __slots__ = (
        "_heads",
        "_hub",
        "_hurried",
        "_pages",
        "_poller",
        "_polls",
        "_questions",
        "_reading",
        "_stays",
        "_timer",
        "_told",
        "cursors",
        "identity",
        "limit",
        "over",
    )

    def __init__(
        self, hub: Hub, polls: Polls, identity: Identity, cursors: Mapping[str, int], limit: int, told: Told
    ) -> None:
        self.identity = identity
        self.cursors = cursors
        self.limit = limit
        self.over = False
        self._hub = hub
        self._polls = polls
        self._told: Told | None = told
        self._poller: Poller | None = None  # who waits
        self._stays: list[Stay] = []
        self._timer: asyncio.TimerHandle | None = None
        self._hurried = False  # it is answered as soon as it can be, with whatever there is
        self._questions: list[Question[str]] = []  # for heads
        self._heads: dict[str, int] = {}  # what the log has told
        self._reading = False  # a page is on its way
        self._pages: dict[str, Page] = {}

    # Its beginning

    def look(self) -> None:
        """Answer with what the log has now, whatever has been told here of it."""
        self._hurried = True
        self._questions = [self._hub.heads.ask(name, partial(self._found, name)) for name in self.cursors]

    def _found(self, name: str, head: int | Exception) -> None:
        if isinstance(head, Exception):
            self.fail(head)
            return
        self._heads[name] = head
        if len(self._heads) == len(self.cursors):
            self._soon()

    def wait(self, poller: Poller, seconds: float) -> None:
        """Be in the rooms, and answer as soon as one of them has something; or when the time is up."""
        self._polls.waiting.add(self)
        self._poller = poller
        poller.address.connections += poller.proxied
        stays = self._polls.stays
        try:
            for name in self.cursors:
                self._stays.append(stays.enter(poller, name))
        except BaseException:
            self._end()  # those that it has entered linger: the next try has to join the others only
            raise
        left = max(0.0, self.identity.expires_at - time.time())
        loop = self._hub.shared.loop
        self._timer = loop.call_later(left, self._expire) if left <= seconds else loop.call_later(seconds, self.hurry)
        if all(stay.room.head >= 0 for stay in self._stays):
            self._begin_to_wait()
        else:
            self._hub.tasks.spawn(self._open())

    async def _open(self) -> None:
        try:
            for stay in tuple(self._stays):
                if stay.room.head < 0:
                    await asyncio.shield(stay.room.opened)  # shared with others who come
            if not self.over:
                self._begin_to_wait()
        except Exception as error:
            self.fail(error)

    def _begin_to_wait(self) -> None:
        at_once = False
        for stay in self._stays:
            self._polls.stays.appear(stay)
            room = stay.room
            cursor = self.cursors[room.name]
            if cursor > room.flushed:  # another process may have told of what was not told here yet
                self._questions.append(self._hub.heads.ask(room.name, partial(self._beyond, room)))
            elif cursor < room.flushed and not at_once:
                at_once = room.watched().answers_now(cursor)
        if at_once or self._hurried:
            self._soon()
        else:
            self._stand()

    def _beyond(self, room: Room, head: int | Exception) -> None:
        """The log has told the head of a room of which less than the cursor is flushed here."""
        if isinstance(head, Exception):
            self.fail(head)
        elif head < self.cursors[room.name]:
            self._heads[room.name] = head
            self.hurry()
        elif head > room.head:
            room.mend(head)

    def _stand(self) -> None:
        """Stand among those who wait in its rooms."""
        for stay in self._stays:
            watch = stay.room.watched()
            watch.waiting[self._ready] = None
            if self.cursors[stay.room.name] < stay.room.flushed:
                watch.want_round()

    # Its end

    def hurry(self) -> None:
        """Answer with what there is."""
        self._hurried = True
        self._soon()

    def cancel(self) -> None:
        """Nobody is there any more to be told."""
        self._end()

    def refuse(self, reason: str) -> None:
        """Its token is not good any more."""
        self.fail(ChatError(ErrorCode.UNAUTHORIZED, f"the token does not check: {reason}"), linger=False)

    def fail(self, error: Exception, *, linger: bool = True) -> None:
        told = self._end(linger=linger)
        if told is not None:
            told(error)

    def _expire(self) -> None:
        self.refuse("it has expired; sign in again")

    def _end(self, *, linger: bool = True) -> Told | None:
        """Leave nothing of it behind. Whom to tell; None if it is over already."""
        told, self._told = self._told, None
        if self.over:
            return None
        self.over = True
        self._polls.waiting.discard(self)
        if self._poller is not None:
            self._poller.address.connections -= self._poller.proxied
        if self._timer is not None:
            self._timer.cancel()
        for question in self._questions:
            question.cancel()
        stays, self._stays = self._stays, []
        for stay in stays:
            if stay.room.watch is not None:
                stay.room.watch.waiting.pop(self._ready, None)
            self._polls.stays.leave(stay, linger=linger and not self._polls.draining)
        self._pages.clear()
        return told

    # Its answer

    def _soon(self) -> None:
        if not self.over:
            self._hub.shared.turns.polls.add(next(iter(self.cursors)), self._ready)

    def _ready(self) -> None:
        """Its turn has come."""
        if self.over or self._reading or (self._hurried and not self._polls.draining and self._is_opening()):
            return
        try:
            found = self._gather()
        except Exception as error:
            self.fail(error)
            return
        if found is None:
            return
        if not found.events and not self._hurried:
            self._stand()
            return
        told = self._end()
        if told is not None:
            told(found)

    def _is_opening(self) -> bool:
        """Where a room ends is not known yet; it will be, or the log fails, and nothing true can be told before."""
        return any(stay.room.head < 0 for stay in self._stays)

    def take(self, name: str, page: Page | Exception) -> None:
        """The page that it asked for."""
        self._reading = False
        if self.over:
            return
        if isinstance(page, Exception):
            self.fail(page)
        else:
            self._pages[name] = page
            self._ready()

    def _gather(self) -> Found | None:
        """What there is; None if a page of the log has to be read first."""
        cursors, heads, lacking = {}, {}, []
        for name, cursor in self.cursors.items():
            room = self._hub.rooms.get(name)
            head = max(room.flushed if room is not None else -1, self._heads.get(name, -1))
            cursors[name] = min(cursor, head) if name in self._heads else cursor
            heads[name] = max(head, cursors[name])
            if head > cursor:
                lacking.append((head - cursor, name))
        lacking.sort()  # a room with a long past makes no other wait
        parts: list[bytes] = []
        count = size = 0
        more = False
        for _, name in lacking:
            chunk = None
            if count < self.limit and size < MOST_BYTES:
                chunk = self._chunk(name, cursors[name], self.limit - count, MOST_BYTES - size)
                if chunk is None:
                    return None
            while chunk is not None and not (parts and count + chunk[2] > self.limit):
                data, cursors[name], events = chunk
                parts.append(data)
                count += events
                size += len(data)
                chunk = None
                if count < self.limit and size < MOST_BYTES:  # a page of the log ends where the ring begins
                    chunk = self._from_ring(name, cursors[name], self.limit - count, MOST_BYTES - size)
            heads[name] = max(heads[name], cursors[name])
            if cursors[name] < heads[name]:
                more = True
                break
        metrics = self._hub.metrics
        metrics.deliveries += count
        metrics.bytes_out += size
        metrics.writes += bool(count)
        return Found(b",".join(parts), cursors, heads, more)

    def _chunk(self, name: str, after: int, most_events: int, most_bytes: int) -> Chunk | None:
        """What comes after `after` in a room that has something there; None if it is being read from the log."""
        room = self._hub.rooms.get(name)
        if room is not None and room.head < 0:
            room = None
        page = self._pages.get(name)
        if page is not None and page.events and page.erasures == _erasures(room):
            return _chunk_of(page.events, after, most_events, most_bytes, room.ring if room is not None else None)
        is_late = room is not None and self._heads.get(name, -1) > room.flushed  # the news have not come here yet
        made = None if is_late else self._from_ring(name, after, most_events, most_bytes)
        if made is None:
            self._reading = True
            self._polls.pages.read(self, name, room, after, self.limit, all_of_it=is_late)
        return made

    def _from_ring(self, name: str, after: int, most_events: int, most_bytes: int) -> Chunk | None:
        """What comes after `after`; None if the ring of the room does not hold it, or there is nothing."""
        room = self._hub.rooms.get(name)
        if room is None or after >= room.flushed:
            return None
        ring, flushed = room.ring, room.flushed
        kept = ring.chunk(BARE, after)
        if kept is not None and kept[2] <= most_events and _is_whole(kept, flushed, most_bytes):
            return kept
        events = ring.after(after, min(flushed, after + most_events))
        if events is None:
            return None
        made = _chunk_of(events, after, most_events, most_bytes, ring)
        if most_bytes == MOST_BYTES and _is_whole(made, flushed, most_bytes):
            ring.keep_chunk(BARE, after, made)
        return made


def _erasures(room: Room | None) -> int:
    return room.watch.erasures if room is not None and room.watch is not None else 0


def _is_whole(chunk: Chunk, flushed: int, most_bytes: int) -> bool:
    """Whether a chunk that was made for MOST_BYTES has all that an answer with room for so many would have."""
    data, last, _ = chunk
    return (last == flushed or len(data) >= MOST_BYTES) and (len(data) <= most_bytes or most_bytes == MOST_BYTES)


def _chunk_of(events: list[Event], after: int, most_events: int, most_bytes: int, ring: Ring | None) -> Chunk:
    """The first of `events`, which come after `after`; the last may go beyond the bytes."""
    frames: list[bytes] = []
    size = 0
    for event in events[:most_events]:
        frame = event.frames.get(BARE)
        if frame is None:
            if ring is not None:
                ring.encode(event, (BARE,))
            else:
                event.encode((BARE,))
            frame = event.frames[BARE]
        frames.append(frame)
        size += len(frame)
        if size >= most_bytes:
            break
    return b",".join(frames), after + len(frames), len(frames)
