"""Streams, polls and requests of a server that does what a good one seldom does: it is scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tornado_chat.client import Client, Closed, Refused, posts, stream
from tornado_chat.client.ends import Lost
from tornado_chat.client.stream import StreamTransport
from tornado_chat.client.transport import Target, TransportKind, split
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.wire.codec import JSON

PATIENCE = 30.0
FAST = (0.01, 0.1)
LIMITS = {"frame_bytes": 1 << 21, "text_chars": 1_000_000, "send_rate": 0, "send_burst": 0}
WELCOME = {"type": "welcome", "user": "u", "name": "u", "epoch": "e", "limits": LIMITS, "ping_interval": 25}


class Request:
    """One request, to be answered once."""

    def __init__(self, path: str, body: Any, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.body = body
        self.writer = writer

    def answer(self, status: int, obj: Any, *headers: str) -> None:
        body = json.dumps(obj).encode()
        lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    def refuse(self, status: int, code: str, *headers: str, **more: Any) -> None:
        self.answer(status, {"error": {"code": code, "message": "so it is", **more}}, *headers)

    def begin(self, *objects: dict[str, Any]) -> None:
        """A stream; it goes on with `say`, and until the connection ends."""
        self.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        self.say(*objects)

    def say(self, *objects: dict[str, Any]) -> None:
        for obj in objects:
            self.writer.write(b"data: %b\n\n" % json.dumps(obj).encode())

    def hang_up(self) -> None:
        self.writer.close()


Script = Callable[[Request], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """A server that hands each request to `script`; without an answer from there, the usual one is given."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            while not writer.transport.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("Content-Length:")), 0)
                body = await reader.readexactly(size)
                path = head.split(" ")[1].partition("?")[0]
                await script(Request(path, json.loads(body), writer))
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()
            await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*(task for task in serving if task is not None), return_exceptions=True)


def usual(request: Request) -> None:
    """What a server with an empty room answers."""
    match request.path:
        case "/v1/session":
            request.answer(200, {"user": "u", "name": "u", "token": "t"})
        case "/v1/events":
            request.begin(WELCOME, *(joined(join["room"], 0, join.get("after", 0)) for join in request.body["join"]))
        case "/v1/commands":
            request.answer(200, [ack(command, seq) for seq, command in enumerate(request.body, 1)])


def joined(room: str, head: int, cursor: int, epoch: str = "e") -> dict[str, Any]:
    return {"type": "joined", "room": room, "head": head, "cursor": cursor, "read": 0, "epoch": epoch}


def message(seq: int, room: str = "lobby") -> dict[str, Any]:
    return {"type": "message", "room": room, "seq": seq, "n": seq, "user": "u", "name": "u", "text": str(seq), "ts": 0}


def ack(command: dict[str, Any], seq: int) -> dict[str, Any]:
    return {"type": "ack", "id": command["id"], "room": command["room"], "seq": seq, "ts": 0}


async def take(chat: Client, count: int) -> list[Any]:
    """What the next `count` items show: the seq of events, the type of others."""
    async with asyncio.timeout(PATIENCE):
        return [item["seq"] if "ts" in item else item["type"] for item in [await anext(chat) for _ in range(count)]]


# Streams


@pytest.mark.logs("joining again")
async def test_a_hole_in_a_stream_is_asked_for_again() -> None:
    asked: list[Any] = []

    async def script(request: Request) -> None:
        if request.path == "/v1/events" and request.body["join"]:
            asked.append(request.body["join"])
            after = request.body["join"][0]["after"]
            seqs = [1, 2, 4, 5] if len(asked) == 1 else range(after + 1, 6)
            request.begin(WELCOME, joined("lobby", 5, after), *map(message, seqs))
        else:
            usual(request)

    async with scripted(script) as url, Client(url, transport="stream") as chat:
        await chat.join("lobby", after=0)
        assert await take(chat, 5) == [1, 2, 3, 4, 5]
    assert asked == [[{"room": "lobby", "after": 0}], [{"room": "lobby", "after": 2}]]


