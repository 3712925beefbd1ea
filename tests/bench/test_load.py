"""What the load counts of streams, posts and polls, however they are framed, and what it refuses."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.bench import Bench
from bench.driver import Load, Stats
from bench.errors import BenchError
from bench.servers import Dialect, ServerProcess

SERVER = """
import asyncio, json, sys
import tornado.web, tornado.websocket

HEAD = (b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")

def chunk(text):
    return b"%x\\r\\n%b\\r\\n" % (len(text.encode()), text.encode())

def event(message):
    return "data: " + message + "\\n\\n"

class Room:
    def __init__(self):
        self.sockets, self.streams, self.events, self.waiting = [], [], [], []

    def publish(self, message):
        room, streams = self, self.streams
{publish}

class Chat(tornado.websocket.WebSocketHandler):
    def open(self):
        self.set_nodelay(True)
        room.sockets.append(self)

    def on_message(self, message):
        room.publish(message)
        for socket in room.sockets:
            socket.write_message(message)

class Events(tornado.web.RequestHandler):
    def get(self):
        stream = self.detach()
        stream.set_nodelay(True)
        stream.write({head})
        room.streams.append(stream)

class Post(tornado.web.RequestHandler):
    async def post(self):
        body = json.loads(self.request.body)
{post}

async def main():
    tornado.web.Application([("/ws", Chat), ("/events", Events), ("/post", Post)]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()

room = Room()
asyncio.run(main())
"""


def indented(code: str) -> str:
    return "".join(f"        {line}\n" for line in code.splitlines())


@contextmanager
def running(
    bench: Bench, tmp_path: Path, *, publish: str = "pass", post: str = "pass", head: str = "HEAD"
) -> Iterator[tuple[ServerProcess, Load]]:
    """A server that does so with a message of the publisher's, and with a posted `body`; and a load."""
    script = tmp_path / "server.py"
    script.write_text(
        SERVER.replace("{publish}", indented(publish)).replace("{post}", indented(post)).replace("{head}", head)
    )
    dialect = Dialect("odd", (sys.executable, str(script), "{port}"), "/ws")
    with bench.server(dialect) as server, bench.load() as load:
        yield server, load


def listen(server: ServerProcess, load: Load) -> None:
    """Four streams, and the publisher."""
    load.connect(server, 5, kind="stream", path="/events", publisher="/ws")


def drained(server: ServerProcess, load: Load, *, count: int, **fields: Any) -> Stats:
    """So many messages have come to all."""
    load.publish(server, count=count, **fields)
    return load.drain(20, least=count)


BYTE_BY_BYTE = """
for stream in streams:
    for byte in event(message):
        stream.write(chunk(byte))"""
IN_PIECES = """
number = int(message[1:13])
whole = getattr(self, "held", b"") + chunk(": hello" + chr(10) + "id: 7" + chr(10) + event(message))
cut = len(whole) if number == 299 else len(whole) - number % 60
for stream in streams:
    stream.write(whole[:cut])
self.held = whole[cut:]"""
OTHER_ENDS = """
body = ("event: ping\\r\\ndata: {}\\r\\n\\r\\n" + event(message).replace("\\n", "\\r\\n")).encode()
for stream in streams:
    stream.write(b"00%X;name=value;abc=\\"def\\"\\r\\n%b\\r\\n" % (len(body), body))"""
TWO_IN_A_CHUNK = """
self.held = getattr(self, "held", "") + event(message)
if self.held.count("data") == 2:
    for stream in streams:
        stream.write(chunk(self.held))
    self.held = ''"""


@pytest.mark.parametrize("way", [BYTE_BY_BYTE, IN_PIECES, OTHER_ENDS, TWO_IN_A_CHUNK])
def test_a_stream_counts_however_it_is_framed(bench: Bench, tmp_path: Path, way: str) -> None:
    with running(bench, tmp_path, publish=way) as (server, load):
        listen(server, load)
        stats = drained(server, load, window=1, count=300)
        assert (stats.delivered, stats.answers) == (5 * 300, 0)
        assert stats.pings == (4 * 300 if "ping" in way else 0)


def test_a_stream_without_chunks_ends_with_its_connection(bench: Bench, tmp_path: Path) -> None:
    way = "for stream in streams:\n    stream.write(event(message).encode())"
    with running(bench, tmp_path, publish=way, head="HEAD.replace(b'Transfer-Encoding', b'X')") as (server, load):
        listen(server, load)
        assert drained(server, load, window=2, count=300).delivered == 5 * 300


def test_a_message_is_in_flight_until_the_last_stream_has_it(bench: Bench, tmp_path: Path) -> None:
    way = "for stream in streams[:-1]:\n    stream.write(chunk(event(message)))"
    with running(bench, tmp_path, publish=way) as (server, load):
        listen(server, load)
        load.publish(server, window=3, witnesses=2, count=10)
        with pytest.raises(BenchError, match="3 deliveries did not come within 2 s"):
            load.drain(2)


def test_a_stream_is_ready_with_a_block_that_says_so(bench: Bench, tmp_path: Path) -> None:
    with running(bench, tmp_path, head="HEAD + chunk(event('\"synced\"'))") as (server, load):
        load.connect(server, 3, kind="stream", path="/events", ready='"synced"')
        with pytest.raises(BenchError, match="nobody here can publish"):
            load.publish(server, window=1)
    with (
        running(bench, tmp_path, head="HEAD + chunk('data: \"synced\"\\n')") as (server, load),
        pytest.raises(BenchError, match="0 of 3 connections were ready in time"),
    ):
        load.connect(server, 3, kind="stream", path="/events", ready='"synced"', timeout=0.3)


FIFTH = "message.startswith('~000000000005')"


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (f"for i, s in enumerate(streams):\n if i or not {FIFTH}: s.write(chunk(event(message)))", "1 deliveries lost"),
        (f"for i, s in enumerate(streams):\n s.write(chunk(event(message) * (1 + (not i and {FIFTH}))))", "1 doubled"),
        ("for s in streams: s.write(chunk(event(message)) + b'0\\r\\n\\r\\n')", "the server ended stream"),
        ("for s in streams: s.close()", "the server cut connection"),
        ("for s in streams: s.write(b'2' + chunk(event(message)))", "a chunk is longer than it says"),
        ("for s in streams: s.write(chunk('data: a\\n' + event(message)))", "an event with two lines of data"),
        ("for s in streams: s.write(chunk(event('{\"type\":\"closing\",\"code\":1012}')))", "ended stream .*1012"),
        ("for s in streams: s.write(chunk(event('{\"type\":\"error\",\"code\":\"x\"}')))", "error: .*code.*x"),
    ],
)  # fmt: skip
def test_a_stream_that_fails_is_an_error(bench: Bench, tmp_path: Path, way: str, error: str) -> None:
    with running(bench, tmp_path, publish=way) as (server, load):
        listen(server, load)
        with pytest.raises(BenchError, match=error):
            drained(server, load, window=2, count=20)


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (
            "b'HTTP/1.1 401 Unauthorized\\r\\nContent-Length: 3\\r\\n\\r\\nwho'",
            "the request was answered with .*401.*who",
        ),
        ("HEAD.replace(b'event-stream', b'html')", "no stream is what came: .*html"),
    ],
)
def test_a_stream_that_is_refused_is_an_error(bench: Bench, tmp_path: Path, head: str, error: str) -> None:
    with running(bench, tmp_path, head=head) as (server, load), pytest.raises(BenchError, match=error):
        listen(server, load)


