"""What marks an agent's messages, over every way in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.chat import SECRET, Client, Running, running
from tests.support.plain_http import HTTP
from tornado_chat.auth import mint


def bearer(user: str, **claims: Any) -> dict[str, str]:
    return {"Authorization": "Bearer " + mint(SECRET, user, ttl=60, **claims)}


async def member(here: Running, user: str, **claims: Any) -> Client:
    client = await here.connect(headers=bearer(user, **claims))
    await client.ask(type="join", room="r")
    await client.until("synced")
    return client


async def test_what_an_agent_says_is_marked_and_what_others_say_is_not(tmp_path: Path) -> None:
    """Four by a token with the claim, then four by another, whatever is said in its commands."""
    async with running(tmp_path) as here:
        bot = await here.connect(headers=bearer("bot", agent=True, acts_as=["app-*"]))
        ann = await here.connect(headers=bearer("ann", acts_as=["bot"]))
        reader = await here.connect(protocols=["chat.v1.msgpack"])
        await reader.ask(type="join", room="r")
        acting = {"as": {"user": "app-1"}}
        as_bot = {"as": {"user": "bot", "agent": True}}
        for client, mine in ((bot, acting), (ann, as_bot)):
            said = {"room": "r", "agent": True, "meta": {"agent": True}}
            await client.ask(type="send", id="1", text="one", **said)
            await client.ask(type="send", id="2", text="two", **said, **mine)
            await client.ask(type="begin", id="3", **said)
            await client.ask(type="begin", id="4", **said, **mine)
            for stream, whose in (("3", {}), ("4", mine)):
                await client.ask(
                    type="finish", id=f"end {stream}", room="r", stream=stream, length=0, reason="done", **whose
                )
        assert (await bot.ask(type="send", id="1", room="r", text="again"))["duplicate"]
        await bot.ask(type="edit", id="e", room="r", seq=1, text="better")
        await ann.ask(type="edit", id="e", room="r", seq=7, text="better")
        live = [await reader.until("message") for _ in range(8)]
        seqs = [one["seq"] for one in live]
        assert [one.get("agent") for one in live] == [True] * 4 + [None] * 4
        assert [one["user"] for one in live] == ["bot", "app-1"] * 2 + ["ann", "bot"] * 2
        history = await reader.ask(type="history", room="r")
        again = await here.connect()
        await again.ask(type="join", room="r", after=0)
        caught_up = [await again.until("message") for _ in range(8)]
        async with HTTP(here) as http:
            page = json.loads((await http.tell("GET", "/v1/rooms/r/events")).body)["events"]
            polled = json.loads((await http.tell("POST", "/v1/poll", {"rooms": {"r": 0}})).body)["events"]
            one = json.loads((await http.tell("GET", "/v1/rooms/r/messages/1")).body)
        for told in (history["messages"], caught_up, page, polled):
            marked = [(one["seq"], one.get("agent")) for one in told if one["type"] == "message"]
            assert marked == list(zip(seqs, [True] * 4 + [None] * 4, strict=True))
        assert (one["agent"], one["text"]) == (True, "better")


async def test_a_deleted_message_of_an_agent_is_still_one(tmp_path: Path) -> None:
    """To those who come by it in the ring, and to those who get it from the log."""
    async with running(tmp_path) as here:
        bot = await member(here, "bot", agent=True)
        await bot.ask(type="send", id="1", room="r", text="secret", mentions=["ann"])
        await bot.ask(type="delete", id="2", room="r", seq=1)
        late = await here.connect()
        await late.ask(type="join", room="r", after=0)
        ring = await late.until("message")
        (log,) = await here.server.log.read("r", 0, max_events=1, max_bytes=1)
        assert ring == log.data
        assert ring.keys() == {"type", "room", "seq", "n", "user", "name", "agent", "deleted", "ts", "id"}


async def test_a_body_that_an_agent_pipes_in_is_marked(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        for user, claims in (("bot", {"agent": True}), ("ann", {})):
            headers = bearer(user, **claims) | {"Content-Type": "text/plain"}
            assert (await http.tell("POST", "/v1/rooms/r/messages", b"text", **headers)).status == 201
        history = json.loads((await http.tell("GET", "/v1/rooms/r/messages")).body)["messages"]
        assert [(one["text"], one.get("agent")) for one in history] == [("text", True), ("text", None)]
