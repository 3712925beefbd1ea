"""One room of this process: its members by encoding, delivery in order, and the flush.

What is true of a room whenever the loop runs something else:

1. `flushed` <= `head`; `pending` holds the events flushed+1 to head. Every live member has been written every event
   up to `flushed`, or is about to be by the flush that runs.
2. A member is live (in `groups`), catching up (in `catching`; `cursor` is the last seq that it was written), or gone
   (in neither, and nothing of this room is written to it any more). A flush that runs passes over the holes of those
   who are not live any more.
3. `early` holds the events that came too early: each has a seq greater than head+1.
4. A member becomes live only when its cursor is `flushed`, and then stands behind those to whom a flush writes that
   already runs: a batch comes to it neither twice nor never.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic, thread_time

from tornado_chat.errors import CloseCode, LogUnavailable, retry_reason
from tornado_chat.live.batch import Batch
from tornado_chat.live.catching_up import CatchingUp
from tornado_chat.live.fanout import UNTRIED
from tornado_chat.live.group import Group
from tornado_chat.live.growing import Short, Told
from tornado_chat.live.line import Sender, resume_all
from tornado_chat.live.member import CATCHING, GONE, LIVE, Member
from tornado_chat.live.rest import Rest
from tornado_chat.live.ring import Ring
from tornado_chat.live.room_growing import Pace, RoomGrowing
from tornado_chat.live.room_presence import RoomPresence
from tornado_chat.live.room_signals import RoomSignals
from tornado_chat.live.shared import Shared
from tornado_chat.live.watch import Watch
from tornado_chat.log import own
from tornado_chat.log.kinds import ENDING, ERASING
from tornado_chat.wire.encodings import Encoding
from tornado_chat.wire.events import Event
from tornado_chat.wire.replies import Behind, Signal, Synced

logger = logging.getLogger(__name__)

SLICE, SLICE_SECONDS = 256, 0.00025
"""All big rooms together write to so many members in one loop turn, and for about so long: a room of two beside a room
of 10,000 waits for a slice, not for the room. (A write takes 1 us, or 9 us if it has to wake a sleeping process.)"""

CHEAP_EVENTS = 16
"""Who joins and lacks no more than these, or what somebody else has just got, has them at once. A chunk of 256 that
must be made takes 1 to 3 ms: it waits for its turn."""

PENDING_EVENTS = 4096
"""With so many events waiting for a room's flush, clients that send to it are not read until half of them are left."""

MEND_EVENTS, MEND_BYTES = 512, 256 * 1024
"""One page of a hole that is filled from the log."""

HOLE_SECONDS = 0.05
"""How long a room waits for late events before it asks the log for them. Two processes commit, then publish, and the
second may publish first. Between processes of one machine the news take about 1 ms."""

EARLY_EVENTS = 1024
"""Events that a room keeps because they came too early; further ones are fetched from the log with the hole."""


