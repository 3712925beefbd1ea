"""Shares of the loop: what is to go on takes turns, and nothing keeps the rest waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from tests.support.connections import until
from tornado_chat.live import turns as module
from tornado_chat.live.fanout import NO_KEY
from tornado_chat.live.member import Member
from tornado_chat.live.turns import FEEDS, FairShare, Turns
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.encodings import websocket


class Silent:
    """A line that nothing is written to."""

    closing = False
    outbox_bytes = asked_bytes = 0
    key = NO_KEY

    def write(self, data: bytes) -> None:
        raise AssertionError("turns do not write")

    def sent(self, data: bytes, taken: int) -> None: ...

    def cork(self) -> None: ...

    def uncork(self) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...

    def want_drained(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def member() -> Member:
    return Member(Silent(), "user", "name", websocket(JSON))


def slices(name: str, count: int, seen: list[str]) -> Callable[[], bool]:
    """A flush of `count` slices, each of which leaves `name` in `seen`."""
    left = iter(range(count - 1, -1, -1))

    def flush_slice() -> bool:
        seen.append(name)
        return next(left) > 0

    return flush_slice


async def test_big_rooms_flush_in_turn_and_one_slice_at_a_time() -> None:
    turns, seen = Turns(asyncio.get_running_loop()), list[str]()
    turns.flush(slices("a", 4, seen))
    turns.flush(slices("b", 2, seen))
    assert seen == [], "never from inside of a call"
    most = 0
    while len(seen) < 6:
        before = len(seen)
        await asyncio.sleep(0)
        most = max(most, len(seen) - before)
    assert seen == ["a", "b", "a", "b", "a", "a"]
    assert most == 1
    turns.flush(slices("c", 1, seen))  # it begins again after it had ended
    await until(lambda: seen[-1] == "c")


async def test_flushes_wait_for_a_commit_once_for_each_slice() -> None:
    turns, seen = Turns(asyncio.get_running_loop()), list[str]()
    turns.commit_begins()
    turns.flush(slices("a", 3, seen))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert seen == [], "the log's thread gets the processor first"
    turns.commit_ended()
    await until(lambda: len(seen) == 3)
    turns.commit_begins()
    turns.flush(slices("b", 3, seen))
    await until(lambda: len(seen) == 6)  # a commit that takes long is waited for in vain
    turns.commit_ended()
    turns.flush(slices("c", 1, seen))
    await until(lambda: seen[-1] == "c")


async def test_a_flush_goes_on_while_one_commit_follows_the_other() -> None:
    """Each ends before its time to be waited for is up, and the next begins at once."""
    turns, seen = Turns(asyncio.get_running_loop()), list[str]()
    turns.commit_begins()
    turns.flush(slices("a", 5, seen))
    for _ in range(40):
        await asyncio.sleep(0)
        turns.commit_ended()
        turns.commit_begins()
    assert len(seen) == 5
    turns.commit_ended()
    turns.flush(slices("b", 3, seen))
    await until(lambda: seen == ["a"] * 5 + ["b"] * 3)


async def test_commits_that_end_at_once_make_no_second_turn() -> None:
    turns, seen = Turns(asyncio.get_running_loop()), list[str]()
    turns.commit_begins()
    turns.flush(slices("a", 6, seen))
    await asyncio.sleep(0)  # it waits
    for _ in range(3):
        turns.commit_ended()
        turns.commit_begins()
    turns.commit_ended()
    while len(seen) < 6:
        before = len(seen)
        await asyncio.sleep(0)
        assert len(seen) <= before + 1, "one slice in a turn of the loop"


@pytest.mark.logs("Exception in callback")
async def test_a_flush_that_fails_ends_and_the_others_go_on() -> None:
    turns, seen = Turns(asyncio.get_running_loop()), list[str]()

    def fail() -> bool:
        seen.append("fault")
        raise ValueError("a fault of the test")

    turns.flush(fail)
    turns.flush(slices("a", 3, seen))
    await until(lambda: len(seen) == 4)
    assert seen == ["fault", "a", "a", "a"]


async def test_a_member_stands_in_the_queue_once() -> None:
    turns, fed = Turns(asyncio.get_running_loop()), list[Member]()
    one, other = member(), member()
    for each in (one, other, one, one):
        turns.feed(each, fed.append)
    assert fed == []
    await until(lambda: len(fed) >= 2)
    assert fed == [one, other]
    turns.feed(one, fed.append)  # and again when it was fed
    await until(lambda: len(fed) == 3)


async def test_feeding_asks_for_its_turn_again_from_inside() -> None:
    """A member that has more to get goes behind the others."""
    turns, fed = Turns(asyncio.get_running_loop()), list[Member]()
    one, other = member(), member()

    def feed(each: Member) -> None:
        fed.append(each)
        if len(fed) < 5:
            turns.feed(each, feed)

    turns.feed(one, feed)
    turns.feed(other, feed)
    await until(lambda: len(fed) == 6)
    assert fed == [one, other] * 3


async def test_so_many_are_fed_in_one_loop_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEED_SECONDS", 1000.0)
    turns, fed = Turns(asyncio.get_running_loop()), list[Member]()
    for _ in range(3 * FEEDS):
        turns.feed(member(), fed.append)
    most = 0
    while len(fed) < 3 * FEEDS:
        before = len(fed)
        await asyncio.sleep(0)
        most = max(most, len(fed) - before)
    assert most == FEEDS


async def test_slow_feeds_share_a_loop_turn_for_so_long_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(module, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(module, "FEED_SECONDS", 2.5)
    turns, fed = Turns(asyncio.get_running_loop()), list[Member]()
    for _ in range(9):
        turns.feed(member(), fed.append)
    counts = []
    while len(fed) < 9:
        before = len(fed)
        await asyncio.sleep(0)
        counts.append(len(fed) - before)
    assert max(counts) == 2, "a second for each, in this test"


@pytest.mark.logs("Exception in callback")
async def test_a_feed_that_fails_leaves_the_others_their_turn() -> None:
    turns, fed = Turns(asyncio.get_running_loop()), list[Member]()

    def fail(each: Member) -> None:
        raise ValueError("a fault of the test")

    first = member()
    turns.feed(first, fail)
    turns.feed(member(), fed.append)
    await until(lambda: fed)
    assert not first.due, "it may be fed again"


async def test_in_a_fair_share_the_keys_take_turns_whatever_each_has_waiting() -> None:
    share, done = FairShare(asyncio.get_running_loop(), 4, 10.0), list[str]()

    def do(key: str, count: int) -> list[Callable[[], None]]:
        return [partial(done.append, f"{key}{number}") for number in range(count)]

    share.add("none")
    share.add("a", *do("a", 6))
    share.add("b", *do("b", 2))
    share.add("a", lambda: done.append("last"))
    await asyncio.sleep(0)
    assert done == ["a0", "b0", "a1", "b1"]
    share.add("c", *do("c", 1))
    await until(lambda: len(done) == 10)
    assert done[4:] == ["a2", "c0", "a3", "a4", "a5", "last"]
    assert not share._queues
    assert not share._order


async def test_a_fault_in_a_fair_share_is_one_calls_only() -> None:
    loop, faults, done = asyncio.get_running_loop(), list[object](), list[int]()
    loop.set_exception_handler(lambda loop, context: faults.append(context["exception"]))
    share = FairShare(loop, 4, 10.0)
    share.add("a", lambda: done.append(1 // 0), lambda: done.append(2))
    await until(lambda: done)
    assert done == [2]
    assert len(faults) == 1
