"""A room under every order of events, joins, leaves, stalls and erasures: each member gets every event once, in order.

The connections here stall and take bytes when the example says so, which no real socket can be told to do;
tests/live/test_delivery.py does the same things over real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.chat import eventually
from tests.support.hubs import MARK, PLAIN, MemoryLog, Peer, made_hub, turns
from tornado_chat.errors import ChatError
from tornado_chat.live import rest
from tornado_chat.live.catching_up import CatchingUp
from tornado_chat.live.hub import Hub
from tornado_chat.live.member import GONE, LIVE, Member
from tornado_chat.live.room import CHEAP_EVENTS, EARLY_EVENTS, SLICE, Room
from tornado_chat.live.room_signals import PENDING_SIGNALS
from tornado_chat.live.shared import PAGE_READS
from tornado_chat.log import Appended, Entry
from tornado_chat.wire.commands import Join
from tornado_chat.wire.events import Data, Event
from tornado_chat.wire.replies import Typing


def check(written: list[Data], head: int, *, here: bool) -> None:
    """`written` obeys the protocol: each membership is an unbroken run from its cursor."""
    cursor: int | None = None
    live = False
    for data in written:
        match data["type"]:
            case "joined":  # perhaps in the place of another membership, of which nothing comes any more
                cursor, live = data["cursor"], False
            case "left":
                assert cursor is not None
                cursor, live = None, False
            case "synced":
                assert cursor == data["seq"]
                assert not live
                live = True
            case "behind":
                assert cursor == data["seq"]
                assert live
                live = False
            case "typing":
                assert live, "a signal to a member that is not live"
            case _:
                assert cursor is not None, f"written after it left: {data}"
                assert data["seq"] == cursor + 1, f"after {cursor} came {data}"
                cursor += 1
    if here:
        assert live
        assert cursor == head


def last_written(written: list[Data]) -> int:
    """The cursor that its client has."""
    for data in reversed(written):
        cursor: int | None = data.get("cursor", data.get("seq"))
        if cursor is not None:
            return cursor
    return 0


async def quiet(hub: Hub, peers: list[Peer]) -> None:
    """Let everybody read, and the loop run until nothing moves."""
    for _ in range(2000):
        for peer in peers:
            peer.drain()
        room = hub.rooms.get("r")
        await asyncio.sleep(0.001 if room is not None and room.resting else 0)
        if any(peer.busy for peer in peers):
            continue
        if room is None or not (room.pending or room.flushing or room.catching or room.hole or hub.tasks):
            return
    raise AssertionError("it never came to rest")


async def start(log: MemoryLog, *, ring_bytes: int = 10**6) -> tuple[Hub, Room]:
    hub = made_hub(log, ring_bytes)
    room = hub.open_room("r")
    room.holds += 1
    await room.opened
    return hub, room


who = st.integers(0, 1)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 20)),
        st.tuples(st.just("burst"), st.integers(10, 40)),
        st.tuples(st.just("unannounced"), st.just(1)),
        st.tuples(st.just("overtaken"), st.integers(2, 5), st.booleans()),
        st.tuples(st.just("doubled"), st.integers(0, 9)),
        st.tuples(st.just("delete"), st.integers(0, 9)),
        st.tuples(st.just("join"), who, st.one_of(st.none(), st.integers(0, 100)), st.booleans()),
        st.tuples(st.just("leave"), who),
        st.tuples(st.just("stall"), who),
        st.tuples(st.just("drain"), who),
        st.tuples(st.just("typing"), who),
        st.tuples(st.just("slow log"), st.integers(0, 9)),
        st.tuples(st.just("turn"), st.integers(1, 9)),
    ),
    min_size=10,
    max_size=80,
)


@given(operations, st.integers(0, 30), st.sampled_from([5000, 10**6]), st.sampled_from([1, SLICE]), st.booleans())
@settings(max_examples=600, deadline=None)
def test_every_member_gets_every_event_once_and_in_order(
    steps: list[tuple[Any, ...]], before: int, ring_bytes: int, slice_size: int, rests: bool
) -> None:
    async def run() -> None:
        log = MemoryLog()
        for number in range(before):
            log.add(f"old {number}")
        hub, room = await start(log, ring_bytes=ring_bytes)
        peers = [Peer(hub, f"user{number}") for number in range(2)]
        for peer in peers:
            peer.everybody = peers
            await peer.join(None)
        erased: set[int] = set()
        for step in steps:
            match step:
                case "send", count:
                    for _ in range(count):
                        room.deliver(log.add("x" * 300))
                case "burst", count:
                    for _ in range(count):
                        room.deliver(log.add("x" * 300))
                        await turns(1)
                case "unannounced", _:
                    log.add("only in the log")
                case "overtaken", count, waits:
                    for event in reversed([log.add("x" * 300) for _ in range(count)]):
                        room.deliver(event)
                        await turns(3 if waits else 0)
                case "doubled", back:
                    if back < len(log.events):
                        data = log.events[len(log.events) - back - 1]
                        room.deliver(Event(data["seq"], dict(data)))
                case "delete", back:
                    target = len(log.events) - back
                    if target > 0 and log.events[target - 1]["type"] == "message" and target not in erased:
                        erased.add(target)
                        room.deliver(log.add("", target=target))
                case "join", who, after, at_once:
                    peers[who].begin(partial(peers[who].join, after, at_once=at_once))
                case "leave", who:
                    peers[who].begin(peers[who].leave)
                case "stall", who:
                    peers[who].stalled = True
                case "drain", who:
                    peers[who].drain()
                case "typing", who:
                    peer = peers[who]
                    room.signals.lasting.pop(peer.user, None)
                    room.signals.set(Typing(room="r", user=peer.user, name="name", on=True), peer)
                case "slow log", delay:
                    log.delay = delay
                case "turn", count:
                    await turns(count)
            for peer in peers:
                if peer.member is not None:
                    assert room.written(peer.member) == last_written(peer.written)
        await hub.poll()
        await quiet(hub, peers)
        for peer in peers:
            known = set()
            for data in peer.written:
                if data["type"] == "mark":
                    known.add(data["erased"])
                elif data["type"] == "message" and data["seq"] in known and "along" not in data:
                    assert "text" not in data, f"{data} was written after somebody had been told that it is deleted"
            check([d for d in peer.written if d["type"] != "mark"], len(log.events), here=peer.member is not None)
            assert peer.most <= MARK + 2000, "an outbox over its mark by more than one batch's slack"
            assert not [d for d in peer.written if d["type"] == "typing" and d["user"] == peer.user]
        for event in room.ring.events[room.ring.dropped :]:
            assert (event.data.get("deleted") is True) == (event.seq in erased)
        for peer in peers:
            await peer.leave()
            assert not peer.address.rooms
        room.holds -= 1
        room.release()
        assert not hub.rooms
        assert not hub.shared.budget.order
        assert hub.shared.budget.bytes == 0
        assert not hub.shared.budget.chunks
        assert not hub.tasks
        assert hub.shared.page_reads._value == PAGE_READS

    import tornado_chat.live.room as module

    original = module.SLICE, module.HOLE_SECONDS, module.EARLY_EVENTS, rest.LEAST
    module.SLICE, module.HOLE_SECONDS, module.EARLY_EVENTS = slice_size, 0, 3
    rest.LEAST = 0.0 if rests else rest.LEAST
    try:
        asyncio.run(run())
    finally:
        module.SLICE, module.HOLE_SECONDS, module.EARLY_EVENTS, rest.LEAST = original


@pytest.mark.parametrize(("lacks", "at_once"), [(CHEAP_EVENTS, True), (CHEAP_EVENTS + 1, False)])
async def test_who_joins_has_at_once_what_is_cheap_and_waits_for_the_rest(lacks: int, at_once: bool) -> None:
    """A chunk that must be made takes its turn: many may join in one."""
    log = MemoryLog()
    hub, room = await start(log)
    for number in range(100):
        room.deliver(log.add(f"event {number}"))
    await quiet(hub, [])
    first, second = Peer(hub, "first"), Peer(hub, "second")
    for peer, told in ((first, at_once), (second, True)):
        assert hub.admit_at_once(
            Member(peer, peer.user, "name", PLAIN), Join(room="r", after=100 - lacks), 0, peer.memberships, peer.address
        )
        assert ("synced" in {data["type"] for data in peer.written}) is told, "the second has what the first was given"
        await quiet(hub, [peer])
        check(peer.written, 100, here=True)


async def test_members_at_one_cursor_share_one_query_and_one_chunk() -> None:
    log = MemoryLog()
    for number in range(5):
        log.add(f"old {number}")
    hub, _ = await start(log)
    peers = [Peer(hub, f"user{number}") for number in range(300)]
    for peer in peers:
        await peer.join(0)
    await quiet(hub, peers)
    assert log.reads == 1
    assert all(peer.member is not None and peer.member.state == LIVE for peer in peers)
    late = Peer(hub, "late")
    await late.join(2)
    await quiet(hub, [late])
    assert log.reads == 1, "the page went into the ring"


async def test_who_is_admitted_at_once_is_given_at_once_what_it_lacks() -> None:
    """In the same call, out of one chunk for all, and without a look-up."""
    log = MemoryLog()
    hub, room = await start(log)
    for number in range(5):
        room.deliver(log.add(f"new {number}"))
    await turns(3)
    peers = [Peer(hub, f"user{number}") for number in range(20)]
    for peer in peers:
        member, join = Member(peer, peer.user, "name", PLAIN), Join(room="r", after=2)
        assert hub.admit_at_once(member, join, 0, peer.memberships, peer.address)
        assert member.state == LIVE
        check(peer.written, 5, here=True)
    assert len(hub.shared.budget.chunks) == 1
    room.deliver(log.add("", target=4))
    assert not hub.shared.budget.chunks, "its text would come to whoever is next"
    room.head += 1  # an event that is not flushed yet
    late = Peer(hub, "late")
    for after in (None, 2, 7):
        member = Member(late, late.user, "name", PLAIN)
        assert not hub.admit_at_once(member, Join(room="r", after=after), 0, late.memberships, late.address)
    assert not late.address.rooms
    assert not late.written


async def test_an_only_member_that_joins_again_at_once_keeps_its_room() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    room.holds -= 1
    await peer.join(0, at_once=True)
    assert hub.rooms == {"r": room}
    assert peer.address.rooms == {"r": 1}
    room.deliver(log.add("one"))
    await quiet(hub, [peer])
    check(peer.written, 1, here=True)


@pytest.mark.logs("page not read")
async def test_a_log_that_does_not_answer_delays_a_page_and_loses_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr("tornado_chat.live.catching_up.RETRY_SECONDS", 0.0)
    log = MemoryLog()
    for number in range(20):
        log.add(f"old {number}")
    hub, _ = await start(log)
    log.fail_next = True
    peer = Peer(hub, "u")
    await peer.join(0)
    await quiet(hub, [peer])
    check(peer.written, 20, here=True)


async def test_nothing_follows_left_in_the_middle_of_a_flush() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peers = [Peer(hub, f"user{number}") for number in range(3 * SLICE)]
    for peer in peers:
        await peer.join(None)
    room.deliver(log.add("hello"))
    await turns(2)
    assert room.batches, "the flush is under way"
    reached = sum(any(d["type"] == "message" for d in peer.written) for peer in peers)
    assert 0 < reached < len(peers)
    member = peers[-1].member
    assert member is not None
    await peers[-1].leave()
    assert member.state == GONE
    await peers[-2].join(0)
    newcomer = Peer(hub, "newcomer")
    await newcomer.join(None)
    await quiet(hub, [*peers, newcomer])
    assert peers[-1].written[-1] == {"type": "left", "room": "r"}
    check(peers[-1].written, 1, here=False)
    check(peers[-2].written, 1, here=True)
    check(newcomer.written, 1, here=True)
    assert not [d for d in newcomer.written if d["type"] == "message"], "its cursor was past the batch"
    for peer in peers[:-2]:
        check(peer.written, 1, here=True)


async def test_no_signal_follows_left_in_the_middle_of_a_flush() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peers = [Peer(hub, f"user{number}") for number in range(3 * SLICE)]
    for peer in peers:
        await peer.join(None)
    room.signal(Typing(room="r", user="elsewhere", name="name", on=True))
    await turns(2)
    last = peers[-1]
    assert room.batches, "the flush is under way"
    assert last.written[-1]["type"] == "synced", "and has not come to the last"
    await last.leave()
    await quiet(hub, peers)
    assert last.written[-1]["type"] == "left"
    assert all(peer.written[-1]["type"] == "typing" for peer in peers[:-1])


async def filled(hub: Hub, peer: Peer, head: int) -> None:
    """Wait until `peer` was written all up to `head`, and see that it was in order and once."""
    room = hub.rooms["r"]
    await eventually(lambda: room.flushed == head and room.hole is None)
    await quiet(hub, [peer])
    check(peer.written, head, here=True)


async def test_a_hole_is_filled_from_the_log_soon() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    room.deliver(log.add("one"))
    log.add("never announced")
    log.add("neither")
    room.deliver(log.add("four"))
    await filled(hub, peer, 4)
    assert not room.early


async def test_what_was_overtaken_has_a_moment_to_come_by_itself() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    first, *others = [log.add(f"{number}") for number in range(5)]
    for event in others:
        room.deliver(event)
    await turns(5)
    assert [data for data in peer.written if data["type"] == "message"] == []
    room.deliver(first)
    await filled(hub, peer, 5)
    assert log.reads == 0, "the log was asked for what came by itself"
    assert not room.early


async def test_events_that_wait_for_a_hole_are_bounded() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    log.add("never announced")
    for number in range(EARLY_EVENTS + 50):
        room.deliver(log.add(f"{number}"))
        assert len(room.early) <= EARLY_EVENTS
    await filled(hub, peer, EARLY_EVENTS + 51)
    assert not room.early


async def test_a_room_that_closes_expects_nothing_more() -> None:
    log = MemoryLog()
    _, room = await start(log)
    log.add("never announced")
    room.deliver(log.add("two"))
    room.holds -= 1
    room.release()
    assert not room.early
    assert room.hole is None
    await turns(5)
    assert log.reads == 0


class CompactedLog(MemoryLog):
    """As that of an own log of which only the last event is left."""

    async def read(self, *args: Any, **kwargs: Any) -> list[Event]:
        await super().read(*args, **kwargs)
        return [Event(len(self.events), dict(self.events[-1]))]


async def test_a_room_that_closes_before_it_has_passed_over_what_is_gone_stays_empty() -> None:
    log = CompactedLog()
    hub, room = await start(log)
    for number in range(5):
        log.add(f"{number}")
    room.flushing = True  # or rests
    room.mend(5)
    await eventually(lambda: log.reads == 1)
    await turns(5)
    room.holds -= 1
    room.release()
    room.flushing = False
    await eventually(lambda: not room.mending)
    assert hub.shared.budget.bytes == 0


async def test_what_comes_before_the_head_is_known_waits_for_it() -> None:
    log = MemoryLog()
    hub = made_hub(log, 10**6)
    room = hub.open_room("r")
    room.holds += 1
    old, new = log.add("committed before the head was asked for"), Event(2, {"type": "message", "room": "r", "seq": 2})
    hub.on_events("r", [new.data])
    hub.on_events("r", [old.data])
    await room.opened
    log.events.append(new.data)
    assert (room.head, room.early) == (2, {})


async def test_signals_beyond_the_bound_are_dropped_and_counted() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    for number in range(PENDING_SIGNALS + 5):
        room.signal(Typing(room="r", user=f"user{number}", name="name", on=True))
    await quiet(hub, [peer])
    assert sum(data["type"] == "typing" for data in peer.written) == PENDING_SIGNALS
    assert hub.metrics.signals_dropped == 5


async def test_pages_held_for_members_are_bounded_over_all_rooms() -> None:
    """1,000 rooms with one recovering member each: the memory of pages is that of PAGE_READS of them."""
    log = MemoryLog()
    for number in range(40):
        log.add(f"old {number}")
    hub = made_hub(log, 2000)
    rooms = [hub.open_room(f"r{number}") for number in range(200)]
    for room in rooms:
        room.holds += 1
        await room.opened
        room.head = room.flushed = 40
    members = []
    for room in rooms:
        member = Member(Peer(hub, "u"), "u", "name", PLAIN)
        members.append(member)
        room.enter(member, now=False)
    most = 0
    while any(member.state != LIVE for member in members):
        most = max(most, sum(len(room.catching.pages) for room in rooms if room.catching))
        await asyncio.sleep(0)
    assert 0 < most <= PAGE_READS
    assert hub.shared.page_reads._value == PAGE_READS


async def test_the_page_of_a_member_that_left_is_not_read() -> None:
    log = MemoryLog()
    for number in range(40):
        log.add(f"old {number}")
    hub, _ = await start(log)
    peer = Peer(hub, "u")
    log.delay = 200
    for after in range(30):
        await peer.join(after)
        await turns(2)
    await peer.leave()
    await quiet(hub, [peer])
    assert log.reads <= PAGE_READS
    assert hub.shared.page_reads._value == PAGE_READS


class Waiting:
    """A Sender that waits for the room."""

    user = "w"

    def __init__(self, reaction: Callable[[], object]) -> None:
        self.reaction = reaction
        self.failed = False

    def resume(self) -> None:
        self.reaction()

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None: ...

    def flush_replies(self) -> None: ...

    def fail(self) -> None:
        self.failed = True


@pytest.mark.logs("sender not resumed user=w")
async def test_a_sender_that_fails_costs_no_other() -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    resumed: list[bool] = []
    broken, sound = Waiting(lambda: 1 / 0), Waiting(lambda: resumed.append(True))
    room.blocked |= {broken: None, sound: None}
    room.deliver(log.add("one"))
    await quiet(hub, [peer])
    assert (broken.failed, sound.failed, resumed, room.blocked) == (True, False, [True], {})
    assert not peer.closed
    check(peer.written, 1, here=True)


@pytest.mark.logs("member not fed room=r user=u")
async def test_a_member_that_cannot_be_fed_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    for number in range(3):
        log.add(str(number))
    hub, _ = await start(log)
    peer = Peer(hub, "u")
    with monkeypatch.context() as broken:
        broken.setattr(CatchingUp, "_make_chunk", lambda self, member: 1 / 0)
        await peer.join(0)
        await turns(3)
    assert peer.closed
    await peer.leave()


@pytest.mark.logs("flush failed, its members are cut off")
async def test_a_fault_in_a_flush_cuts_the_members_off_and_the_room_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    resumed: list[bool] = []
    room.blocked[Waiting(lambda: resumed.append(True))] = None
    with monkeypatch.context() as broken:
        broken.setattr(Room, "_write_slice", lambda self: 1 / 0)
        room.deliver(log.add("lost on its way"))
        await turns(3)
    assert peer.closed
    assert resumed, "who waited for the flush must not wait for ever"
    back = Peer(hub, "u")
    await back.join(0)
    room.deliver(log.add("next"))
    await quiet(hub, [back])
    check(back.written, 2, here=True)


async def test_news_that_come_faster_than_the_flush_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.live.room.PENDING_EVENTS", 10)
    log = MemoryLog()
    hub, room = await start(log)
    peer = Peer(hub, "u")
    await peer.join(None)
    for number in range(100):  # in one turn of the loop: nothing is flushed meanwhile
        hub.on_events("r", [log.add(f"{number}").data])
    assert len(room.pending) == 10
    await filled(hub, peer, 100)
