"""Several servers on one log, with Redis and without: one order for all, nothing lost, nothing doubled.

They run in one process here, each with its own hub and its own connections to the log: what is true between them is
what is true between processes.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from tornado.httpclient import AsyncHTTPClient

from tests.support.chat import SECRET, Client, Running, eventually, present, running
from tests.support.plain_http import HTTP
from tests.support.redis_servers import redis_of_the_session, redis_server
from tests.support.several_servers import database, polls, servers
from tornado_chat.auth import mint
from tornado_chat.broker import Change
from tornado_chat.live.hub import Hub
from tornado_chat.verify.proxy import Proxy
from tornado_chat.verify.redis_server import RedisServer

pytest_plugins = ["tests.support.postgres_servers"]
__all__ = ["database", "polls", "redis_of_the_session", "redis_server"]


@asynccontextmanager
async def one_through_a_proxy(path: Path, redis: RedisServer) -> AsyncIterator[tuple[Proxy, Running, Running]]:
    """Two servers; the first one's way to Redis is the proxy."""
    async with Proxy("127.0.0.1", redis.port) as proxy, AsyncExitStack() as stack:
        urls = (f"redis://127.0.0.1:{proxy.port}/0", redis.url)
        one, two = [await stack.enter_async_context(running(path, redis=(url,), siblings=1)) for url in urls]
        yield proxy, one, two


async def degraded(here: Running) -> Any:
    """What /readyz, which must say that it is ready, says is away."""
    answer = await AsyncHTTPClient().fetch(here.address + "/readyz")
    return json.loads(answer.body)["degraded"]


async def texts(client: Client, last: int) -> list[str]:
    events = await client.collect(last)
    assert [event["seq"] for event in events] == list(range(events[0]["seq"], last + 1))
    return [event["text"] for event in events]


async def check_one_order(all: list[Running], *, each: int) -> None:
    """Everybody sends at once, on every server; everybody gets all of it in one order."""
    members = [await here.join("r") for here in all for _ in range(2)]

    async def say(number: int, sender: Client) -> None:
        for count in range(each):
            await sender.send(type="send", room="r", text=f"{number} {count}", id=f"{number} {count}")

    await asyncio.gather(*(say(number, sender) for number, sender in enumerate(members)))
    seen = await asyncio.gather(*(texts(member, each * len(members)) for member in members))
    assert all_equal(seen)
    for number in range(len(members)):
        of_one = [text for text in seen[0] if text.startswith(f"{number} ")]
        assert of_one == [f"{number} {count}" for count in range(each)], "one sender's order"


def all_equal(lists: list[list[str]]) -> bool:
    return all(one == lists[0] for one in lists)


