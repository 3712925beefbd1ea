"""What servers tell each other over one Redis, and what they must not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import cast

import orjson
import pytest
from redis import Redis
from redis import asyncio as aioredis

from tests.support.brokers import event, processes
from tests.support.chat import SECRET, Running, eventually, present, running
from tests.support.redis_servers import ask, redis_of_the_session, redis_server
from tornado_chat.broker import Change, Records, redis_presence
from tornado_chat.broker.redis_link import channel_of
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


def commands_of(server: RedisServer) -> int:
    info = ask(server, "INFO", "stats")
    assert isinstance(info, dict)
    return int(info["total_commands_processed"])


async def test_an_idle_process_with_many_rooms_asks_little_of_redis(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.05)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.1)
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as one,
        running(tmp_path, siblings=1, redis=redis, database=database) as two,
    ):
        alice, bob = await one.connect(), await two.connect()
        for number in range(200):
            for client in (alice, bob):
                await client.ask(type="join", room=f"room-{number}")
        await present(alice, 2, "room-199")
        tracker = one.server.hub.presence
        await eventually(lambda: not tracker._changed and not tracker._to_ask)
        renewals = 0
        renew = tracker._renew

        async def counted() -> None:
            nonlocal renewals
            await renew()
            renewals += 1

        monkeypatch.setattr(tracker, "_renew", counted)
        before = commands_of(redis_server)
        await eventually(lambda: renewals >= 20)
        # Of each process and renewal: its own sign twice, those of the others once, and a room that is refreshed.
        assert commands_of(redis_server) - before < 20 * 2 * 12


async def test_records_that_are_lost_one_by_one_come_back(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if Redis had thrown them out for lack of memory."""
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.05)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(presence, "REFRESH_SECONDS", 0.5)
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as one,
        running(tmp_path, siblings=1, redis=redis, database=database) as two,
    ):
        rooms = [f"room-{number}" for number in range(20)]
        alice, outside = await one.connect(), await two.connect()
        for room in rooms:
            await alice.ask(type="join", room=room)
        with Redis(port=redis_server.port) as client:
            await eventually(lambda: len(client.keys("*:records")) == 20)
            client.delete(*client.keys("*:records"))
            await eventually(lambda: len(client.keys("*:records")) == 20)
            # Each is given its time after it has come.
            await eventually(lambda: all(client.ttl(key) > 3500 for key in client.keys("*:records")))
        for room in rooms:
            await present(outside, 1, room)


