"""Recent events of each room, under one budget of bytes for the whole process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from sys import getsizeof

from tornado_chat.log.kinds import EDITING
from tornado_chat.wire.codec import Encoded
from tornado_chat.wire.encodings import Encoding
from tornado_chat.wire.events import Event

EVENT_BYTES = 1150
"""What an event costs beside its text and frames: objects, two dictionaries, short strings (measured)."""

NO_TEXT = getsizeof("")

TRIM = 256
"""Evicted places at the front of a ring are given back this many at a time, so that an eviction stays O(1)."""

CHUNKS = 16
"""Chunks for members that catch up, over all rooms: the last ones made are kept for others at the same cursor. Each has
`Shared.batch_bytes` at most, or one event."""

Chunk = tuple[bytes, int, int]
"""The frames of events, the last seq of these, their number."""

EVICTED = Event(0, {})
"""In such a place: the event itself goes at once."""


class Budget:
    """The bytes that all rings may hold together; the oldest event goes first, whichever room it is of.

    `chunks` are CHUNKS at most, besides those bytes, by their ring, their encoding and the cursor before them.
    """

    __slots__ = ("bytes", "chunks", "limit", "order")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.order: OrderedDict[Event, Ring] = OrderedDict()
        self.chunks: dict[tuple[Ring, Encoding, int], Chunk] = {}

    def evict(self) -> None:
        """Let the oldest go until the rest fits."""
        while self.bytes > self.limit and self.order:
            next(iter(self.order.values())).drop_first()


class Ring:
    """The last events of one room, without holes: from `first` to the room's head."""

    __slots__ = ("budget", "dropped", "edits", "events")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.edits: dict[int, list[Event]] = {}  # by target: what a `deleted` has to erase with it
        self.events: list[Event] = []
        self.dropped = 0  # how many at the front of `events` are evicted and wait to be trimmed

    def __len__(self) -> int:
        return len(self.events) - self.dropped

    @property
    def first(self) -> int:
        """The lowest seq that is held; only asked of a ring that is not empty."""
        return self.events[self.dropped].seq

    def append(self, event: Event) -> None:
        self.events.append(event)
        self.budget.order[event] = self
        self._charge(event)
        self.budget.evict()

    def prepend(self, page: Sequence[Event]) -> None:
        """Put the end of a page from the log before the rest, as much as the budget has room for."""
        taken = len(page)
        while taken and self.budget.bytes + EVENT_BYTES < self.budget.limit:
            taken -= 1
            event = page[taken]
            self.budget.order[event] = self
            self.budget.order.move_to_end(event, last=False)
            self._charge(event)
        self.events[: self.dropped] = page[taken:]
        self.dropped = 0
        self.budget.evict()

    def _charge(self, event: Event) -> None:
        if event.data["type"] in EDITING:
            self.edits.setdefault(event.data["target"], []).append(event)
        event.cost = EVENT_BYTES + _content_bytes(event) + sum(map(len, event.frames.values()))
        self.budget.bytes += event.cost

    def encode(self, event: Event, encodings: Iterable[Encoding]) -> None:
        """Make the event's frames that are missing; they are charged to the budget if the event is held here."""
        added = event.encode(encodings)
        if added and event.cost:
            event.cost += added
            self.budget.bytes += added
            self.budget.evict()

    def drop_first(self) -> None:
        event = self.events[self.dropped]
        self.events[self.dropped] = EVICTED
        del self.budget.order[event]
        self.budget.bytes -= event.cost
        event.cost = 0
        if event.data["type"] in EDITING:
            target = event.data["target"]
            found = self.edits[target]
            found.remove(event)
            if not found:
                del self.edits[target]
        self.dropped += 1
        if self.dropped >= TRIM or self.dropped == len(self.events):
            del self.events[: self.dropped]
            self.dropped = 0

    def chunk(self, encoding: Encoding, cursor: int) -> Chunk | None:
        """The chunk after `cursor`, if it was made lately."""
        return self.budget.chunks.get((self, encoding, cursor))

    def keep_chunk(self, encoding: Encoding, cursor: int, chunk: Chunk) -> None:
        chunks = self.budget.chunks
        if len(chunks) >= CHUNKS:
            del chunks[next(iter(chunks))]
        chunks[self, encoding, cursor] = chunk

    def _drop_chunks(self) -> None:
        chunks = self.budget.chunks
        for key in [key for key in chunks if key[0] is self]:
            del chunks[key]

    def clear(self, most: int) -> None:
        """Drop up to `most` events, and all chunks."""
        self._drop_chunks()
        for _ in range(min(most, len(self))):
            self.drop_first()

    def after(self, seq: int, last: int) -> list[Event] | None:
        """The events seq+1 to `last`; None if the ring does not hold them all."""
        if len(self) == 0 or self.first > seq + 1:
            return None
        start = seq + 1 - self.first + self.dropped
        return self.events[start : start + last - seq]

    def erase(self, target: int) -> None:
        """Forget the texts of the message `target` and of its edits."""
        self._drop_chunks()
        if len(self) and self.first <= target:
            self.events[target - self.first + self.dropped].erase()
        for event in self.edits.get(target, ()):
            event.erase()


def erase_if(event: Event, target: int) -> None:
    """Erase `event` if it is the message `target` or an edit of it."""
    if event.seq == target or (event.data["type"] in EDITING and event.data["target"] == target):
        event.erase()


def _content_bytes(event: Event) -> int:
    """The text's, of which a character takes one byte to four, and the meta's."""
    meta: Encoded | None = event.data.get("meta")
    return getsizeof(event.data.get("text", "")) - NO_TEXT + (len(meta.json) if meta is not None else 0)
