"""Streams of server-sent events: who gets one, of which rooms, from where; what is answered where there is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Running, eventually, running
from tests.support.plain_http import HTTP, get
from tests.support.raw_chat import reset
from tests.support.streams import TIMEOUT, Block, Stream
from tornado_chat.auth import mint
from tornado_chat.errors import LogUnavailable
from tornado_chat.live import room as room_module
from tornado_chat.live.event_stream import EventStream
from tornado_chat.live.fanout import NO_KEY
from tornado_chat.wire.event_stream import parse_last_event_id

ROOM = "/v1/rooms/r/events"
JSON = "Content-Type: application/json"
EVENTS = "text/event-stream"


def port(here: Running) -> int:
    return int(here.address.rpartition(":")[2])


def bearer(user: str = "u", **claims: Any) -> str:
    return f"Authorization: Bearer {mint(SECRET, user, **{'ttl': 3600.0, **claims})}"


async def say(here: Running, *texts: str, room: str = "r") -> None:
    client = await here.connect()
    for number, text in enumerate(texts):
        await client.ask(type="send", room=room, text=text, id=str(number))
    await client.close()


async def texts(stream: Stream, count: int) -> list[str]:
    """Of the next messages."""
    found: list[str] = []
    while len(found) < count:
        found.append((await stream.until("message"))["text"])
    return found


def error_of(stream: Stream) -> Any:
    """The `error` of a stream that was refused, or the JSON body of another refusal."""
    if stream.headers["content-type"] == EVENTS:
        assert stream.welcome["type"] == "error"
        return stream.welcome
    return json.loads(stream.body.rest or stream.text)["error"]


async def test_a_stream_of_one_room_has_an_id_on_all_that_moves_its_cursor(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("r")
        await client.ask(type="send", room="r", text="one", id="1")
        async with await Stream.open(port(here), ROOM + "?after=0") as stream:
            assert stream.headers == {
                "content-type": "text/event-stream",
                "cache-control": "no-store, no-transform",
                "x-accel-buffering": "no",
                "transfer-encoding": "chunked",
                "connection": "close",
            }
            assert stream.retry is not None
            welcome = stream.welcome
            assert welcome.keys() == client.welcome.keys()
            epoch = welcome["epoch"]
            joined, one, synced = [await stream.hear_block() for _ in range(3)]
            assert joined.id == f"{epoch}.0"
            assert joined.data == {"type": "joined", "room": "r", "head": 1, "cursor": 0, "read": 0, "epoch": epoch}
            assert (one.id, one.data["text"], one.event) == (f"{epoch}.1", "one", None)
            assert (synced.id, synced.data) == (None, {"type": "synced", "room": "r", "seq": 1})
            await client.ask(type="send", room="r", text="two", id="2")
            two = await stream.hear_block()
            assert (two.id, two.data["text"]) == (f"{epoch}.2", "two")
            assert len(here.server.lines.open) == 2
        await eventually(lambda: len(here.server.lines.open) == 1)


async def test_a_posted_stream_may_begin_without_a_room(tmp_path: Path) -> None:
    async with running(tmp_path, ping_interval=1) as here:
        async with await Stream.open(
            port(here), "/v1/events", "Content-Type: application/json", method="POST", body=b'{"join": []}'
        ) as stream:
            assert stream.welcome["ping_interval"] == 1
            beating = asyncio.ensure_future(stream.hear_block())  # nothing else is to come
            await eventually(lambda: stream.pings >= 2)
            beating.cancel()
        await eventually(lambda: not here.server.lines.open)


async def test_members_of_all_kinds_share_a_flush_and_streams_are_sent_to_directly(tmp_path: Path) -> None:
    """A stream has a key like a WebSocket: no write of its own, no Task."""
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        client = await here.join("r")
        tasks = len(asyncio.all_tasks())
        streams = [await stack.enter_async_context(await Stream.open(port(here), ROOM)) for _ in range(3)]
        for stream in streams:
            await stream.until("synced")
        lines = [line for line in here.server.lines.open if isinstance(line, EventStream)]
        assert all(line.key != NO_KEY and line.key in here.server.lines.direct.keys for line in lines)
        assert len(asyncio.all_tasks()) == tasks
        (group,) = [group for encoding, group in here.server.hub.rooms["r"].groups.items() if len(group) == 3]
        assert set(group.keys) == {line.key for line in lines}
        await client.ask(type="send", room="r", text="hello", id="1")
        for stream in streams:
            assert (await stream.hear())["text"] == "hello"


async def test_many_rooms_are_joined_by_a_post(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for room in ("a", "b"):
            await say(here, f"in {room}", room=room)
        wanted: list[dict[str, Any]] = [{"room": "a", "after": 0}, {"room": "b", "last": 1}, {"room": "c"}]
        body = json.dumps({"join": wanted}).encode()
        async with await Stream.open(port(here), "/v1/events", JSON, method="POST", body=body) as stream:
            assert stream.status == 200
            heard = [await stream.hear_block() for _ in range(8)]
            types = {room: [block.data["type"] for block in heard if block.data["room"] == room] for room in "abc"}
            assert types == {
                "a": ["joined", "message", "synced"],
                "b": ["joined", "message", "synced"],
                "c": ["joined", "synced"],
            }
            assert all(block.id is None for block in heard)


async def test_many_rooms_are_joined_by_their_names(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await say(here, "one", "two", room="a")
        query = "&".join(["join=a:1", *(f"join=room-{number}" for number in range(99))])
        async with await Stream.open(port(here), f"/v1/events?{query}") as stream:
            heard: dict[str, list[Any]] = {"joined": [], "message": [], "synced": []}
            while len(heard["synced"]) < 100:
                data = await stream.hear()
                heard[data["type"]].append(data)
            assert [message["text"] for message in heard["message"]] == ["two"]
            assert len({joined["room"] for joined in heard["joined"]}) == 100 == len(here.server.hub.rooms)
        await eventually(lambda: not here.server.hub.rooms)


async def test_a_stream_of_one_of_several_is_a_stream_of_one_room(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await say(here, "one")
        async with await Stream.open(port(here), "/v1/events?join=r:0&ids=1", accept="*/*") as stream:
            await stream.until("synced")
            assert stream.last_id == f"{stream.welcome['epoch']}.1"


@pytest.mark.parametrize(
    ("path", "headers", "first"),
    [
        (ROOM, [], None),
        (ROOM + "?after=1", [], 2),
        (ROOM + "?last=1", [], 3),
        (ROOM + "?after=2", ["Last-Event-ID: e.0"], 1),
        (ROOM + "?after=0", ["Last-Event-ID: e.2"], 3),
        (ROOM + "?last=3", ["Last-Event-ID: e.2"], 3),
        (ROOM + "?last_event_id=e.1", ["Last-Event-ID: e.0"], 2),
        (ROOM + "?lastEventId=e.1&last_event_id=e.0", [], 2),
        (ROOM + "?lastEventId=e.0", ["Last-Event-ID: e.1"], 2),
        (ROOM + "?last_event_id=&after=2", ["Last-Event-ID:"], 3),
        (ROOM, ["Last-Event-ID: e r:1 other:7"], 2),
        (ROOM + "?after=1", ["Last-Event-ID: e other:7"], 2),
        (ROOM, ["Last-Event-ID: e.999"], None),
        ("/v1/events?join=r:2", ["Last-Event-ID: e.1"], 2),
        ("/v1/events?join=r:2&join=s", ["Last-Event-ID: e r:1 s:0"], 2),
    ],
)
async def test_where_it_begins(tmp_path: Path, path: str, headers: list[str], first: int | None) -> None:
    async with running(tmp_path) as here:
        await say(here, "1", "2", "3")
        async with await Stream.open(port(here), path, *headers) as stream:
            joined = await stream.until("joined", room="r")
            assert joined["cursor"] == (3 if first is None else first - 1)
            if first is not None:
                assert await texts(stream, 4 - first) == [str(number) for number in range(first, 4)]


async def test_an_id_of_another_log_is_taken_and_joined_tells(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await say(here, "1")
        async with await Stream.open(port(here), ROOM, "Last-Event-ID: another.41") as stream:
            joined = await stream.until("joined")
            assert (joined["cursor"], joined["epoch"]) == (1, stream.welcome["epoch"])


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/rooms/UPPER/events", []),
        ("/v1/rooms/%ff/events", []),
        (ROOM + "?after=x", []),
        (ROOM + "?after=-1", []),
        (ROOM + "?after=1&last=1", []),
        (ROOM + "?last=501", []),
        (ROOM, ["Last-Event-ID: nonsense"]),
        (ROOM + "?last_event_id=1", []),
        ("/v1/events", []),
        ("/v1/events?join=", []),
        ("/v1/events?join=r:", []),
        ("/v1/events?join=r:x", []),
        ("/v1/events?join=r&join=r:1", []),
        ("/v1/events?join=r&join=s", ["Last-Event-ID: e.5"]),
        ("/v1/events?join=r&ids=x", []),
        ("/v1/events?" + "&".join(f"join=r{number}" for number in range(101)), []),
        ("/v1/events?" + "x&" * 200 + "join=r", []),
        (ROOM + "?name=%00", []),
    ],
)
async def test_what_is_wrong_is_told_by_its_status(tmp_path: Path, path: str, headers: list[str]) -> None:
    async with running(tmp_path) as here:
        answer = await get(here, path, Accept=EVENTS, **dict(header.split(": ") for header in headers))
        assert (answer.status, answer.error["code"]) == (400, "bad_request")
        await eventually(lambda: not here.server.lines.open)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b'{"join": "r"}',
        b'{"join": ["r"]}',
        b'{"join": [{"room": "R"}]}',
        b'{"join": [{"room": "r", "after": "1"}]}',
        b'{"join": [{"room": "r", "after": 1, "last": 1}]}',
        b'{"join": [{"room": "r"}, {"room": "r"}]}',
        json.dumps({"join": [{"room": f"r{number}"} for number in range(101)]}).encode(),
    ],
)
async def test_what_is_wrong_with_a_body_is_told(tmp_path: Path, body: bytes) -> None:
    async with (
        running(tmp_path) as here,
        await Stream.open(port(here), "/v1/events", JSON, method="POST", body=body) as stream,
    ):
        assert stream.status == 400
        assert error_of(stream)["code"] == "bad_request"


async def test_a_room_that_the_token_does_not_cover(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        token = bearer(rooms=["a*"])
        async with await Stream.open(port(here), "/v1/rooms/b/events", token) as stream:
            assert (stream.status, error_of(stream)["code"]) == (403, "forbidden")
        async with await Stream.open(port(here), "/v1/events?join=b&join=a&join=c&join=a2", token) as stream:
            heard = [await stream.hear() for _ in range(6)]
            errors = [(data["room"], data["code"]) for data in heard if data["type"] == "error"]
            assert errors == [("b", "forbidden"), ("c", "forbidden")]
            assert [data["room"] for data in heard if data["type"] == "joined"] == ["a", "a2"]
            assert not [line for line in here.server.lines.open if line.closing]


async def test_who_one_is(tmp_path: Path) -> None:
    async with running(tmp_path, guests=False) as here:
        for path, headers in (
            (ROOM, [bearer("alice", name="Alice")]),
            (ROOM, ["Cookie: chat_session=" + mint(SECRET, "alice", name="Alice", ttl=60.0)]),
            (ROOM + "?token=" + mint(SECRET, "alice", name="Alice", ttl=60.0), []),
        ):
            async with await Stream.open(port(here), path, *headers) as stream:
                assert (stream.welcome["user"], stream.welcome["name"]) == ("alice", "Alice")
        for headers in ([], ["Authorization: Bearer nonsense"]):
            async with await Stream.open(port(here), ROOM, *headers) as stream:
                assert (stream.status, error_of(stream)["code"]) == (401, "unauthorized")


async def test_a_page_of_another_origin(tmp_path: Path) -> None:
    async with running(tmp_path, allowed_origins=("https://ours.example",)) as here:
        for headers in (["Origin: https://evil.example"], ["Host: evil.example"]):
            answer = await get(here, ROOM, Accept=EVENTS, **dict(header.split(": ") for header in headers))
            assert (answer.status, answer.error["code"]) == (403, "forbidden")
        async with await Stream.open(port(here), ROOM, "Origin: https://ours.example") as stream:
            assert stream.headers["access-control-allow-origin"] == "https://ours.example"
            assert stream.headers["access-control-allow-credentials"] == "true"
            assert stream.headers["vary"] == "Origin"
        answer = await get(here, ROOM + "?after=x", Accept=EVENTS, Origin="https://ours.example")
        assert answer.headers["access-control-allow-origin"] == "https://ours.example"


async def test_a_page_loaded_by_another_name_cannot_pretend_to_come_by_a_proxy(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        answer = await get(here, ROOM, Accept=EVENTS, **{"Host": "evil.example", "X-Forwarded-For": "1.2.3.4"})
        assert (answer.status, answer.error["code"]) == (403, "forbidden")


@asynccontextmanager
async def in_pieces(here: Running, data: bytes) -> AsyncIterator[Stream]:
    """A stream that is asked for so, in two pieces: so it is read by Tornado."""
    async with HTTP(here) as http:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(http.sock, data[:20])
        await eventually(lambda: any(serving is not None for serving in here.server.http._serving.values()))
        await loop.sock_sendall(http.sock, data[20:])
        stream = Stream(http.sock)
        async with asyncio.timeout(TIMEOUT):
            await stream._read_head()
            if stream.status == 200:
                stream.welcome = await stream.hear()
        yield stream


async def test_a_request_that_comes_in_pieces_is_answered_alike(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await say(here, "1", "2")
        asked = f"GET {ROOM}?after=1 HTTP/1.1\r\nHost: localhost\r\nAccept: {EVENTS}\r\n\r\n".encode()
        async with in_pieces(here, asked) as stream, await Stream.open(port(here), ROOM + "?after=1") as whole:
            assert stream.headers == whole.headers
            for each in (stream, whole):
                assert await texts(each, 1) == ["2"]
            assert not len(here.server.http)
        for wrong in (b"GET /v1/rooms/R/events", b"GET /v1/rooms/r/events?after=x"):
            async with in_pieces(
                here, wrong + b" HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
            ) as no:
                assert no.status == 400


@pytest.mark.parametrize(
    "field", ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 0, 5", "X: y\nX: z"]
)
async def test_a_request_that_is_not_plain_is_not_read_here(tmp_path: Path, field: str) -> None:
    """What would be a body to somebody is none of the stream: Tornado reads it, or refuses."""
    async with running(tmp_path) as here:
        body = "hello" if field.endswith("5") else "5\r\nhello\r\n0\r\n\r\n"
        head = f"GET {ROOM} HTTP/1.1\r\nHost: localhost\r\nAccept: {EVENTS}\r\n{field}\r\n\r\n"
        async with HTTP(here) as http:
            await asyncio.get_running_loop().sock_sendall(http.sock, (head + body).encode())
            stream = Stream(http.sock)
            await stream._read_head()
            if field in ("Content-Length: 5", "Transfer-Encoding: chunked"):
                assert stream.status == 200
                await stream.until("joined")
                assert here.server.lines.bytes_in == 0
            else:
                assert stream.status == 400


async def test_http_1_0_has_no_chunks_and_ends_with_the_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await say(here, "1")
        async with await Stream.open(port(here), ROOM + "?after=0", version="HTTP/1.0") as stream:
            assert "transfer-encoding" not in stream.headers
            assert await texts(stream, 1) == ["1"]
            await stream.until("synced")
            for line in here.server.lines.open:
                line.close(1012, "retry_after_ms=7")
            blocks, _ = await stream.read_to_end()
            assert [block.data for block in blocks] == [{"type": "closing", "code": 1012, "retry_after_ms": 7}]


async def test_who_takes_gzip_gets_it_and_each_event_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        await say(here, "x" * 1000)
        client = await here.connect()
        many = "/v1/events?join=r:0&join=s&ids=1"
        streams = [
            await stack.enter_async_context(await Stream.open(port(here), path, "Accept-Encoding: gzip, br"))
            for path in (ROOM + "?after=0", many)
        ]
        for stream in streams:
            assert stream.headers["content-encoding"] == "gzip"
            assert await texts(stream, 1) == ["x" * 1000]
        for number in range(3):
            await client.ask(type="send", room="r", text=f"{number} " * 300, id=str(number))
            for stream in streams:
                assert await texts(stream, 1) == [f"{number} " * 300]
                epoch = stream.welcome["epoch"]
        while streams[1].last_id != f"{epoch} r:4 s:0":
            await streams[1].hear_block()
        assert streams[0].last_id == f"{epoch}.4"
        for line in here.server.lines.open:
            line.close(1012, "retry_after_ms=1")
        for stream in streams:
            blocks, whole = await stream.read_to_end()
            assert (blocks[-1].data["code"], whole) == (1012, True)


async def test_a_stream_through_a_unix_socket(tmp_path: Path) -> None:
    async with running(tmp_path, unix_socket=str(tmp_path / "s")) as here:
        async with await Stream.open(str(tmp_path / "s"), ROOM, "X-Forwarded-For: 1.2.3.4") as stream:
            await stream.until("synced")
            assert here.server.limits.addresses.connections("1.2.3.4") == 1
        await eventually(lambda: not here.server.lines.open)


async def test_the_head_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for path, status in ((ROOM, 200), ("/v1/events?join=r", 200), (ROOM + "?after=x", 400)):
            async with HTTP(here) as http:
                answer = await http.ask(path, {"Host": "localhost", "Accept": EVENTS}, method="HEAD")
                assert answer.status == status
                if status == 200:
                    assert answer.headers["content-type"] == EVENTS
                    assert await asyncio.get_running_loop().sock_recv(http.sock, 10) == b""
        assert not here.server.lines.open
        assert not here.server.limits.addresses.accounts


async def test_a_connection_that_asked_for_other_things_before(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        assert (await http.ask("/healthz", {"Host": "localhost"})).status == 200
        asked = f"GET {ROOM} HTTP/1.1\r\nHost: localhost\r\nAccept: {EVENTS}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(http.sock, asked.encode())
        stream = Stream(http.sock)
        await stream._read_head()
        assert (await stream.hear())["type"] == "welcome"
        await stream.until("synced")
        assert len(here.server.lines.open) == 1
        assert not len(here.server.http)


async def test_requests_before_and_behind_it_in_one_piece(tmp_path: Path) -> None:
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    asked = f"GET {ROOM} HTTP/1.1\r\nHost: localhost\r\nAccept: {EVENTS}\r\n\r\n".encode()
    async with running(tmp_path) as here:
        async with HTTP(here) as http:
            await asyncio.get_running_loop().sock_sendall(http.sock, health + asked + health)
            said = b""
            while b"synced" not in said:
                said += await asyncio.get_running_loop().sock_recv(http.sock, 65536)
            assert said.count(b"HTTP/1.1 200 OK") == 2
            await eventually(lambda: here.server.lines.bytes_in == len(health))
        async with await Stream.open(port(here), ROOM, early=health) as stream:
            await stream.until("synced")
            await eventually(lambda: here.server.lines.bytes_in == 2 * len(health))


@pytest.mark.parametrize("pieces", [False, True])
async def test_what_passes_is_told_to_an_event_source_by_200(tmp_path: Path, pieces: bool) -> None:
    async with running(tmp_path) as here:
        here.server.limits.max_connections = 1
        async with await Stream.open(port(here), ROOM) as first:
            await first.until("synced")
            asked = f"GET {ROOM} HTTP/1.1\r\nHost: localhost\r\nAccept: {EVENTS}\r\n\r\n"
            opened = in_pieces(here, asked.encode()) if pieces else await Stream.open(port(here), ROOM)
            async with opened as stream:
                assert stream.status == 200
                assert stream.headers["content-type"] == EVENTS
                assert error_of(stream)["code"] == "overloaded"
                assert stream.retry is not None
                assert stream.retry >= 1000 * error_of(stream)["retry_after"]
            answer = await get(here, "/v1/events?join=r", Accept="*/*")
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
            assert "retry-after" in answer.headers
            assert here.server.metrics.refusals[503] == 2


async def test_a_server_that_stops_tells_them_to_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        await http.ask("/healthz", {"Host": "localhost"})
        here.server.context.draining = True
        asked = f"GET {ROOM} HTTP/1.1\r\nHost: localhost\r\nAccept: {EVENTS}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(http.sock, asked.encode())
        stream = Stream(http.sock)
        await stream._read_head()
        blocks, _ = await stream.read_to_end()
        assert (stream.status, blocks[0].data["code"]) == (200, "overloaded")
        assert blocks[0].retry is not None
        here.server.context.draining = False


@pytest.mark.logs("log unavailable reason=")
async def test_a_join_that_fails_for_now_ends_the_stream_when_it_may_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        heads = here.server.log.heads

        async def failing(rooms: Any) -> Any:
            if "b" in rooms:
                raise LogUnavailable("of the test")
            return await heads(rooms)

        monkeypatch.setattr(here.server.hub.heads, "query", failing)
        async with await Stream.open(port(here), "/v1/events?join=a&join=b:5&join=c&ids=1") as stream:
            error = await stream.until("error")
            assert (error["room"], error["code"], error["retry_after"]) == ("b", "unavailable", 1.0)
            await stream.until("synced", room="c")
            blocks, whole = await stream.read_to_end()
            assert whole
            assert blocks[-1].data["code"] == 1012
            assert blocks[-1].retry is not None
            assert stream.last_id == f"{stream.welcome['epoch']} a:0 b:5 c:0", "b is where it was to begin"


async def test_too_many_joins_are_told_to_come_back(tmp_path: Path) -> None:
    async with (
        running(tmp_path, join_rate=1) as here,
        await Stream.open(port(here), "/v1/events?join=a&join=b&join=c") as stream,
    ):
        error = await stream.until("error")
        assert (error["room"], error["code"]) == ("c", "rate_limited")
        begin = asyncio.get_running_loop().time()
        blocks, _ = await stream.read_to_end()
        assert blocks[-1].data["code"] == 1012
        assert asyncio.get_running_loop().time() - begin > error["retry_after"] - 0.1


async def test_the_cursors_of_all_rooms_are_told_and_never_more_than_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a flush runs that has moved the room on, and has not come to this member yet."""
    monkeypatch.setattr(room_module, "SLICE", 1)
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        paths = ["/v1/events?join=a&join=b&ids=1"] * 5
        streams = [await stack.enter_async_context(await Stream.open(port(here), path)) for path in paths]
        for stream in streams:
            await stream.until("synced", room="a")
            await stream.until("synced", room="b")
        clients = [await here.connect() for _ in range(2)]

        async def talk(number: int) -> None:
            for count in range(60):
                room = "ab"[(count + number) % 2]
                await clients[number].ask(type="send", room=room, text="x", id=f"{number}-{count}")

        talking = [asyncio.create_task(talk(number)) for number in range(2)]
        for stream in streams:
            got = {"a": 0, "b": 0}
            told = ""
            while sum(got.values()) < 120 or told != f"{stream.welcome['epoch']} a:60 b:60":
                block = await stream.hear_block()
                if block.id is not None:
                    assert block.data is None
                    assert block.id == f"{stream.welcome['epoch']} a:{got['a']} b:{got['b']}"
                    told = block.id
                elif block.data["type"] == "message":
                    assert block.data["seq"] == got[block.data["room"]] + 1
                    got[block.data["room"]] += 1
        await asyncio.gather(*talking)
        for client in clients:
            await client.close()