async def test_nobody_leaves_because_redis_was_emptied(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No link is lost: the processes find it out by their signs of life."""
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.05)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.3)

    def records() -> list[str]:
        return cast(list[str], ask(redis_server, "KEYS", "*:records"))

    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as one,
        running(tmp_path, siblings=1, redis=redis, database=database) as two,
    ):
        alice, bob = await one.join("r"), await two.join("r")
        await present(alice, 2)
        await present(bob, 2)
        for number in range(60):  # too many to be refreshed in time, one at each renewal
            await alice.ask(type="join", room=f"room-{number}")
        await eventually(lambda: len(records()) == 61)
        ask(redis_server, "FLUSHALL")
        await eventually(lambda: len(records()) == 61)
        await recorded(two, 2)
        assert (await present(await two.connect(), 2))["count"] == 2
        left = [signal for client in (alice, bob) for signal in client.presence if signal["left"]]
        assert left == []


async def test_a_user_whose_leaving_was_not_heard_is_gone_after_a_while(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.05)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(presence, "REFRESH_SECONDS", 0.5)
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as one,
        running(tmp_path, siblings=1, redis=redis, database=database) as two,
    ):
        alice, bob = await one.join("r"), await two.join("r")
        await present(alice, 2)
        monkeypatch.setattr(one.server.hub, "on_presence", lambda room, change: None)
        await bob.close()
        await present(alice, 1)


async def test_a_sign_of_life_that_somebody_repeats_keeps_nobody_alive(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.05)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(presence, "LAPSE_SECONDS", 1.0)
    monkeypatch.setattr(redis_presence, "LAPSE_SECONDS", 1)
    ghost = {"ghost": "Ghost"}
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with running(tmp_path, siblings=1, redis=redis, database=database) as here:
        alice = await here.join("r")
        async with processes([redis_server.url], 1, epoch=here.server.log.epoch, secret=SECRET) as ((killed, _),):
            await killed.renew_presence("killed", 2, [])
            killed.publish_presence("r", Change("killed", 1, 0, ghost, ()), ghost)
            await present(alice, 2)
        with Redis(port=redis_server.port) as client:
            client.persist(client.keys("*:alive:killed")[0])
            await present(alice, 1)
            assert len(client.keys("*:alive:killed")) == 1
            record = client.hget(client.keys("*:records")[0], "killed")
            assert record is not None
        here.server.hub.presence.ask(here.server.hub.rooms["r"])
        await eventually(lambda: not here.server.hub.presence._asking)
        await present(alice, 1)


async def test_a_change_of_presence_that_somebody_repeats_brings_nobody_back(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "SIGNAL_SECONDS", 0.05)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 1000.0)  # nothing is told but what changes
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as one,
        running(tmp_path, siblings=1, redis=redis, database=database) as two,
    ):
        alice = await one.join("r")
        await recorded(two, 1)
        channel = channel_of(one.server.log.epoch, "r")
        bob = await two.connect()
        joined = await overheard(redis_server.url, channel, bob.ask(type="join", room="r"))
        await present(alice, 2)
        await bob.close()
        await present(alice, 1)
        received = one.server.hub.broker.counts()["received"]
        async with aioredis.from_url(redis_server.url) as stranger:
            assert await stranger.publish(channel, joined) == 1
        await eventually(lambda: one.server.hub.broker.counts()["received"] > received)
        await present(alice, 1)
        assert refused(one) == 0


# A stranger on the same Redis


async def overheard(url: str, channel: bytes, publish: Awaitable[object]) -> bytes:
    """The payload that is published on `channel` by `publish`."""
    async with aioredis.from_url(url) as client, client.pubsub() as listener:
        await listener.subscribe(channel)
        assert (await listener.get_message(timeout=5))["type"] == "subscribe"
        await publish
        payload: bytes = (await listener.get_message(timeout=5))["data"]
        return payload


def refused(here: Running) -> int:
    return here.server.hub.broker.counts()["refused"]


def forged(payload: bytes) -> list[bytes]:
    """What somebody makes of the authentic event with seq 1 of the room `r` who has seen how it looks."""
    head, body = payload[:25], payload[26:]
    (event,) = orjson.loads(body)

    def of(*events: object) -> bytes:
        return head + b"e" + orjson.dumps(events)

    forgeries = [{**event, "seq": seq, "text": "forged"} for seq in (2, 3, 4, 1000, 1 << 62)]
    return [
        *map(of, forgeries),
        of(*forgeries[1:3]),
        of({key: value for key, value in forgeries[0].items() if key != "type"}),
        *(head + b"h%d" % seq for seq in (2, 3, 10**17)),
        head + b"s" + orjson.dumps([time.time_ns() // 10**6, None, {"type": "typing", "room": "r"}]),
        head + b"c" + orjson.dumps([time.time_ns() // 10**6, "ghost", 1, 0, {"ghost": "Ghost"}, []]),
        bytes(8) + payload[8:],
        b"junk",
        b"",
    ]


@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "busy"])
@pytest.mark.logs("redis message refused")
async def test_a_stranger_changes_nothing_in_a_room(tmp_path: Path, redis_server: RedisServer, is_idle: bool) -> None:
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as one,
        running(tmp_path, siblings=1, redis=redis, database=database) as two,
    ):
        ended: list[Running] = []
        for here in (one, two):
            here.server.leave = partial(ended.append, here)
        readers = [await one.join("r"), await two.join("r"), await one.join("other"), await two.join("other")]
        writers = [await one.connect(), await two.connect()]
        epoch = one.server.log.epoch
        first = writers[0].ask(type="send", room="r", text="1")
        payload = await overheard(redis_server.url, channel_of(epoch, "r"), first)
        rounds, seq = 20, 1
        async with aioredis.from_url(redis_server.url) as stranger:
            for number in range(rounds):
                for bad in forged(payload):
                    assert await stranger.publish(channel_of(epoch, "r"), bad) == 2
                await stranger.publish(channel_of(epoch, "r"), payload)  # authentic, again
                await stranger.publish(channel_of(epoch, "other"), payload)  # in another room
                if not is_idle:
                    seq += 1
                    await writers[number % 2].ask(type="send", room="r", text=str(seq))
        await eventually(lambda: refused(two) == rounds * (len(forged(payload)) + 1))
        await eventually(lambda: refused(one) == rounds * 3)  # what pretends to be its own it drops without a look
        for here in (one, two):
            await here.server.hub.poll()
            assert here.server.failing() == []
        count = (await present(writers[0], 2))["count"]
        seq += 1
        await writers[1].ask(type="send", room="r", text=str(seq))
        for reader in readers[:2]:
            events = await reader.collect(seq)
            assert [(event["seq"], event["text"]) for event in events] == [(n, str(n)) for n in range(1, seq + 1)]
        for reader in readers[2:]:
            await reader.send(type="ping", id="end")
            assert (await reader.receive()) == {"type": "pong", "id": "end"}
        for here in (one, two):
            room = here.server.hub.rooms["r"]
            assert (room.head, room.flushed, room.early, room.known <= seq) == (seq, seq, {}, True)
        assert (ended, count) == ([], 2)


@pytest.mark.logs("log has no such events room=r head=2")
async def test_a_process_that_tells_of_what_the_log_does_not_have_harms_nothing(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """One with the secret: its commit cannot be seen yet, or it is wrong."""
    async with running(tmp_path, siblings=1, redis=(redis_server.url,)) as here:
        ended: list[Running] = []
        here.server.leave = partial(ended.append, here)
        reader, writer = await here.join("r"), await here.connect()
        for seq in (1, 2):
            await writer.ask(type="send", room="r", text=str(seq))
        epoch, room = here.server.log.epoch, here.server.hub.rooms["r"]
        async with processes([redis_server.url], 1, epoch=epoch, secret=SECRET) as ((sibling, _),):
            sibling._refer("r", 10**17)
            await eventually(lambda: here.server.metrics.holes == 1 and not room.mending)
            sibling.publish_events("r", [event("r", 5)])
            await eventually(lambda: here.server.metrics.holes == 2 and not room.mending)
            assert (room.head, room.known, room.early) == (2, 2, {})
        await here.server.hub.poll()
        for seq in range(3, 8):
            await writer.ask(type="send", room="r", text=str(seq))
        assert [said["text"] for said in await reader.collect(7)] == [str(seq) for seq in range(1, 8)]
        assert (ended, here.server.failing()) == ([], [])


@pytest.mark.logs("redis message refused")
async def test_after_a_change_of_the_secret_events_are_found_by_polling(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during a roll: the old worker and the new one cannot read each other's news."""
    monkeypatch.setattr("tornado_chat.server.POLL_SECONDS", 10**9)  # what is refused is the only reason to poll
    redis, database = (redis_server.url,), f"sqlite:///{tmp_path}/chat.db"
    async with (
        running(tmp_path, siblings=1, redis=redis, database=database) as old,
        running(
            tmp_path, siblings=1, redis=redis, database=database, secret=b"the key of tomorrow, 32 bytes .."
        ) as new,
    ):
        alice, bob = await old.join("r"), await new.join("r")
        for here, reader in ((old, bob), (new, alice)):
            writer = await here.connect()
            for number in range(5):
                sent = await writer.ask(type="send", room="r", text=str(number))
            events = await reader.collect(sent["seq"])
            assert [event["text"] for event in events][-5:] == ["0", "1", "2", "3", "4"]
        assert min(refused(old), refused(new)) >= 5