def test_streams_that_were_cut_come_back_with_their_numbers(bench: Bench, tmp_path: Path) -> None:
    """What they missed is seen as lost, since this server does not recover."""
    way = "for s in streams: s.closed() or s.write(chunk(event(message)))"
    with running(bench, tmp_path, publish=way) as (server, load), bench.load() as other:
        load.connect(server, 3, kind="stream", path="/events")
        other.connect(server, 1)
        other.publish(server, window=1, count=3)
        load.drain(least=3)
        load.ask("cut")
        other.publish(server, window=1, count=6)
        other.drain(least=6)
        load.connect(server, 3, kind="stream", path="/events")
        other.publish(server, window=1, count=7)
        with pytest.raises(BenchError, match=r"^9 deliveries lost, 0 doubled"):
            load.drain(least=7)


ECHO = "self.write(self.request.body)"


def test_a_post_is_one_request_at_a_time_with_a_token(bench: Bench, tmp_path: Path) -> None:
    """A token that is not the client's is an error here; a request that is not answered is the last."""
    post = """
assert self.request.headers["Authorization"] == "Bearer token-" + body["from"]
self.write(self.request.body)"""
    file = tmp_path / "tokens"
    file.write_text("token-0\ntoken-1\ntoken-2\n")
    with running(bench, tmp_path, post=post) as (server, load):
        load.connect(server, 1, first=2, kind="post", path="/post", tokens=file)
        message = '{"text":"{text}","from":"{index}"}'
        stats = drained(server, load, window=1, count=100, message=message)
        assert (stats.delivered, stats.answers, stats.sent) == (100, 100, 100)
    with running(bench, tmp_path, post="await asyncio.Event().wait()") as (server, load):
        load.connect(server, 1, kind="post", path="/post")
        for _ in range(2):
            load.publish(server, window=1, message=message)
        assert load.stats().sent == 1


def test_an_answer_may_come_in_chunks(bench: Bench, tmp_path: Path) -> None:
    post = "self.write(self.request.body[:9])\nawait self.flush()\nself.write(self.request.body[9:])"
    with running(bench, tmp_path, post=post) as (server, load):
        load.connect(server, 1, kind="post", path="/post")
        assert drained(server, load, window=1, count=100, message='{"id":"{marker}"}').answers == 100


