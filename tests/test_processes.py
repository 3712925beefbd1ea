"""Several servers on one log, with Redis and without: one order for all, nothing lost, nothing doubled.

They run in one process here, each with its own hub and its own connections to the log: what is true between them is
what is true between processes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chat import Client, Running, eventually, running
from redis_servers import redis_of_the_session, redis_server
from tornado.httpclient import AsyncHTTPClient

from tornado_chat.broker import Change
from tornado_chat.verify.redis_server import RedisServer

pytest_plugins = ["postgres_servers"]
__all__ = ["redis_of_the_session", "redis_server"]

LOGS = ["sqlite", "postgresql"]


@pytest.fixture(params=LOGS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chat.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@asynccontextmanager
async def servers(path: Path, count: int, database: str, *redis: str) -> AsyncIterator[list[Running]]:
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"database": database, "redis": redis, "siblings": count - 1}
        yield [await stack.enter_async_context(running(path, **settings)) for _ in range(count)]


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
    """As when a worker dies between its commit and its publish; and it is told at once by who knows of the death."""
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        member = await two.join("r")
        monkeypatch.setattr(one.server.hub.broker, "publish_events", lambda *_: None)
        sender = await one.connect()
        await sender.ask(type="send", room="r", text="unheard of")
        assert await texts(member, 1) == ["unheard of"], "the poll finds it"
        two.server.on_worker_died(one.server.uid)
        await sender.ask(type="send", room="r", text="again")
        assert await texts(member, 2) == ["again"]


async def test_signals_reach_the_members_in_other_processes(tmp_path: Path, redis_server: RedisServer) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        alice, bob = await one.join("r"), await two.join("r")
        await alice.ask(type="send", room="r", text="hello")
        await alice.send(type="typing", room="r", on=True)
        assert (await bob.until("typing"))["user"] == alice.welcome["user"]
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


async def present(client: Client, count: int) -> Any:
    """The answer to `presence` as soon as it tells so many."""
    answer = None
    async with asyncio.timeout(15):
        while answer is None or answer["count"] != count:
            answer = await client.ask(type="presence", room="r")
            await asyncio.sleep(0.02)
    return answer


@pytest.mark.logs("redis is away")
async def test_without_its_redis_a_process_is_ready_and_says_that_it_is_degraded(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as own:
        async with running(tmp_path, redis=(own.url,)) as here:

            async def ready() -> Any:
                answer = await AsyncHTTPClient().fetch(here.address + "/readyz")
                return json.loads(answer.body)["degraded"]

            assert await ready() == []
            await asyncio.to_thread(own.stop)
            await eventually(lambda: not here.server.hub.broker.available)
            assert await ready() == ["broker"]
            member = await here.join("r")
            await member.ask(type="send", room="r", text="still here")
            assert await texts(member, 1) == ["still here"]
            await asyncio.to_thread(own.start)
            await eventually(lambda: here.server.hub.broker.available)
            assert await ready() == []


async def test_presence_is_that_of_all_processes(tmp_path: Path, redis_server: RedisServer) -> None:
    async with servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", redis_server.url) as (one, two):
        alice = await one.join("r", "/ws?name=Alice")
        bob = await two.join("r", "/ws?name=Bob")
        phone = await two.join("r", f"/ws?token={alice.welcome['token']}")
        for client in (alice, bob):
            answer = await present(client, 2)
            assert sorted(user["name"] for user in answer["users"]) == ["Alice", "Bob"]
        await phone.close()
        await eventually(lambda: len(two.server.transport.connections) == 1)
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
        two.server.hub.broker.publish_presence("r", Change("killed", 1, 0, {"ghost": "Ghost"}, ()))
        await present(alice, 2)
        await present(alice, 1)
        two.server.hub.broker.publish_presence("r", Change("killed 2", 1, 0, {"ghost": "Ghost"}, ()))
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
