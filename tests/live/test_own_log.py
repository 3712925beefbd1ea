"""The log of one's own over real connections: who may be in it, what comes there, and where it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from tests.support.chat import SECRET, Client, Running, running
from tests.support.entries import followed as followed_entry
from tests.support.polling import PollingHTTP
from tests.support.streams import Stream
from tornado_chat.auth import mint
from tornado_chat.live.hub import Hub
from tornado_chat.log import own
from tornado_chat.log.opening import open_log


def token(user: str, **claims: Any) -> str:
    return mint(SECRET, user, **{"ttl": 3600.0, **claims})


async def device(here: Running, user: str, **fields: Any) -> Client:
    """One of the user's, in the own log."""
    return await here.join("~", f"/ws?token={token(user)}", **fields)


def followed(about: str, level: str = "everything", user: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"type": "followed", "room": "~", "about": about, "level": level, "user": user, **fields}


def without(event: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("ts", *fields)}


@pytest.mark.parametrize("codec", ["chat.v1.json", "chat.v1.msgpack"])
async def test_what_one_does_is_told_to_all_ones_devices_and_nobody_else(tmp_path: Path, codec: str) -> None:
    async with running(tmp_path) as here:
        one, two, other = await device(here, "ann"), await device(here, "ann"), await device(here, "eve")
        speaker = await here.connect(f"/ws?token={token('ann')}", protocols=[codec])
        assert without(await speaker.ask(type="follow", room="lobby", level="mentions", id="f")) == {
            "type": "ack",
            "id": "f",
            "room": "lobby",
        }
        again = await speaker.ask(type="follow", room="lobby", level="mentions", id="f")
        assert again["duplicate"] is True
        unchanged = await speaker.ask(type="follow", room="lobby", level="mentions", id="g")
        assert (unchanged["type"], "seq" in unchanged) == ("ack", False)
        sent = await speaker.ask(type="send", room="lobby", text="hello", mark=False)
        await speaker.ask(type="read", room="lobby", seq=sent["seq"])
        await speaker.ask(type="unfollow", room="lobby")
        for client in (one, two):
            events = [without(await client.receive()) for _ in range(3)]
            assert events == [
                followed("lobby", "mentions", seq=1),
                {"type": "marked", "room": "~", "seq": 2, "about": "lobby", "read": 1, "user": "ann"},
                {"type": "unfollowed", "room": "~", "seq": 3, "about": "lobby", "user": "ann"},
            ]
        await other.ask(type="ping")  # and nothing before the pong
        assert (await other.ask(type="join", room="~", after=0))["head"] == 0