@pytest.mark.logs("joining again")
async def test_a_hole_that_stays_ends_the_client() -> None:
    async def script(request: Request) -> None:
        after = request.body["join"][0]["after"]
        request.begin(WELCOME, joined("lobby", 5, after), *(message(seq) for seq in (1, 2, 4, 5) if seq > after))

    async with scripted(script) as url, Client(url, transport="stream") as chat:
        await chat.join("lobby", after=0)
        assert await take(chat, 2) == [1, 2]
        with pytest.raises(Closed, match="leaves out the events 3 to 3"):
            await anext(chat)


async def test_the_stream_in_use_goes_on_while_the_next_one_is_not_to_be_had() -> None:
    streams: list[Request] = []

    async def script(request: Request) -> None:
        if request.path != "/v1/events":
            usual(request)
            return
        streams.append(request)
        match len(streams):
            case 1:
                request.begin(WELCOME, joined("lobby", 0, 0))
            case 2:  # told as an EventSource is
                request.begin({"type": "error", "code": "overloaded", "message": "later", "retry_after": 0.05})
                request.hang_up()
                streams[0].say(message(1))
            case 3:
                request.refuse(503, "overloaded", "Retry-After: 0")
                streams[0].say(message(2))
            case 4:
                streams[0].say(message(3))
                rooms = [join["room"] for join in request.body["join"]]
                assert rooms == ["lobby", "other"]
                after = request.body["join"][0]["after"]
                request.begin(WELCOME, joined("lobby", 3, after), *map(message, range(after + 1, 4)))
                request.say(joined("other", 0, 0), message(1, "other"))

    told: list[str] = []
    async with scripted(script) as url, Client(url, transport="stream", notify=told.append) as chat:
        await chat.join("lobby", after=0)
        await chat.join("other", after=0)
        assert sorted(await take(chat, 4)) == [1, 1, 2, 3]
    assert len(streams) == 4
    assert told == []


@pytest.mark.parametrize(("code", "final"), [(4002, True), (1009, True), (1011, False), (1013, False), (4003, False)])
async def test_the_codes_of_an_end_are_final_or_not(code: int, final: bool) -> None:
    streams = 0

    async def script(request: Request) -> None:
        nonlocal streams
        usual(request)
        if request.path == "/v1/events":
            streams += 1
            if streams == 1:
                request.say({"type": "closing", "code": code, "reason": "why", "retry_after_ms": 10})
                request.hang_up()

    async with scripted(script) as url, Client(url, transport="stream", token="t", backoff=FAST) as chat:
        if final:
            with pytest.raises(Refused) as caught:
                await anext(chat)
            assert caught.value.code == code
        else:
            while streams < 2:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)
            assert (await chat.send("lobby", "x")).seq == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
        b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: {"type":"hello"}\n\n',
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: [1]\n\n",
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_stream_is_refused_in_a_clear_line(head: bytes) -> None:
    async def script(request: Request) -> None:
        request.writer.write(head)

    async with scripted(script) as url, Client(url, transport="stream") as chat:
        with pytest.raises(Refused, match=r"^127\.0\.0\.1:\d+ (does not speak|began with|refused the connection)"):
            await chat.join("lobby")


async def test_other_terms_after_a_rotation_take_a_new_beginning() -> None:
    """What was sent, and is not answered, is sent again under the new ones."""
    streams = 0

    async def script(request: Request) -> None:
        nonlocal streams
        if request.path == "/v1/events":
            streams += 1
            request.begin({**WELCOME, "limits": {**LIMITS, "text_chars": 10 if streams > 1 else 20}})
            if streams == 1:
                request.say({"type": "closing", "code": 1012, "retry_after_ms": 1})
                request.hang_up()

    told: list[str] = []
    async with scripted(script) as url, Client(url, transport="stream", backoff=FAST, notify=told.append) as chat:
        async with asyncio.timeout(PATIENCE):
            while streams < 3:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)
        while chat.transport is None:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
        with pytest.raises(ChatError, match="1 to 10 characters"):
            await chat.send("lobby", "x" * 11)
    assert told[0].startswith("the server has other terms now")