async def test_the_ids_of_several_rooms_bring_back_each(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await say(here, "a1", "a2", room="a")
        await say(here, "b1", room="b")
        path = "/v1/events?join=a:0&join=b:0&ids=1"
        async with await Stream.open(port(here), path) as stream:
            told = f"{stream.welcome['epoch']} a:2 b:1"
            while stream.last_id != told:
                await stream.hear_block()
        await say(here, "a3", room="a")
        await say(here, "b2", "b3", room="b")
        async with await Stream.open(port(here), path, f"Last-Event-ID: {told}") as stream:
            assert sorted(await texts(stream, 3)) == ["a3", "b2", "b3"]


async def test_no_id_is_told_before_a_room_has_a_cursor(tmp_path: Path) -> None:
    """A client that is cut off right after `welcome` brings back the last id that it heard: it must be one."""
    async with running(tmp_path) as here:
        async with await Stream.open(port(here), "/v1/events?join=a&join=b&ids=1") as stream:
            told: list[str] = []
            while told[-1:] != [f"{stream.welcome['epoch']} a:0 b:0"]:
                block = await stream.hear_block()
                if block.id is not None:
                    told.append(block.id)
        for last_id in told:
            parse_last_event_id(last_id)


async def test_a_session_that_is_revoked_and_a_token_that_expires(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as here,
        await Stream.open(port(here), ROOM, bearer(jti="gone")) as revoked,
        await Stream.open(port(here), ROOM, bearer(ttl=1.5)) as expired,
    ):
        await here.server.log.revoke("gone")
        blocks, _ = await revoked.read_to_end()
        assert (blocks[-1].data["type"], blocks[-1].data["code"], blocks[-1].retry) == ("closing", 4002, None)
        blocks, _ = await expired.read_to_end()
        assert (blocks[-1].data["type"], blocks[-1].data["code"], blocks[-1].retry) == ("closing", 4001, None)


async def test_a_drain_spreads_those_who_come_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with running(tmp_path) as here:
            streams = [await stack.enter_async_context(await Stream.open(port(here), ROOM)) for _ in range(10)]
            for stream in streams:
                await stream.until("synced")
            client = await here.connect()
            await client.send(type="send", room="r", text="the last", id="1")
            await client.until("ack")
            await client.close()
            ended = [asyncio.create_task(_ended(stream)) for stream in streams]
            await here.server.stop()
        times = set()
        for blocks, whole in await asyncio.gather(*ended):
            assert whole
            assert [block.data["text"] for block in blocks if block.data["type"] == "message"] == ["the last"]
            assert (blocks[-1].data["type"], blocks[-1].data["code"]) == ("closing", 1012)
            times.add(blocks[-1].retry)
        assert len(times) == 10


async def _ended(stream: Stream) -> tuple[list[Block], bool]:
    found = await stream.read_to_end()
    stream.sock.close()
    return found


@pytest.mark.logs("request failed after its answer")
@pytest.mark.parametrize("pieces", [False, True])
async def test_a_fault_in_opening_one_ends_with_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: bool
) -> None:
    def fail(*args: object) -> None:
        raise ValueError("a fault of the test")

    monkeypatch.setattr("tornado_chat.web.stream.StreamSession", fail)
    async with running(tmp_path) as here, HTTP(here) as http:
        asked = f"GET {ROOM} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
        for part in (asked[:9], asked[9:]) if pieces else (asked,):
            await asyncio.get_running_loop().sock_sendall(http.sock, part)
            await asyncio.sleep(0.02)
        assert await asyncio.get_running_loop().sock_recv(http.sock, 100) == b""
        await eventually(lambda: not len(here.server.http))


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_thousand_streams_that_were_closed_leave_nothing(tmp_path: Path, how: str) -> None:
    async with running(tmp_path) as here:
        server = here.server
        streams: list[Stream] = []
        for number in range(1000):
            path = ROOM if number % 3 else "/v1/events?join=r&join=s&ids=1"
            streams.append(await Stream.open(port(here), path))
        await eventually(lambda: server.hub.rooms["r"].size() == 1000)
        assert len(server.lines.open) == 1000
        for stream in streams:
            if how == "close":
                stream.sock.close()
            else:
                reset(stream.sock)
        await eventually(lambda: not server.lines.open and not server.hub.rooms)
        assert not any(server.lines.direct.keys)
        assert server.lines.outbox_bytes == 0
        assert all(account.connections == 0 for account in server.limits.addresses.accounts.values())
        assert all(account.connections == 0 for account in server.limits.users.accounts.values())


async def test_a_post_that_is_no_stream_and_a_get_that_wants_none(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        answer = await http.ask("/v1/events", {"Host": "localhost"}, method="DELETE")
        assert (answer.status, answer.error["code"]) == (405, "bad_request")
        assert set(answer.headers["allow"].split(", ")) == {"GET", "POST", "HEAD"}


async def test_streams_are_connections_and_counted_apart(tmp_path: Path) -> None:
    async with running(tmp_path) as here, await Stream.open(port(here), ROOM) as stream:
        await here.connect()
        await stream.until("synced")
        text = (await get(here, "/metrics")).body.decode()
        for sample in ("connections 2.0", "streams 1.0", "handshakes_total 2.0"):
            assert f"\ntornado_chat_{sample}\n" in text