class Room:
    __slots__ = (
        "batches",
        "blocked",
        "catching",
        "closed",
        "cost",
        "due",
        "early",
        "flushed",
        "flushing",
        "groups",
        "growing",
        "head",
        "holds",
        "hole",
        "known",
        "mending",
        "name",
        "next_flush",
        "on_empty",
        "opened",
        "pending",
        "presence",
        "rest",
        "resting",
        "ring",
        "shared",
        "signals",
        "telling",
        "users",
        "watch",
        "writing",
    )

    def __init__(self, shared: Shared, name: str, on_empty: Callable[[Room], None]) -> None:
        """`on_empty` is called when nobody needs the room any more."""
        self.shared = shared
        self.name = name
        self.on_empty = on_empty
        self.opened: asyncio.Future[None] = shared.loop.create_future()  # done when the log has told the head
        self.head = -1  # the last event delivered; -1 until opened
        self.flushed = -1
        self.known = 0  # the last seq that the log is known to hold; if it is greater than head, events are missing
        self.mending = False
        self.early: dict[int, Event] = {}  # events that came before those that they follow, by seq
        self.hole: asyncio.TimerHandle | None = None  # to ask the log for what did not come
        self.holds = 0  # joins under way, and who polls: the room stays open for them
        self.ring = Ring(shared.budget)
        self.groups: dict[Encoding, Group] = {}
        self.catching: CatchingUp | None = None  # only while somebody is behind
        self.pending: list[Event] = []
        self.signals = RoomSignals(shared, self.tell)
        self.writing: list[Event] = []  # the events of the flush that runs
        self.batches: deque[Batch] = deque()
        self.flushing = False  # or the room rests after a flush
        self.cost = 0.0  # seconds that the slices of the flush that runs have taken
        self.rest = Rest()
        self.resting: asyncio.TimerHandle | None = None
        self.due: asyncio.Handle | None = None  # the call that begins a flush
        self.next_flush: asyncio.Future[None] | None = None
        self.blocked: dict[Sender, None] = {}  # those who wait because too much is pending
        self.users: dict[str, int] = {}  # how many members each has here, and one if it polls
        self.watch: Watch | None = None  # of those who poll; from the first of them on
        self.presence = RoomPresence()
        self.growing: RoomGrowing | None = None  # only while something grows here
        self.telling: Pace | None = None  # the flush that runs tells nothing but chunks: its cost is told to that
        self.closed = False  # forgotten: whoever asks for the room gets another

    # Opening and closing

    def open(self, head: int) -> None:
        """Begin with the `head` that the log has told. Newer events may have come before it: they wait in `early`."""
        self.head = self.flushed = head
        self.opened.set_result(None)
        self.early = {seq: event for seq, event in self.early.items() if seq > head}
        self._deliver_early()
        self.expect(self.known)

    def shut(self) -> None:
        """It is forgotten: nothing is expected any more."""
        self.closed = True
        self.early.clear()
        self.signals.shut()
        if self.growing is not None:
            self.growing.close()
            self.growing = None
        if self.hole is not None:
            self.hole.cancel()
            self.hole = None
        if self.resting is not None:
            self.resting.cancel()
            self._rested()  # nobody is here: those who wait for the flush go on

    def size(self) -> int:
        """How many members, live or catching up."""
        return sum(map(len, self.groups.values())) + (len(self.catching.members) if self.catching else 0)

    def members(self) -> Iterator[Member]:
        """Everybody here, live or catching up; nobody may enter or leave meanwhile."""
        for group in self.groups.values():
            yield from group
        if self.catching:
            yield from self.catching.members

    @property
    def is_full(self) -> bool:
        """So much waits for the flush that nothing more is to be committed or fetched for now."""
        return len(self.pending) >= PENDING_EVENTS

    def release(self) -> None:
        """Say so if nobody needs the room any more."""
        if not self.groups and not self.catching and not self.holds:
            self.on_empty(self)

    # Members

    def enter(self, member: Member, *, now: bool) -> bool:
        """`joined` has been written; live at once if nothing is missing, else by catching up, perhaps from `now` on.

        Whether the user was not here before.
        """
        came = self.count_in(member.user)
        if member.cursor == self.flushed:
            self.go_live(member)
        else:
            self._begin_to_catch_up(member)
            cheap = self.flushed - member.cursor <= CHEAP_EVENTS
            if now and (cheap or self.ring.chunk(member.encoding, member.cursor)):
                self._feed(member)
            else:
                self.feed_soon(member)
        return came

    def count_in(self, user: str) -> bool:
        """One more of the user's; whether the user was not here before."""
        here = self.users.get(user, 0)
        self.users[user] = here + 1
        return not here

    def count_out(self, user: str) -> bool:
        """One less of the user's; whether the user is not here any more."""
        if self.users[user] > 1:
            self.users[user] -= 1
            return False
        del self.users[user]
        return True

    def watched(self) -> Watch:
        """What tells those who poll that there is something."""
        if self.watch is None:
            self.watch = Watch(self.shared, self.name, self.flushed)
        return self.watch

    def go_live(self, member: Member) -> None:
        """The cursor has reached `flushed`: `synced`, then every flush that begins from now on.

        Whoever lacks much of messages that grow gets that before, as slowly as it reads.
        """
        if not member.synced:
            member.synced = True
            member.write(Synced(room=own.shown(self.name), seq=member.cursor))
        if self.growing is not None:
            has = member.has = dict(member.has or ())
            for stream in self.growing.snapshots(member.cursor, has):
                member.write(stream)
            if not self.growing.has_all(member.cursor, has):
                if member.state != CATCHING:
                    self._begin_to_catch_up(member)
                self.feed_soon(member)
                return
        if self.catching:
            self.catching.members.discard(member)
            if not self.catching.members:
                self.catching = None
        member.state = LIVE
        member.synced, member.has = False, None
        member.drop_page()
        group = self.groups.get(member.encoding)
        if group is None:
            group = self.groups[member.encoding] = Group()
        group.add(member)

    def leave(self, member: Member) -> bool:
        """Nothing of this room is written to `member` any more, not even by a flush that runs.

        Whether the user is not here any more. `release` is to follow.
        """
        self._remove(member)
        member.state = GONE
        member.drop_page()
        user = member.user
        self.signals.end(user, member.line)
        return self.count_out(user)

    def _remove(self, member: Member) -> None:
        if member.state == LIVE:
            group = self.groups[member.encoding]
            group.remove(member)
            if not group:
                del self.groups[member.encoding]
        elif self.catching:
            self.catching.members.discard(member)
            if not self.catching.members:
                self.catching = None

    def _catch_up(self, member: Member) -> None:
        self._begin_to_catch_up(member)
        self.feed_soon(member)

    def _begin_to_catch_up(self, member: Member) -> None:
        member.state = CATCHING
        self.shared.metrics.catch_ups += 1
        if self.catching is None:
            self.catching = CatchingUp(self)
        self.catching.members.add(member)

    def feed_soon(self, member: Member) -> None:
        """Let `member`, which is catching up, have its next chunk in a loop turn to come."""
        self.shared.turns.feed(member, self._feed)

    def _feed(self, member: Member) -> None:
        if member.state == CATCHING and self.catching is not None:
            try:
                self.catching.feed(member)
            except Exception:
                logger.exception("member not fed room=%s user=%s", self.name, member.user)
                member.line.close(CloseCode.INTERNAL_ERROR, "the server failed on a room")

    def _fall_behind(self, member: Member, after: int, told: Told | None) -> None:
        self._remove(member)
        member.cursor = after
        member.has = told
        self.shared.metrics.frames_deferred += 1
        member.write(Behind(room=own.shown(self.name), seq=after, head=self.head))
        self._catch_up(member)

    def written(self, member: Member) -> int:
        """The seq up to which `member`, who is here, has been written all events."""
        if member.state == LIVE:
            for batch in self.batches:
                if batch.group is self.groups[member.encoding] and batch.is_due(member.place):
                    return batch.after
            return self.flushed
        return member.cursor

    # Delivery

    def deliver(self, event: Event) -> None:
        """Take a committed event, in order and once: what was seen is dropped, a hole is filled from the log."""
        if event.seq != self.head + 1:
            if event.seq > self.head:
                if len(self.early) < EARLY_EVENTS:
                    self.early[event.seq] = event
                self.expect(event.seq)
            return
        self._deliver(event)
        if self.early:
            self._deliver_early()

    def _deliver_early(self) -> None:
        """Deliver the early events that are the next ones now."""
        while (event := self.early.pop(self.head + 1, None)) is not None:
            self._deliver(event)

    def _deliver(self, event: Event) -> None:
        self.head = event.seq
        if self.early:
            self.early.pop(event.seq, None)  # it came twice
        self.ring.append(event)
        type = event.data["type"]
        if type in ERASING:
            target = event.data["target"]
            self.ring.erase(target)
            if self.catching:
                self.catching.erase(target)
            if self.watch:
                self.watch.erase(target)
        elif type in ENDING and self.growing is not None:
            message = self.growing.messages.get(event.data["target"])
            if message is not None and message.ends_as(event.data.get("text")):
                event = Short(event)  # else nobody here was told its text
        self.pending.append(event)
        self.flush_soon()

    def expect(self, known: int) -> None:
        """The log holds events up to `known`: those that are missing here have a moment to come by themselves."""
        self.known = max(self.known, known)
        if self.head >= 0 and self.known > self.head and self.hole is None and not self.mending:
            self.hole = self.shared.loop.call_later(HOLE_SECONDS, self._look_at_hole, self.head)

    def _look_at_hole(self, head: int) -> None:
        self.hole = None
        if self.head == head:
            self.mend(self.known)
        else:
            self.expect(self.known)  # the room has moved on: what is missing now is another hole

    def mend(self, known: int) -> None:
        """The log holds events up to `known`: fetch those that never came."""
        self.known = max(self.known, known)
        if self.head >= 0 and self.known > self.head and not self.mending:
            self.mending = True
            self.shared.metrics.holes += 1
            self.shared.tasks.spawn(self._mend())

    async def _mend(self) -> None:
        try:
            while self.head < self.known:
                while self.is_full:
                    await self.flush_begun()
                page = await self.shared.log.read(self.name, self.head, max_events=MEND_EVENTS, max_bytes=MEND_BYTES)
                if self.closed:
                    return  # closed meanwhile: its ring must stay empty
                if not page:  # it has been replaced, which a poll finds out, or somebody told of what is not there
                    logger.error("log has no such events room=%s head=%d known=%d", self.name, self.head, self.known)
                    self.known = self.head
                    self.early.clear()
                elif page[0].seq > self.head + 1:
                    await self._skip_to(page[0].seq - 1)
                    if self.closed:
                        return
                for event in page:
                    self.deliver(event)
        except LogUnavailable as error:
            logger.warning("hole not filled, trying again soon room=%s reason=%s", self.name, error)
        finally:
            self.mending = False

    async def _skip_to(self, seq: int) -> None:
        """Events up to `seq` of a log of one's own are gone, untold here: whoever comes back gets its state."""
        # Each flush and each rest ends, in a closed room, too; and nothing more is pending before the hole is filled.
        while self.flushing or self.pending:  # noqa: ASYNC110 - once in a room's life
            await asyncio.sleep(HOLE_SECONDS)
        for member in self.members():
            member.line.close(CloseCode.SERVICE_RESTART, retry_reason(0))
        self.ring.clear(len(self.ring))
        self.head = self.flushed = max(seq, self.head)

    def signal(self, signal: Signal, not_for: str | None = None) -> None:
        """Tell the live members something that may be lost; `not_for` is the user who need not hear it."""
        if self.groups and self.signals.add(signal, not_for, self.size()):
            self.flush_soon()

    def tell(self, signal: Signal, not_for: str | None = None) -> None:
        """`signal`, in all processes."""
        self.signal(signal, not_for)
        self.shared.broker.publish_signal(self.name, signal, not_for)

    # The flush

    def flush_soon(self) -> None:
        if not self.flushing:
            self.flushing = True
            self.due = self.shared.loop.call_soon(self._flush)

    def flush_now(self) -> None:
        """All events of a commit were delivered: begin the flush that waits for the loop's next turn."""
        if self.due is not None:
            self.due.cancel()
            self._flush()

    async def flush_begun(self) -> None:
        """Return when the next flush has taken its events out of `pending`."""
        if self.next_flush is None:
            self.next_flush = self.shared.loop.create_future()
        await asyncio.shield(self.next_flush)

    def _flush(self) -> None:
        self.due = None
        try:
            self._begin_flush()
        except Exception:
            self._fail()

    def _fail(self) -> None:
        """A fault in a flush: what each member was written is not known. Those who come back say what they hold."""
        logger.exception("flush failed, its members are cut off room=%s", self.name)
        for batch in self.batches:
            batch.group.flushed()
        self.batches.clear()
        self.pending = []
        self.writing = []
        self.flushed = self.head
        self.flushing = False
        self._flush_has_begun()
        if self.watch:
            self.watch.wake(self.flushed)
        for member in list(self.members()):
            member.line.close(CloseCode.INTERNAL_ERROR, "the server failed on a room")
        self._unblock()

    def _begin_flush(self) -> None:
        """Take what is pending, as one batch for each encoding, and write it: a small room at once."""
        began = thread_time() if self.growing is not None else 0.0
        after = self.flushed
        events = self.writing = self._take_pending()
        if events:
            self.flushed = events[-1].seq
            if self.watch:
                self.watch.wake(self.flushed)
        told = self.signals.take({encoding.codec for encoding in self.groups}) if self.signals.waiting else None
        growing = self.growing
        grown = growing.told() if growing is not None else None
        chunks = growing.take(after, events) if growing is not None else None
        total = 0
        for encoding, group in self.groups.items():
            frames = [event.frames[encoding] for event in events]
            signals = [(encoding.wrap(payload), not_for) for payload, not_for in told[encoding.codec]] if told else []
            if chunks is not None:
                chunks.put(encoding, frames, signals)
            batch = Batch(group, frames, after, signals)
            if chunks is not None or events:
                batch.told = grown
            self.batches.append(batch)
            total += len(group)
        self._flush_has_begun()
        self.telling = growing.pace if growing is not None and chunks is not None and not events else None
        if total <= SLICE:
            while self.batches:
                self._write_slice()
            if self.telling is not None:
                self.telling.spent(total, thread_time() - began)
            self._flushed()
        else:
            self.shared.turns.flush(self.flush_slice)

    def _take_pending(self) -> list[Event]:
        """Take the events of the next batch out of `pending`, and make the frames that the live members need.

        In the longest encoding they have `batch_bytes` at most, or there is one event. All if nobody is live.
        """
        taken = len(self.pending)
        size = 0
        for number, event in enumerate(self.pending if self.groups else ()):
            self.ring.encode(event, self.groups)
            size += max(map(len, event.frames.values()))
            if size > self.shared.batch_bytes and number:
                taken = number
                break
        events, self.pending = self.pending[:taken], self.pending[taken:]
        return events

    def flush_slice(self) -> bool:
        """Write to the next SLICE members; False when the flush is done and nothing waits for another."""
        began, telling = monotonic(), self.telling
        used = thread_time() if telling is not None else 0.0
        try:
            written = self._write_slice()
            self.cost += monotonic() - began
            if telling is not None:
                telling.spent(written, thread_time() - used)
            if self.batches:
                return True
            self._flushed()
        except Exception:
            self._fail()
        return False

    def _write_slice(self) -> int:
        """To those who stand next in the first batch: SLICE of them, fewer if that takes SLICE_SECONDS; how many."""
        batch = self.batches[0]
        written, odd = batch.send(self.shared.direct.keys, SLICE, SLICE_SECONDS)
        for place, taken in odd:
            written += self._write_odd(batch, place, taken)
        if batch.done:
            self.batches.popleft()
            batch.group.flushed()
        self.shared.metrics.deliveries += written * batch.events
        self.shared.metrics.writes += written
        self.shared.metrics.bytes_out += written * len(batch.data)
        return written

    def _write_odd(self, batch: Batch, place: int, taken: int) -> bool:
        """Write to a member to whom nothing was sent, or not all of the batch; whether it is written to it."""
        member = batch.group.members[place]
        if member is None:  # it left, or fell behind, since the flush began
            return False
        line, data = member.line, batch.data
        if taken != UNTRIED:
            line.sent(data, taken)
            return True
        if line.outbox_bytes and line.outbox_bytes + len(data) > self.shared.high_water_mark:
            if batch.events or batch.told is not None:
                self._fall_behind(member, batch.after, batch.told)
            return False
        own = batch.of(member.user)
        if own:
            line.write(own)
        return bool(own)

    def _flushed(self) -> None:
        """The flush is through: the next one, perhaps after a rest, if something came; blocked senders go on."""
        now = monotonic()
        observe = self.shared.metrics.delivery_seconds.observe
        for event in self.writing:
            if event.born:
                observe(now - event.born)
        self.writing = []
        cost, self.cost = self.cost, 0.0
        seconds = self.rest.after(cost, len(self.pending))
        if seconds:
            self.resting = self.shared.loop.call_later(seconds, self._rested)
        else:
            self.flushing = False
            if self.pending or self.signals.waiting or (self.growing is not None and self.growing.ready):
                self.flush_soon()
        if len(self.pending) <= PENDING_EVENTS // 2:
            self._unblock()

    def _rested(self) -> None:
        self.resting = None
        self.rest.over(len(self.pending))
        self._flush()

    def _flush_has_begun(self) -> None:
        if self.next_flush is not None:
            self.next_flush.set_result(None)
            self.next_flush = None

    def _unblock(self) -> None:
        blocked, self.blocked = self.blocked, {}
        resume_all(blocked)
