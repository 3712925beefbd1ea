"""What the next flush of a room tells of the messages that grow there, and when that comes.

Nothing is kept for a reader. Live members are told chunks, those of all messages of a room and flush in one frame;
whoever comes, or has read too slowly, is told what is there from the code point that they lack. Who has a message tells
the other processes with each flush what is new, as it tells its members.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from time import monotonic

from tornado_chat.live.growing import Growing, Told, snapshot
from tornado_chat.log.kinds import ENDING
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.encodings import Encoding
from tornado_chat.wire.events import Event
from tornado_chat.wire.replies import Appended, Chunk, Stream

WINDOW_SECONDS, LONGEST_SECONDS = 0.05, 1.0
"""A room's chunks are told at once, and the next ones after a window: the shortest, and the longest."""

TOGETHER_SECONDS = 0.01
"""Windows end at multiples of this: one loop turn tells many small rooms, and wakes whoever reads less often."""

SHARE = 0.25
"""Of the processor, for telling chunks, over all rooms. What their authors say takes up to 15 % besides at 5,000 tokens
a second."""

MEMBER_SECONDS = 5e-6
"""What it costs to tell one member, until that has been measured: a write that wakes a sleeping client."""

MEASURE_SECONDS, KEPT = 0.1, 0.9
"""How long a count of the members is good for, and how much of what was measured before it counts on."""

TOLD_CHARS = 65_536
"""With so much in it a flush, or what a slow reader is told at once, is big enough: the rest waits for the next."""

STREAM_CHARS_MORE = 128
"""What each `stream` counts for besides its text where a slow reader is told: many messages may have none yet."""