@pytest.mark.parametrize(("told", "passed_on"), [(1, 3), (0, 0)])
async def test_a_stream_that_was_opened_before_the_join_may_begin_earlier_but_not_before_its_own_cursor(
    told: int, passed_on: int
) -> None:
    """The client went on by another transport meanwhile; a cursor that is less than was asked for is another log's."""
    heard: list[Any] = []

    async def script(request: Request) -> None:
        assert request.body == {"join": [{"room": "lobby", "after": 1}]}
        request.begin(WELCOME, joined("lobby", 3, told))
        request.say({"type": "closing", "code": 1011})

    async def listen(message: dict[str, Any]) -> None:
        heard.append(message)

    async with scripted(script) as url:
        target = Target(
            url=split(url), tls=None, token=None, name=None, codec=JSON,
            connect_timeout=5.0, ping_interval=20.0, longest_pause=1.0,
        )  # fmt: skip
        transport = StreamTransport(target)
        await transport.open([{"room": "lobby", "after": 1}])
        transport.join({"room": "lobby", "after": 3, "id": "j"})
        with pytest.raises(Lost):
            await transport.run(listen)
        await transport.close()
    assert heard == [{**joined("lobby", 3, passed_on), "id": "j"}]


async def test_a_server_without_heartbeats_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LATE", 0.05)
    opened = 0
    heard = asyncio.Event()

    async def script(request: Request) -> None:
        nonlocal opened
        opened += 1
        request.begin(WELCOME | {"ping_interval": 0}, joined("lobby", 0, 0))
        await asyncio.sleep(0.3)
        request.say({"type": "message", "room": "lobby", "seq": 1, "user": "u", "name": "u", "text": "x", "ts": 1})
        await heard.wait()

    async with scripted(script) as url, Client(url, transport="stream") as chat, asyncio.timeout(PATIENCE):
        await chat.join("lobby")
        before = opened
        assert (await anext(chat))["text"] == "x"
        assert opened == before
        heard.set()


async def test_a_room_that_was_refused_is_not_asked_for_again() -> None:
    asked: list[list[str]] = []

    async def script(request: Request) -> None:
        if request.path != "/v1/events":
            return
        rooms = [join["room"] for join in request.body["join"]]
        asked.append(rooms)
        request.begin(WELCOME, *(joined(room, 0, 0) for room in rooms if room != "secret"))
        if "secret" in rooms:
            request.say({"type": "error", "room": "secret", "code": "forbidden"})

    async with scripted(script) as url, Client(url, transport="stream") as chat:
        await chat.join("lobby")
        with pytest.raises(ChatError, match="forbidden"):
            await chat.join("secret")
        await chat.join("other")
    assert asked == [["lobby"], ["lobby", "secret"], ["lobby", "other"]]


# Commands


@pytest.mark.parametrize("kind", ["stream", "poll"])
async def test_many_that_wait_go_in_one_request_in_order(kind: TransportKind) -> None:
    sizes: list[int] = []
    names: list[str] = []

    async def script(request: Request) -> None:
        if request.path == "/v1/commands":
            sizes.append(len(request.body))
            names.extend(command["room"] for command in request.body)
            await asyncio.sleep(0.01)
        usual(request)

    async with scripted(script) as url, Client(url, transport=kind) as chat:
        await chat.send("first", "x")
        await asyncio.gather(*(chat.send(f"room-{number}", "x") for number in range(200)))
    assert names == ["first", *(f"room-{number}" for number in range(200))]
    assert max(sizes) == posts.COMMANDS
    assert len(sizes) <= 6


async def test_long_ones_are_parted_by_their_bytes_and_one_that_is_too_long_fails_alone() -> None:
    sizes: list[int] = []

    async def script(request: Request) -> None:
        if request.path == "/v1/commands":
            sizes.append(len(json.dumps(request.body)))
            if sizes[-1] > 1 << 20:
                request.refuse(413, "too_large")
                return
        usual(request)

    async with scripted(script) as url, Client(url, transport="stream") as chat:
        await chat.history("lobby")
        await asyncio.gather(*(chat.send("lobby", "x" * 200_000) for _ in range(7)))
        with pytest.raises(ChatError) as caught:
            await chat.send("lobby", "é" * 700_000)
        assert caught.value.code is ErrorCode.TOO_LARGE
        await chat.send("lobby", "still here")
    assert sorted(sizes)[-2] < 700_000


