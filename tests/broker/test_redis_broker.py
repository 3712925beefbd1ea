"""What happens to a broker when Redis, or the way to it, is harmed."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import quote

import pytest
import redis

from tests.support.brokers import SECRET, News, Process, can_tell, event, processes, typing
from tests.support.connections import until
from tests.support.redis_servers import (
    SENTINEL_PASSWORD,
    Certificate,
    ask,
    needs_tls,
    redis_cluster,
    redis_of_the_session,
    redis_sentinel,
    redis_server,
)
from tornado_chat.broker import Change, redis_link, redis_presence, redis_socket
from tornado_chat.broker import redis as redis_module
from tornado_chat.broker.redis import RedisBroker, place_of
from tornado_chat.broker.redis_address import RedisAddress
from tornado_chat.broker.redis_link import QUEUE_BYTES, RedisLink, channel_of
from tornado_chat.errors import ConfigError
from tornado_chat.verify.proxy import Proxy
from tornado_chat.verify.redis_server import RedisServer

__all__ = ["redis_of_the_session", "redis_server"]

AWAY = "redis is away"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deaf link is found out sooner than in real life."""
    monkeypatch.setattr(redis_link, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(redis_link, "LATE_SECONDS", 0.1)


@asynccontextmanager
async def one_through_a_proxy(server: RedisServer) -> AsyncIterator[tuple[Proxy, Process, Process]]:
    """Two processes in the room `a`; the first one's way to Redis is the proxy."""
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        processes([f"redis://127.0.0.1:{proxy.port}/0"], 1) as (one,),
        processes([server.url], 1) as (two,),
    ):
        for broker, _ in (one, two):
            await broker.subscribe("a")
        yield proxy, one, two


def link_of(broker: RedisBroker) -> RedisLink:
    (link,) = broker._places.values()
    assert isinstance(link, RedisLink)
    return link