async def test_whoever_is_mentioned_hears_of_it_in_the_own_log(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        ann, eve = await device(here, "ann"), await device(here, "eve")
        bob = await here.join("lobby", f"/ws?token={token('bob')}")
        ack = await bob.ask(type="send", room="lobby", text="@ann, @eve!", mentions=["ann", "eve", "bob"], id="m")
        message = (await here.server.log.read("lobby", 0, max_events=1, max_bytes=1))[0].data
        assert message["mentions"] == ["ann", "eve"]
        for client in (ann, eve):
            assert without(await client.receive()) == {
                **{"type": "mentioned", "room": "~", "seq": 1, "about": "lobby"},
                **{"target": ack["seq"], "user": "bob", "name": "bob"},
            }
        again = await bob.ask(type="send", room="lobby", text="again", mentions=["zoe"], id="m")
        assert again["duplicate"] is True
        assert await here.server.log.heads(["~zoe", "~bob"]) == {"~zoe": 0, "~bob": 0}


async def test_where_the_own_log_begins(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        ann = await device(here, "ann")
        assert without(ann.joined, "id") == {
            **{"type": "joined", "room": "~", "head": 0, "cursor": 0, "read": 0},
            **{"epoch": ann.welcome["epoch"], "state": {"rooms": []}},
        }
        bob = await here.connect(f"/ws?token={token('bob')}")
        await bob.ask(type="invite", room="lobby", user="ann")
        await bob.ask(type="send", room="lobby", text="come", mentions=["ann"])
        state = {
            "rooms": [
                {"room": "lobby", "level": "everything", "head": 1, "messages": 1, "read": 0}
                | {"unread": 1, "mentions": 1, "by": "bob"}
            ]
        }
        for fields in ({}, {"last": 0}, {"last": 5}):
            fresh = await device(here, "ann", **fields)
            assert (fresh.joined["cursor"], fresh.joined["state"]) == (2, state)
        for after in (0, 1, 2):
            back = await here.connect(f"/ws?token={token('ann')}")
            joined = await back.ask(type="join", room="~", after=after)
            assert (joined["cursor"], "state" in joined) == (after, False)
            assert [(await back.receive())["seq"] for _ in range(2 - after)] == list(range(after + 1, 3))
            assert without(await back.receive()) == {"type": "synced", "room": "~", "seq": 2}
        narrow = await here.connect(f"/ws?token={token('ann', rooms=['den'])}")
        joined = await narrow.ask(type="join", room="~")
        assert joined["state"] == {"rooms": []}, "what the token does not cover is not told"
        for number in range(own.KEPT):
            await here.server.log.append([followed_entry("den", "ann", ("everything", "nothing")[number % 2])])
        for after, told in ((0, True), (1, True), (2, False), (own.KEPT, False)):
            back = await here.connect(f"/ws?token={token('ann')}")
            joined = await back.ask(type="join", room="~", after=after)
            assert ("state" in joined, joined["cursor"]) == (told, own.KEPT + 2 if told else after)


async def test_nobody_publishes_into_it_or_joins_anothers(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        ann = await device(here, "ann")
        for command in (
            {"type": "send", "text": "x"},
            {"type": "typing", "on": True},
            {"type": "status", "text": "x"},
            {"type": "step", "seq": 1, "step": {"id": "s", "name": "x", "state": "done"}},
            {"type": "read", "seq": 1},
            {"type": "follow", "level": "nothing"},
        ):
            assert (await ann.ask(room="~", **command))["code"] == "bad_request"
        past = await ann.ask(type="history", room="~", before=5)
        assert (past["room"], past["messages"], past["more"]) == ("~", [], False), "no message is in it"
        for room in ("~ann", "~eve", "~~"):
            assert (await ann.ask(type="join", room=room))["code"] == "bad_request"
        assert (await ann.ask(type="leave", room="~"))["type"] == "left"
        await ann.ask(type="follow", room="lobby", level="nothing")
        await ann.ask(type="ping")  # and nothing before the pong


async def test_who_may_not_enter_a_room_invites_nobody_to_it(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        bob = await here.connect(f"/ws?token={token('bob', rooms=['den'])}")
        for command in ({"type": "invite", "user": "ann"}, {"type": "follow", "level": "nothing"}):
            assert (await bob.ask(room="lobby", **command))["code"] == "forbidden"
        assert (await bob.ask(type="unfollow", room="lobby"))["type"] == "ack"
        assert await here.server.log.heads(["~ann"]) == {"~ann": 0}


async def test_a_mention_costs_one_event_for_each_user(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=10, send_burst=20) as here:
        bob = await here.connect(f"/ws?token={token('bob')}")
        await bob.ask(type="send", room="lobby", text="x", mentions=[f"user-{number}" for number in range(50)])
        error = await bob.ask(type="send", room="lobby", text="y")
        assert (error["code"], 2.5 < error["retry_after"] < 3.6) == ("rate_limited", True)


async def test_pages_and_polls_of_the_own_log(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here, token("ann")) as http:
        bob = await here.connect(f"/ws?token={token('bob')}")
        await bob.ask(type="invite", room="lobby", user="ann")
        first = json.loads((await http.page("~")).body)
        assert (first["room"], first["events"], first["cursor"], first["head"]) == ("~", [], 1, 1)
        assert [room["room"] for room in first["state"]["rooms"]] == ["lobby"]
        page = json.loads((await http.page("~", "?after=0")).body)
        assert ("state" in page, page["cursor"]) == (False, 1)
        assert [without(event) for event in page["events"]] == [followed("lobby", seq=1, by="bob", user="bob")]
        news = json.loads((await http.poll({"~": 0, "lobby": 0})).body)
        assert (news["cursors"], [event["seq"] for event in news["events"]]) == ({"~": 1, "lobby": 0}, [1])
        for _ in range(own.KEPT + 5):
            await here.server.log.append([followed_entry("den", "ann", ("everything", "nothing")[_ % 2])])
        for answer in (await http.page("~", "?after=0"), await http.poll({"~": 0}), await http.poll({"~": 0}, 20)):
            news = json.loads(answer.body)
            assert [room["room"] for room in news["state"]["rooms"]] == ["den", "lobby"]
            assert news["events"] == []
        assert news["cursors"] == {"~": own.KEPT + 6}


async def test_streams_of_the_own_log(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        bob = await here.connect(f"/ws?token={token('bob')}")
        port = int(here.address.rpartition(":")[2])
        for path in ("/v1/rooms/~/events", "/v1/events?join=~&join=lobby"):
            query = f"{'&' if '?' in path else '?'}token={token('ann')}"
            async with await Stream.open(port, path + query) as stream:
                joined = await stream.until("joined", room="~")
                assert "state" in joined
                await stream.until("synced", room="~")
                await bob.ask(type="send", room="lobby", text="you", mentions=["ann"])
                assert (await stream.until("mentioned"))["user"] == "bob"


async def test_commands_by_request(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here, token("ann")) as http:
        ann = await device(here, "ann")
        assert (await http.tell("PUT", "/v1/me/rooms/lobby", {"level": "mentions"}, **http.headers)).status == 200
        assert without(await ann.receive()) == followed("lobby", "mentions", seq=1)
        assert (
            await http.tell("POST", "/v1/me/invitations", {"room": "lobby", "user": "bob"}, **http.headers)
        ).status == 200
        assert (await http.tell("DELETE", "/v1/me/rooms/lobby", **http.headers)).status == 200
        assert (await ann.receive())["type"] == "unfollowed"
        assert await here.server.log.heads(["~bob"]) == {"~bob": 1}


async def test_who_was_not_told_before_the_oldest_went_gets_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process writes more than the log keeps before this one looks."""
    async with running(tmp_path, siblings=1) as here:
        monkeypatch.setattr(Hub, "poll", AsyncMock())
        ann = await device(here, "ann")
        log = await open_log(here.server.settings.database)
        for number in range(own.KEPT + 200):
            await log.append([followed_entry("den", "ann", ("everything", "nothing")[number % 2])])
        await log.close()
        monkeypatch.undo()
        await here.server.hub.poll()
        while (await ann.receive()) is not None:
            pass
        assert ann.socket.close_code == 1012
        back = await here.connect(f"/ws?token={token('ann')}")
        joined = await back.ask(type="join", room="~", after=0)
        assert (joined["cursor"], "state" in joined) == (own.KEPT + 200, True)
        await back.until("synced", room="~")
        await back.ask(type="unfollow", room="den")
        assert (await back.receive())["seq"] == own.KEPT + 201
