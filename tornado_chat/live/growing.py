"""Messages that grow: the text of each in this process, and what of it the next flush of their room tells.

The text is the buffer: nothing is kept for a reader. Live members are told chunks, those of all messages of a room and
flush in one frame; whoever comes, or has read too slowly, is told what is there from the code point that they lack.

A message grows in one process, which has it; in the others with its room open it is a copy, that follows. Who has it
tells them with each flush what is new, as it tells its members.

What is true of a `Growing` whenever the loop runs something else: `kept` <= `length` and `told` <= `length`. Every live
member of the room has been written the first `told` code points, or is about to be by a flush that runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import ceil
from time import monotonic
from typing import Any, Protocol

from tornado_chat.errors import Reason
from tornado_chat.log.kinds import ENDING
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.encodings import Encoding
from tornado_chat.wire.events import Event
from tornado_chat.wire.replies import Appended, Chunk, Stop, Stream

STREAM_CHARS = 262_144
"""Code points of one message that grows."""

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

Told = dict[int, tuple[int, int]]
"""Of a room's messages that grow, by seq: the gen and the code points that were told."""


class Hearer(Protocol):
    """The connection that writes a message."""

    user: str

    def hear(self, stop: Stop) -> None:
        """Somebody wants a message of its own, or of a user for whom it writes, to end."""


class Growing:
    """One message, or (`here` is False) a copy. `writer` is who writes it, None while nobody is connected.

    Of a copy: `home` is the process that has it, "" if that is not known, and `known` how much there is of it.
    """

    __slots__ = (
        "_fresh",
        "_pieces",
        "asked_at",
        "counted",
        "cut_short",
        "deaf",
        "done",
        "end_reason",
        "ending",
        "ends_at",
        "gap",
        "gen",
        "handed_by",
        "here",
        "home",
        "id",
        "kept",
        "kept_at",
        "known",
        "length",
        "linked",
        "missed",
        "name",
        "over",
        "room",
        "sent",
        "seq",
        "told",
        "unlinks_at",
        "user",
        "writer",
    )

    def __init__(
        self, room: str, seq: int, user: str, name: str, id: str, gen: int, text: str, *, here: bool = True
    ) -> None:
        """`text` is what the checkpoints hold."""
        self.here = here
        self.home = ""
        self.known = 0
        self.asked_at = 0.0  # by monotonic(): when `home` was asked for what is missing
        self.missed = 0  # looks at the log, one after the other, that did not find it
        self.counted = 0  # code points, for the bound of all copies
        self.deaf = False  # there is no room for its text
        self.room = room
        self.seq = seq
        self.user = user
        self.name = name
        self.id = id
        self.writer: Hearer | None = None
        self.done: asyncio.Future[None] | None = None  # for those who wait for the end
        self.over = False  # it ended, or is another process's: the room lets go of it with the next flush
        self.ending = False  # its `finished` is on its way through the log
        self.ends_at: float | None = None  # by monotonic(): when it is finished here, for `end_reason`
        self.end_reason: Reason = "interrupted"
        self.handed_by = 0.0  # by monotonic(): until then the process that had it may hand some more over
        self.linked = True  # as the log has it
        self.unlinks_at = 0.0  # by monotonic(): until then its author counts as connected
        self.kept_at = monotonic()
        self.begin(gen, text)

    def begin(self, gen: int, text: str = "") -> None:
        """The text begins again with `text`, which the log holds."""
        self.gen = gen
        self._pieces: list[str] = []  # what was told
        self._fresh = [text] if text else []  # what was not
        self.told = self.known = 0
        self.length = self.kept = self.sent = len(text)  # sent: what other processes were told
        self.gap = False  # its author was told of one, and has not come back to the end of the text
        self.cut_short = False  # the log may have more than its author says it has

    def add(self, text: str) -> None:
        self._fresh.append(text)
        self.length += len(text)

    def extend(self, gen: int, start: int, text: str) -> bool:
        """Take what is new of `text`, which begins at the code point `start`; False if something before is missing."""
        if gen < self.gen:
            return True
        if gen > self.gen:
            self.begin(gen)
        self.known = max(self.known, start + len(text))
        if start > self.length:
            return False
        if self.known > self.length:
            self.add(text[self.length - start :])
        return self.known <= self.length

    def ends_as(self, text: str | None) -> bool:
        """All of its `text` is known now, or that it was deleted: take what is missing.

        False if it is another one: who was told this one has to be told that.
        """
        if text is None:
            return True
        mine = self.text()
        if text.startswith(mine):
            if len(text) > len(mine):
                self.add(text[len(mine) :])
            return True
        return mine.startswith(text)

    def tell(self) -> str:
        """What was not told: it counts as told from now on."""
        text = "".join(self._fresh)
        self._fresh = []
        if text:
            self._pieces.append(text)
            self.told += len(text)
        return text

    def text(self) -> str:
        return "".join(self._pieces) + "".join(self._fresh)

    def since(self, start: int) -> str:
        """What begins at the code point `start`."""
        missing = self.length - start
        found: list[str] = []
        for piece in chain(reversed(self._fresh), reversed(self._pieces)):
            if missing <= 0:
                break
            found.append(piece if len(piece) <= missing else piece[len(piece) - missing :])
            missing -= len(piece)
        return "".join(reversed(found))

    def told_text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def cut(self, length: int) -> None:
        """Only the first `length` code points are its text."""
        if length < self.length:
            text = self.text()[:length]
            self._pieces, self._fresh = [text[: self.told]], [text[self.told :]]
            self.length = length
            self.cut_short = True
            self.told, self.sent = min(self.told, length), min(self.sent, length)
            if self.kept > length:
                self.kept = 0  # if it goes on to grow, all of it is kept anew


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


def snapshot(message: Growing, offset: int, id: str | None = None) -> Stream:
    """What was told of the message, from a code point on: the next chunk continues it."""
    offset = min(offset, message.told)
    return Stream(
        id=id,
        room=message.room,
        seq=message.seq,
        gen=message.gen,
        offset=offset,
        text=message.told_text()[offset:],
        done=False,
    )


def short(event: Event) -> Event:
    """A `finished` as those get it who were there while the message grew: without its text."""
    data: dict[str, Any] = {key: value for key, value in event.data.items() if key != "text"}
    found = Event(event.seq, data)
    found.born = event.born
    return found