def commands(server: RedisServer, name: str) -> int:
    """How many of these the server has had."""
    info = ask(server, "INFO", "commandstats")
    assert isinstance(info, dict)
    return int(info.get(f"cmdstat_{name}", {}).get("calls", 0))


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Level and message of what the broker logged."""
    return [(level, text) for name, level, text in caplog.record_tuples if name.startswith("tornado_chat.broker")]


# Links that are lost


@pytest.mark.logs(AWAY)
async def test_a_cut_link_comes_back_and_others_learn_what_was_committed(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with one_through_a_proxy(redis_server) as (proxy, (one, at_one), (two, at_two)):
        links = at_one.links
        proxy.refuse()
        await until(lambda: not one.available)
        assert two.available
        one.publish_events("a", [event("a", 1), event("a", 2)])
        one.publish_events("a", [event("a", 3)])
        one.publish_signal("a", typing("a"), None)
        began = monotonic()
        await one.subscribe("b")  # at once
        assert monotonic() - began < 1
        assert one.dropped == 4
        proxy.accept()
        await until(lambda: one.available)
        assert at_one.links == links + 1
        await until(lambda: at_two.heads)
        assert at_two.heads == [("a", 3)]
        two.publish_events("b", [event("b", 1)])
        two.publish_events("a", [event("a", 4)])
        await until(lambda: at_one.events == [("b", 1), ("a", 4)])
        assert one.reconnects == 1
    first, second = lines(caplog)
    assert first[0] == logging.WARNING
    assert first[1].startswith(f"{AWAY}, messages between processes are late where=127.0.0.1:{proxy.port} reason=")
    assert second == (logging.INFO, f"redis is back where=127.0.0.1:{proxy.port}")


@pytest.mark.logs(AWAY)
async def test_what_was_written_into_a_dying_link_is_told_of_again(redis_server: RedisServer) -> None:
    async with one_through_a_proxy(redis_server) as (proxy, (one, _), (_, at_two)):
        proxy.stall()
        one.publish_events("a", [event("a", 1)])
        await asyncio.sleep(0)  # it is written in the next turn
        await asyncio.sleep(0)
        proxy.cut()
        proxy.flow()
        await until(lambda: at_two.heads)
        assert (at_two.events, at_two.heads) == ([], [("a", 1)])


@pytest.mark.logs(AWAY)
async def test_redis_restarts(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with processes([redis_server.url]) as ((one, _), (two, at_two)):
        await two.subscribe("a")
        redis_server.stop()
        await until(lambda: not one.available and not two.available)
        await asyncio.gather(*(two.subscribe(f"room-{number}") for number in range(2500)))
        two.unsubscribe("a")
        redis_server.start()
        await until(lambda: one.available and two.available)
        for number in range(2500):
            one.publish_events(f"room-{number}", [event(f"room-{number}", 1)])
        one.publish_events("a", [event("a", 1)])
        await until(lambda: len(at_two.events) == 2500)
        assert len(lines(caplog)) == 4  # two lost, two back


@pytest.mark.logs(AWAY)
async def test_redis_that_starts_later(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    began = monotonic()
    async with processes([server.url], 1) as ((one, at_one),):
        assert monotonic() - began < 2.5
        assert not one.available
        await one.subscribe("a")
        with server:
            await until(lambda: one.available)
            assert at_one.links == 1
            assert one.reconnects == 0
            async with processes([server.url], 1) as ((two, _),):
                two.publish_events("a", [event("a", 1)])
                await until(lambda: at_one.events)


@pytest.mark.logs(AWAY)
async def test_attempts_to_connect_are_ever_further_apart_and_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "LONGEST_PAUSE", 0.5)
    pauses: list[tuple[float, float]] = []  # at least, at most
    attempts: list[float] = []

    def longest(low: float, high: float) -> float:
        pauses.append((low, high))
        return high

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(monotonic())
        writer.transport.abort()

    monkeypatch.setattr("random.uniform", longest)
    with RedisServer(tmp_path) as server:
        refusing = await asyncio.start_server(refuse, "127.0.0.1", 0)
        proxy = Proxy("127.0.0.1", server.port)
        proxy.port = refusing.sockets[0].getsockname()[1]
        async with processes([f"redis://127.0.0.1:{proxy.port}/0"], 1) as ((one, _),):
            await until(lambda: len(attempts) >= 5)
            refusing.close()
            await refusing.wait_closed()
            async with proxy:
                await until(lambda: one.available)
                assert pauses[:5] == [(0, 0.1), (0, 0.2), (0, 0.4), (0, 0.5), (0, 0.5)]
                apart = [after - before for before, after in itertools.pairwise(attempts)]
                for paused, (_, pause) in zip(apart, pauses, strict=False):
                    assert paused > pause - 0.01  # uvloop counts whole milliseconds
                began, count = monotonic(), len(pauses)
                await until(lambda: monotonic() > began + 0.5)  # not a wait for something: its life must be long
                proxy.cut()
                await until(lambda: len(pauses) > count)
                assert pauses[count] == (0, 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.logs("it is deaf")
async def test_a_stalled_link_is_found_out_and_made_again(redis_server: RedisServer) -> None:
    async with one_through_a_proxy(redis_server) as (proxy, (one, at_one), (two, at_two)):
        links = at_one.links
        proxy.stall()
        two.publish_events("a", [event("a", 1)])
        await until(lambda: not one.available)
        await until(lambda: at_one.links == links + 1)  # the rooms are to be checked now, not when it is back
        assert not one.available
        one.publish_events("a", [event("a", 2)])
        proxy.flow()
        await until(lambda: one.available)
        assert at_one.links == links + 2
        await until(lambda: at_two.heads == [("a", 2)])


@pytest.mark.usefixtures("impatient")
@pytest.mark.logs("it is deaf")
async def test_a_link_that_answers_and_hears_nothing_is_found_out(redis_server: RedisServer) -> None:
    async with one_through_a_proxy(redis_server) as (proxy, (one, at_one), _):
        proxy.drop(1.0)
        await until(lambda: not one.available)
        assert proxy.dropped
        proxy.drop(0)
        await until(lambda: one.available)
        assert at_one.links >= 3


async def test_an_idle_link_lives(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "PROBE_SECONDS", 0.02)
    async with processes([redis_server.url], 1) as ((one, at_one),):
        before = commands(redis_server, "publish")
        await until(lambda: commands(redis_server, "publish") > before + 50)
        assert one.available
        assert at_one.links == 1


async def test_a_slow_link_is_not_deaf(redis_server: RedisServer) -> None:
    async with one_through_a_proxy(redis_server) as (proxy, (one, at_one), (two, _)):
        proxy.delay(0.2)
        began = monotonic()
        two.publish_events("a", [event("a", 1)])
        await until(lambda: at_one.events)
        assert monotonic() - began > 0.19
        assert one.available


@pytest.mark.usefixtures("impatient")
async def test_a_process_that_was_too_busy_to_listen_is_not_deaf(redis_server: RedisServer) -> None:
    async with processes([redis_server.url]) as ((one, _), (two, at_two)):
        await two.subscribe("a")
        link = link_of(two)
        redis_server.pause()
        await until(lambda: not link._probe_heard.done())
        redis_server.resume()
        time.sleep(0.5)  # noqa: ASYNC251  # the loop is busy, and the probe comes back meanwhile
        one.publish_events("a", [event("a", 1)])
        await until(lambda: at_two.events)
        assert two.available
        assert two.reconnects == 0


@pytest.mark.logs("(?i)no permissions")
async def test_a_refused_subscription_is_no_reply_to_a_command(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with redis.Redis(port=server.port) as client:
            rules = ["on", ">secret", "+@all", "~*", "resetchannels", "&tornado_chat:probe:*", "&tornado_chat:log:good"]
            client.execute_command("ACL", "SETUSER", "limited", *rules)
        async with processes([f"redis://limited:secret@127.0.0.1:{server.port}"], 1) as ((one, _),):
            await one.subscribe("good")
            assert one.available
            subscription = asyncio.ensure_future(one.subscribe("bad"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with pytest.raises(redis.ConnectionError, match="lost"):
                await link_of(one).command("good", "GET", "key")
            await subscription
            assert not one.available
            one.unsubscribe("bad")
            await until(lambda: one.available)
            assert await link_of(one).command("good", "GET", "key") is None


@pytest.mark.logs(AWAY)
async def test_a_subscription_that_is_under_way_when_the_link_dies_does_not_wait(redis_server: RedisServer) -> None:
    async with one_through_a_proxy(redis_server) as (proxy, (one, at_one), (two, _)):
        proxy.stall()
        waiting = asyncio.ensure_future(one.subscribe("b"))
        await asyncio.sleep(0)
        assert not waiting.done()
        began = monotonic()
        proxy.cut()
        await waiting
        assert monotonic() - began < 1
        proxy.flow()
        await until(lambda: one.available)
        two.publish_events("b", [event("b", 1)])
        await until(lambda: at_one.events)


async def test_a_subscription_waits_for_a_limited_time(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "SUBSCRIBE_SECONDS", 0.1)
    async with one_through_a_proxy(redis_server) as (proxy, (one, at_one), (two, _)):
        proxy.stall()
        await one.subscribe("b")
        proxy.flow()
        await can_tell(two, at_one, "b")


async def test_a_subscription_does_not_take_the_confirmation_of_an_earlier_one(redis_server: RedisServer) -> None:
    async with one_through_a_proxy(redis_server) as (proxy, (one, _), _):
        proxy.delay(0.2)  # of the confirmations
        first = asyncio.ensure_future(one.subscribe("b"))
        await asyncio.sleep(0.1)
        one.unsubscribe("b")
        await first
        await asyncio.sleep(0)
        began = monotonic()
        await one.subscribe("b")
        assert monotonic() - began > 0.15


# One write for a loop turn


async def test_what_is_published_in_one_loop_turn_goes_out_in_one_write(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = redis_socket.RedisSocket.write

    def recording(socket: redis_socket.RedisSocket, data: bytes, replies: Iterable[redis_socket.News]) -> None:
        written.append(data)
        write(socket, data, replies)

    monkeypatch.setattr(redis_socket.RedisSocket, "write", recording)
    rooms = [f"room-{number}" for number in range(30)]
    async with processes([redis_server.url]) as ((one, _), (two, at_two)):
        await asyncio.gather(*map(two.subscribe, rooms))
        written.clear()
        for seq in (1, 2):
            for room in rooms:
                one.publish_events(room, [event(room, seq)])
                one.publish_signal(room, typing(room), None)
        await until(lambda: len(at_two.signals) == len(at_two.events) == 60)
        (together,) = [data for data in written if b":room-" in data]
        assert together.count(b"PUBLISH") == 120


async def test_subscriptions_of_one_loop_turn_are_one_command(redis_server: RedisServer) -> None:
    rooms = [f"room-{number}" for number in range(300)]
    async with processes([redis_server.url]) as ((one, _), (two, at_two)):
        await two.subscribe("end")
        before = commands(redis_server, "subscribe"), commands(redis_server, "unsubscribe")
        await asyncio.gather(*map(two.subscribe, rooms))
        for room in rooms:
            two.unsubscribe(room)
        await can_tell(one, at_two, "end")
        after = commands(redis_server, "subscribe"), commands(redis_server, "unsubscribe")
        assert after == (before[0] + 1, before[1] + 1)


# Bounds


async def test_publishes_that_nobody_takes_become_one_reference_for_each_room(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "PROBE_SECONDS", 10.0)
    size, text = 0, "x" * 8000
    async with one_through_a_proxy(redis_server) as (proxy, (one, _), (two, at_two)):
        await two.subscribe("b")
        proxy.stall()
        seq = 0
        while size < QUEUE_BYTES + redis_socket.WRITE_BUFFER_BYTES + 10_000_000:
            seq += 1
            size += 2 * len(text)
            for room in ("a", "b"):
                one.publish_events(room, [event(room, seq, text)])
            if seq % 16 == 0:
                await asyncio.sleep(0)
        assert one.dropped > 100
        assert one._missed == {"a": seq, "b": seq}
        proxy.flow()
        await until(lambda: {("a", seq), ("b", seq)} <= set(at_two.heads))
        assert len(at_two.heads) < one.dropped / 4  # where no event fitted into the queue any more, some heads did
        for room in ("a", "b"):
            heard = [number for name, number in at_two.events if name == room]
            assert heard == sorted(heard)
        assert len(at_two.events) == 2 * seq - one.dropped
        one.publish_events("a", [event("a", seq + 1)])
        await until(lambda: at_two.events[-1] == ("a", seq + 1))
        assert one._missed == {}


@pytest.mark.logs(AWAY)
async def test_the_rooms_that_were_missed_are_bounded(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "MISSED_ROOMS", 3)
    async with one_through_a_proxy(redis_server) as (proxy, (one, _), (two, at_two)):
        await asyncio.gather(*(two.subscribe(f"room-{number}") for number in range(6)))
        proxy.refuse()
        await until(lambda: not one.available)
        for seq in (1, 2):
            for number in range(6):
                one.publish_events(f"room-{number}", [event(f"room-{number}", seq)])
        proxy.accept()
        await until(lambda: one.available)
        await can_tell(one, at_two, "room-5")
        assert at_two.heads == [("room-0", 2), ("room-1", 2), ("room-2", 2)]
        for seq in (5, 3):  # in whatever order a link gives them back
            one.on_unsent("a", seq)
        assert one._missed == {"a": 5}


async def test_records_of_presence_that_are_being_written_are_bounded(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_presence, "CHANGES", 3)
    users = {"ann": "Ann"}
    rooms = [f"room-{number}" for number in range(9)]
    async with one_through_a_proxy(redis_server) as (proxy, (one, _), (two, _)):

        async def recorded() -> set[str]:
            found = await two.presence({room: {} for room in rooms})
            return {room for room, records in found.items() if "worker" in records}

        assert sorted(await one.renew_presence("worker", 1, rooms)) == rooms, "its first sign of life"
        proxy.stall()
        for room in rooms:
            one.publish_presence(room, Change("worker", 7, 0, users, ()), users)
        proxy.flow()
        left = await one.renew_presence("worker", 8, rooms)  # its commands come after those that were written
        assert sorted(left) == rooms[3:6], "as many are kept in mind; others wait for their refresh"
        assert await recorded() == set(rooms[:3])
        for room in left:
            one.publish_presence(room, Change("worker", 9, 0, users, ()), users)
        assert await one.renew_presence("worker", 10, rooms) == []
        assert await recorded() == set(rooms[:6])


@pytest.mark.logs(AWAY)
async def test_presence_that_was_not_told_is_to_be_told_anew(redis_server: RedisServer) -> None:
    users = {"ann": "Ann"}
    async with one_through_a_proxy(redis_server) as (proxy, (one, _), (_, at_two)):
        await one.renew_presence("worker", 1, [])
        proxy.stall()
        one.publish_presence("a", Change("worker", 2, 0, users, ()), users)
        for _ in range(3):  # it is written
            await asyncio.sleep(0)
        proxy.refuse()
        await until(lambda: not one.available)
        one.publish_presence("b", Change("worker", 3, 0, users, ()), users)
        await asyncio.sleep(0)
        proxy.flow()
        proxy.accept()
        await until(lambda: one.available)
        assert at_two.changes == []
        assert sorted(await one.renew_presence("worker", 4, ["a", "b", "c"])) == ["a", "b"]
        assert await one.renew_presence("worker", 5, ["a", "b", "c"]) == []


# Strangers


async def heard_by_redis(server: RedisServer, channel: bytes, publish: Callable[[], None]) -> bytes:
    """The payload of what is published meanwhile."""
    with redis.Redis(port=server.port) as client, client.pubsub() as listener:
        listener.subscribe(channel)
        await until(lambda: listener.get_message())
        publish()
        found: list[bytes] = []

        def is_heard() -> bool:
            message = listener.get_message()
            if message is not None:
                found.append(message["data"])
            return bool(found)

        await until(is_heard)
        return found[0]


@pytest.mark.logs("redis message refused")
async def test_what_a_stranger_says_harms_nothing(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    a, b = channel_of("log", "a"), channel_of("log", "b")
    users = {"ann": "Ann"}
    async with processes([redis_server.url]) as ((one, _), (two, at_two)):
        for room in ("a", "b"):
            await two.subscribe(room)
        publishing: list[Callable[[], None]] = [
            lambda: one.publish_events("a", [event("a", 1)]),
            lambda: one._refer("a", 1),
            lambda: one.publish_signal("a", typing("a"), "ann"),
            lambda: one.publish_presence("a", Change("w", 1, 0, users, ()), users),
        ]
        authentic = [await heard_by_redis(redis_server, a, publish) for publish in publishing]
        await until(lambda: at_two.events and at_two.heads and at_two.signals and at_two.changes)
        assert (at_two.refused, two.refused) == (0, 0)
        bad = [b"", b"x", b"12345678", b"12345678?", b"12345678p1", b"12345678h" + b"9" * 17, b"x" * 100_000]
        for payload in authentic:
            bad += [payload[:-1], payload + b" ", b"12345678" + payload[8:], payload[:8] + bytes(16) + payload[24:]]
            bad += [payload[:24] + b"\x02" + payload[25:], payload[:25] + b"h" + b"9" * 17, payload[:-1] + b"\0"]
        with redis.Redis(port=redis_server.port) as client:
            for payload in bad:
                assert client.publish(a, payload) >= 1
            for payload in authentic:
                assert client.publish(b, payload) >= 1, "in another room"
        one.publish_events("a", [event("a", 2)])
        await until(lambda: len(at_two.events) == 2)
        assert at_two.events == [("a", 1), ("a", 2)]
        assert at_two.heads == [("a", 1)]
        assert (len(at_two.signals), len(at_two.changes)) == (1, 1)
        assert two.counts()["refused"] == len(bad) + len(authentic)
        assert two.available
        await until(lambda: at_two.refused)
        assert at_two.refused == 1, "the log is asked for all of them at once"
    assert len(lines(caplog)) == 1  # not one for each


@pytest.mark.logs("redis message refused")
async def test_the_log_is_asked_for_what_is_refused_and_not_all_the_time(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "ASK_SECONDS", 0.5)
    async with processes([redis_server.url], 1) as ((one, at_one),):
        await one.subscribe("a")
        with redis.Redis(port=redis_server.port) as client:
            began = monotonic()
            while monotonic() < began + 1.2:
                client.publish(channel_of("log", "a"), b"junk")
                await asyncio.sleep(0.001)
            count = one.refused
            await until(lambda: at_one.refused == 4)  # at once, and each half second; the last one for the last junk
            assert count > 100
            await until(lambda: one.refused == count or monotonic() > began + 5)
            client.publish(channel_of("log", "a"), b"junk")
            await until(lambda: at_one.refused == 5)


@pytest.mark.logs("redis message refused")
async def test_processes_with_different_secrets_do_not_hear_each_other(redis_server: RedisServer) -> None:
    users = {"ann": "Ann"}
    async with (
        processes([redis_server.url], 1) as ((one, at_one),),
        processes([redis_server.url], 1, secret=b"another") as ((two, at_two),),
    ):
        for broker in (one, two):
            await broker.subscribe("a")
        one.publish_events("a", [event("a", 1)])
        one.publish_presence("a", Change("w", 1, 0, users, ()), users)
        await one.renew_presence("w", 1, [])
        two.publish_events("a", [event("a", 2)])
        await until(lambda: (at_one.refused, at_two.refused) == (1, 1))
        assert (at_one.events, at_two.events, at_two.changes) == ([], [], [])
        assert await two.presence({"a": {}}) == {"a": {}}
        assert await two.signs(["w"]) == {}
        assert await one.signs(["w"]) == {"w": 1}


@pytest.mark.logs("redis message refused")
async def test_records_that_a_stranger_writes_are_not_believed(redis_server: RedisServer) -> None:
    users = {"ann": "Ann"}
    async with processes([redis_server.url]) as ((one, _), (two, _)):
        for room in ("a", "b"):
            one.publish_presence(room, Change("w", 5, 0, users, ()), users)
        await one.renew_presence("w", 5, [])
        with redis.Redis(port=redis_server.port) as client:
            await until(lambda: len(client.keys("*:records")) == 2)
            (a, b), (sign,) = sorted(client.keys("*:records")), client.keys("*:alive:*")
            record = client.hget(a, "w")
            assert isinstance(record, bytes)
            assert await two.presence({"a": {}}) == {"a": {"w": (5, users)}}
            client.hset(a, mapping={"x": record, "y": b"junk", b"\xff": b"junk"})
            client.hset(b, "w", record)
            assert await two.presence({"a": {}, "b": {}}) == {"a": {"w": (5, users)}, "b": {}}
            client.set(sign.replace(b":w", b":x"), client.get(sign) or b"")
            assert await two.signs(["w", "x"]) == {"w": 5}
            client.set(sign, b"\x01" * 30)
            assert await two.signs(["w"]) == {}
            assert two.refused == 6
            client.set(a, "not a hash")  # to have presence told is not possible there, and nothing else is harmed
            client.delete(b)
            client.set(b, "not a hash")
            assert await two.presence({"a": {}, "b": {}}) == {}
            one.publish_presence("a", Change("w", 6, 0, users, ()), users)
            await until(lambda: one._presences[one._place("a")]._unwritten)
            assert one.available


@pytest.mark.logs("this is not Redis")
async def test_what_is_not_redis_ends_the_link(redis_server: RedisServer) -> None:
    async with processes([redis_server.url]) as ((one, _), (two, at_two)):
        await two.subscribe("a")
        link = link_of(two)
        assert link._socket is not None
        link._socket.data_received(b"@nonsense\r\n")
        await until(lambda: not two.available)
        await until(lambda: two.available)
        one.publish_events("a", [event("a", 1)])
        await until(lambda: at_two.events)


class Faulty(News):
    def on_signal(self, room: str, data: object, not_for: str | None) -> None:
        raise RuntimeError("a fault of the receiver")


@pytest.mark.logs("news not taken")
async def test_a_fault_of_the_receiver_does_not_end_the_link(redis_server: RedisServer) -> None:
    one, at_one = RedisBroker([redis_server.url], "log", SECRET), Faulty()
    await one.start(at_one)
    async with processes([redis_server.url], 1) as ((two, _),):
        await one.subscribe("a")
        two.publish_signal("a", typing("a"), None)
        two.publish_events("a", [event("a", 1)])
        await until(lambda: at_one.events)
    await one.close()


async def test_processes_of_different_logs_do_not_hear_each_other(redis_server: RedisServer) -> None:
    async with (
        processes([redis_server.url]) as ((one, _), (two, at_two)),
        processes([redis_server.url], 1, epoch="another") as ((three, at_other),),
    ):
        await two.subscribe("a")
        await three.subscribe("a")
        one.publish_events("a", [event("a", 1)])
        await until(lambda: at_two.events)
        assert at_other.events == []


# Commands


@pytest.mark.logs(AWAY)
async def test_commands_go_to_the_redis_of_the_room(redis_server: RedisServer) -> None:
    async with one_through_a_proxy(redis_server) as (proxy, (one, _), _):
        assert await link_of(one).command("a", "SET", "key", 5) == b"OK"
        one.publish_events("a", [event("a", 1)])
        many = [link_of(one).command("a", "INCR", "key") for _ in range(10)]
        assert await asyncio.gather(*many, one.subscribe("c")) == [*range(6, 16), None]
        with pytest.raises(redis.ResponseError, match="wrong number"):
            await link_of(one).command("a", "GET")
        assert one.available
        proxy.stall()
        waiting = asyncio.ensure_future(link_of(one).command("a", "GET", "key"))
        await asyncio.sleep(0)
        proxy.refuse()
        with pytest.raises(redis.ConnectionError):
            await waiting
        with pytest.raises(redis.ConnectionError, match="away"):
            await link_of(one).command("a", "GET", "key")
        proxy.flow()
        proxy.accept()
        await until(lambda: one.available)
        assert await link_of(one).command("a", "GET", "key") == b"15"


# Addresses


def test_every_process_agrees_on_the_place_of_a_room() -> None:
    urls = ["redis://a:1", "redis://:secret@b:2/0", "rediss://u:p@c:3"]
    names = [RedisAddress(url, "log").name for url in urls]
    assert names == [RedisAddress(url, "log").name for url in ("redis://a:1/0", "rediss://b:2", "redis://c:3/0")]
    assert "secret" not in " ".join(names)
    rooms = [f"room-{number}" for number in range(3000)]
    forward, backward = place_of(names), place_of(names[::-1])
    places = [forward(room) for room in rooms]
    assert places == [backward(room) for room in rooms]
    assert all(850 < count < 1150 for count in Counter(places).values())
    with_another = place_of([*names, RedisAddress("redis://d:4", "log").name])
    moved = [place for room, place in zip(rooms, places, strict=True) if with_another(room) != place]
    assert 600 < len(moved) < 900
    assert all(with_another(room) in (place, "d:4  0") for room, place in zip(rooms, places, strict=True))
    assert place_of(names[:1])("a") == names[0]


def test_one_address_given_twice_is_one() -> None:
    assert len(RedisBroker(["redis://a:1", "redis://a:1/0", "redis://:x@a:1"], "log", SECRET)._addresses) == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis://:secret@a:1/x", "'x' is not the number of a database"),
        ("redis://:secret@a:1/0?nonsense=1", "nonsense"),
        ("redis://:secret@a:99999", "[Pp]ort"),
        ("redis+sentinel://:secret@a:1,b:2/chat/x", "'x' is not the number of a database"),
        ("redis+sentinel://:secret@a:1/chat?sentinel_nonsense=secret", "there is no option sentinel_nonsense"),
        ("redis://:secret@a:1?sentinel_password=secret", "sentinel_password"),
    ],
)
def test_a_bad_address_is_refused_without_its_password(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        RedisBroker([url], "log", SECRET)
    assert "secret" not in str(caught.value)


@pytest.mark.logs(AWAY)
async def test_a_wrong_password_is_told_of_and_the_right_one_lets_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, "--requirepass", "right p@ss") as server:
        place = f"127.0.0.1:{server.port}"
        async with processes([f"redis://:right%20p%40ss@{place}"], 1) as ((one, _),):
            assert one.available
            wrong = RedisBroker([f"redis://:wrong-one@{place}"], "log", SECRET)
            await wrong.start(News())
            assert not wrong.available
            await wrong.close()
    ((_, text),) = lines(caplog)
    assert place in text
    assert "invalid" in text
    assert "wrong-one" not in caplog.text


# Sentinel and cluster


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=needs_tls)], ids=["plain", "tls"])
@pytest.mark.logs(AWAY)
async def test_a_failover_of_sentinel_is_followed(tmp_path: Path, tls: bool) -> None:
    with redis_sentinel(tmp_path, Certificate(tmp_path) if tls else None) as watched:
        async with processes([watched.url]) as ((one, _), (two, at_two)):
            await two.subscribe("a")
            watched.primary.kill()
            await until(lambda: not one.available and not two.available)
            one.publish_events("a", [event("a", 1)])
            await until(lambda: one.available and two.available)
            one.publish_events("a", [event("a", 2)])
            await until(lambda: ("a", 2) in at_two.events)


@needs_tls
@pytest.mark.logs(AWAY)
async def test_sentinels_have_a_password_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate = Certificate(tmp_path)
    with redis_sentinel(tmp_path, certificate) as watched:
        ask(watched.sentinel, "ACL", "SETUSER", "reader", "on", ">of the reader", "+sentinel", "+@connection")
        tls, ssl = f"127.0.0.1:{watched.sentinel.tls_port}/chat", f"sentinel_ssl=true&ssl_ca_certs={certificate.path}"
        good = f"rediss+sentinel://{tls}?{ssl}&sentinel_username=reader&sentinel_password=of%20the%20reader"
        # Sentinels that speak plainly name servers that speak TLS.
        plain = f"rediss+sentinel://127.0.0.1:{watched.sentinel.port}/chat?ssl_ca_certs={certificate.path}"
        for url in (good, f"{plain}&sentinel_password={quote(SENTINEL_PASSWORD)}"):
            async with processes([url]) as ((one, _), (two, at_two)):
                await two.subscribe("a")
                await can_tell(one, at_two, "a")
        assert lines(caplog) == []
        for url, reason in (
            (plain, "already authenticated"),
            (f"{plain}&sentinel_password=wrong-one", "invalid username-password pair"),
            (f"rediss+sentinel://{tls}?ssl_ca_certs={certificate.path}", ""),  # plain words to one that speaks TLS
        ):
            wrong = RedisBroker([url], "log", SECRET)
            await wrong.start(News())
            assert not wrong.available
            await wrong.close()
            assert reason in lines(caplog)[-1][1]
        assert len(lines(caplog)) == 3
        assert "wrong-one" not in caplog.text


@pytest.mark.logs("the Sentinels name another primary")
async def test_a_primary_that_lives_on_alone_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "PROBE_SECONDS", 0.3)
    with redis_sentinel(tmp_path) as watched, RedisServer(tmp_path / "other") as other:
        async with processes([watched.url]) as ((one, _), (two, at_two)):
            await two.subscribe("a")
            with redis.Redis(port=watched.sentinel.port) as client:
                client.execute_command("SENTINEL REMOVE chat")
                client.execute_command("SENTINEL MONITOR", "chat", "127.0.0.1", other.port, 1)
            with redis.Redis(port=other.port) as client:
                await until(lambda: client.pubsub_numsub("tornado_chat:log:a") == [(b"tornado_chat:log:a", 1)])
                await until(lambda: len(client.pubsub_channels("tornado_chat:probe:*")) == 2)
            await until(lambda: one.available and two.available)
            one.publish_events("a", [event("a", 1)])
            await until(lambda: at_two.events)


@pytest.mark.logs(AWAY)
async def test_a_node_of_a_cluster_goes_away_and_a_slot_moves(tmp_path: Path) -> None:
    rooms = [f"room-{number}" for number in range(60)]
    with redis_cluster(tmp_path) as cluster:
        async with processes([cluster.url]) as ((one, _), (two, at_two)):
            await asyncio.gather(*map(two.subscribe, rooms))
            cluster.nodes[0].kill()
            await until(lambda: not one.available and not two.available)
            for room in rooms:
                one.publish_events(room, [event(room, 1)])
            # The rooms of the other two servers go on.
            await until(lambda: len(at_two.events) == 60 - one.dropped)
            assert 20 < len(at_two.events) < 60
            cluster.nodes[0].start()
            await until(lambda: one.available and two.available)
            for room in rooms:
                one.publish_events(room, [event(room, 2)])
            await until(lambda: sum(seq == 2 for _, seq in at_two.events) == 60)

            # One slot moves to another server, and its rooms with it.
            slot = redis.crc.key_slot(channel_of("log", "room-7"))
            owner = next(node for number, node in enumerate(cluster.nodes) if slot < 16384 * (number + 1) // 3)
            other = cluster.nodes[(cluster.nodes.index(owner) + 1) % 3]
            with redis.Redis(port=other.port) as client:
                name = client.execute_command("CLUSTER MYID")
            links = at_two.links
            for node in [other, owner, *cluster.nodes]:
                with redis.Redis(port=node.port) as client:
                    client.execute_command("CLUSTER SETSLOT", slot, "NODE", name)
            with redis.Redis(port=other.port) as client:
                await until(lambda: client.execute_command("PUBSUB SHARDCHANNELS", "*room-7") != [])
            await until(lambda: at_two.links > links and one.available and two.available)
            one.publish_events("room-7", [event("room-7", 3)])
            await until(lambda: ("room-7", 3) in at_two.events)
