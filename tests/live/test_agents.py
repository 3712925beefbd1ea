"""What marks an agent's messages, and how it tells what it does: `agent`, `status` and `step`, over every way in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Client, Running, eventually, running
from tests.support.plain_http import HTTP
from tests.support.streams import Stream
from tornado_chat.auth import mint
from tornado_chat.live.room_signals import LASTING_EACH

STEP = {"id": "s1", "name": "search", "state": "running"}


def bearer(user: str, **claims: Any) -> dict[str, str]:
    return {"Authorization": "Bearer " + mint(SECRET, user, ttl=60, **claims)}


async def member(here: Running, user: str, **claims: Any) -> Client:
    client = await here.connect(headers=bearer(user, **claims))
    await client.ask(type="join", room="r")
    await client.until("synced")
    return client


async def heard_by(client: Client) -> list[Any]:
    """What has come, but for who came and went; a ping is answered behind it."""
    await client.send(type="ping", id="p")
    got: list[Any] = []
    while (one := await client.receive())["type"] != "pong":
        got += [one] if one["type"] != "presence" else []
    return got


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


async def test_a_status_is_told_to_the_others_and_lapses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.live.room_signals.LASTING_SECONDS", 1.2)
    async with running(tmp_path) as here:
        bot, ann = await member(here, "bot", name="Bot"), await member(here, "ann")
        signal = {"type": "status", "room": "r", "user": "bot", "name": "Bot"}
        for text in ("", "searching"):
            await bot.send(type="status", room="r", text=text)
        for text in ("searching", ""):
            assert await ann.until("status") == signal | {"text": text}
        for more in ({"text": "thinking", "seq": 1}, {"text": "thinking", "seq": 2}, {"text": "writing"}):
            await bot.send(type="status", room="r", **more)
        for more in ({"text": "thinking", "seq": 1}, {"text": "thinking", "seq": 2}, {"text": "writing"}):
            assert await ann.until("status") == signal | more, "each message has its own"
        await bot.send(type="status", room="r", text="", seq=1)
        assert await ann.until("status") == signal | {"text": "", "seq": 1}
        assert await heard_by(bot) == [], "nobody is told of one's own"
        await bot.close()
        assert [await ann.until("status") for _ in range(2)] == [signal | {"text": "", "seq": 2}, signal | {"text": ""}]
        await eventually(lambda: not here.server.hub.rooms["r"].signals.lasting)


async def test_a_status_that_is_repeated_goes_on_and_is_not_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        bot, ann = await member(here, "bot"), await member(here, "ann")
        await bot.send(type="status", room="r", text="thinking")
        await ann.until("status")
        for text in ("thinking", "writing", "thinking"):
            await bot.send(type="status", room="r", text=text)
            await bot.ask(type="ping")  # what comes in one flush is told once
        assert [one["text"] for one in await heard_by(ann)] == ["writing", "thinking"]
        monkeypatch.setattr("tornado_chat.live.room_signals.REPEAT_SECONDS", 0.0)
        (lasting,) = here.server.hub.rooms["r"].signals.lasting["bot"].values()
        lapses = lasting.lapses
        await bot.send(type="status", room="r", text="thinking")
        assert (await ann.until("status"))["text"] == "thinking"
        (lasting,) = here.server.hub.rooms["r"].signals.lasting["bot"].values()
        assert lasting.lapses > lapses


async def test_a_user_has_so_many_statuses_in_a_room(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        bot, ann = await member(here, "bot"), await member(here, "ann")
        for seq in range(1, LASTING_EACH + 3):
            await bot.send(type="status", room="r", text="x", seq=seq)
        await bot.ask(type="ping")
        assert len(await heard_by(ann)) == LASTING_EACH
        assert here.server.metrics.signals_dropped == 2
        await ann.send(type="status", room="r", text="x")
        assert (await bot.until("status"))["user"] == "ann", "others have their own"
        await bot.send(type="status", room="r", text="y", seq=1)
        assert (await ann.until("status"))["text"] == "y"
        await bot.close()
        await eventually(lambda: list(here.server.hub.rooms["r"].signals.lasting) == ["ann"])


async def test_a_step_is_told_to_the_others_and_of_one_the_newest(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        bot, ann = await member(here, "bot"), await member(here, "ann")
        loop_turn = [
            {"type": "step", "room": "r", "seq": 1, "step": step}
            for step in (STEP, STEP | {"id": "s2"}, STEP | {"state": "done", "output": "é" * 1000, "more": 1})
        ]
        async with HTTP(here) as http:  # in one turn of the loop, and so in one flush
            token = mint(SECRET, "bot", ttl=60)
            answer = await http.tell("POST", "/v1/commands", [*loop_turn, {"type": "ping"}], bearer=token)
        assert json.loads(answer.body) == [None] * 3 + [{"type": "pong"}]
        signal = {"type": "step", "room": "r", "user": "bot", "seq": 1}
        assert await ann.until("step") == signal | {"step": STEP | {"state": "done", "output": "é" * 1000}}
        assert await ann.until("step") == signal | {"step": STEP | {"id": "s2"}}
        assert await heard_by(bot) == []
        await bot.send(type="step", room="r", seq=2, step=STEP)
        assert await ann.until("step") == signal | {"seq": 2, "step": STEP}


async def test_a_backend_tells_what_its_users_do(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        shop, ann = await member(here, "shop", acts_as=["app-*"]), await member(here, "ann")
        for user, code in (("app-1", None), ("bob", "forbidden"), ("guest-1", "forbidden")):
            told = {"room": "r", "as": {"user": user, "name": "One"}}
            for command in ({"type": "status", "text": "x"}, {"type": "step", "seq": 1, "step": STEP}):
                await shop.send(**command, **told, id=user)
                if code is not None:
                    assert (await shop.until("error"))["code"] == code
        status, step = await ann.until("status"), await ann.until("step")
        assert (status["user"], status["name"], step["user"]) == ("app-1", "One", "app-1")
        assert await heard_by(ann) == []


async def test_signals_by_request_are_heard_on_a_stream(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as here,
        HTTP(here) as http,
        await Stream.open(http.port, "/v1/rooms/r/events") as stream,
    ):
        for type in ("joined", "synced"):
            assert (await stream.hear())["type"] == type
        commands = [
            {"type": "status", "room": "r", "text": "searching", "seq": 1},
            {"type": "step", "room": "r", "seq": 1, "step": STEP},
        ]
        answer = await http.tell("POST", "/v1/commands", commands, bearer=mint(SECRET, "bot", ttl=60))
        assert json.loads(answer.body) == [None, None]
        status, step = await stream.hear(), await stream.hear()
        assert (status["text"], step["step"]) == ("searching", STEP)


async def test_signals_cost_an_event_of_the_rate(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=2) as here:
        bot = await here.connect(headers=bearer("bot"))
        await bot.send(type="status", room="r", text="x")
        await bot.send(type="step", room="r", seq=1, step=STEP)
        for command in ({"type": "status", "text": "y"}, {"type": "step", "seq": 1, "step": STEP}):
            error = await bot.ask(room="r", id="i", **command)
            assert (error["code"], error["retry_after"] > 0) == ("rate_limited", True)
