"""Group commit: what is submitted until a commit begins goes into it, and what comes while it runs into the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic

from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.live.hub import Hub
from tornado_chat.live.line import Sender, resume_all
from tornado_chat.live.naming import Naming
from tornado_chat.live.room import Room
from tornado_chat.log import Appended, Entry, event_of
from tornado_chat.logs import Repeated
from tornado_chat.wire.events import Event
from tornado_chat.wire.replies import Read

logger = logging.getLogger(__name__)

BATCH_ENTRIES = 1024
"""Entries in one commit: about 6 ms of SQLite, so that a commit does not make the next one's senders wait for long."""

QUEUE_ENTRIES, QUEUE_CHARS = 8192, 16 * 1024 * 1024
"""While so much is not committed yet, clients that publish wait, and are not read. (Characters of texts, bytes of
metas.)"""


def _log_fault(what: str, whose: str) -> None:
    """Log the fault of an `except`. It belongs to one client or room and ends there: the others get their acks."""
    logger.exception("commit not told to all fault=%s of=%s", what, whose)


class Publisher:
    """Takes entries in the order submitted; answers each to its sender after the commit that holds it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.queue: list[Entry] = []  # what is not committed yet; a commit takes of it what is there when it begins
        self.queued_chars = 0
        self._senders: list[tuple[Sender, float]] = []  # of the queue, and when each was submitted
        self.naming = Naming()  # what waits until it may go into the queue
        self.blocked: dict[Sender, None] = {}  # those who wait because the queue is full
        self._repeated = Repeated(logger)
        self.failing = False  # the last commit's outcome is not known
        self.idle = asyncio.Event()
        self.idle.set()
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to commit; `stop` is to follow."""
        self._task = self.hub.tasks.spawn(self._run(), name="publisher")

    def congestion(self, room_name: str) -> dict[Sender, None] | None:
        """Where a sender has to wait before it may submit to this room; None if it need not."""
        if len(self.queue) + len(self.naming.waiting) >= QUEUE_ENTRIES or self.queued_chars >= QUEUE_CHARS:
            return self.blocked
        room = self.hub.rooms.get(room_name)
        if room is not None and room.is_full:
            return room.blocked
        return None

    def submit(self, sender: Sender, entry: Entry) -> None:
        born = monotonic()  # not the loop's time: uvloop counts whole milliseconds
        self.queued_chars += _size(entry)
        if (entry.mentions or self.naming.waiting) and self.naming.keeps(sender, entry, born):
            return  # the queue is not empty: its commit lets go of what waits
        self._senders.append((sender, born))
        self.queue.append(entry)
        self.idle.clear()
        self._work.set()

    @property
    def queued(self) -> int:
        """Entries that are not committed yet."""
        return len(self.queue) + len(self.naming.waiting)

    @property
    def ended(self) -> bool:
        """Nothing is committed any more, by a fault or by `stop`."""
        return self._task is None or self._task.done()

    async def stop(self, seconds: float) -> None:
        """Commit what was submitted, for at most `seconds`, then end."""
        try:
            async with asyncio.timeout(seconds):
                await self.idle.wait()
        except TimeoutError:
            logger.error("stopped with uncommitted entries count=%d", self.queued)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            if not self.queue:
                self._work.clear()
                self.idle.set()
                await self._work.wait()
            outcomes = await self._commit()
            count = len(outcomes)
            entries, senders = self.queue[:count], self._senders[:count]
            # New lists: a commit that was given up may still take what is in the old one.
            self.queue, self._senders = self.queue[count:], self._senders[count:]
            self.queued_chars -= sum(map(_size, entries))
            for sender, born, entry in self.naming.freed(entries):
                self._senders.append((sender, born))
                self.queue.append(entry)
            self._announce(entries, senders, outcomes)
            if self.blocked and self.queued <= QUEUE_ENTRIES // 2 and self.queued_chars <= QUEUE_CHARS // 2:
                blocked, self.blocked = self.blocked, {}
                resume_all(blocked)

    async def _commit(self) -> Sequence[Appended | ChatError]:
        """The outcomes of the first of the queue; all `unavailable` if the log did not answer."""
        metrics = self.hub.metrics
        started = monotonic()
        count = min(BATCH_ENTRIES, len(self.queue))
        turns = self.hub.shared.turns
        turns.commit_begins()
        try:
            outcomes = await self.hub.log.append(self.queue, BATCH_ENTRIES)
        except Exception as error:
            if isinstance(error, LogUnavailable):
                self._repeated.warning("log unavailable entries=%d reason=%s", count, error)
            else:
                logger.exception("commit failed entries=%d", count)
            self.failing = True
            unavailable = ChatError(
                ErrorCode.UNAVAILABLE,
                "the log did not answer: send it again with the same id, and it is there once at most",
            )
            return [unavailable] * count  # what came later is tried again: a duplicate, if it went along
        finally:
            turns.commit_ended()
        self.failing = False
        metrics.commit_seconds.observe(monotonic() - started)
        metrics.batch_size.observe(len(outcomes))
        return outcomes

    def _announce(
        self, entries: list[Entry], senders: list[tuple[Sender, float]], outcomes: Sequence[Appended | ChatError]
    ) -> None:
        """Deliver the new events to the rooms here, then answer the senders: one write for each."""
        answered: dict[Sender, None] = {}
        rooms: dict[Room, None] = {}
        news: dict[str, list[Event]] = {}
        for entry, (sender, born), outcome in zip(entries, senders, outcomes, strict=True):
            try:
                if isinstance(outcome, Appended):
                    room = self.hub.rooms.get(entry.room)
                    if room is not None:
                        rooms[room] = None
                    self._deliver(room, entry, outcome, born, rooms, news)
                sender.published(entry, outcome)
            except Exception:
                _log_fault("entry not announced", entry.room)
                sender.fail()
            answered[sender] = None
        for name, events in news.items():
            self.hub.broker.publish_events(name, events)
        for sender in answered:
            try:
                sender.flush_replies()
            except Exception:
                _log_fault("replies not written", sender.user)
                sender.fail()
        for room in rooms:
            try:
                room.flush_now()
            except Exception:
                _log_fault("room not flushed", room.name)

    def _deliver(
        self,
        room: Room | None,
        entry: Entry,
        outcome: Appended,
        born: float,
        rooms: dict[Room, None],
        news: dict[str, list[Event]],
    ) -> None:
        """Deliver to the room here, and add to the news for the other processes."""
        for made, seq, ts in outcome.along:
            self._tell_own(made, seq, ts, born, rooms, news)
        if entry.type == "read":
            if outcome.changed:
                self.hub.signal(entry.room, Read(room=entry.room, user=entry.user, name=entry.name, seq=outcome.seq))
        elif outcome.duplicate:
            if room is not None and outcome.seq > room.head:
                room.mend(outcome.seq)  # committed, but never announced here
        elif outcome.changed:
            self.hub.metrics.events += 1
            carries = self.hub.broker.carries
            if room is None and not carries:
                return  # nobody to tell
            event = event_of(entry, outcome.seq, outcome.n, outcome.ts)
            event.born = born
            if carries:
                news.setdefault(entry.room, []).append(event)
            if room is not None:
                room.deliver(event)

    def _tell_own(
        self,
        made: Entry,
        seq: int,
        ts: int,
        born: float,
        rooms: dict[Room, None],
        news: dict[str, list[Event]],
    ) -> None:
        """As `_deliver`, of an event that another one made in a log of one's own."""
        self.hub.metrics.events += 1
        room, carries = self.hub.rooms.get(made.room), self.hub.broker.carries
        if room is None and not carries:
            return
        event = event_of(made, seq, 0, ts)
        event.born = born
        if carries:
            news.setdefault(made.room, []).append(event)
        if room is not None:
            rooms[room] = None
            if room.is_full:
                room.mend(seq)  # who mentions somebody does not wait for that one's devices
            else:
                room.deliver(event)


def _size(entry: Entry) -> int:
    return len(entry.text or "") + len(entry.meta or "")