async def test_a_mark_that_another_process_set_is_never_beyond_the_head(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with servers(tmp_path, 2, database) as (one, two):
        path = f"/ws?token={mint(SECRET, 'alice', ttl=60)}"
        await two.join("r")  # the room is open there, and polls are what tells it of events
        monkeypatch.setattr(Hub, "poll", AsyncMock())
        phone, laptop = await one.connect(path), await two.connect(path)
        for number in range(3):
            await phone.ask(type="send", room="r", text=str(number))
        assert (await phone.ask(type="read", room="r", seq=3, id="mark"))["type"] == "ack"
        joined = await laptop.ask(type="join", room="r")
        assert (joined["head"], joined["cursor"], joined["read"]) == (3, 3, 3)


async def test_without_redis_the_heads_are_polled(tmp_path: Path, database: str) -> None:
    async with servers(tmp_path, 2, database) as all:
        await check_one_order(all, each=50)


async def test_with_redis_one_order_for_all(tmp_path: Path, database: str, redis_server: RedisServer) -> None:
    async with servers(tmp_path, 3, database, redis_server.url) as all:
        await eventually(lambda: all[0].server.hub.broker.available)
        await check_one_order(all, each=100)


async def test_a_resend_to_another_process_is_the_same_event(tmp_path: Path, database: str) -> None:
    async with servers(tmp_path, 2, database) as (one, two):
        alice = await one.connect()
        token = alice.welcome["token"]
        first = await alice.ask(type="send", room="r", text="once", id="x")
        again = await (await two.connect(f"/ws?token={token}")).ask(type="send", room="r", text="once", id="x")
        assert (again["seq"], again["duplicate"]) == (first["seq"], True)
        follower = await two.connect("/ws/r?after=0")
        await alice.ask(type="send", room="r", text="last", id="y")
        assert await texts(follower, 2) == ["once", "last"]


async def test_what_was_committed_and_never_announced_arrives_in_a_quiet_room(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine dies between a commit and its publish."""
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        member = await two.join("r")
        monkeypatch.setattr(one.server.hub.broker, "publish_events", lambda *_: None)
        sender = await one.connect()
        await sender.ask(type="send", room="r", text="unheard of")
        assert await texts(member, 1) == ["unheard of"]


async def test_who_knows_of_a_death_asks_for_the_heads_at_once(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, polls: Counter[Hub]
) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        member = await two.join("r")
        monkeypatch.setattr(one.server.hub.broker, "publish_events", lambda *_: None)
        await eventually(lambda: polls[two.server.hub])
        await (await one.connect()).ask(type="send", room="r", text="last words")
        two.server.on_worker_died(one.server.uid)
        assert await texts(member, 1) == ["last words"]


@pytest.mark.logs("redis is away")
async def test_a_link_that_comes_back_brings_what_was_missed(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, polls: Counter[Hub]
) -> None:
    monkeypatch.setattr("tornado_chat.broker.redis_link.LONGEST_PAUSE", 0.05)
    async with one_through_a_proxy(tmp_path, redis_server) as (proxy, here, there):
        hub = here.server.hub
        member, sender = await here.join("r"), await there.connect()
        proxy.refuse()
        await eventually(lambda: not hub.broker.available)
        count = polls[hub]
        await eventually(lambda: polls[hub] > count)  # the next one for want of a broker is a second away
        await sender.ask(type="send", room="r", text="missed")
        proxy.accept()
        await eventually(lambda: hub.broker.available)
        assert await texts(member, 1) == ["missed"]


@pytest.mark.logs("redis is away")
@pytest.mark.usefixtures("polls")
async def test_while_redis_is_away_the_heads_are_asked_for_often(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as own:
        async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", own.url) as all:
            sender, member = [await here.join("r") for here in all]
            await asyncio.to_thread(own.stop)
            await eventually(lambda: not any(here.server.hub.broker.available for here in all))
            for count, text in enumerate(["one", "two"], 1):
                await sender.ask(type="send", room="r", text=text)
                assert await texts(member, count) == [text]


class Talker:
    """Sends to one room until it is told to stop, and keeps what it hears in all that it is a member of."""

    def __init__(self, room: str, client: Client) -> None:
        self.name: str = client.welcome["user"]
        self.room = room
        self.client = client
        self.talking = True
        self.acked: dict[str, int] = {}  # seq by text, which is the sender's id for it
        self.heard: dict[str, list[tuple[int, str]]] = {}  # seq and text, by room

    async def talk(self) -> int:
        """How many it sent."""
        count = 0
        while self.talking:
            count += 1
            text = f"{self.name} {count}"
            await self.client.send(type="send", room=self.room, text=text, id=text)
            await asyncio.sleep(0.005)
        return count

    async def listen(self) -> None:
        while (got := await self.client.receive()) is not None:
            if got["type"] == "message":
                self.heard.setdefault(got["room"], []).append((got["seq"], got["text"]))
            else:
                assert got["type"] == "ack", got
                self.acked[got["id"]] = got["seq"]

    def heard_of(self, other: Talker) -> int:
        return sum(text.startswith(f"{other.name} ") for _, text in self.heard.get(other.room, ()))


@pytest.mark.logs("redis is away")
@pytest.mark.usefixtures("polls")
async def test_redis_is_away_under_load(tmp_path: Path) -> None:
    """Messages of the other process go on coming, in its own rooms and in shared ones, and none is lost or doubled."""
    with RedisServer(tmp_path / "redis") as own:
        async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", own.url) as all:
            talkers = []
            for here, rooms in zip(all, [("left", "both"), ("right", "both")], strict=True):
                for room in rooms:
                    client = await here.join("both")
                    for further in ("left", "right"):
                        await client.ask(type="join", room=further)
                        await client.until("synced")
                    talkers.append(Talker(room, client))
            left, right = talkers[:2], talkers[2:]
            listening = [asyncio.ensure_future(talker.listen()) for talker in talkers]
            talking = [asyncio.ensure_future(talker.talk()) for talker in talkers]

            async def go_on(more: int) -> None:
                """Return when each has heard so many more from each on the other side."""
                pairs = [pair for one in left for other in right for pair in ((one, other), (other, one))]
                wanted = [talker.heard_of(other) + more for talker, other in pairs]
                for (talker, other), least in zip(pairs, wanted, strict=True):
                    await eventually(lambda: talker.heard_of(other) >= least)  # noqa: B023 - over before the next

            await go_on(30)
            await asyncio.to_thread(own.stop)
            await eventually(lambda: not any(here.server.hub.broker.available for here in all))
            await go_on(400)
            await asyncio.to_thread(own.start)
            await eventually(lambda: not any(here.server.degraded() for here in all))
            await go_on(30)
            for talker in talkers:
                talker.talking = False
            sent = await asyncio.gather(*talking)
            await eventually(lambda: [len(talker.acked) for talker in talkers] == sent)
            await eventually(lambda: [sum(map(len, talker.heard.values())) for talker in talkers] == [sum(sent)] * 4)
            assert not any(task.done() for task in listening)
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
            for events in talkers[0].heard.values():
                assert [seq for seq, _ in events] == list(range(1, len(events) + 1))
            for talker, count in zip(talkers, sent, strict=True):
                assert talker.heard == talkers[0].heard
                its_own = [(text, seq) for seq, text in talker.heard[talker.room] if text.startswith(f"{talker.name} ")]
                assert its_own == list(talker.acked.items())
                assert [text for text, _ in its_own] == [f"{talker.name} {number}" for number in range(1, count + 1)]


async def test_signals_reach_the_members_in_other_processes(tmp_path: Path, redis_server: RedisServer) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        alice, bob = await one.join("r"), await two.join("r")
        await alice.ask(type="send", room="r", text="hello")
        await alice.send(type="typing", room="r", on=True)
        assert (await bob.until("typing"))["user"] == alice.welcome["user"]
        step = {"id": "s", "name": "search", "state": "running", "input": "é"}
        await alice.send(type="status", room="r", text="searching", seq=1)
        await alice.send(type="step", room="r", seq=1, step=step)
        told = {"user": alice.welcome["user"], "name": alice.welcome["name"], "text": "searching", "seq": 1}
        assert await bob.until("status") == {"type": "status", "room": "r"} | told
        assert (await bob.until("step"))["step"] == step
        await bob.ask(type="read", room="r", seq=1)
        assert (await alice.until("read"))["seq"] == 1


async def test_a_deleted_text_leaves_every_process(tmp_path: Path, redis_server: RedisServer) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        alice, bob = await one.join("r"), await two.join("r")
        await alice.ask(type="send", room="r", text="a secret")
        await bob.until("message")
        await alice.ask(type="delete", room="r", seq=1)
        await bob.until("deleted")
        late = await two.join("r", after=0)
        del late
        for here in (one, two):
            events = here.server.hub.rooms["r"].ring.events
            assert not any("text" in event.data for event in events)


@pytest.mark.logs("redis is away")
async def test_without_its_redis_a_process_is_ready_and_says_that_it_is_degraded(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as own:
        async with running(tmp_path, redis=(own.url,)) as here:
            assert await degraded(here) == []
            await asyncio.to_thread(own.stop)
            await eventually(lambda: not here.server.hub.broker.available)
            assert await degraded(here) == ["broker"]
            member = await here.join("r")
            await member.ask(type="send", room="r", text="still here")
            assert await texts(member, 1) == ["still here"]
            await asyncio.to_thread(own.start)
            await eventually(lambda: here.server.hub.broker.available)
            assert await degraded(here) == []


@pytest.mark.logs("it is deaf")
async def test_a_deaf_link_is_told_of_until_it_hears_again(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_chat.broker.redis_link.PROBE_SECONDS", 0.3)
    async with one_through_a_proxy(tmp_path, redis_server) as (proxy, here, there):
        assert await degraded(here) == []
        proxy.stall()
        await eventually(lambda: not here.server.hub.broker.available)
        assert (await degraded(here), await degraded(there)) == (["broker"], [])
        proxy.flow()
        await eventually(lambda: here.server.hub.broker.available)
        assert await degraded(here) == []


async def test_presence_is_that_of_all_processes(tmp_path: Path, redis_server: RedisServer) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        alice = await one.join("r", "/ws?name=Alice")
        bob = await two.join("r", "/ws?name=Bob")
        phone = await two.join("r", f"/ws?token={alice.welcome['token']}")
        for client in (alice, bob):
            answer = await present(client, 2)
            assert sorted(user["name"] for user in answer["users"]) == ["Alice", "Bob"]
        await phone.close()
        await eventually(lambda: len(two.server.lines.open) == 1)
        await bob.ask(type="leave", room="r")
        await present(alice, 1)
        outside = await two.connect()
        assert (await present(outside, 1))["users"][0]["name"] == "Alice", "of a room that is not open there"
        await alice.close()
        await present(outside, 0)


async def test_presence_is_right_again_after_a_process_was_killed(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_chat.live.presence.RENEW_SECONDS", 0.5)
    monkeypatch.setattr("tornado_chat.live.presence.LAPSE_SECONDS", 2.0)
    monkeypatch.setattr("tornado_chat.broker.redis_presence.LAPSE_SECONDS", 2)
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        alice = await one.join("r")
        ghost = {"ghost": "Ghost"}
        two.server.hub.broker.publish_presence("r", Change("killed", 1, 0, ghost, ()), ghost)
        await present(alice, 2)
        await present(alice, 1)
        two.server.hub.broker.publish_presence("r", Change("killed 2", 1, 0, ghost, ()), ghost)
        await present(alice, 2)
        one.server.on_worker_died("killed 2")
        assert (await alice.ask(type="presence", room="r"))["count"] == 1, "at once, where its end is known"


@pytest.mark.logs("redis is away")
async def test_presence_survives_a_restart_of_redis(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no disk: each process tells anew."""
    monkeypatch.setattr("tornado_chat.live.presence.RENEW_SECONDS", 0.3)
    with RedisServer(tmp_path / "redis") as own:
        async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", own.url) as (one, two):
            alice, bob = await one.join("r"), await two.join("r")
            await present(alice, 2)
            await asyncio.to_thread(own.restart)
            outside = await two.connect()
            await eventually(lambda: one.server.hub.broker.available and two.server.hub.broker.available)
            await present(alice, 2)
            await bob.close()
            await present(outside, 1)


async def test_typing_by_request_reaches_rooms_that_are_open_elsewhere(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_chat.live.room_signals.LASTING_SECONDS", 0.5)
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two), HTTP(one) as http:
        member = await two.join("r")
        token = mint(SECRET, "alice", ttl=60)
        for on in (True, False):
            await http.tell("POST", "/v1/commands", {"type": "typing", "room": "r", "on": on}, bearer=token)
            assert (await member.until("typing"))["on"] == on
            assert ("r" in one.server.hub.signals) == on
        await http.tell("POST", "/v1/commands", {"type": "typing", "room": "r", "on": True}, bearer=token)
        assert (await member.until("typing"))["on"]
        assert not (await member.until("typing"))["on"], "it lapses by itself"
        assert not one.server.hub.signals


async def test_a_request_may_go_to_any_process_and_again_to_another(tmp_path: Path, redis_server: RedisServer) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        member = await two.join("r")
        token = mint(SECRET, "alice", ttl=60)
        commands = [{"type": "send", "id": f"{number}", "room": "r", "text": "x"} for number in range(8)]
        answers = []
        for here in (one, two):
            async with HTTP(here) as http:
                answers.append(json.loads((await http.tell("POST", "/v1/commands", commands, bearer=token)).body))
        assert [ack["seq"] for ack in answers[0]] == [ack["seq"] for ack in answers[1]] == list(range(1, 9))
        assert not any("duplicate" in ack for ack in answers[0])
        assert all(ack["duplicate"] for ack in answers[1])
        assert len(await member.collect(8)) == 8
