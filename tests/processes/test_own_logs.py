"""One's own log between processes: what one device does the others hear at once, or late, but all of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Client, Running, eventually, running
from tests.support.redis_servers import redis_of_the_session, redis_server
from tests.support.servers import UNLIMITED, Server
from tests.support.several_servers import database, polls, servers
from tornado_chat import client
from tornado_chat.auth import mint
from tornado_chat.live.hub import Hub
from tornado_chat.verify.proxy import Proxy
from tornado_chat.verify.redis_server import RedisServer

pytest_plugins = ["tests.support.postgres_servers"]
__all__ = ["database", "polls", "redis_of_the_session", "redis_server"]


def token(user: str, secret: bytes = SECRET) -> str:
    return mint(secret, user, ttl=3600)


async def device(here: Running, user: str, secret: bytes = SECRET) -> Client:
    return await here.join("~", f"/ws?token={token(user, secret)}")


async def everything_of(here: Running, mentioned: str) -> int:
    """Ann does there all that makes an event in her log, and mentions another; how many events that is."""
    ann = await here.connect(f"/ws?token={token('ann')}")
    sent = await ann.ask(type="send", room="lobby", text="hello", mark=False, mentions=[mentioned])
    await ann.ask(type="follow", room="lobby", level="everything")
    await ann.ask(type="read", room="lobby", seq=sent["seq"])
    await ann.ask(type="unfollow", room="lobby")
    return 3


async def heard(device: Client, count: int) -> list[tuple[Any, ...]]:
    """The next events of the own log, which must follow each other."""
    events = [await device.receive() for _ in range(count)]
    assert [event["seq"] for event in events] == list(range(events[0]["seq"], events[0]["seq"] + count))
    assert {event["room"] for event in events} == {"~"}
    return [(event["type"], event["about"], event.get("read") or event.get("target")) for event in events]


ANN = [("followed", "lobby", None), ("marked", "lobby", 1), ("unfollowed", "lobby", None)]


async def test_devices_of_two_processes_hear_by_redis(
    tmp_path: Path, database: str, redis_server: RedisServer, polls: Counter[Hub]
) -> None:
    async with servers(tmp_path, 2, database, redis_server.url) as (one, two):
        phones = [await device(here, "ann") for here in (one, two)]
        eves = [await device(here, "eve") for here in (one, two)]
        await eventually(lambda: all(polls[here.server.hub] for here in (one, two)))
        count = await everything_of(one, "eve")
        for phone in phones:
            assert await heard(phone, count) == ANN
        for eve in eves:
            assert await heard(eve, 1) == [("mentioned", "lobby", 1)]


@pytest.mark.logs("redis is away")
async def test_devices_of_two_processes_hear_without_redis(tmp_path: Path, database: str) -> None:
    with RedisServer(tmp_path / "redis") as server:
        async with servers(tmp_path, 2, database, server.url) as (one, two):
            phones = [await device(here, "ann") for here in (one, two)]
            eve = await device(two, "eve")
            await asyncio.to_thread(server.stop)
            count = await everything_of(one, "eve")
            for phone in phones:
                assert await heard(phone, count) == ANN
            assert await heard(eve, 1) == [("mentioned", "lobby", 1)]


async def test_a_process_is_killed_between_a_commit_and_what_it_tells(
    tmp_path: Path, database: str, redis_server: RedisServer
) -> None:
    """Its way to Redis takes what it says, and keeps it."""
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        flags = ("--database", database, "--redis", f"redis://127.0.0.1:{proxy.port}/0")
        killed = Server(tmp_path, *UNLIMITED, *flags)
        try:
            await asyncio.to_thread(killed.start)
            async with running(
                tmp_path, secret=killed.secret, database=database, redis=(redis_server.url,), siblings=1
            ) as here:
                phone, eve = [await device(here, user, killed.secret) for user in ("ann", "eve")]
                async with client.Client(killed.url, token=token("ann", killed.secret)) as ann:
                    await ann.follow("lobby")
                    assert await heard(phone, 1) == ANN[:1]  # by the channel, which is there
                    proxy.stall()
                    sent = await ann.send("lobby", "hello", mark=False, mentions=["eve"])
                    await ann.read("lobby", sent.seq)
                    await ann.unfollow("lobby")
                    killed.kill()
                assert await heard(phone, 2) == ANN[1:]
                assert await heard(eve, 1) == [("mentioned", "lobby", 1)]
                again = await here.connect(f"/ws?token={token('ann', killed.secret)}")
                joined = await again.ask(type="join", room="~")
                assert (joined["cursor"], joined["state"]) == (3, {"rooms": []})
        finally:
            killed.kill()
        killed.check()