class Pace:
    """How often rooms may tell chunks, so that all of them together take SHARE of the processor at most.

    What counts is the processor's time for a member, as it is measured, and how many members those rooms have.
    """

    __slots__ = ("_counted", "_counted_at", "_seconds", "_told", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[RoomGrowing, Callable[[], int]] = {}  # how many members each room has now
        self._counted = 0  # members of the rooms that have told something in the last LONGEST_SECONDS
        self._counted_at = 0.0
        self._told, self._seconds = 1000.0, 1000 * MEMBER_SECONDS  # members that were told lately, and what that cost

    def spent(self, members: int, seconds: float) -> None:
        """So many members were told chunks, and nothing else."""
        self._told += members
        self._seconds += seconds

    def wake(self, room: RoomGrowing) -> None:
        """It tells something again."""
        self._counted += self.sizes[room]()

    def gap(self, now: float) -> float:
        """The seconds between two times that a room tells something, if all rooms do; LONGEST_SECONDS at most."""
        if now > self._counted_at + MEASURE_SECONDS:
            self._counted_at = now
            since = now - LONGEST_SECONDS
            self._counted = sum(size() for room, size in self.sizes.items() if room.next > since)
            if self._told > 1000:
                self._told *= KEPT
                self._seconds *= KEPT
        return min(self._counted * self._seconds / self._told / SHARE, LONGEST_SECONDS)


class Chunks:
    """What one flush tells of messages that grow: before its events, after them, and behind some of them."""

    __slots__ = ("_behind", "_lead", "_payloads", "_room", "_tail")

    def __init__(self, room: str, lead: list[Chunk], behind: dict[int, Chunk], tail: list[Chunk]) -> None:
        """`behind` are those whose message and end are in the same flush, by the place of the message."""
        self._room = room
        self._lead = lead
        self._behind = behind
        self._tail = tail
        self._payloads: dict[tuple[Codec, str | int], bytes] = {}

    def put(self, encoding: Encoding, frames: list[bytes], signals: list[tuple[bytes, str | None]]) -> None:
        """Add them to the frames of the events, and to the signals that come after those."""
        if self._lead:
            data = self._frame(encoding, "lead", self._lead)
            if frames:
                frames[0] = data + frames[0]
            else:
                signals.insert(0, (data, None))
        for place, chunk in self._behind.items():
            frames[place] += self._frame(encoding, place, [chunk])
        if self._tail:
            signals.append((self._frame(encoding, "tail", self._tail), None))

    def _frame(self, encoding: Encoding, key: str | int, chunks: list[Chunk]) -> bytes:
        payload = self._payloads.get((encoding.codec, key))
        if payload is None:
            payload = encoding.codec.encode(Appended(room=self._room, chunks=chunks))
            self._payloads[encoding.codec, key] = payload
        return encoding.wrap(payload)


def _drop_nothing(message: Growing) -> None:
    """There are no copies."""


class RoomGrowing:
    """What grows in one room, here or as a copy; it exists while something does."""

    __slots__ = (
        "_due",
        "_flush_soon",
        "_free",
        "_loop",
        "_on_copy_gone",
        "_on_empty",
        "_publish",
        "_timer",
        "ended",
        "messages",
        "next",
        "pace",
        "ready",
        "room",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pace: Pace,
        room: str,
        on_empty: Callable[[str], None],
        on_copy_gone: Callable[[Growing], None] = _drop_nothing,
        publish: Callable[[Sequence[Chunk]], None] | None = None,
    ) -> None:
        """`publish` tells other processes, if there are any."""
        self.room = room
        self.messages: dict[int, Growing] = {}  # by seq
        self.ready = False  # chunks go with the next flush
        self.pace = pace
        self.next = 0.0  # by monotonic(): when chunks may be told again
        self._free = 0.0  # when what was told will have been paid for
        self.ended: set[int] | None = None  # while the log is looked at: what has ended since
        self._loop = loop
        self._on_empty = on_empty
        self._on_copy_gone = on_copy_gone
        self._publish = publish
        self._flush_soon: Callable[[], None] | None = None  # of the room, while it is open
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when that comes

    def open(self, flush_soon: Callable[[], None], size: Callable[[], int]) -> None:
        """The room is open here now; nobody is in it yet."""
        self._flush_soon = flush_soon
        self.pace.sizes[self] = size
        for message in self.messages.values():
            message.tell()
        if self.ready:
            flush_soon()

    def close(self) -> None:
        """The room is not open here any more: copies are not needed."""
        self._flush_soon = None
        self.pace.sizes.pop(self, None)
        self._cancel()
        self.ready = False
        for message in [message for message in self.messages.values() if message.over or not message.here]:
            self.remove(message.seq)
        if self.messages:
            self.want_now()  # its last flush may not have come

    def remove(self, seq: int) -> None:
        message = self.messages.pop(seq, None)
        if message is not None:
            if not message.here:
                self._on_copy_gone(message)
            self.release()

    def release(self) -> None:
        """Say so if nothing grows in the room any more."""
        if not self.messages and self.ended is None:
            self.close()
            self._on_empty(self.room)

    @property
    def is_open(self) -> bool:
        return self._flush_soon is not None

    @property
    def has_others(self) -> bool:
        """There are other processes that are told."""
        return self._publish is not None

    def want(self, *, first: bool = False) -> None:
        """Some text came, perhaps the first of a message: it is told at once, or when the window has passed.

        A first one waits less, and the next ones longer for it.
        """
        if not (self.is_open or self.has_others):
            for message in self.messages.values():  # nobody is there: who asks for one gets all of it
                message.tell()
            return
        if self.ready or (self._timer is not None and not first):
            return
        now = monotonic()
        due = self._free - self.pace.gap(now) if first else self.next
        if due > now and not first:
            due = ceil(due / TOGETHER_SECONDS) * TOGETHER_SECONDS
        if due <= now:
            self.want_now()
        elif self._timer is None or due < self._due:
            self._cancel()
            self._due = due
            self._timer = self._loop.call_later(due - now, self.want_now)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def want_now(self) -> None:
        """It is told with the next flush, whatever was told just now."""
        self._cancel()
        if self._flush_soon is not None:
            self.ready = True
            self._flush_soon()
        elif self._publish is not None and not self.ready:
            self.ready = True
            self._loop.call_soon(self._publish_alone)

    def _publish_alone(self) -> None:
        """Nobody is here, so that no flush tells the other processes."""
        if self.ready and self._flush_soon is None:
            for message in self.messages.values():
                message.tell()
            self.ready = False
            self.next = monotonic() + WINDOW_SECONDS
            self._tell_others()

    def _tell_others(self) -> None:
        """What there is has been told here: the other processes hear of it, too."""
        if self._publish is None:
            return
        chunks: list[Chunk] = []
        for seq, message in self.messages.items():
            if message.here and not message.over and message.sent < message.length:
                chunks.append((seq, message.gen, message.sent, message.since(message.sent)))
                message.sent = message.length
        if chunks:
            self._publish(chunks)

    def told(self) -> Told:
        return {seq: (message.gen, message.told) for seq, message in self.messages.items()}

    def take(self, flushed: int, events: list[Event]) -> Chunks | None:
        """What a flush tells that takes the room from `flushed` on by `events`; what ended in it is let go of."""
        places = {event.seq: place for place, event in enumerate(events)}
        ended = [event.data["target"] for event in events if event.data["type"] in ENDING]
        if not self.ready and not events:
            return None
        now = monotonic()
        ready, self.ready = self.ready, False
        if not ready and self._timer is not None and self.next - now < WINDOW_SECONDS * 0.75:
            ready = True  # it needs no write of its own
            self._cancel()
        if self.next <= now - LONGEST_SECONDS:
            self.pace.wake(self)
            self.next = now
        self._free = max(self._free, now) + self.pace.gap(now)  # events cost as much, and do not wait for a window
        self.next = min(max(now + WINDOW_SECONDS if ready else self.next, self._free), now + LONGEST_SECONDS)
        last = events[-1].seq if events else flushed
        lead: list[Chunk] = []
        tail: list[Chunk] = []
        behind: dict[int, Chunk] = {}
        # A chunk comes after its message and before the end of that.
        size, more = 0, False
        for seq, message in self.messages.items():
            if seq not in ended:
                if seq > last or (not ready and seq <= flushed):
                    continue
                if size > TOLD_CHARS:
                    more = more or message.told < message.length
                    continue
            offset, text = message.told, message.tell()
            if not text:
                continue
            chunk = seq, message.gen, offset, text
            size += len(text)
            if seq <= flushed:
                lead.append(chunk)
            elif seq in ended:
                behind[places[seq]] = chunk
            else:
                tail.append(chunk)
        if self.ended is not None:
            self.ended.update(ended)
        for seq in ended:
            self.remove(seq)
        if ready:
            self._tell_others()
        if more:
            self._go_on({chunk[0] for chunk in (*lead, *tail)})
        return Chunks(self.room, lead, behind, tail) if lead or tail or behind else None

    def _go_on(self, told: set[int]) -> None:
        """There was too much for one flush: the others come first in the next one, which waits for no window."""
        self.messages = dict(sorted(self.messages.items(), key=lambda item: item[0] in told))
        self.next = self._free
        self.want()

    def snapshots(self, cursor: int, has: Told) -> Iterator[Stream]:
        """What a member is told of each message up to `cursor` before it becomes live; `has` is what it has been.

        No more than TOLD_CHARS and the rest of one message; nothing is left if `has` comes to be all that was told.
        """
        size = 0
        for seq, message in self.messages.items():
            known = has.get(seq)
            if seq > cursor or message.deaf or known == (message.gen, message.told):
                continue
            if size > TOLD_CHARS:
                return
            told = snapshot(message, known[1] if known is not None and known[0] == message.gen else 0)
            has[seq] = message.gen, message.told
            size += len(told.text) + STREAM_CHARS_MORE
            yield told

    def has_all(self, cursor: int, has: Told) -> bool:
        """Whether that is all that was told of the messages up to `cursor`."""
        return all(
            seq > cursor or one.deaf or has.get(seq) == (one.gen, one.told) for seq, one in self.messages.items()
        )
