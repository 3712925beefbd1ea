"""Pages and long polls over real connections: what is asked, what is answered, and who counts as being there."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Client, Running, eventually, present, running
from tests.support.plain_http import HTTP, Answer, HungUp
from tests.support.polling import Follower, PollingHTTP
from tests.support.raw_chat import AsyncChat
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import DIED
from tornado_chat.auth import mint
from tornado_chat.live import questions, stays
from tornado_chat.web import http_connection, http_connections

LONG = "&wait=30"


def token(user: str, **claims: Any) -> str:
    return mint(SECRET, user, **{"ttl": 3600.0, **claims})


async def say(client: Client, *texts: str, room: str = "r") -> None:
    for text in texts:
        await client.ask(type="send", room=room, text=text)


async def waiting(here: Running, count: int = 1) -> None:
    """So many polls wait, and stand where events wake them."""
    rooms = here.server.hub.rooms
    await eventually(
        lambda: len({call for room in rooms.values() if room.watch for call in room.watch.waiting}) == count
    )


def texts(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [event["text"] for event in json.loads(answer.body)["events"]]


# Pages


async def test_a_page_has_what_comes_after_a_cursor(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        empty = await http.page("r")
        assert json.loads(empty.body) == {
            "room": "r",
            "epoch": here.server.log.epoch,
            "events": [],
            "cursor": 0,
            "head": 0,
        }
        alice = await here.connect()
        await say(alice, *"abcde")
        answer = await http.page("r")
        assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("application/json", "no-store")
        page = json.loads(answer.body)
        assert [(event["type"], event["seq"], event["text"]) for event in page["events"]] == [
            ("message", number, text) for number, text in enumerate("abcde", 1)
        ]
        assert (page["cursor"], page["head"]) == (5, 5)
        page = json.loads((await http.page("r", "?after=1&limit=2")).body)
        assert [event["seq"] for event in page["events"]] == [2, 3]
        assert (page["cursor"], page["head"]) == (3, 5)
        page = json.loads((await http.page("r", "?last=2")).body)
        assert ([event["seq"] for event in page["events"]], page["cursor"]) == ([4, 5], 5)
        assert [event["seq"] for event in json.loads((await http.page("r", "?last=9&limit=1")).body)["events"]] == [1]
        page = json.loads((await http.page("r", "?after=5")).body)
        assert (page["events"], page["cursor"], page["head"]) == ([], 5, 5)
        page = json.loads((await http.page("r", f"?after=99{LONG}")).body)
        assert (page["events"], page["cursor"], page["head"]) == ([], 5, 5)


async def test_a_page_has_100_events_without_a_limit_and_500_at_most(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        alice = await here.connect()
        for number in range(510):
            await alice.send(type="send", room="r", text="x", id=f"{number}")
        await alice.until("ack", seq=510)
        assert len(texts(await http.page("r"))) == 100
        assert len(texts(await http.page("r", "?limit=500"))) == 500
        assert len(texts(await http.page("r", f"?limit=500{LONG}"))) == 500


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=501", "limit"),
        ("?limit=x", "limit"),
        ("?after=-1", "after"),
        ("?after=1.5", "after"),
        ("?after=9223372036854775808", "after"),
        ("?wait=56", "wait"),
        ("?wait=nan", "wait"),
        ("?wait=-1", "wait"),
    ],
)
async def test_what_is_wrong_in_a_page_is_named(tmp_path: Path, query: str, field: str) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        answer = await http.page("r", query)
        assert (answer.status, answer.error["code"]) == (400, "bad_request")
        assert answer.error["message"].startswith(f"{field}: must be ")


@pytest.mark.parametrize(
    "body",
    [
        {"rooms": {}},
        {"rooms": {"No Room": 1}},
        {"rooms": {"r": -1}},
        {"rooms": {"r": "1"}},
        {"rooms": ["r"]},
        {"rooms": {f"r{number}": 0 for number in range(101)}},
        {},
        {"rooms": {"r": 0}, "wait": 56},
        [],
    ],
)
async def test_what_is_wrong_in_a_poll_is_named(tmp_path: Path, body: Any) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        answer = await http.tell("POST", "/v1/poll", body)
        assert (answer.status, answer.error["code"]) == (400, "bad_request")


async def test_how_many_rooms_a_poll_named_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        for rooms, got in (({}, "an empty object"), ({f"r{number}": 0 for number in range(101)}, "101 fields")):
            answer = await http.tell("POST", "/v1/poll", {"rooms": rooms})
            assert answer.error["message"].endswith(got)


async def test_only_rooms_that_the_token_covers_are_told(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here, token("ann", rooms=["mine*"])) as http:
        alice = await here.connect()
        await say(alice, "for all", room="r")
        await say(alice, "for ann", room="mine")
        for answer in (await http.page("r"), await http.page("r", "?wait=30"), await http.poll({"r": 0}, 30)):
            assert (answer.status, answer.error["code"]) == (403, "forbidden")
        answer = await http.poll({"r": 0, "mine": 0}, 30)
        assert texts(answer) == ["for ann"]
        news = json.loads(answer.body)
        assert news["cursors"] == {"mine": 1}
        assert news["errors"].keys() == {"r"}
        assert news["errors"]["r"]["code"] == "forbidden"
        assert (await http.page("Not a room".replace(" ", "%20"))).status == 400


async def test_a_head_is_answered_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        answer = await http.page("r", "?wait=30", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 10


async def test_who_is_not_let_in_does_not_read(tmp_path: Path) -> None:
    async with running(tmp_path, guests=False) as here, PollingHTTP(here) as http, PollingHTTP(here, "x") as other:
        for answer in (await http.page("r", "?wait=30"), await http.poll({"r": 0}), await other.page("r")):
            assert (answer.status, answer.error["code"]) == (401, "unauthorized")


# Waiting


async def test_a_poll_waits_for_the_next_event(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as one, PollingHTTP(here) as two:
        alice = await here.connect()
        await say(alice, "old")
        page = asyncio.ensure_future(one.page("r", f"?after=1{LONG}"))
        poll = asyncio.ensure_future(two.poll({"s": 0, "r": 1}, 30))
        await waiting(here, 2)
        await say(alice, "new")
        assert texts(await page) == ["new"]
        assert texts(await poll) == ["new"]
        news = json.loads(poll.result().body)
        assert news.keys() == {"epoch", "events", "cursors", "more"}
        assert (news["cursors"], news["more"]) == ({"s": 0, "r": 2}, False)


async def test_a_poll_ends_when_its_time_is_up(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        began = time.monotonic()
        answer = await http.page("r", "?wait=0.3")
        assert texts(answer) == []
        assert time.monotonic() - began >= 0.29


async def test_what_was_written_is_read_at_once_whichever_process_took_it(tmp_path: Path) -> None:
    async with (
        running(tmp_path, siblings=1) as here,
        running(tmp_path, siblings=1) as there,
        PollingHTTP(here) as waits,
        PollingHTTP(here) as looks,
    ):
        poll = asyncio.ensure_future(waits.page("r", f"?after=0{LONG}"))
        await waiting(here)
        alice = await there.connect()
        await say(alice, "elsewhere")
        assert texts(await looks.page("r")) == ["elsewhere"]
        assert texts(await poll) == ["elsewhere"]


async def test_a_connection_that_waits_is_neither_late_nor_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(http_connection, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(http_connections, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(http_connections, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(http_connections, "RESERVED", 1)
    async with running(tmp_path, max_connections=1) as here, PollingHTTP(here) as http:
        poll = asyncio.ensure_future(http.page("r", "?wait=1"))
        await waiting(here)
        for _ in range(5):
            async with HTTP(here) as other:
                assert (await other.ask("/healthz", {"Host": "localhost"})).status == 200
            await asyncio.sleep(0.1)
        assert texts(await poll) == []


async def test_polls_that_wait_count_as_connections(tmp_path: Path) -> None:
    async with running(tmp_path, max_connections=2) as here, PollingHTTP(here) as one, PollingHTTP(here) as two:
        polls = [asyncio.ensure_future(http.page("r", "?wait=30")) for http in (one, two)]
        await waiting(here, 2)
        async with PollingHTTP(here) as third:
            answer = await third.page("r", "?wait=30")
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
            assert (await third.page("r")).status == 200, "a look is short"
            assert (await third.ask("/ws", {"Host": "localhost"})).status == 503
        for poll in polls:
            poll.cancel()


async def test_a_proxys_clients_have_a_limit_of_polls_each(tmp_path: Path) -> None:
    proxies = (ipaddress.ip_network("127.0.0.1"),)
    async with (
        running(tmp_path, trusted_proxies=proxies, connections_per_address=2) as here,
        PollingHTTP(here) as one,
        PollingHTTP(here) as two,
        PollingHTTP(here) as three,
    ):
        for http in (one, two, three):
            http.headers["X-Forwarded-For"] = "192.0.2.1"
        polls = [asyncio.ensure_future(http.page("r", "?wait=30")) for http in (one, two)]
        await waiting(here, 2)
        answer = await three.page("r", "?wait=30")
        assert (answer.status, answer.error["code"]) == (429, "rate_limited")
        three.headers["X-Forwarded-For"] = "192.0.2.2"
        assert (await three.page("r", "?wait=0.01")).status == 200
        for poll in polls:
            poll.cancel()
        one.sock.close()
        two.sock.close()
        await waiting(here, 0)
        assert not here.server.limits.addresses.connections("192.0.2.1")


async def test_a_poll_that_waits_keeps_no_body(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        body = b'{"rooms": {"r": 0}, "wait": 30}' + b" " * 900_000
        poll = asyncio.ensure_future(http.tell("POST", "/v1/poll", body))
        await waiting(here)
        assert here.server.limits.http_bytes == 0
        alice = await here.connect()
        await say(alice, "a")
        assert texts(await poll) == ["a"]


async def test_a_client_that_hangs_up_frees_its_poll(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for _ in range(3):
            async with PollingHTTP(here) as http:
                poll = asyncio.ensure_future(http.page("r", "?wait=30"))
                await waiting(here)
                poll.cancel()
            await eventually(lambda: not here.server.context.polls.waiting)
        assert not here.server.hub.rooms["r"].watched().waiting


# Order, once


async def test_those_who_poll_and_those_who_listen_see_the_same(tmp_path: Path) -> None:
    """Pollers lose answers, come late and follow two rooms, while a WebSocket hears all of it."""
    async with running(tmp_path) as here:
        chance = random.Random(9)
        rooms = ("r", "s")
        listener = await here.connect()
        for room in rooms:
            await listener.ask(type="join", room=room)
        followers = [Follower(here, *rooms, token=token(f"user {number}")) for number in range(8)]
        followers += [Follower(here, "r") for _ in range(4)]
        count = 150

        async def talk() -> None:
            alice = await here.connect()
            for number in range(count):
                for room in rooms:
                    await alice.send(type="send", room=room, text=f"{room} {number}", id=f"{room}{number}")
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.random() * 0.02)

        async def follow(follower: Follower) -> None:
            while any(cursor < count for cursor in follower.cursors.values()):
                if chance.random() < 0.3:
                    await follower.lose(chance.random() * 0.02)
                elif chance.random() < 0.1:
                    await asyncio.sleep(chance.random() * 0.1)
                else:
                    await follower.cycle()

        await asyncio.gather(talk(), *map(follow, followers))
        heard: dict[str, list[Any]] = {room: [] for room in rooms}
        while sum(map(len, heard.values())) < count * 2:
            got = await listener.receive()
            if got["type"] == "message":
                heard[got["room"]].append(got)
        for follower in followers:
            for room, seen in follower.seen.items():
                assert seen == heard[room]
            follower.hang_up()


async def test_an_answer_that_was_lost_is_asked_for_again(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        alice = await here.connect()
        await say(alice, "a", "b")
        first = await http.poll({"r": 0}, 30)
        assert (await http.poll({"r": 0}, 30)).body == first.body


async def test_old_events_come_from_the_log_with_a_bound_of_bytes(tmp_path: Path) -> None:
    async with running(tmp_path, ring_bytes=0) as here:
        alice = await here.connect()
        await say(alice, *("x" * 8000 for _ in range(100)))
        await say(alice, "small", room="s")
        async with PollingHTTP(here) as http:
            cursors, counts = {"r": 0, "s": 0}, []
            more = True
            while more:
                answer = await http.poll(cursors, 30)
                assert len(answer.body) < 300_000
                news = json.loads(answer.body)
                counts.append([event["room"] for event in news["events"]])
                cursors, more = news["cursors"], news["more"]
            assert cursors == {"r": 100, "s": 1}
            assert counts[0][0] == "s", "a room with a long past makes no other wait"
            assert len(counts) > 2


async def test_long_answers_that_nobody_reads_have_a_bound_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "UNREAD_BYTES", 500_000)
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        alice = await here.connect()
        await say(alice, *("x" * 8000 for _ in range(40)))
        deaf = []
        for _ in range(16):  # the sockets take some of it
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", http.port))
            sock.send(b"GET /v1/rooms/r/events?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            deaf.append(sock)
        await eventually(lambda: not here.server.context.polls.waiting and here.server.limits.http_bytes > 200_000)
        for query in ("", "?wait=30"):
            answer = await http.page("r", query)
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert len(texts(await http.page("r", "?limit=2"))) == 2, "what is short is told"
        for sock in deaf:
            sock.close()
        await eventually(lambda: not here.server.limits.http_bytes)
        assert len(texts(await http.page("r"))) > 30


async def test_a_deleted_text_is_not_told(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as http:
        alice = await here.connect()
        await say(alice, "secret")
        assert texts(await http.page("r")) == ["secret"]
        assert texts(await http.page("r", "?wait=30")) == ["secret"]
        await alice.ask(type="delete", room="r", seq=1)
        for query in ("", "?wait=30"):
            events = json.loads((await http.page("r", query)).body)["events"]
            assert [event["type"] for event in events] == ["message", "deleted"]
            assert events[0]["deleted"]
            assert "text" not in events[0]


def test_a_kill_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        asyncio.run(_through_kills(server))


async def _through_kills(server: Server) -> None:
    turns, count = 3, 20
    followers = [Follower(server.port, "r", token=server.token(f"user {number}")) for number in range(5)]

    async def follow(follower: Follower) -> None:
        while follower.cursors["r"] < turns * count:
            try:
                await follower.cycle()
            except (OSError, HungUp):
                follower.hang_up()
                await asyncio.sleep(0.01)

    following = [asyncio.ensure_future(follow(follower)) for follower in followers]
    for turn in range(turns):
        async with await AsyncChat.connect(server.port, "/ws") as chat:
            for number in range(count):
                await chat.say({"type": "send", "room": "r", "text": f"{turn} {number}", "id": f"{turn} {number}"})
                await chat.until("ack")
        server.kill()
        await asyncio.to_thread(server.start)
    await asyncio.gather(*following)
    for follower in followers:
        follower.hang_up()
        assert [event["text"] for event in follower.seen["r"]] == [
            f"{turn} {number}" for turn in range(turns) for number in range(count)
        ]


def test_any_worker_answers_a_poll_and_one_that_dies_loses_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", "2", expected=[DIED]) as server:
        asyncio.run(_from_worker_to_worker(server))


async def _from_worker_to_worker(server: Server) -> None:
    count = 12
    followers = [Follower(server.port, "r", token=server.token(f"user {number}")) for number in range(4)]

    async def follow(follower: Follower) -> None:
        while follower.cursors["r"] < count:
            try:
                await follower.cycle()
            except (OSError, HungUp):
                await asyncio.sleep(0.01)
            follower.hang_up()  # the next one goes to whichever worker takes it

    following = [asyncio.ensure_future(follow(follower)) for follower in followers]
    for number in range(count):
        async with await AsyncChat.connect(server.port, "/ws") as chat:
            await chat.say({"type": "send", "room": "r", "text": f"{number}", "id": f"{number}"})
            await chat.until("ack")
        await asyncio.sleep(0.1)
        if number == count // 2:
            os.kill(server.workers()[0], signal.SIGKILL)
    await asyncio.gather(*following)
    for follower in followers:
        assert [event["text"] for event in follower.seen["r"]] == [f"{number}" for number in range(count)]


# Presence


async def test_who_polls_is_there_and_does_not_flap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stays, "LINGER_SECONDS", 1.0)
    async with running(tmp_path) as here:
        alice = await here.join("r")
        follower, again = Follower(here, "r", token=token("bob")), Follower(here, "r", token=token("bob"))
        nobody = Follower(here, "r")
        cycles = [asyncio.ensure_future(each.cycle()) for each in (follower, again, nobody)]
        await waiting(here, 3)
        answer = await present(alice, 2)
        assert {user["user"] for user in answer["users"]} == {alice.welcome["user"], "bob"}
        for number in range(8):
            await say(alice, f"{number}")
            await asyncio.gather(*cycles)
            await asyncio.sleep(0.3)
            cycles = [asyncio.ensure_future(each.cycle()) for each in (follower, again, nobody)]
        for cycle in cycles:
            cycle.cancel()
        await asyncio.gather(*cycles, return_exceptions=True)
        for each in (follower, again, nobody):
            each.hang_up()
        await alice.ask(type="ping")
        assert not any(signal.get("left") for signal in alice.presence)
        await present(alice, 1)


# The end


async def test_a_drain_answers_those_who_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here) as one, PollingHTTP(here, token("bob")) as two:
        page = asyncio.ensure_future(one.page("r", "?wait=30"))
        poll = asyncio.ensure_future(two.poll({"r": 0, "s": 0}, 30))
        await waiting(here, 2)
        await here.server.stop()
        for answer in (await page, await poll):
            assert texts(answer) == []
            assert answer.headers["connection"] == "close"
        assert not here.server.hub.rooms


async def test_a_token_that_expires_ends_the_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as here, PollingHTTP(here, token("bob", ttl=1.0)) as http:
        answer = await http.page("r", "?wait=30")
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")


async def test_a_session_that_is_revoked_ends_the_wait(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as here,
        PollingHTTP(here, token("bob", jti="bad")) as http,
        PollingHTTP(here, token("ann", jti="good")) as other,
    ):
        poll = asyncio.ensure_future(http.poll({"r": 0}, 30))
        others = asyncio.ensure_future(other.poll({"r": 0}, 30))
        await waiting(here, 2)
        await here.server.log.revoke("bad")
        answer = await poll
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert not others.done()
        others.cancel()


async def test_a_thousand_who_poll_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stays, "LINGER_SECONDS", 0.5)
    count = 1000
    async with running(tmp_path) as here:
        alice = await here.connect()
        followers = [Follower(here, "r", token=token(f"user {number}")) for number in range(count)]
        for number in range(2):
            cycles = [asyncio.ensure_future(each.cycle()) for each in followers]
            await waiting(here, count)
            assert here.server.hub.rooms["r"].presence.count() == count
            await say(alice, f"{number}")
            await asyncio.gather(*cycles)
        for each in followers:
            assert [event["text"] for event in each.seen["r"]] == ["0", "1"]
            each.hang_up()
        assert here.server.metrics.deliveries == count * 2
        await eventually(lambda: not here.server.hub.rooms)
        assert not len(here.server.context.polls.stays)
        await eventually(lambda: len(here.server.http) == 0)
