"""A join that does not come to its end leaves nothing behind: no open room, nothing counted for the address."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.support.chat import eventually
from tests.support.hubs import MemoryLog, Peer, made_hub, turns
from tornado_chat.errors import LogUnavailable
from tornado_chat.live.hub import Hub
from tornado_chat.live.room import Room
from tornado_chat.wire.encodings import Encoding


async def nothing_left(hub: Hub, *peers: Peer) -> None:
    """After all `peers` have left."""
    for peer in peers:
        await peer.leave()
    await eventually(lambda: not hub.tasks)
    assert not hub.rooms
    for peer in peers:
        assert not peer.address.rooms


@pytest.mark.parametrize("behind", [False, True], ids=["new room", "room that lacks an event"])
async def test_a_join_cancelled_at_any_turn_leaves_nothing(behind: bool) -> None:
    ended = set()
    for count in range(61):
        log = MemoryLog()
        hub = made_hub(log, 10**6)
        host, peer = Peer(hub, "host"), Peer(hub, "user")
        if behind:  # the join waits until the room has fetched what it lacks
            await host.join(None)
            log.add("never announced")
        joining = asyncio.create_task(peer.join(len(log.events)))
        await turns(count)
        await host.leave()  # the join alone holds the room
        joining.cancel()
        await asyncio.wait([joining])
        ended.add(joining.cancelled())
        await nothing_left(hub, host, peer)
    assert ended == {True, False}, "the last ones were in before they were cancelled"


@pytest.mark.parametrize("question", ["openings", "marks"])
async def test_a_join_that_the_log_does_not_answer_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    async def unavailable(wanted: object) -> dict[object, int]:
        raise LogUnavailable("of the test")

    log = MemoryLog()
    monkeypatch.setattr(log, question, unavailable)
    hub = made_hub(log, 10**6)
    peer = Peer(hub, "user")
    with pytest.raises(LogUnavailable):
        await peer.join(None)
    await nothing_left(hub, peer)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("joined_before", [True, False])
async def test_a_fault_in_a_join_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, at_once: bool, joined_before: bool
) -> None:
    """The line, too, sends what was written: `cork` holds nothing back for ever."""
    log = MemoryLog()
    hub = made_hub(log, 10**6)
    host, peer, uncorked = Peer(hub, "host"), Peer(hub, "user"), list[bool]()
    await host.join(None)
    if joined_before:
        await peer.join(None)

    def fail(self: Encoding, payload: bytes, seq: int) -> bytes:
        raise ValueError("a fault of the test")

    with monkeypatch.context() as patched:
        patched.setattr(Encoding, "wrap_at", fail)  # of `joined`
        patched.setattr(Peer, "uncork", lambda self: uncorked.append(True))
        with pytest.raises(ValueError, match="of the test"):
            await peer.join(None, at_once=at_once)
    assert uncorked
    assert hub.rooms["r"].holds == 0
    await nothing_left(hub, host, peer)


async def test_a_join_that_fails_ends_no_membership_of_before() -> None:
    """Not even of the same room, which is left with the last of them."""
    log = MemoryLog()
    hub = made_hub(log, 10**6)
    peer = Peer(hub, "user")
    await peer.join(None)
    member = peer.member
    joining = asyncio.create_task(peer.join(None))
    await turns(1)
    joining.cancel()
    await asyncio.wait([joining])
    assert joining.cancelled()
    assert peer.member is member
    assert peer.address.rooms == {"r": 1}
    assert hub.rooms["r"].size() == 1
    await nothing_left(hub, peer)


async def test_a_room_that_is_left_is_freed_at_once() -> None:
    """By counting references: in a server the collector comes by after millions of allocations."""

    def live() -> int:
        return sum(isinstance(thing, Room) for thing in gc.get_objects())

    hub = made_hub(MemoryLog(), 10**6)
    peer = Peer(hub, "user")
    gc.collect()
    before = live()
    gc.disable()
    try:
        await peer.join(None)
        assert live() == before + 1
        await nothing_left(hub, peer)
        assert live() == before
    finally:
        gc.enable()
