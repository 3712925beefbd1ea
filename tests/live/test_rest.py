"""When a room rests after a flush, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.chat import eventually
from tests.support.hubs import MemoryLog, Peer, made_hub
from tornado_chat.live import rest, room
from tornado_chat.live.rest import ENOUGH, LEAST, MOST, MOST_SKIPPED, SHARE, Rest
from tornado_chat.live.room import Room

LONG = 2 * LEAST / SHARE  # seconds that a flush took, which is followed by a rest


def test_a_rest_is_a_share_of_what_the_flush_cost_and_bounded() -> None:
    assert Rest().after(0.004, 1) == 0.004 * SHARE
    assert Rest().after(1.0, 1) == MOST
    assert Rest().after(LEAST / SHARE * 0.9, 1) == 0.0


def test_who_has_nothing_to_write_or_much_does_not_rest() -> None:
    assert Rest().after(LONG, 0) == 0.0
    assert Rest().after(LONG, ENOUGH - 1) > 0.0
    assert Rest().after(LONG, ENOUGH) == 0.0


def test_rests_in_vain_become_rare_and_one_that_pays_brings_them_back() -> None:
    resting = Rest()
    left_out: list[int] = []
    for _ in range(9):
        skipped = 0
        while not resting.after(LONG, 3):
            skipped += 1
        left_out.append(skipped)
        resting.over(3)
    assert left_out == [0, 1, 2, 4, 8, 16, 32, MOST_SKIPPED, MOST_SKIPPED]
    while not resting.after(LONG, 3):
        pass
    resting.over(4)
    assert resting.after(LONG, 3)


async def crowded(monkeypatch: pytest.MonkeyPatch, members: int, slice_size: int) -> tuple[Room, MemoryLog, list[Peer]]:
    """A room whose flushes all cost enough for a rest."""
    monkeypatch.setattr(room, "SLICE", slice_size)
    monkeypatch.setattr(rest, "LEAST", 0.0)
    monkeypatch.setattr(rest, "SHARE", 1e9)
    monkeypatch.setattr(rest, "MOST", 60.0)  # until `rested`
    log = MemoryLog()
    hub = made_hub(log, 10**6)
    peers = [Peer(hub, f"user{number}") for number in range(members)]
    for peer in peers:
        await peer.join(None)
    await eventually(lambda: not hub.rooms["r"].flushing)
    return hub.rooms["r"], log, peers


def rested(big: Room) -> None:
    """The time of its rest is up."""
    assert big.resting is not None
    big.resting.cancel()
    big._rested()


def seqs(peer: Peer) -> list[int]:
    return [data["seq"] for data in peer.written if data["type"] == "message"]


async def test_what_comes_during_a_rest_goes_with_what_waited_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    big, log, peers = await crowded(monkeypatch, 4, 2)
    big.deliver(log.add("one"))
    big.flush_now()
    big.deliver(log.add("two"))
    await eventually(lambda: big.resting is not None)
    assert [seqs(peer) for peer in peers] == [[1]] * 4
    assert not big.batches
    writes = big.shared.metrics.writes
    big.deliver(log.add("three"))
    big.flush_now()
    assert [seqs(peer) for peer in peers] == [[1]] * 4, "it rests"
    rested(big)
    await eventually(lambda: not big.flushing)
    assert [seqs(peer) for peer in peers] == [[1, 2, 3]] * 4
    assert big.shared.metrics.writes == writes + 4
    big.deliver(log.add("four"))
    big.flush_now()
    assert big.batches, "an idle room waits for nothing"
    await eventually(lambda: not big.flushing)


async def test_a_room_below_one_slice_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    small, log, peers = await crowded(monkeypatch, 4, 4)
    for _ in range(5):
        small.deliver(log.add("one"))
        small.flush_now()
        small.deliver(log.add("two"))
        assert small.resting is None
        await asyncio.sleep(0)
    assert seqs(peers[0]) == list(range(1, 11))


async def test_a_room_that_closes_while_it_rests_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    big, log, peers = await crowded(monkeypatch, 4, 2)
    big.deliver(log.add("one"))
    big.flush_now()
    big.deliver(log.add("two"))
    await eventually(lambda: big.resting is not None)
    waiting = asyncio.ensure_future(big.flush_begun())
    await asyncio.sleep(0)
    for peer in peers:
        await peer.leave()
    assert big.closed
    assert big.resting is None
    assert not big.pending
    await asyncio.wait_for(waiting, 1.0)  # who waits for the flush goes on
