"""A batch is sent a slice at a time, and what is apart for some users does not make the slice longer."""

from __future__ import annotations

from array import array

from tests.support.hubs import MemoryLog, Peer, made_hub
from tornado_chat.live.batch import Batch
from tornado_chat.live.fanout import UNTRIED
from tornado_chat.live.group import Group
from tornado_chat.live.member import Member
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.encodings import websocket

DIRECT = array("Q")
"""Nobody is direct: all are told as UNTRIED."""


async def group_of(count: int) -> Group:
    hub, group = made_hub(MemoryLog(), 10**6), Group()
    for number in range(count):
        user = f"user-{number % 8}"
        group.add(Member(Peer(hub, user), user, "name", websocket(JSON)))
    return group


async def test_everybody_is_told_once_and_in_order() -> None:
    batch = Batch(await group_of(20), [b"event"], 0, [(b"typing", "user-3"), (b"read", None)])
    told: list[tuple[int, int]] = []
    while not batch.done:
        sent, odd = batch.send(DIRECT, 7, 60.0)
        assert sent == 0
        assert 0 < len(odd) <= 7
        told += odd
    assert told == [(place, UNTRIED) for place in range(20)]
    assert batch.of("user-3") == b"eventread"
    assert batch.of("user-4") == b"eventtypingread"


async def test_users_who_are_apart_do_not_make_a_slice_longer() -> None:
    batch = Batch(await group_of(64), [b"event"], 0, [(b"typing", "user-3")])
    _, odd = batch.send(DIRECT, 64, -1.0)
    assert 0 < len(odd) <= 8, "the time was up before it began"


async def test_who_comes_during_a_flush_is_not_in_it_and_who_leaves_is_a_hole() -> None:
    group = await group_of(4)
    batch = Batch(group, [b"event"], 0, [])
    leaver, late = group.members[1], await group_of(1)
    assert leaver is not None
    group.remove(leaver)
    newcomer = late.members[0]
    assert newcomer is not None
    group.add(newcomer)
    _, odd = batch.send(DIRECT, 64, 60.0)
    assert batch.done
    assert [place for place, _ in odd] == [0, 1, 2, 3]
    assert [group.members[place] is None for place, _ in odd] == [False, True, False, False]
    group.flushed()
    assert len(group) == len(list(group)) == 4
    assert [member.place for member in group] == [0, 1, 2, 3]
    assert newcomer in list(group)
