"""The client finds a way through what networks do, and changes from one to another without a hole or a double."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.meddling_proxy import WAYS, MeddlingProxy, Way
from tests.support.proxies import buffering_proxy, proxy_without_websockets
from tests.support.redis_servers import Certificate
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Client, Refused, ladder, link, posts
from tornado_chat.client.transport import TransportKind
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.verify.ports import free_port

PATIENCE = 30.0
FAST = (0.01, 0.1)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # a state of others, which no Event tells
            await asyncio.sleep(0.01)


def _more_than(count: int, lines: list[str]) -> bool:
    return len(lines) > count


@asynccontextmanager
async def proxied(tmp_path: Path, *flags: str) -> AsyncIterator[tuple[Server, MeddlingProxy]]:
    with Server(tmp_path, *(flags or UNLIMITED)) as server:
        async with MeddlingProxy(server.port) as proxy:
            yield server, proxy


class Talk:
    """Somebody who writes on and on to a room, and a client that has to get all of it, each once and in order."""

    def __init__(self, writer: Client, reader: Client, room: str = "lobby") -> None:
        self.room = room
        self.writer = writer
        self.reader = reader
        self.seqs: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Talk:
        await self.reader.join(self.room, after=0)
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def more(self, count: int = 10) -> None:
        """Wait until so many more have come; all so far are as they must be."""
        enough = len(self.seqs) + count
        await eventually(lambda: len(self.seqs) >= enough or any(task.done() for task in self._tasks))
        for task in self._tasks:
            if task.done():
                task.result()
        assert self.seqs == list(range(1, len(self.seqs) + 1))

    async def _write(self) -> None:
        for number in itertools.count():
            await self.writer.send(self.room, str(number))
            await asyncio.sleep(0.002)

    async def _read(self) -> None:
        async for event in self.reader:
            assert event["type"] not in ("reset", "left")
            if event["type"] == "message":
                assert event["text"] == str(event["seq"] - 1)
                self.seqs.append(event["seq"])


# Which one is taken


async def test_the_websocket_is_taken_where_it_passes(tmp_path: Path) -> None:
    told: list[str] = []
    async with proxied(tmp_path) as (_, proxy), Client(proxy.url, notify=told.append) as chat:
        assert chat.transport is None
        await chat.send("lobby", "x")
        assert chat.transport == "websocket"
        assert proxy.seen == {"websocket": 1, "stream": 0, "request": 0}
    assert told == []


@pytest.mark.parametrize("mode", ["refuse", "reset"])
async def test_a_websocket_that_is_refused_on_the_way_gives_a_stream_at_once(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(link.HEAD_START, "websocket", PATIENCE)
    told: list[str] = []
    async with proxied(tmp_path) as (_, proxy):
        proxy.modes["websocket"] = mode
        async with Client(proxy.url, notify=told.append) as chat:
            await chat.join("lobby", last=0)
            assert chat.transport == "stream"
            await chat.send("lobby", "x")
            async with asyncio.timeout(PATIENCE):
                while (await anext(chat)).get("text") != "x":
                    pass
            assert proxy.seen["stream"] == 1  # with the room, from the first on
    assert told == ["connected by a stream now"]


async def test_a_websocket_that_stays_silent_gives_a_stream_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(link.HEAD_START, "websocket", 0.2)
    async with proxied(tmp_path) as (_, proxy):
        proxy.modes["websocket"] = "swallow"
        async with Client(proxy.url, connect_timeout=2.0) as chat:
            await chat.send("lobby", "x")
            assert chat.transport == "stream"
            await eventually(lambda: proxy.open("websocket") == 0)  # the loser is let go


@pytest.mark.parametrize("mode", ["buffer", "swallow", "refuse", "reset"])
async def test_a_stream_that_brings_nothing_gives_polls(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(link.HEAD_START, "stream", 0.2)
    told: list[str] = []
    async with proxied(tmp_path) as (_, proxy):
        proxy.modes |= {"websocket": "refuse", "stream": mode}
        async with (
            Client(proxy.url, name="reader", notify=told.append) as reader,
            Client(proxy.url, name="writer") as writer,
            Talk(writer, reader) as talk,
        ):
            await talk.more()
            assert (reader.transport, writer.transport) == ("poll", "poll")
            await eventually(lambda: proxy.open("stream") == 0)
    assert told == ["connected by long polls now"]


def test_proxies_of_others_are_passed(tmp_path: Path) -> None:
    async def talk(url: str, room: str) -> TransportKind | None:
        async with Client(url, name="a") as reader, Client(url, name="b") as writer, Talk(writer, reader, room) as talk:
            await talk.more()
            return reader.transport

    with Server(tmp_path, *UNLIMITED) as server:
        with proxy_without_websockets(server.port) as proxy:
            assert asyncio.run(talk(proxy.url, "one")) == "stream"
        with buffering_proxy(server.port) as proxy:
            assert asyncio.run(talk(proxy.url, "two")) == "poll"


async def test_a_refusal_of_the_server_itself_stays_what_it_is(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (_, proxy), Client(proxy.url, token="nonsense") as chat:
        with pytest.raises(Refused) as caught:
            await chat.join("lobby")
        assert caught.value.code == 401
        assert proxy.seen == {"websocket": 1, "stream": 0, "request": 0}


@pytest.mark.parametrize("kind", [pytest.param("websocket", marks=pytest.mark.logs("SSL Error")), "stream", "poll"])
async def test_tls_is_spoken_to_who_is_trusted_and_to_nobody_else(
    tmp_path: Path, kind: TransportKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.path, certificate.key_path)
    with Server(tmp_path, *UNLIMITED) as server:
        async with MeddlingProxy(server.port, tls) as proxy:
            async with Client(proxy.url, transport=kind) as stranger:
                with pytest.raises(Refused, match="self-signed certificate"):
                    await stranger.send("lobby", "x")
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
            async with Client(proxy.url, name="a", transport=kind) as chat, Talk(chat, chat) as talk:
                await talk.more()
                assert chat.transport == kind


@pytest.mark.parametrize("chosen", ["websocket", "stream", "poll"])
async def test_what_is_chosen_is_not_changed(tmp_path: Path, chosen: TransportKind) -> None:
    ways: dict[TransportKind, tuple[Way, ...]] = {
        "websocket": ("websocket",), "stream": ("stream", "request"), "poll": ("request",),
    }  # fmt: skip
    async with proxied(tmp_path) as (_, proxy):
        for way in ways[chosen]:
            proxy.modes[way] = "reset"
        async with Client(proxy.url, transport=chosen, backoff=FAST, timeout=0.5) as chat:
            with pytest.raises(TimeoutError):
                await chat.join("lobby")
            proxy.modes.update(dict.fromkeys(ways[chosen], "pass"))
            await chat.join("lobby")
            assert chat.transport == chosen
            assert all(way in ways[chosen] for way, seen in proxy.seen.items() if seen)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", ["websocket", "stream", "poll"])
async def test_where_nobody_listens_it_is_said_in_the_same_words_by_all(kind: TransportKind, host: str) -> None:
    told: list[str] = []
    url = f"http://{host}:{free_port()}"
    async with Client(url, transport=kind, notify=told.append):
        await eventually(lambda: told)
    assert told[0].startswith(f"cannot connect to {url.removeprefix('http://')}: Connection refused, retrying in ")


# Changes in the middle


async def test_two_cuts_in_a_row_step_down_without_a_hole_or_a_double(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "SOON", PATIENCE)
    told: list[str] = []
    async with (
        proxied(tmp_path) as (server, proxy),
        Client(server.url, name="writer") as writer,
        Client(proxy.url, name="reader", backoff=FAST, notify=told.append, max_events=5) as reader,
        Talk(writer, reader) as talk,
    ):
        taken = [reader.transport]
        ways: list[Way] = ["websocket", "websocket", "stream", "stream"]
        for way in ways:
            await talk.more()
            lost = len(told)
            proxy.cut(way)
            await eventually(partial(_more_than, lost, told))
            await eventually(lambda: reader.transport is not None)
            await talk.more()
            taken.append(reader.transport)
        assert taken == ["websocket", "websocket", "stream", "stream", "poll"]
    assert [line for line in told if "now" in line] == ["connected by a stream now", "connected by long polls now"]


@pytest.mark.parametrize("first", ["stream", "request"])
async def test_after_an_outage_the_websocket_is_back_within_seconds(tmp_path: Path, first: Way) -> None:
    told: list[str] = []
    async with (
        proxied(tmp_path) as (server, proxy),
        Client(server.url, name="writer") as writer,
        Client(proxy.url, name="reader", backoff=FAST, notify=told.append) as reader,
        Talk(writer, reader) as talk,
    ):
        await talk.more()
        assert reader.transport == "websocket"
        proxy.modes |= dict.fromkeys(WAYS, "away")
        proxy.cut()
        seen = proxy.seen["request"]
        await eventually(lambda: proxy.seen["request"] > seen + 5)
        proxy.modes[first] = "pass"  # chance: the server came back between two attempts
        await eventually(lambda: reader.transport is not None)
        proxy.modes |= dict.fromkeys(WAYS, "pass")
        await talk.more()
        await eventually(lambda: reader.transport == "websocket")
        await talk.more()
    by = "a stream" if first == "stream" else "long polls"
    assert told[-2:] == [f"connected by {by} now", "connected by a WebSocket now"]


async def test_two_cuts_in_a_row_keep_nobody_off_the_websocket_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "SOON", 0.5)
    told: list[str] = []
    async with (
        proxied(tmp_path) as (server, proxy),
        Client(server.url, name="writer") as writer,
        Client(proxy.url, name="reader", backoff=FAST, notify=told.append) as reader,
        Talk(writer, reader) as talk,
    ):
        for _ in range(2):
            assert reader.transport == "websocket"
            await talk.more()
            lost = len(told)
            proxy.cut()
            await eventually(partial(_more_than, lost, told))
            await eventually(lambda: reader.transport is not None)
        await eventually(lambda: reader.transport == "websocket")
        await talk.more()
    assert [line for line in told if "now" in line] == ["connected by a stream now", "connected by a WebSocket now"]


async def test_an_upgrade_is_tried_beside_what_runs_until_it_comes_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "UPGRADE_AFTER", 0.2)
    monkeypatch.setitem(link.HEAD_START, "websocket", 0.1)
    monkeypatch.setitem(link.HEAD_START, "stream", 0.1)
    told: list[str] = []
    async with proxied(tmp_path) as (server, proxy):
        proxy.modes |= {"websocket": "swallow", "stream": "buffer"}
        async with (
            Client(server.url, name="writer") as writer,
            Client(proxy.url, name="reader", notify=told.append, connect_timeout=0.5) as reader,
            Talk(writer, reader) as talk,
        ):
            assert reader.transport == "poll"
            while proxy.seen["websocket"] < 4:
                await talk.more()
            proxy.modes["stream"] = "pass"
            await eventually(lambda: reader.transport == "stream")
            await talk.more()
            proxy.modes["websocket"] = "pass"
            await eventually(lambda: reader.transport == "websocket")
            await talk.more()
            await eventually(lambda: (proxy.open("stream"), proxy.open("request")) == (0, 0))
    assert told == [
        "connected by long polls now", "connected by a stream now", "connected by a WebSocket now",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["websocket", "stream"])
async def test_missed_heartbeats_are_noticed_and_twice_step_down(tmp_path: Path, kind: TransportKind) -> None:
    told: list[str] = []
    async with proxied(tmp_path, *UNLIMITED, "--ping-interval", "1") as (server, proxy):
        if kind == "stream":
            proxy.modes["websocket"] = "refuse"
        async with (
            Client(server.url, name="writer") as writer,
            Client(proxy.url, name="reader", backoff=FAST, ping_interval=0.5, notify=told.append) as reader,
            Talk(writer, reader) as talk,
        ):
            for _ in range(2):
                assert reader.transport == kind
                await talk.more()
                lost = len(told)
                proxy.vanish()
                await eventually(partial(_more_than, lost, told))
                await eventually(lambda: reader.transport is not None)
            await talk.more()
            assert reader.transport == {"websocket": "stream", "stream": "poll"}[kind]


async def test_a_stream_on_which_nothing_is_said_lives_by_its_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    async with proxied(tmp_path, *UNLIMITED, "--ping-interval", "1") as (_, proxy):
        async with Client(proxy.url, transport="stream", notify=told.append) as chat:
            await chat.join("lobby")
            await asyncio.sleep(6.0)  # a limit of 4 s passes
            await chat.send("lobby", "x")
        assert proxy.seen["stream"] == 1
    assert told == []


async def test_what_is_blocked_while_it_is_in_use_is_changed_for_what_passes_or_waited_for(tmp_path: Path) -> None:
    async with (
        proxied(tmp_path) as (server, proxy),
        Client(server.url, name="writer") as writer,
        Client(proxy.url, name="reader", backoff=FAST) as reader,
        Talk(writer, reader) as talk,
    ):
        proxy.modes |= {"websocket": "refuse"}
        proxy.cut()
        await eventually(lambda: reader.transport == "stream")
        await talk.more()
        proxy.modes |= {"stream": "refuse"}
        joining = asyncio.create_task(reader.join("other"))  # takes another stream
        await eventually(lambda: reader.transport == "poll")
        await joining
        await talk.more()
        proxy.modes |= {"request": "refuse"}
        proxy.cut()
        seen = proxy.seen["websocket"]
        await eventually(lambda: proxy.seen["websocket"] > seen + 2)  # all of them, again and again
        proxy.modes |= dict.fromkeys(WAYS, "pass")
        await talk.more()


# Streams


async def test_rooms_come_and_go_while_the_stream_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    async with (
        proxied(tmp_path) as (server, proxy),
        Client(server.url, name="writer") as writer,
        Client(proxy.url, name="reader", transport="stream", notify=told.append) as reader,
        Talk(writer, reader) as talk,
    ):
        for number in range(5):
            joined = await reader.join(f"room-{number}")
            assert (joined["room"], joined["cursor"]) == (f"room-{number}", 0)
            await talk.more(3)
        for number in range(5):
            await reader.leave(f"room-{number}")
            await talk.more(3)
        await eventually(lambda: proxy.open("stream") == 1)
    assert told == []


@pytest.mark.parametrize("kind", ["stream", "poll"])
async def test_more_rooms_than_a_request_takes(tmp_path: Path, kind: TransportKind) -> None:
    rooms = [f"room-{number}" for number in range(250)]
    async with (
        proxied(tmp_path) as (server, proxy),
        Client(server.url, name="writer") as writer,
        Client(proxy.url, name="reader", transport=kind, backoff=FAST) as reader,
    ):
        got: list[dict[str, Any]] = []

        async def read() -> None:
            async for event in reader:
                if event["type"] == "message":
                    got.append(event)

        async def tell(count: int) -> None:
            await asyncio.gather(*(writer.send(room, "x") for room in rooms))
            await eventually(lambda: len(got) >= count * len(rooms))
            assert sorted((event["room"], event["seq"]) for event in got) == sorted(
                (room, seq) for room in rooms for seq in range(1, count + 1)
            )

        reading = asyncio.create_task(read())
        await asyncio.gather(*(reader.join(room, after=0) for room in rooms))
        await tell(1)
        proxy.cut()
        await tell(2)
        way: Way = "stream" if kind == "stream" else "request"
        await eventually(lambda: proxy.open(way) >= 3)
        for room in rooms:
            await reader.leave(room)
        await eventually(lambda: proxy.open("stream") <= 1)
        transport: Any = reader._link.transport
        await eventually(lambda: len(transport._portions) == 1 and len(transport._carried) == 1)
        reading.cancel()
        await asyncio.wait({reading})


@pytest.mark.parametrize("kind", ["stream", "poll"])
async def test_a_room_that_the_token_does_not_cover_takes_none_of_the_others_along(
    tmp_path: Path, kind: TransportKind
) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, token=server.token("a", rooms=["lobby", "open-*"]), transport=kind) as chat:
            for good in (None, "lobby", "open-1"):
                if good is not None:
                    await chat.join(good)
                with pytest.raises(ChatError) as caught:
                    await chat.join("secret")
                assert caught.value.code is ErrorCode.FORBIDDEN
            for room in ("lobby", "open-1"):
                await chat.send(room, room)
            async with asyncio.timeout(PATIENCE):
                seen: set[str] = set()
                while len(seen) < 2:
                    event = await anext(chat)
                    if event["type"] == "message":
                        seen.add(event["text"])
            assert seen == {"lobby", "open-1"}


async def test_the_rotation_of_streams_is_not_noticed(tmp_path: Path) -> None:
    told: list[str] = []
    async with (
        proxied(tmp_path, *UNLIMITED, "--stream-lifetime", "1s") as (server, proxy),
        Client(server.url, name="writer") as writer,
        Client(proxy.url, name="reader", transport="stream", notify=told.append) as reader,
        Talk(writer, reader) as talk,
    ):
        while proxy.seen["stream"] < 4:
            await talk.more()
    assert told == []


# Commands


@pytest.mark.parametrize("kind", ["stream", "poll"])
async def test_a_command_whose_answer_was_lost_is_sent_again_and_stands_there_once(
    tmp_path: Path, kind: TransportKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posts, "ANSWER_SECONDS", 0.5)
    async with proxied(tmp_path) as (server, proxy), Client(proxy.url, transport=kind, backoff=FAST) as chat:
        await chat.history("lobby")
        proxy.vanish("request")
        proxy.modes["request"] = "swallow"
        sending = asyncio.gather(*(chat.send("lobby", str(number)) for number in range(100)))
        async with Client(server.url, name="witness") as witness:
            async with asyncio.timeout(PATIENCE):
                while not (await witness.history("lobby"))["messages"]:  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.05)
            proxy.modes["request"] = "pass"
            async with asyncio.timeout(PATIENCE):
                acks = await sending
            assert acks[0].duplicate
            assert [ack.seq for ack in acks] == list(range(1, 101))
            page = await witness.history("lobby", limit=200)
            assert [message["text"] for message in page["messages"]] == [str(number) for number in range(100)]


@pytest.mark.parametrize("kind", ["stream", "poll"])
async def test_commands_go_on_over_cuts_in_their_order(tmp_path: Path, kind: TransportKind) -> None:
    async with proxied(tmp_path) as (_, proxy), Client(proxy.url, transport=kind, backoff=FAST) as chat:
        sending = [asyncio.create_task(chat.send("lobby", str(number))) for number in range(600)]
        for part in range(1, 6):
            await eventually(sending[part * 100].done)
            proxy.cut()
        async with asyncio.timeout(PATIENCE):
            acks = await asyncio.gather(*sending)
        assert [ack.seq for ack in acks] == list(range(1, 601))
