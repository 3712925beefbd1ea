"""Presence in one process: who is here, and the signals that tell of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Client, eventually, running
from tornado_chat.auth import mint
from tornado_chat.live import presence
from tornado_chat.live.presence import PresenceTracker
from tornado_chat.live.room import Room
from tornado_chat.server import Server


@pytest.fixture(autouse=True)
def quick_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.1)


def path(user: str) -> str:
    return f"/ws?token={mint(SECRET, user, name=user.title(), ttl=60)}"


async def told(client: Client, **fields: Any) -> Any:
    """Read on to a signal of presence with these fields; those before it are forgotten."""
    while True:
        while client.presence:
            signal = client.presence.pop(0)
            if all(signal.get(key) == value for key, value in fields.items()):
                return signal
        await client.ask(type="ping")  # reads what comes on the way


def stop_telling(server: Server) -> None:
    """All that changes from now on is told at once, when the test asks for it."""
    (telling,) = (task for task in server.watching if PresenceTracker.run.__qualname__ in repr(task))
    telling.cancel()


def names(*users: str) -> list[dict[str, str]]:
    return [{"user": user, "name": user.title()} for user in users]


async def test_members_are_told_who_comes_and_goes(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        alice = await here.join("r", path("alice"))
        await told(alice, count=1)
        bob = await here.join("r", path("bob"))
        await told(alice, type="presence", room="r", joined=names("bob"), left=[], count=2)
        await bob.close()
        await told(alice, joined=[], left=names("bob"), count=1)


async def test_a_user_is_here_until_the_last_device_leaves(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        alice = await here.join("r", path("alice"))
        phone = await here.join("r", path("bob"))
        laptop = await here.join("r", path("bob"))
        await told(alice, count=2)
        await phone.close()
        answer = await alice.ask(type="presence", room="r")
        assert (answer["count"], answer["users"]) == (2, names("alice", "bob"))
        await laptop.ask(type="leave", room="r")
        signal = await told(alice)
        assert (signal["joined"], signal["left"], signal["count"]) == ([], names("bob"), 1)


async def test_a_reconnection_within_a_second_is_not_told(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        alice = await here.join("r", path("alice"))
        bob = await here.join("r", path("bob"))
        await told(alice, count=2)
        stop_telling(here.server)  # time stands still
        await bob.close()
        await eventually(lambda: len(here.server.lines.open) == 1)
        await here.join("r", path("bob"))
        await here.join("r", path("carol"))
        await here.server.hub.presence._tell()
        signal = await told(alice)
        assert (signal["joined"], signal["left"], signal["count"]) == (names("carol"), [], 3)


async def test_a_big_room_is_told_numbers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "NAMED", 2)
    async with running(tmp_path) as here:
        alice = await here.join("r", path("alice"))
        await here.join("r", path("bob"))
        await told(alice, count=2)
        carol = await here.join("r", path("carol"))
        signal = await told(alice, count=3)
        assert not signal.keys() & {"joined", "left"}
        await carol.close()
        await told(alice, left=names("carol"), count=2)


async def test_many_who_leave_at_once_are_told_as_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "NAMED", 2)
    async with running(tmp_path) as here:
        alice = await here.join("r", path("alice"))
        others = [await here.join("r", path(f"user{number}")) for number in range(3)]
        await told(alice, count=4)
        stop_telling(here.server)  # all within one second
        for other in others:
            await other.ask(type="leave", room="r")
        await here.server.hub.presence._tell()
        signal = await told(alice, count=1)
        assert not signal.keys() & {"joined", "left"}


async def test_a_crowd_is_told_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "NAMED", 1)
    monkeypatch.setattr(presence, "CROWD", 2)
    monkeypatch.setattr(presence, "CROWD_SECONDS", 1.0)
    async with running(tmp_path) as here:
        alice = await here.join("r", path("alice"))
        for user in ("bob", "carol", "dora"):
            await here.join("r", path(user))
        await told(alice, count=4)
        members = here.server.hub.rooms["r"].presence
        await eventually(lambda: not members.arrived)
        before, published = members.told, members.published
        await here.join("r", path("eve"))
        await told(alice, count=5)
        assert members.told - before >= 1.0
        await eventually(lambda: not members.arrived)
        assert members.published - published >= 1.0, "the other processes, too"


async def test_those_who_died_are_not_remembered_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr("tornado_chat.live.signs.LAPSE_SECONDS", 0.1)
    async with running(tmp_path) as here:
        for number in range(100):
            here.server.on_worker_died(f"worker {number}")
        await eventually(lambda: not here.server.hub.presence.signs._dead)


@pytest.mark.logs("presence not told room=broken")
async def test_a_fault_of_one_room_does_not_keep_the_others_from_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        tell = here.server.hub.presence._tell_members

        def faulty(room: Room) -> None:
            if room.name == "broken":
                raise RuntimeError("of the test")
            tell(room)

        monkeypatch.setattr(here.server.hub.presence, "_tell_members", faulty)
        stop_telling(here.server)  # all within one second
        await here.join("broken", path("bob"))
        alice = await here.join("r", path("alice"))
        await here.server.hub.presence._tell()
        await told(alice, joined=names("alice"), count=1)


async def test_presence_of_a_room_that_nobody_is_in(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        alice = await here.connect(path("alice"))
        answer = await alice.ask(type="presence", room="empty")
        assert (answer["count"], answer["users"]) == (0, [])