def test_a_batch_is_an_array_in_one_request(bench: Bench, tmp_path: Path) -> None:
    with running(bench, tmp_path, post="assert len(body) in (64, 8)\n" + ECHO) as (server, load):
        load.connect(server, 2, rooms=2, kind="post", path="/post")
        stats = drained(server, load, window=64, count=200, message='{"id":"{marker}"}')
        assert (stats.delivered, stats.answers) == (400, 8)  # 64 + 64 + 64 + 8, twice


@pytest.mark.parametrize(
    ("post", "error"),
    [
        ("self.set_status(500); self.finish('broken')", "the request was answered with .*500.*broken"),
        ("self.write('{}')", "nothing is acknowledged by {}"),
        ('self.write(\'[null,{"type":"error","code":"x"}]\')', "error: .*code.*x"),
        ("self.write(self.request.body.replace(b'~000000000003', b'~000000000004'))", "1 deliveries lost"),
        ("self.write(self.request.body.replace(b'~000000000003', b'~000000000002'))", "0 deliveries lost, 1 doubled"),
        ("self.write(self.request.body * 2)", "0 deliveries lost, [1-9][0-9]* doubled"),
        ("self.request.connection.stream.close()", "the server cut connection 0"),
        ("self.write(self.request.body + b' ' * 700_000)", "more than 65536 bytes in one frame or answer"),
    ],
)
def test_a_post_that_fails_is_an_error(bench: Bench, tmp_path: Path, post: str, error: str) -> None:
    with running(bench, tmp_path, post=post) as (server, load):
        load.connect(server, 1, kind="post", path="/post")
        with pytest.raises(BenchError, match=error):
            drained(server, load, window=1, count=10, message='{"id":"{marker}"}')


POLL = """
cursor, wait = body["rooms"]["a"], body["wait"]
assert wait == (25 if cursor else 0), (cursor, wait)
if cursor == 1000 + len(room.events):
    room.waiting.append(done := asyncio.Event())
    await done.wait()
events = room.events[max(0, cursor - 1000):]
self.write({"events": events, "cursors": {"a": 1000 + len(room.events)}, "more": False})"""
ARRIVED = """
room.events.append(message)
for each in room.waiting:
    each.set()
room.waiting.clear()"""
POLLS = '{"rooms":{"a":{cursor}},"wait":{wait}}'


def test_a_poller_asks_again_from_the_cursor_that_it_was_given(bench: Bench, tmp_path: Path) -> None:
    with running(bench, tmp_path, publish=ARRIVED, post=POLL) as (server, load), bench.load(1) as other:
        other.connect(server, 1)
        load.connect(server, 5, kind="poll", path="/post", body=POLLS)
        assert load.stats().answers == 5  # with nothing to wait for: each has been told where the log ends
        stats = polled(server, load, other)
        assert stats.delivered == 5 * 300
        assert 5 < stats.answers <= 5 * 301


def polled(server: ServerProcess, load: Load, publisher: Load) -> Stats:
    """300 messages have come to five pollers."""
    load.connect(server, 5, kind="poll", path="/post", body=POLLS)
    publisher.publish(server, window=8, count=300)
    return load.drain(20, least=300)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (POLL.replace("room.events[max(0, cursor - 1000):]", "room.events[max(0, cursor - 1000):][-1:]"), "lost"),
        (POLL.replace("cursor - 1000):]", "cursor - 1001):]"), "0 deliveries lost, [1-9][0-9]* doubled"),
        (POLL.replace('"cursors"', '"cursor"'), "no cursor in the answer"),
        (POLL.replace('"more"', '"errors"').replace(', "', ',"'), "error: .*errors"),
        ("self.set_status(403); self.finish('no')", "the request was answered with .*403.*no"),
    ],
)
def test_a_poll_that_fails_is_an_error(bench: Bench, tmp_path: Path, broken: str, error: str) -> None:
    with running(bench, tmp_path, publish=ARRIVED, post=broken) as (server, load), bench.load(1) as other:
        other.connect(server, 1)
        with pytest.raises(BenchError, match=error):
            polled(server, load, other)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"kind": "telegram"}, "no kind of client: telegram"),
        ({"kind": "stream", "returns": 1}, "only WebSockets come back"),
    ],
)
def test_clients_that_there_are_not_are_an_error(
    bench: Bench, tmp_path: Path, fields: dict[str, Any], error: str
) -> None:
    with running(bench, tmp_path) as (server, load), pytest.raises(BenchError, match=error):
        load.connect(server, 1, path="/events", **fields)


def test_posts_have_no_pace(bench: Bench, tmp_path: Path) -> None:
    with running(bench, tmp_path) as (server, load):
        load.connect(server, 1, kind="post", path="/post")
        with pytest.raises(BenchError, match="posts are a closed loop"):
            load.publish(server, rate=100)