async def test_a_server_that_is_too_busy_for_requests_is_waited_for_without_giving_up_the_stream() -> None:
    asked: list[Any] = []
    streams = 0

    async def script(request: Request) -> None:
        nonlocal streams
        streams += request.path == "/v1/events"
        if request.path == "/v1/commands":
            asked.append(request.body)
            if len(asked) <= 5:
                request.refuse(503, "overloaded", "Retry-After: 0", retry_after=0)
                return
        usual(request)

    told: list[str] = []
    async with scripted(script) as url, Client(url, transport="stream", notify=told.append) as chat:
        assert (await chat.send("lobby", "x")).seq == 1
    assert all(body == asked[0] for body in asked)
    assert (len(asked), streams, told) == (6, 1, [])


@pytest.mark.parametrize("answer", [[], [1, 2], {}, "x"])
async def test_answers_that_fit_no_commands_end_the_client(answer: Any) -> None:
    async def script(request: Request) -> None:
        if request.path == "/v1/commands":
            request.answer(200, answer)
        else:
            usual(request)

    async with scripted(script) as url, Client(url, transport="stream") as chat:
        with pytest.raises(Refused, match="does not answer each command"):
            await chat.send("lobby", "x")


async def test_a_command_that_was_not_even_read_is_answered() -> None:
    async def script(request: Request) -> None:
        if request.path == "/v1/commands":
            request.answer(200, [{"type": "error", "code": "bad_request", "message": "what?"}])
        else:
            usual(request)

    async with scripted(script) as url, Client(url, transport="stream") as chat:
        with pytest.raises(ChatError, match="what\\?"):
            await chat.send("lobby", "x")


# Polls


async def test_polls_begin_at_the_head_and_go_on_from_cursor_to_cursor() -> None:
    asked: list[Any] = []

    async def script(request: Request) -> None:
        if request.path != "/v1/poll":
            usual(request)
            return
        asked.append(request.body)
        after = request.body["rooms"]["lobby"]
        if after > 1000:
            request.answer(200, {"epoch": "e", "events": [], "cursors": {"lobby": 7}, "more": False})
        elif after < 10:
            events = [message(after + 1)]
            request.answer(200, {"epoch": "e", "events": events, "cursors": {"lobby": after + 1}, "more": after < 9})

    async with scripted(script) as url, Client(url, transport="poll") as chat:
        assert (await chat.join("lobby", last=2))["cursor"] == 5
        assert await take(chat, 6) == [6, 7, 8, 9, 10, "synced"]
        while len(asked) < 7:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
    assert [body["rooms"]["lobby"] for body in asked] == [2**63 - 1, 5, 6, 7, 8, 9, 10]
    assert [body["wait"] > 20 for body in asked] == [False] * 6 + [True]


async def test_an_answer_of_another_log_is_not_believed() -> None:
    epoch = "e"

    async def script(request: Request) -> None:
        nonlocal epoch
        if request.path != "/v1/poll":
            usual(request)
            return
        after = min(request.body["rooms"]["lobby"], 3)
        if after == 3 and request.body["wait"] and epoch == "e":
            epoch = "f"
            request.answer(200, {"epoch": epoch, "events": [message(4)], "cursors": {"lobby": 4}, "more": False})
        elif not request.body["wait"]:
            events = [message(seq) for seq in range(after + 1, 4)]
            request.answer(200, {"epoch": epoch, "events": events, "cursors": {"lobby": 3}, "more": False})

    async with scripted(script) as url, Client(url, transport="poll") as chat:
        await chat.join("lobby", after=0)
        assert await take(chat, 9) == [1, 2, 3, "synced", "reset", 1, 2, 3, "synced"]


async def test_a_poll_that_cannot_be_taken_now_is_told_as_the_rooms_error_and_asked_for_again() -> None:
    asked = 0

    async def script(request: Request) -> None:
        nonlocal asked
        if request.path != "/v1/poll":
            usual(request)
            return
        asked += 1
        if asked <= 2:
            request.refuse(429, "rate_limited", "Retry-After: 0", retry_after=0.01)
        elif asked == 3:
            errors = {"lobby": {"code": "overloaded", "message": "later", "retry_after": 0.01}}
            request.answer(200, {"epoch": "e", "events": [], "cursors": {}, "more": False, "errors": errors})
        elif not request.body["wait"]:
            request.answer(200, {"epoch": "e", "events": [], "cursors": {"lobby": 0}, "more": False})

    told: list[str] = []
    async with scripted(script) as url, Client(url, transport="poll", notify=told.append) as chat:
        assert (await chat.join("lobby"))["cursor"] == 0
    assert told == []
