"""The rings of a process share one budget; the oldest event goes first, whosever it is."""

from __future__ import annotations

from tornado_chat.live.ring import CHUNKS, EVENT_BYTES, Budget, Ring
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.encodings import websocket
from tornado_chat.wire.events import Event

PLAIN = websocket(JSON)


def message(seq: int, text: str = "x") -> Event:
    return Event(seq, {"type": "message", "room": "r", "seq": seq, "user": "u", "name": "u", "text": text, "ts": 1})


def fill(ring: Ring, first: int, last: int, text: str = "x") -> None:
    for seq in range(first, last + 1):
        ring.append(message(seq, text))


def frame(ring: Ring, event: Event) -> bytes:
    ring.encode(event, [PLAIN])
    return event.frames[PLAIN]


def seqs(events: list[Event] | None) -> list[int] | None:
    return None if events is None else [event.seq for event in events]


def test_after_gives_what_is_held_and_none_for_what_is_not() -> None:
    ring = Ring(Budget(10**6))
    assert ring.after(0, 5) is None
    fill(ring, 4, 9)
    assert seqs(ring.after(3, 9)) == [4, 5, 6, 7, 8, 9]
    assert seqs(ring.after(6, 8)) == [7, 8]
    assert ring.after(2, 9) is None


def test_budget_is_kept_by_dropping_the_oldest_of_all_rings() -> None:
    budget = Budget(10 * (EVENT_BYTES + 1))
    old, new = Ring(budget), Ring(budget)
    fill(old, 1, 6)
    fill(new, 1, 6)
    assert budget.bytes <= budget.limit
    assert len(old) == 4
    assert len(new) == 6
    assert old.first == 3
    assert seqs(old.after(2, 6)) == [3, 4, 5, 6]
    fill(new, 7, 1000)
    assert len(old) == 0
    assert budget.bytes <= budget.limit
    assert len(new) == 10
    assert seqs(new.after(990, 1000)) == list(range(991, 1001))


def test_a_late_encoding_is_charged_too() -> None:
    budget = Budget(10**6)
    ring = Ring(budget)
    fill(ring, 1, 1, text="y" * 1000)
    before = budget.bytes
    event = ring.events[0]
    assert frame(ring, event) is frame(ring, event)
    assert budget.bytes == before + len(event.frames[PLAIN])
    ring.clear(1000)
    assert budget.bytes == 0
    assert not budget.order


def test_a_page_is_put_before_the_rest_as_far_as_the_budget_goes() -> None:
    budget = Budget(6 * (EVENT_BYTES + 1))
    ring = Ring(budget)
    fill(ring, 11, 13)
    ring.prepend([message(seq) for seq in range(1, 11)])
    assert budget.bytes <= budget.limit
    assert ring.first in (8, 9)
    assert seqs(ring.after(9, 13)) == [10, 11, 12, 13]
    ring.append(message(14))
    ring.append(message(15))
    assert seqs(ring.after(ring.first - 1, 15)) == list(range(ring.first, 16)), "the prepended ones are the oldest"
    assert ring.first >= 10


def test_prepending_after_evictions_keeps_the_places_right() -> None:
    budget = Budget(8 * (EVENT_BYTES + 1))
    ring = Ring(budget)
    fill(ring, 1, 12)
    budget.limit = 20 * (EVENT_BYTES + 1)
    first = ring.first
    ring.prepend([message(seq) for seq in range(first - 3, first)])
    assert seqs(ring.after(first - 4, 12)) == list(range(first - 3, 13))


def test_clearing_one_ring_leaves_the_other() -> None:
    budget = Budget(10**6)
    one, other = Ring(budget), Ring(budget)
    fill(one, 1, 600)
    fill(other, 1, 5)
    held = budget.bytes
    one.clear(500)
    assert len(one) == 100
    one.clear(500)
    assert 0 < budget.bytes < held
    assert seqs(other.after(0, 5)) == [1, 2, 3, 4, 5]
    assert len(budget.order) == 5


def test_erase_takes_the_message_and_its_edits() -> None:
    ring = Ring(Budget(10**6))
    fill(ring, 1, 2, text="secret")
    edit = Event(3, {"type": "edited", "room": "r", "seq": 3, "target": 1, "user": "u", "text": "secret 2", "ts": 1})
    ring.append(edit)
    for event in ring.events:
        frame(ring, event)
    ring.erase(1)
    assert b"secret" not in frame(ring, ring.events[0])
    assert b'"deleted":true' in frame(ring, ring.events[0])
    assert b"secret" in frame(ring, ring.events[1])
    assert b"secret" not in frame(ring, edit)


def test_chunks_are_bounded_over_all_rings_and_go_with_what_they_tell() -> None:
    budget = Budget(10**6)
    one, other = Ring(budget), Ring(budget)
    fill(one, 1, 3)
    for cursor in range(CHUNKS + 5):
        one.keep_chunk(PLAIN, cursor, (b"", cursor + 1, 1))
        assert len(budget.chunks) <= CHUNKS
    assert one.chunk(PLAIN, 4) is None
    assert one.chunk(PLAIN, 5) == (b"", 6, 1)
    other.keep_chunk(PLAIN, 0, (b"", 1, 1))
    one.erase(2)
    assert one.chunk(PLAIN, CHUNKS + 4) is None, "what is erased may be in it"
    assert other.chunk(PLAIN, 0) is not None
    other.clear(0)
    assert not budget.chunks
