"""What every broker over Redis is held to: one, several that share the rooms, behind a Sentinel, and a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis

from tests.support.brokers import can_tell, event, processes, typing
from tests.support.connections import until
from tests.support.redis_servers import (
    Certificate,
    TlsRedisServer,
    needs_tls,
    redis_cluster,
    redis_of_the_session,
    redis_sentinel,
    redis_server,
)
from tornado_chat.broker import Change, redis_presence
from tornado_chat.broker.local import LocalBroker
from tornado_chat.broker.news import NEVER, TEXT_BYTES
from tornado_chat.verify.redis_server import RedisServer
from tornado_chat.wire.events import Event
from tornado_chat.wire.replies import Read

__all__ = ["redis_of_the_session", "redis_server"]

KINDS = ["one", "several", "sentinel", "cluster"]
TLS = [pytest.param(f"tls {kind}", marks=needs_tls) for kind in ("one", "sentinel", "cluster")]
Place = tuple[list[str], list[RedisServer]]
"""The `--redis` URLs, and the servers that carry the rooms."""


@pytest.fixture(scope="module", params=[*KINDS, *TLS])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_of_the_session: RedisServer
) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp(request.param.replace(" ", "-"))
    kind = request.param.removeprefix("tls ")
    certificate = Certificate(directory) if request.param != kind else None
    first = redis_of_the_session
    if certificate is not None and kind == "one":
        server = TlsRedisServer(directory, certificate)
        with server:
            yield [f"rediss://127.0.0.1:{server.tls_port}/0?ssl_ca_certs={certificate.path}"], [server]
    elif kind == "one":
        yield [first.url], [first]
    elif kind == "several":
        with RedisServer(directory) as second:
            yield [first.url, second.url], [first, second]
    elif kind == "sentinel":
        with redis_sentinel(directory, certificate) as watched:
            yield [watched.url], [watched.primary]
    else:
        with redis_cluster(directory, certificate) as cluster:
            yield [cluster.url], cluster.nodes


@pytest.fixture
def urls(place: Place) -> list[str]:
    return place[0]


ROOMS = [f"room-{number}" for number in range(60)]


async def test_events_arrive_at_the_others_in_order_and_not_at_home(urls: list[str]) -> None:
    async with processes(urls, 3) as ((one, at_one), (two, at_two), (three, at_three)):
        for broker in (one, two, three):
            assert broker.available
            await asyncio.gather(*map(broker.subscribe, ROOMS))
        for seq in range(1, 21, 2):
            for room in ROOMS:
                one.publish_events(room, [event(room, seq), event(room, seq + 1)])
        await until(lambda: len(at_two.events) == len(at_three.events) == 20 * len(ROOMS))
        for news in (at_two, at_three):
            for room in ROOMS:
                assert [seq for name, seq in news.events if name == room] == list(range(1, 21))
        assert at_two.data[0] == event(at_two.data[0]["room"], 1).data
        assert at_one.events == []
        assert one.published == two.received == 10 * len(ROOMS)
        assert one.received == one.dropped == one.reconnects == 0


async def test_what_is_published_once_subscribe_has_returned_arrives(urls: list[str]) -> None:
    async with processes(urls) as ((one, _), (two, at_two)):
        for seq, room in enumerate(ROOMS, 1):
            await two.subscribe(room)
            one.publish_events(room, [event(room, seq)])
        await until(lambda: len(at_two.events) == len(ROOMS))


async def test_only_subscribed_rooms_are_heard(urls: list[str]) -> None:
    async with processes(urls) as ((one, _), (two, at_two)):
        await two.subscribe("here")
        await two.subscribe("left")
        two.unsubscribe("left")
        two.unsubscribe("never")
        await can_tell(one, at_two, "here")
        for room in ("left", "elsewhere", "here"):
            one.publish_events(room, [event(room, 1)])
        await can_tell(one, at_two, "here")
        assert at_two.events == [("here", 1)]


async def test_signals_say_whom_they_are_not_for(urls: list[str]) -> None:
    async with processes(urls) as ((one, at_one), (two, at_two)):
        await one.subscribe("a")
        await two.subscribe("a")
        mark = Read(room="a", user="ann", name="Ann", seq=3)
        one.publish_signal("a", typing("a"), "ann")
        one.publish_signal("a", mark, None)
        await until(lambda: len(at_two.signals) == 2)
        assert at_two.signals == [("a", typing("a"), "ann"), ("a", mark, None)]
        assert at_one.signals == []


async def test_an_event_that_is_too_big_is_told_of_by_its_seq(urls: list[str]) -> None:
    async with processes(urls) as ((one, _), (two, at_two)):
        await two.subscribe("a")
        one.publish_events("a", [event("a", 1), event("a", 2, "x" * TEXT_BYTES), event("a", 3)])
        await until(lambda: len(at_two.events) == 2 and at_two.heads)
        assert at_two.events == [("a", 1), ("a", 3)]
        assert at_two.heads == [("a", 2)]
        assert one.dropped == 1


async def test_a_batch_that_is_too_big_goes_in_parts(urls: list[str]) -> None:
    async with processes(urls) as ((one, _), (two, at_two)):
        await two.subscribe("a")
        one.publish_events("a", [event("a", seq, "x" * 8000) for seq in range(1, 101)])
        await until(lambda: len(at_two.events) == 100)
        assert at_two.events == [("a", seq) for seq in range(1, 101)]
        assert at_two.heads == []


async def test_an_event_that_json_does_not_take_is_told_of_by_its_seq(urls: list[str]) -> None:
    async with processes(urls) as ((one, _), (two, at_two)):
        await two.subscribe("a")
        one.publish_events("a", [event("a", 1), Event(2, {**event("a", 2).data, "meta": {"n": 1 << 70}})])
        await until(lambda: at_two.events and at_two.heads)
        assert (at_two.events, at_two.heads) == ([("a", 1)], [("a", 2)])


async def test_the_last_word_on_a_room_counts(urls: list[str]) -> None:
    async with processes(urls) as ((one, _), (two, at_two)):
        for room in ROOMS[:20]:
            waiting = [asyncio.ensure_future(two.subscribe(room))]
            for turns in range(4):
                two.unsubscribe(room)
                for _ in range(turns):
                    await asyncio.sleep(0)
                waiting.append(asyncio.ensure_future(two.subscribe(room)))
                await asyncio.sleep(0)
            await asyncio.gather(*waiting)
            one.publish_events(room, [event(room, 1)])
        await until(lambda: len(at_two.events) == 20)
        for room in ROOMS[:20]:
            waiting = [asyncio.ensure_future(two.subscribe(room))]
            await asyncio.sleep(0)
            two.unsubscribe(room)
            await asyncio.gather(*waiting)
        await two.subscribe("end")
        await can_tell(one, at_two, "end")
        for room in ROOMS[:20]:
            one.publish_events(room, [event(room, 2)])
        await asyncio.gather(*map(two.subscribe, ROOMS))
        await can_tell(one, at_two, "end")
        assert len(at_two.events) == 20


async def test_changes_of_presence_are_told_and_recorded(urls: list[str]) -> None:
    users = {f"user-{number}": f"User {number}" for number in range(300)}
    fewer = {"user-0": "User 0"}
    async with processes(urls) as ((one, at_one), (two, at_two)):
        await asyncio.gather(*map(two.subscribe, ROOMS))
        for room in ROOMS:
            one.publish_presence(room, Change("one", 5, 0, users, ()), users)
            one.publish_presence(room, Change("one", 7, 5, {}, users.keys() - fewer), fewer)
            two.publish_presence(room, Change("two", 6, 0, fewer, ()), fewer)
        await until(lambda: len(at_two.changes) == 2 * len(ROOMS))
        for room in ROOMS:
            first, second = (change for name, change in at_two.changes if name == room)
            assert (first.worker, first.version, first.after) == ("one", 5, 0)
            assert (first.joined, first.left) == (users, [])
            assert (second.worker, second.version, second.after) == ("one", 7, 5)
            assert second.joined == {}
            assert sorted(second.left) == sorted(users.keys() - fewer)
        found = await two.presence({room: {} for room in (*ROOMS, "nobody")})
        assert found == {"nobody": {}} | {room: {"one": (7, fewer), "two": (6, fewer)} for room in ROOMS}
        assert await two.presence({"room-1": {"one": 7, "two": 3}}) == {"room-1": {"one": (7, None), "two": (6, fewer)}}
        one.publish_presence("room-1", Change("one", 8, 0, {}, ()), {})
        await until(lambda: len(at_two.changes) == 2 * len(ROOMS) + 1)
        assert await two.presence({"room-1": {}}) == {"room-1": {"two": (6, fewer)}}
        assert at_one.changes == [], "who has not subscribed"


async def test_a_change_that_is_too_big_is_read_from_the_record(urls: list[str]) -> None:
    users = {f"user-{number}": "x" * 64 for number in range(2000)}
    async with processes(urls) as ((one, _), (two, at_two)):
        await two.subscribe("a")
        one.publish_presence("a", Change("one", 5, 0, users, ()), users)
        await until(lambda: at_two.changes)
        ((_, change),) = at_two.changes
        assert (change.version, change.after, change.joined) == (5, NEVER, {})
        assert (await two.presence({"a": {}}))["a"]["one"] == (5, users)


async def test_signs_of_life_are_given_on_every_server_and_lapse(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    urls, servers = place
    monkeypatch.setattr(redis_presence, "LAPSE_SECONDS", 1)
    async with processes(urls) as ((one, _), (two, _)):
        assert sorted(await one.renew_presence("w", 5, ROOMS)) == sorted(ROOMS), "it may have no record yet"
        assert await two.renew_presence("v", 4, []) == []
        assert await two.signs(["w", "v", "unknown"]) == {"w": 5, "v": 4}
        for server in servers:
            with redis.Redis(port=server.port) as client:
                signs = client.keys("*:alive:w")
                assert len(signs) == 1
                assert 0 < client.pttl(signs[0]) <= 1000
        assert await one.renew_presence("w", 6, ROOMS) == []
        assert await two.signs(["w"]) == {"w": 6}
        with redis.Redis(port=servers[0].port) as client:
            client.delete(*client.keys("*:alive:w"))
        expected = {"w": 6} if len(servers) > 1 else {}
        assert await two.signs(["w"]) == expected, "one server that tells is enough"
        anew = await one.renew_presence("w", 7, ROOMS)
        assert anew, "the records of that server may be lost, too"
        assert set(anew) <= set(ROOMS)

        async with asyncio.timeout(5):
            signs = None
            while signs != {}:
                signs = await two.signs(["w", "v"])
                await asyncio.sleep(0.05)


@pytest.mark.logs("redis is away")
async def test_lost_links_are_made_again_and_what_was_missed_is_told(place: Place) -> None:
    urls, servers = place
    async with processes(urls) as ((one, _), (two, at_two)):
        await asyncio.gather(*map(two.subscribe, ROOMS))
        before = at_two.links
        for server in servers:
            with redis.Redis(port=server.port, protocol=3) as client:
                client.execute_command("CLIENT KILL TYPE pubsub SKIPME yes")
        await until(lambda: not one.available and not two.available)
        for room in ROOMS:
            one.publish_events(room, [event(room, 1)])
        await until(lambda: one.available and two.available)
        assert at_two.links > before
        for room in ROOMS:
            one.publish_events(room, [event(room, 2)])
        await until(lambda: sum(seq == 2 for _, seq in at_two.events) == len(ROOMS))
        assert one.reconnects == two.reconnects == len(servers)
        assert one.dropped >= 1


async def test_what_was_published_goes_out_before_the_end(urls: list[str]) -> None:
    async with processes(urls) as ((one, _), (two, at_two)):
        await asyncio.gather(*map(two.subscribe, ROOMS))
        for room in ROOMS:
            one.publish_events(room, [event(room, 1)])
        await one.close()
        assert not one.available
        await until(lambda: len(at_two.events) == len(ROOMS))
        assert await one.presence({"late": {}}) == {}
        assert await one.signs(["w"]) is None
        one.publish_presence("late", Change("w", 1, 0, {}, ()), {})
        one.publish_events("late", [event("late", 1)])
        await one.subscribe("late")
        one.unsubscribe("late")


async def test_a_broker_of_one_process_carries_nothing() -> None:
    for alone in (True, False):
        broker = LocalBroker(alone=alone)
        assert broker.available is alone
        await broker.subscribe("a")
        broker.publish_events("a", [event("a", 1)])
        broker.publish_signal("a", typing("a"), None)
        broker.publish_presence("a", Change("w", 1, 0, {}, ()), {})
        assert await broker.presence({"a": {}}) == {}
        assert await broker.renew_presence("w", 1, ["a"]) == []
        assert await broker.signs(["w"]) is None
        broker.unsubscribe("a")
        await broker.close()
