"""The asyncio client against the real server: what it promises holds over every way of losing the connection."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from tests.support.chat import running
from tests.support.entries import followed
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Ack, Client, Closed, Refused
from tornado_chat.client.transport import KINDS as TRANSPORTS
from tornado_chat.client.transport import TransportKind
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.log import kinds, own
from tornado_chat.log.sqlite import open_sqlite
from tornado_chat.wire.codec import MSGPACK

PATIENCE = 30.0
FAST = (0.01, 0.2)
"""Bounds of the back-off where waiting is not what is tested."""

KINDS = frozenset(kinds.KINDS)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> TransportKind:
    """Each transport: the same is promised over all of them."""
    kind: TransportKind = request.param
    return kind


@pytest.fixture(params=["websocket", "stream"])
def live(request: pytest.FixtureRequest) -> TransportKind:
    """Each transport that brings signals, and what happens as it happens."""
    kind: TransportKind = request.param
    return kind


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # a state of others, which no Event tells
            await asyncio.sleep(0.01)


async def take(chat: Client, count: int, types: frozenset[str] = KINDS) -> list[dict[str, Any]]:
    """The next `count` items of `types`."""
    taken: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            item = await anext(chat)
            if item["type"] in types:
                taken.append(item)
    return taken


async def fails_with(call: Awaitable[object], kind: type[Exception]) -> Any:
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(PATIENCE):
            await call
    return caught.value


async def start(server: Server) -> None:
    """Start `server` while the clients of this loop go on trying."""
    server.launch()
    await eventually(server.is_listening)


async def stop(server: Server) -> None:
    """Stop `server` while the clients of this loop answer its close frames."""
    process = server.process
    assert process is not None
    process.terminate()
    await eventually(lambda: process.poll() is not None)
    server.stop()


@contextmanager
def nothing_left() -> Iterator[None]:
    """No task outlives the block; sockets are looked at by the fixture of all tests."""
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() == before


async def test_the_log_of_ones_own_is_a_room(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server, nothing_left():
        async with (
            Client(server.url, transport=transport, token=server.token("ann")) as ann,
            Client(server.url, token=server.token("bob")) as bob,
        ):
            assert (await ann.join("~"))["state"] == {"rooms": []}
            await bob.invite("lobby", "ann")
            assert (await bob.send("lobby", "@ann", mentions=["ann"], mark=False)).seq == 1
            await ann.read("lobby", 1)
            await ann.follow("lobby", "mentions")
            await ann.unfollow("lobby")
            events = await take(ann, 5)
            assert [(event["type"], event["room"], event["seq"], event["about"]) for event in events] == [
                (type, "~", seq, "lobby")
                for seq, type in enumerate(("followed", "mentioned", "marked", "followed", "unfollowed"), 1)
            ]
            assert (await bob.join("lobby"))["read"] == 0
            again = await ann.join("~", after=3)
            assert ("state" in again, again["cursor"]) == (False, 3)
            assert [event["seq"] for event in await take(ann, 2)] == [4, 5]


async def test_who_comes_back_too_late_for_the_own_log_gets_its_state(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server, nothing_left():
        async with Client(server.url, transport=transport, token=server.token("ann"), backoff=(0.1, 0.3)) as ann:
            await ann.join("~")
            await ann.follow("lobby")
            assert [event["seq"] for event in await take(ann, 1)] == [1]
            await stop(server)
            log = await open_sqlite(str(server.database))
            for _ in range(2):
                batch = [followed("den", "ann", ("everything", "nothing")[n % 2]) for n in range(own.KEPT // 2 + 1)]
                await log.append([*batch, followed("den", "ann", "mentions")])
            await log.close()
            await start(server)
            (told,) = await take(ann, 1, KINDS | {"state"})
            assert (told["type"], told["room"], told["cursor"]) == ("state", "~", own.KEPT + 5)
            assert {room["room"]: room["level"] for room in told["state"]["rooms"]} == {
                "den": "mentions", "lobby": "everything",
            }  # fmt: skip
            await ann.unfollow("den")
            assert [event["seq"] for event in await take(ann, 1)] == [own.KEPT + 6]


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["text"] for event in events]


def new_epoch(server: Server) -> None:
    """As after a restore from a backup; the server must be stopped."""
    command = [sys.executable, "-m", "tornado_chat", "new-epoch", "--database", f"sqlite:///{server.database}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)


# What a user may say.


async def test_every_command_is_answered_and_comes_out_as_events(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server, nothing_left():
        async with Client(server.url, transport=transport, token=server.token("alice", name="Alice")) as chat:
            joined = await chat.join("lobby")
            assert (joined["head"], joined["cursor"]) == (0, 0)
            first = await chat.send("lobby", "hello", meta={"a": [1, None]}, id="one")
            assert first == Ack(1, first.ts, duplicate=False)
            assert (await chat.send("lobby", "hi", reply_to=1)).seq == 2
            assert (await chat.edit("lobby", 1, "hello!")).seq == 3
            assert (await chat.react("lobby", 2, "🎉")).seq == 4
            assert (await chat.react("lobby", 2, "🎉", on=False)).seq == 5
            assert (await chat.delete("lobby", 2)).seq == 6
            await chat.read("lobby", 4)
            events = await take(chat, 6)
            page = await chat.history("lobby", limit=1)
            assert [(message["seq"], page["more"]) for message in page["messages"]] == [(2, True)]
            assert page["messages"][0]["deleted"] is True
            assert (await chat.history("lobby", before=2))["messages"][0]["text"] == "hello!"
            assert chat.welcome["user"] == "alice"
        assert [(event["type"], event["seq"]) for event in events] == [
            ("message", 1), ("message", 2), ("edited", 3), ("reacted", 4), ("reacted", 5), ("deleted", 6),
        ]  # fmt: skip
        assert events[0] == {
            "type": "message", "room": "lobby", "seq": 1, "n": 1, "user": "alice", "name": "Alice", "text": "hello",
            "ts": first.ts, "id": "one", "meta": {"a": [1, None]},
        }  # fmt: skip
        assert events[1]["reply_to"] == 1
        assert [event.get("target") for event in events[2:]] == [1, 2, 2, 2]


async def test_a_backend_acts_for_the_users_whom_its_token_covers(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        token = server.token("shop", acts_as=["app-*"])
        async with Client(server.url, transport=transport, token=token) as shop:
            await shop.join("lobby")
            ada: Any = {"as_user": "app-ada", "as_name": "Ada"}
            assert (await shop.send("lobby", "hello", id="x", **ada)).seq == 1
            assert (await shop.edit("lobby", 1, "hello!", **ada)).seq == 2
            assert (await shop.react("lobby", 1, "🎉", as_user="app-bob")).seq == 3
            assert (await fails_with(shop.delete("lobby", 1), ChatError)).code is ErrorCode.FORBIDDEN
            assert (await shop.delete("lobby", 1, **ada)).seq == 4
            assert (await shop.send("lobby", "mine", id="x")).seq == 5  # an id is its user's
            await shop.read("lobby", 4, **ada)
            events = await take(shop, 5)
            refused = await fails_with(shop.send("lobby", "x", as_user="else"), ChatError)
            assert refused.code is ErrorCode.FORBIDDEN
            nobody = await fails_with(shop.send("lobby", "x", as_name="Ada"), ChatError)
            assert nobody.code is ErrorCode.BAD_REQUEST
        assert [event["user"] for event in events] == ["app-ada", "app-ada", "app-bob", "app-ada", "shop"]
        assert events[0]["name"] == "Ada"


async def test_presence_says_who_is_there_and_its_signals_still_come(tmp_path: Path, live: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with (
            Client(server.url, transport=live, token=server.token("a", name="Ann")) as a,
            Client(server.url, token=server.token("b")) as b,
        ):
            await a.join("lobby")
            await take(a, 1, frozenset({"synced"}))
            assert (await a.presence("lobby"))["users"] == [{"user": "a", "name": "Ann"}]
            await b.join("lobby")
            assert (await a.presence("lobby"))["count"] == 2
            came: set[str] = set()  # the two may be told together, or one by one
            while "b" not in came:
                (signal,) = await take(a, 1, frozenset({"presence"}))
                came |= {user["user"] for user in signal["joined"]}


async def test_a_resend_is_acknowledged_with_the_first_seq_even_after_kill_9(
    tmp_path: Path, transport: TransportKind
) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, transport=transport, name="a guest", backoff=FAST) as chat:
            first = await chat.send("lobby", "hello", id="x")
            guest = chat.welcome["user"]
            await chat.send("lobby", "between")
            server.restart()
            again = await chat.send("lobby", "hello", id="x")
            assert again == Ack(first.seq, first.ts, duplicate=True)
            assert chat.welcome["user"] == guest
            assert chat.welcome["name"] == "a guest"


async def test_signals_come_out_of_joined_rooms_only(tmp_path: Path, live: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with (
            Client(server.url, transport=live, name="a") as a,
            Client(server.url, transport=live, name="b", codec=MSGPACK) as b,
        ):
            await a.join("lobby")
            await b.join("lobby")
            await take(a, 1, frozenset({"synced"}))
            await b.typing("lobby")
            await b.status("lobby", "searching", seq=7)
            await b.step("lobby", 7, id="s", name="search", state="done", output="é")
            await b.send("lobby", "hello")
            typing, status, step, event = await take(a, 4, frozenset({"typing", "status", "step", "message"}))
            assert (typing["type"], typing["name"], typing["on"]) == ("typing", "b", True)
            assert (status["type"], status["text"], status["seq"]) == ("status", "searching", 7)
            assert step["step"] == {"id": "s", "name": "search", "state": "done", "output": "é"}
            assert event["text"] == "hello"
            assert (await fails_with(b.status("lobby", "x" * 201), ChatError)).code is ErrorCode.BAD_REQUEST
            await b.send("lobby", "unread")
            await eventually(lambda: a._rooms.inbox)
            await a.leave("lobby")
            await a.join("other")
            await b.send("lobby", "unheard")
            await b.send("other", "heard")
            assert texts(await take(a, 1)) == ["heard"]


async def test_what_the_server_would_refuse_raises_in_the_caller(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED, "--max-frame-bytes", "2048") as server:
        async with Client(server.url, transport=transport, token=server.token("alice", rooms=["lobby"])) as chat:
            assert (await fails_with(chat.join("Lobby"), ChatError)).code is ErrorCode.BAD_REQUEST
            assert (await fails_with(chat.join("lobby", after=1, last=1), ChatError)).code is ErrorCode.BAD_REQUEST
            assert (await fails_with(chat.join("secret"), ChatError)).code is ErrorCode.FORBIDDEN
            assert (await fails_with(chat.send("secret", "x"), ChatError)).code is ErrorCode.FORBIDDEN
            assert (await fails_with(chat.edit("lobby", 7, "x"), ChatError)).code is ErrorCode.NOT_FOUND
            for text in ("", "x" * 8001, "\ud800", "\0"):
                code = (await fails_with(chat.send("lobby", text), ChatError)).code
                # Who polls is not told how much a server takes, and leaves it to the server to say.
                known = transport != "poll" or len(text) < 2048
                assert code is (ErrorCode.BAD_REQUEST if known else ErrorCode.TOO_LARGE)
            assert (await fails_with(chat.send("lobby", "x", id=""), ChatError)).code is ErrorCode.BAD_REQUEST
            assert (await fails_with(chat.send("lobby", "x" * 2048), ChatError)).code is ErrorCode.TOO_LARGE
            assert (await chat.send("lobby", "still here")).seq == 1
            assert not chat._rooms.joined
            assert not chat._outbound.commands


async def test_one_id_cannot_wait_twice(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        server.freeze()
        async with Client(server.url, transport=transport) as chat:
            first = asyncio.create_task(chat.send("lobby", "x", id="x"))
            await eventually(lambda: chat._outbound.commands)
            await fails_with(chat.send("lobby", "x", id="x"), ValueError)
            server.thaw()
            assert (await first).seq == 1


# Losing the connection.


async def test_one_id_may_wait_in_several_rooms(tmp_path: Path, transport: TransportKind) -> None:
    """An agent answers the first message of each of them as `re:1`."""
    async with running(tmp_path) as here, Client(here.address, transport=transport, name="Ann") as client:
        sends = [client.send(room, f"in {room}", id="re:1") for room in ("a", "b", "c")]
        assert [ack.seq for ack in await asyncio.gather(*sends)] == [1, 1, 1]
        for room in ("a", "b", "c"):
            (said,) = (await client.history(room))["messages"]
            assert said["text"] == f"in {room}"
        # One begins in each turn of the loop, so also between an answer and its caller's turn.
        tasks = []
        for number in range(300):
            tasks.append(asyncio.create_task(client.send(f"room-{number}", "hello", id="re:1")))
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert {ack.seq for ack in await asyncio.gather(*tasks)} == {1}


async def test_an_id_may_be_used_in_another_room_in_the_moment_in_which_it_is_answered(
    tmp_path: Path, transport: TransportKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here, Client(here.address, transport=transport, name="Ann") as client:
        outbound = client._outbound
        on_answer, others = outbound.on_answer, list[asyncio.Task[Ack]]()

        def heard(message: Any) -> None:
            if not others:  # it is ready before the caller that is answered
                others.append(asyncio.create_task(client.send("b", "in b", id="re:1")))
            on_answer(message)

        monkeypatch.setattr(outbound, "on_answer", heard)
        async with asyncio.timeout(10):
            assert (await client.send("a", "in a", id="re:1")).seq == 1
            assert (await others[0]).seq == 1
        assert not outbound.commands
        assert not outbound.queues


async def test_kill_9_in_the_middle_of_a_stream_loses_doubles_and_reorders_nothing(
    tmp_path: Path, transport: TransportKind
) -> None:
    rounds, count = (6, 1500) if transport == "websocket" else (3, 600)
    with Server(tmp_path, *UNLIMITED) as server, nothing_left():
        async with (
            Client(server.url, transport=transport, token=server.token("writer"), backoff=FAST) as writer,
            Client(
                server.url, transport=transport, token=server.token("reader"), backoff=FAST, max_events=50
            ) as reader,
        ):
            await reader.join("lobby")
            read: list[dict[str, Any]] = []

            async def read_all() -> None:
                async for event in reader:
                    assert event["type"] != "reset"
                    if event["type"] in KINDS:
                        read.append(event)

            acks: list[Ack] = []

            async def write(number: int) -> None:
                acks.append(await writer.send("lobby", str(number), id=f"id-{number}"))

            def reached(number: int) -> bool:
                return len(acks) >= number

            reading = asyncio.create_task(read_all())
            writes = [asyncio.create_task(write(number)) for number in range(count)]
            for number in range(1, rounds + 1):
                await eventually(partial(reached, number * count // (rounds + 1)))
                server.kill()
                await start(server)
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*writes)
            await eventually(lambda: len(read) >= count)
            reading.cancel()
            await asyncio.wait({reading})
        assert [event["seq"] for event in read] == list(range(1, count + 1))
        assert texts(read) == [str(number) for number in range(count)]
        assert [ack.seq for ack in acks] == list(range(1, count + 1))


async def test_a_stopping_server_says_when_to_come_back(tmp_path: Path) -> None:
    told: list[str] = []
    with Server(tmp_path, *UNLIMITED) as server:
        # By its own back-off the client would be back within 20 ms.
        async with Client(server.url, backoff=(0.01, 0.02), notify=told.append) as chat:
            await chat.join("lobby")
            await stop(server)
            await start(server)
            assert (await chat.send("lobby", "hello")).seq == 1
            assert texts(await take(chat, 1)) == ["hello"]
    assert "1012 retry_after_ms=" in told[0]
    assert 0.2 <= float(told[0].rpartition(" in ")[2].removesuffix(" s")) <= 1.3
    assert told[-1] == "back"


async def test_a_new_epoch_resets_the_room_and_gives_it_again(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, transport=transport, backoff=FAST) as chat:
            before = await chat.join("lobby")
            for number in range(5):
                await chat.send("lobby", str(number))
            assert texts(await take(chat, 5)) == list("01234")
            await stop(server)
            new_epoch(server)
            await start(server)
            items = await take(chat, 6, KINDS | {"reset"})
            epoch = items[0]["epoch"]
            assert items[0] == {"type": "reset", "room": "lobby", "epoch": epoch}
            assert epoch != before["epoch"]
            assert texts(items[1:]) == list("01234")
            await chat.send("lobby", "5")
            assert texts(await take(chat, 1)) == ["5"]


@pytest.mark.parametrize("held", [{"after": 3, "epoch": "another"}, {"after": 100}])
async def test_a_cursor_of_another_log_is_not_believed(
    tmp_path: Path, held: dict[str, Any], transport: TransportKind
) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, transport=transport) as chat:
            for number in range(5):
                await chat.send("lobby", str(number))
            await chat.join("lobby", **held)
            items = await take(chat, 6, KINDS | {"reset"})
            assert items[0]["type"] == "reset"
            assert texts(items[1:]) == list("01234")


@pytest.mark.parametrize(("held", "expected"), [({"after": 3}, "34"), ({"last": 1}, "4"), ({}, "")])
async def test_a_room_begins_where_the_join_says(
    tmp_path: Path, held: dict[str, Any], expected: str, transport: TransportKind
) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, transport=transport) as chat:
            for number in range(5):
                await chat.send("lobby", str(number))
            epoch = (await chat.join("lobby"))["epoch"]
            joined = await chat.join("lobby", **held, epoch=epoch)
            assert joined["cursor"] == 5 - len(expected)
            await chat.send("lobby", "live")
            assert texts(await take(chat, len(expected) + 1)) == [*expected, "live"]


async def test_a_server_that_is_silent_is_given_up_and_found_again(tmp_path: Path) -> None:
    told: list[str] = []
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, ping_interval=0.2, connect_timeout=0.5, backoff=FAST, notify=told.append) as chat:
            await chat.join("lobby")
            await asyncio.sleep(1.0)  # pings are answered: five intervals pass, and nothing happens
            assert told == []
            server.freeze()
            await eventually(lambda: len(told) >= 2)
            assert told[0].startswith("nothing heard for 0.4 s")
            sending = asyncio.create_task(chat.send("lobby", "hello"))
            server.thaw()
            assert (await sending).seq == 1
            assert texts(await take(chat, 1)) == ["hello"]


async def test_nobody_there_is_a_timeout(tmp_path: Path, transport: TransportKind) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with nothing_left():
            async with Client(
                f"http://127.0.0.1:{nobody.getsockname()[1]}", transport=transport, timeout=0.3, backoff=FAST
            ) as chat:
                assert "no answer within 0.3 s" in str(await fails_with(chat.send("lobby", "x"), TimeoutError))
                await fails_with(chat.join("lobby"), TimeoutError)
                assert not chat._rooms.joined
                assert not chat._outbound.commands


# What the server cannot take now.


async def test_rate_limited_sends_wait_and_keep_their_order(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, "--guests", "--send-rate", "50", "--send-burst", "5") as server:
        async with Client(server.url, transport=transport) as chat:
            await chat.join("lobby")
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(chat.send("lobby", str(number)) for number in range(40)))
            assert texts(await take(chat, 40)) == [str(number) for number in range(40)]
    assert "1008" not in server.said()


@pytest.mark.logs("refused code=rate_limited .* times=1$")
async def test_signals_beyond_the_rate_are_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        running(tmp_path, send_rate=20, send_burst=10) as here,
        Client(here.address, transport="websocket") as chat,
    ):
        await chat.join("lobby")
        for number in range(100):
            await chat.status("lobby", f"{number} of 100")
        await chat.presence("lobby")  # which is answered behind them
    assert caplog.text.count("refused code=rate_limited") == 1


async def test_an_unavailable_log_is_waited_for(tmp_path: Path, transport: TransportKind) -> None:
    expected = ["log unavailable", "log does not answer"]
    with Server(tmp_path, *UNLIMITED, expected=expected) as server:
        async with Client(server.url, transport=transport, backoff=FAST) as chat:
            await chat.send("lobby", "before")
            lock = sqlite3.connect(server.database, isolation_level=None)
            try:
                lock.execute("BEGIN IMMEDIATE")
                sending = [asyncio.create_task(chat.send("lobby", str(number), id=f"{number}")) for number in range(3)]
                await eventually(lambda: any(queue.failures for queue in chat._outbound.queues.values()))
                lock.execute("ROLLBACK")
            finally:
                lock.close()
            async with asyncio.timeout(PATIENCE):
                acks = await asyncio.gather(*sending)
            assert sorted(ack.seq for ack in acks) == [2, 3, 4]
            page = await chat.history("lobby")
            assert sorted(texts(page["messages"])) == ["0", "1", "2", "before"]


async def test_a_cancelled_send_is_kept_once_or_not_at_all_and_holds_nobody_back(
    tmp_path: Path, transport: TransportKind
) -> None:
    with Server(tmp_path, "--guests", "--send-rate", "20", "--send-burst", "1") as server:
        async with Client(server.url, transport=transport) as chat:
            await chat.join("lobby")
            tasks = [asyncio.create_task(chat.send("lobby", str(number))) for number in range(6)]
            await tasks[0]
            for number in (1, 3, 4):  # one on its way, two that wait
                tasks[number].cancel()
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*tasks, return_exceptions=True)
                last = await chat.send("lobby", "last")
            got = texts(await take(chat, last.seq))
            assert [text for text in got if text != "1"] == ["0", "2", "5", "last"]
            assert not chat._outbound.commands


# Bounds.


async def test_a_full_queue_stops_the_reading_and_nothing_is_lost(tmp_path: Path, live: TransportKind) -> None:
    count, bound = 4000, 10
    with Server(tmp_path, *UNLIMITED, "--high-water-mark", "65536") as server:
        async with (
            Client(server.url, transport=live, name="slow", max_events=bound) as slow,
            Client(server.url, transport=live, name="fast") as fast,
        ):
            await slow.join("lobby")
            await asyncio.gather(*(fast.send("lobby", str(number).ljust(2000)) for number in range(count)))
            assert len(slow._rooms.inbox) == bound
            # It is the server that feeds it from its log now, so the client did stop reading.
            async with asyncio.timeout(PATIENCE):
                assert b"chat_catching_up 1" in await fetch(server.port, "/metrics")
            got = await take(slow, count)
            assert [event["seq"] for event in got] == list(range(1, count + 1))
            assert [int(text) for text in texts(got)] == list(range(count))


async def fetch(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    body = await reader.read()
    writer.close()
    await writer.wait_closed()
    return body


async def test_unanswered_commands_are_bounded(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, transport=transport, max_commands=5, backoff=FAST) as chat:
            await chat.send("lobby", "first")
            server.kill()
            sending = [asyncio.create_task(chat.send("lobby", str(number))) for number in range(20)]
            await eventually(lambda: len(chat._outbound.commands) == 5)
            await start(server)
            async with asyncio.timeout(PATIENCE):
                acks = await asyncio.gather(*sending)
            assert [ack.seq for ack in acks] == list(range(2, 22))


@pytest.mark.parametrize("held", [3, 0])
async def test_what_is_told_is_taken_wholly_or_not_at_all(tmp_path: Path, held: int) -> None:
    """Whoever reads for the client may be cut off at any moment, and another may read the same beside it."""
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, max_events=held + 1) as chat:
            await chat.join("lobby", after=0)
            assert [item["type"] for item in await take(chat, 1, frozenset({"synced"}))] == ["synced"]

            def told(seq: int) -> asyncio.Task[None]:
                event = {
                    "type": "message",
                    "room": "lobby",
                    "seq": seq,
                    "user": "u",
                    "name": "u",
                    "text": f"{seq}",
                    "ts": 0,
                }
                return asyncio.create_task(chat._rooms.on_message(event))

            for seq in range(1, held + 2):
                await told(seq)
            cut = told(held + 2)
            await asyncio.sleep(0)
            cut.cancel()
            later, again = told(held + 2), told(held + 2)
            await asyncio.sleep(0)
            assert not later.done()
            got = texts(await take(chat, held + 2))
            assert got == [str(seq) for seq in range(1, held + 3)]
            await asyncio.gather(later, again)
            assert not chat._rooms.inbox


# The end.


async def test_close_ends_everything_that_waits(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server, nothing_left():
        chat = Client(server.url, transport=transport, max_events=1)
        async with chat:
            await chat.join("lobby", last=0)
            await asyncio.gather(*(chat.send("lobby", str(number)) for number in range(1)))
            server.freeze()
            sending = asyncio.create_task(chat.send("lobby", "x"))
            joining = asyncio.create_task(chat.join("other"))
            await eventually(lambda: len(chat._rooms.joined) == 2)
            server.thaw()
        results = await asyncio.gather(sending, joining, return_exceptions=True)
        assert all(isinstance(result, Closed | Ack | dict) for result in results)
        assert [event["type"] async for event in chat][:1] == ["synced"]
        await fails_with(chat.send("lobby", "x"), Closed)
        await fails_with(chat.join("lobby"), Closed)
        await chat.close()


async def test_close_while_the_consumer_is_behind(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server, nothing_left():
        async with (
            Client(server.url, transport=transport) as fast,
            Client(server.url, transport=transport, max_events=3) as slow,
        ):
            await slow.join("lobby")
            await asyncio.gather(*(fast.send("lobby", "x" * 2000) for _ in range(500)))
            await eventually(lambda: len(slow._rooms.inbox) == 3)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Swit"])
async def test_close_while_connecting_to_what_does_not_answer(answer: bytes) -> None:
    accepted: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        accepted.append(writer)
        await reader.read()
        writer.close()

    told: list[str] = []
    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        async with Client(f"http://127.0.0.1:{port}", connect_timeout=0.3, backoff=FAST, notify=told.append):
            await eventually(lambda: len(accepted) >= 2 and told)
    assert "Timeout" in told[0]
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_close_during_a_pause() -> None:
    told: list[str] = []
    with nothing_left():
        async with Client("http://127.0.0.1:9", backoff=(1000.0, 1000.0), notify=told.append):
            await eventually(lambda: told)
    assert told[0].startswith("cannot connect to 127.0.0.1:9: ")


# Who may come in.


async def test_a_refused_token_ends_the_client(tmp_path: Path, transport: TransportKind) -> None:
    with Server(tmp_path) as server, nothing_left():
        for token in ("nonsense", None):
            async with Client(server.url, transport=transport, token=token) as chat:
                refused = await fails_with(chat.send("lobby", "x"), Refused)
                assert refused.code == 401
                assert "HTTP 401" in str(refused)
                await fails_with(anext(chat), Refused)


async def test_an_expired_token_is_fetched_anew(tmp_path: Path, transport: TransportKind) -> None:
    fetched = 0
    with Server(tmp_path) as server:

        async def token() -> str:
            nonlocal fetched
            fetched += 1
            return server.token("alice", ttl=1.0 if fetched == 1 else 3600.0)

        async with Client(server.url, transport=transport, token=token, backoff=FAST) as chat:
            await chat.join("lobby")
            await eventually(lambda: fetched == 2)
            await chat.send("lobby", "hello")
            assert texts(await take(chat, 1)) == ["hello"]

        async with Client(server.url, transport=transport, token=server.token("alice", ttl=1.0)) as chat:
            await chat.join("lobby")
            assert [item["type"] for item in await take(chat, 1, frozenset({"synced"}))] == ["synced"]
            refused = await fails_with(take(chat, 1), Refused)
            assert refused.code == (401 if transport == "poll" else 4001)
            assert "expired" in str(refused)  # and not as a guest, whom it would not let in either


async def test_what_another_user_sent_is_not_sent_again(tmp_path: Path, transport: TransportKind) -> None:
    tokens: list[str] = []
    with Server(tmp_path) as server:
        expiry = time.time() + 3.0

        async def token() -> str:
            tokens.append(server.token("bob") if tokens else server.token("alice", ttl=expiry - time.time()))
            return tokens[-1]

        async with Client(server.url, transport=transport, token=token, backoff=FAST) as chat:
            await chat.send("lobby", "first")
            server.freeze()
            sending = asyncio.create_task(chat.send("lobby", "whose?"))
            await eventually(lambda: any(command.flown for command in chat._outbound.commands.values()))
            server.kill()
            await eventually(lambda: time.time() > expiry + 1)  # `exp` is in whole seconds
            await start(server)
            error = await fails_with(sending, ChatError)
            assert error.code is ErrorCode.UNAUTHORIZED
            assert "bob" in str(error)
            await chat.send("lobby", "third")
            page = await chat.history("lobby")
            assert texts(page["messages"]) == ["first", "third"]


async def test_too_many_connections_are_retried_after_the_time_asked_for(tmp_path: Path, live: TransportKind) -> None:
    told: list[str] = []
    with Server(tmp_path, "--guests", "--connections-per-address", "1") as server:
        async with Client(server.url, transport=live) as first:
            await first.join("lobby")
            async with Client(server.url, transport=live, backoff=FAST, notify=told.append):
                await eventually(lambda: told)
    delay = float(told[0].rpartition(" in ")[2].removesuffix(" s"))
    assert 5.0 <= delay <= 5.3


# A server that breaks the rules: no real one does, so these are scripted.


@asynccontextmanager
async def scripted(*conversations: Callable[[WebSocketHandler, dict[str, Any]], None]) -> AsyncIterator[str]:
    """A server whose n-th connection answers each command as the n-th of `conversations` (then the last) does."""
    count = 0

    class Handler(WebSocketHandler):
        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return subprotocols[0]

        def open(self, *args: str, **kwargs: str) -> None:
            nonlocal count
            self.conversation = conversations[min(count, len(conversations) - 1)]
            count += 1
            limits = {"frame_bytes": 65536, "text_chars": 8000, "send_rate": 0, "send_burst": 0}
            say(self, type="welcome", user="u", name="u", epoch="e", limits=limits)

        def on_message(self, message: str | bytes) -> None:
            self.conversation(self, json.loads(message))

    server = HTTPServer(Application([("/ws", Handler), ("/page/ws", RequestHandler)]))
    listeners = bind_sockets(0, "127.0.0.1")
    server.add_sockets(listeners)
    try:
        yield f"http://127.0.0.1:{listeners[0].getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()


def say(handler: WebSocketHandler, **message: object) -> None:
    handler.write_message(json.dumps(message))


def say_joined(handler: WebSocketHandler, command: dict[str, Any], head: int, *seqs: int) -> None:
    cursor = command.get("after", 0)
    say(handler, type="joined", id=command["id"], room=command["room"], head=head, cursor=cursor, read=0, epoch="e")
    for seq in seqs:
        if seq > cursor:
            say(handler, type="message", room=command["room"], seq=seq, user="u", name="u", text=str(seq), ts=0)


@pytest.mark.logs("joining again")
async def test_a_hole_is_asked_for_again() -> None:
    asked: list[int | None] = []

    def converse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        asked.append(command.get("after"))
        say_joined(handler, command, 5, *([1, 2, 4, 5] if len(asked) == 1 else [1, 2, 3, 4, 5]))

    async with scripted(converse) as url, Client(url) as chat:
        await chat.join("lobby", after=0)
        assert texts(await take(chat, 5)) == list("12345")
    assert asked == [0, 2]


async def test_an_event_of_a_later_kind_counts_and_is_not_shown() -> None:
    def converse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        say_joined(handler, command, 3, 1)
        say(handler, type="glanced", room="lobby", user="u", name="u", seq=9)  # a signal: it has no `ts`
        say(handler, type="pinned", room="lobby", seq=2, user="u", ts=0, target=1)
        say(handler, type="message", room="lobby", seq=3, user="u", name="u", text="3", ts=0)

    async with scripted(converse) as url, Client(url) as chat:
        await chat.join("lobby", after=0)
        assert [(await anext(chat))["seq"] for _ in range(2)] == [1, 3]


async def test_many_rooms_that_share_a_limit_are_no_flood(tmp_path: Path) -> None:
    """Each waits as it is told; together they are refused about as often as they are let in."""
    async with running(tmp_path, send_rate=100, send_burst=20) as here, Client(here.address) as chat:

        async def send(room: str) -> None:
            for number in range(15):
                await chat.send(room, str(number))

        await asyncio.gather(*(send(f"r{number}") for number in range(40)))
        assert here.server.metrics.errors["rate_limited"] > 300
        assert not here.server.lines.closes


@pytest.mark.logs("joining again")
async def test_a_hole_that_stays_ends_the_client() -> None:
    def converse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        say_joined(handler, command, 5, 1, 2, 4, 5)

    async with scripted(converse) as url, Client(url) as chat:
        await chat.join("lobby", after=0)
        assert texts(await take(chat, 2)) == list("12")
        assert "leaves out the events 3 to 3" in str(await fails_with(anext(chat), Closed))


async def test_what_is_held_already_is_dropped() -> None:
    def converse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        say_joined(handler, command, 3, 1, 1, 2, 1, 2, 3)

    async with scripted(converse) as url, Client(url) as chat:
        await chat.join("lobby", after=0)
        assert texts(await take(chat, 3)) == list("123")


@pytest.mark.parametrize(("code", "final"), [(1002, True), (1009, True), (4002, True), (1011, False), (1000, False)])
async def test_close_codes_are_final_or_not(code: int, final: bool) -> None:
    def refuse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        handler.close(code, "why")

    def converse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        say(handler, type="ack", id=command["id"], room=command["room"], seq=1, ts=0)

    async with scripted(refuse, converse) as url, Client(url, token="t", backoff=FAST) as chat:
        if final:
            refused = await fails_with(chat.send("lobby", "x"), Refused)
            assert refused.code == code
            assert f"{code} why" in str(refused)
        else:
            assert (await chat.send("lobby", "x")).seq == 1


async def test_a_room_that_is_closed_to_us_after_reconnecting_is_told() -> None:
    def drop(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        say_joined(handler, command, 0)
        handler.close(1011)

    def refuse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        say(handler, type="error", id=command["id"], code="forbidden", message="not any more")

    async with scripted(drop, refuse) as url, Client(url, backoff=FAST) as chat:
        await chat.join("lobby")
        assert await take(chat, 1, frozenset({"left"})) == [
            {"type": "left", "room": "lobby", "code": "forbidden", "message": "not any more"}
        ]


async def test_a_join_that_the_server_cannot_take_now_is_tried_again() -> None:
    asked: list[str] = []

    def converse(handler: WebSocketHandler, command: dict[str, Any]) -> None:
        asked.append(command["type"])
        if len(asked) < 4:
            code = ["unavailable", "rate_limited", "overloaded"][len(asked) - 1]
            say(handler, type="error", id=command["id"], code=code, message="later", retry_after=0.01)
        else:
            say_joined(handler, command, 0)

    async with scripted(converse) as url, Client(url) as chat:
        await chat.join("lobby")
    assert asked == ["join"] * 4


@pytest.mark.logs("40[45] (GET|POST)")
async def test_something_else_that_answers_http_is_refused_in_a_clear_line() -> None:
    async with scripted(lambda handler, command: None) as url:
        async with Client(f"{url}/nowhere") as chat:
            assert (await fails_with(chat.send("lobby", "x"), Refused)).code == 404
        async with Client(f"{url}/page") as chat:
            assert (await fails_with(chat.send("lobby", "x"), Refused)).code == 405


def test_an_address_that_is_none_is_named() -> None:
    for url in ("", "127.0.0.1:8080", "ftp://example.org", "http://"):
        with pytest.raises(ValueError, match="is not the address of a server"):
            Client(url)


def test_a_transport_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="one of auto, websocket, stream, poll; got 'carrier pigeon'"):
        Client("http://127.0.0.1:8080", transport="carrier pigeon")  # type: ignore[arg-type]  # as untyped code may
