"""What servers tell each other over one Redis, and what they must not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.chat import Running, eventually, present, running
from tests.support.redis_servers import redis_of_the_session, redis_server
from tornado_chat.broker import Records
from tornado_chat.live import presence
from tornado_chat.verify.redis_server import RedisServer

__all__ = ["redis_of_the_session", "redis_server"]


async def recorded(here: Running, count: int) -> None:
    """So many processes have a record of the room."""
    async with asyncio.timeout(15):
        records: Records = {}
        while len(records) != count:
            records = (await here.server.hub.broker.presence({"r": {}})).get("r", {})
            await asyncio.sleep(0.02)


async def test_two_logs_on_one_redis_know_nothing_of_each_other(tmp_path: Path, redis_server: RedisServer) -> None:
    """The rooms have the same names and the same numbers."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    redis = (redis_server.url,)
    async with running(tmp_path / "a", redis=redis) as one, running(tmp_path / "b", redis=redis) as two:
        here, there = await one.join("r"), await two.join("r")
        await there.ask(type="send", room="r", text="of the other log")
        await there.collect(1)
        await here.ask(type="send", room="r", text="of this log")
        assert [event["text"] for event in await here.collect(1)] == ["of this log"]
        await present(here, 1)
        await present(there, 1)


async def test_who_was_here_before_is_not_told_as_new(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.1)
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as one,
        running(tmp_path, siblings=1, redis=redis, database=database) as two,
    ):
        alice = await one.join("r", "/ws?name=Alice")
        await recorded(two, 1)
        bob = await two.join("r", "/ws?name=Bob")
        await present(bob, 2)
        await present(alice, 2)
        await bob.ask(type="leave", room="nowhere")
        told = [user["name"] for signal in bob.presence for user in signal["joined"]]
        assert "Alice" not in told


@pytest.mark.logs("redis is away")
async def test_nobody_leaves_because_redis_forgot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.1)
    database = f"sqlite:///{tmp_path}/chat.db"
    with RedisServer(tmp_path / "redis") as own:
        redis = (own.url,)
        async with (
            running(tmp_path, siblings=1, redis=redis, database=database) as one,
            running(tmp_path, siblings=1, redis=redis, database=database) as two,
        ):
            alice, bob = await one.join("r"), await two.join("r")
            await present(alice, 2)
            await present(bob, 2)
            await asyncio.to_thread(own.restart)
            await eventually(lambda: one.server.hub.broker.available and two.server.hub.broker.available)
            await recorded(two, 2)
            await present(alice, 2)
            left = [signal for client in (alice, bob) for signal in client.presence if signal["left"]]
            assert left == []
