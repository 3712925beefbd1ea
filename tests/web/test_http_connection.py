"""Plain requests are read and answered on our own socket: as Tornado would, one at a time, leaving nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.chat import SECRET, Running, eventually, running
from tests.support.plain_http import HTTP, Answer, HungUp
from tornado_chat.auth import mint
from tornado_chat.web import http_connections
from tornado_chat.web.http_connection import HttpConnection
from tornado_chat.web.request_turns import RequestTurns
from tornado_chat.wire.request import MAX_HEAD_BYTES

TOKEN = mint(SECRET, "alice", ttl=86_400)
ROOM = "/v1/rooms/r/messages"
JSON = {"Content-Type": "application/json"}


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def post(text: str, **headers: str) -> bytes:
    return request("POST", ROOM, json.dumps({"text": text}).encode(), **headers)


def poll(wait: float) -> bytes:
    return request("POST", "/v1/poll", json.dumps({"rooms": {"r": 0}, "wait": wait}).encode())


def unsent(connection: HttpConnection) -> memoryview:
    request = connection._under_way
    return memoryview(b"") if request is None else request.unsent


async def send(http: HTTP, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(http.sock, data)


async def test_they_make_no_object_of_tornados(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "TornadoStream", None)
    async with running(tmp_path) as here, HTTP(here) as http:
        for answer in [
            await http.tell("POST", ROOM, {"text": "one"}, bearer=TOKEN),
            await http.tell("POST", ROOM, {"text": "two"}, bearer=TOKEN),
        ]:
            assert answer.status == 201
        whole = post("in pieces")
        for part in (whole[:-20], whole[-20:-7], whole[-7:]):
            await send(http, part)
            await asyncio.sleep(0.02)
        assert (await http.answer()).status == 201
        page = json.loads((await http.tell("GET", ROOM)).body)
        assert [message["text"] for message in page["messages"]] == ["one", "two", "in pieces"]
        assert (await http.tell("GET", "/v1/nothing")).status == 404
        last = await http.tell("DELETE", "/v1/session", bearer=TOKEN, Connection="close")
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert await asyncio.get_running_loop().sock_recv(http.sock, 10) == b""
        await eventually(lambda: not len(here.server.http))


@pytest.mark.parametrize(
    "asked",
    [
        request("GET", ROOM),
        request("GET", ROOM, Accept="text/html", X="\xe9"),
        request("HEAD", ROOM),
        request("OPTIONS", ROOM, Origin="https://elsewhere.example"),
        request("GET", "/v1/openapi.json"),
        request("GET", "/v1/rooms/r/events?after=0&limit=1"),
        request("GET", "/v1/rooms/%ff/messages"),
        request("POST", "/v1/poll", b'{"rooms":{"r":0}}', **JSON),
        request("POST", "/v1/poll", b'{"rooms":{"r":0}'),
        request("POST", "/v1/poll", b"a=b", Content_Type="application/x-www-form-urlencoded"),
        request("PUT", "/v1/rooms/r/read", b'{"seq":1}'),
        request("DELETE", "/v1/rooms/r/events"),
        request("PATCH", "/v1/"),
        request("GET", ROOM).replace(b"Bearer", b"Bearer x"),
        request("GET", ROOM).replace(b"Host: localhost", b"Host: a b"),
        request("GET", ROOM).replace(b"Host: localhost\r\n", b""),
        request("GET", ROOM, Cookie="chat_session=x"),
        request("GET", ROOM, Connection="close"),
        request("GET", ROOM, Connection="Keep-Alive"),
        request("BREW", ROOM),
    ],
)
async def test_tornado_would_answer_the_same(tmp_path: Path, asked: bytes) -> None:
    async with running(tmp_path, allowed_origins=frozenset({"https://elsewhere.example"})) as here:
        async with HTTP(here) as http:
            assert (await http.tell("POST", ROOM, {"text": "one"}, bearer=TOKEN)).status == 201
        plain = await answer_to(here, asked)
        assert plain == await answer_to(here, asked[:10], asked[10:]), "a head in two pieces is Tornado's"
        assert plain[0].status


async def answer_to(here: Running, *parts: bytes) -> tuple[Answer, bool]:
    """And whether the connection is kept after it."""
    async with HTTP(here) as http:
        for part in parts:
            await send(http, part)
            await eventually(lambda: len(here.server.http))
            await asyncio.sleep(0.02)
        answer = await http.answer(head=parts[0].startswith(b"HEAD"))
        try:
            await http.tell("GET", ROOM)
        except (HungUp, ConnectionError):
            return answer, False
        return answer, True


async def test_what_is_not_plain_goes_on_to_tornado_and_so_does_all_that_follows(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        page = request("GET", "/healthz")
        asked = [post("one"), request("GET", ROOM), page, post("two"), request("GET", ROOM)]
        await send(http, b"".join(asked))
        assert [(await http.answer()).status for _ in asked] == [201, 200, 200, 201, 200]
        (connection,) = here.server.http._serving
        assert connection.stream is not None
        assert (await http.tell("POST", ROOM, {"text": "three"}, bearer=TOKEN)).status == 201


async def test_what_is_said_meanwhile_waits_in_the_socket(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        await send(http, poll(30))
        await eventually(lambda: here.server.context.polls.waiting)
        (connection,) = here.server.http._waiting
        asked = post("x" * 1000)
        http.sock.send(asked * 500)
        await eventually(lambda: connection._said)
        await asyncio.sleep(0.05)
        assert len(connection._said) <= MAX_HEAD_BYTES
        for told in list(here.server.context.polls.waiting):
            told.hurry()
        for status in [200] + [201] * 400:
            assert (await http.answer()).status == status
            assert len(connection._said) <= MAX_HEAD_BYTES


async def test_what_is_answered_at_once_takes_no_more_turns_than_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are begun in a loop turn, not two for each turn that another of the same client has asked for."""
    loop = asyncio.get_running_loop()
    taken, most, turn = 0, 0, RequestTurns._turn

    def counted(turns: RequestTurns) -> None:
        nonlocal taken
        taken += 1
        turn(turns)

    def look() -> None:
        nonlocal taken, most
        taken, most = 0, max(most, taken)
        loop.call_soon(look)

    monkeypatch.setattr(RequestTurns, "_turn", counted)
    async with running(tmp_path) as here, HTTP(here) as http:
        assert (await http.tell("GET", "/v1/nothing")).status == 404
        loop.call_soon(look)
        await send(http, request("GET", "/v1/nothing") * 60)
        assert [(await http.answer()).status for _ in range(60)] == [404] * 60
        assert 1 <= most <= 2


async def test_who_goes_on_asking_has_little_kept_for_it(tmp_path: Path) -> None:
    """Each answer makes room for the next request, and for no more than that."""
    seen: list[int] = []
    ended = threading.Event()

    def ask(sock: socket.socket) -> None:
        asked = request("GET", "/v1/rooms/r/messages?limit=1")
        with suppress(ConnectionError):
            while not ended.is_set():
                sock.sendall(asked * 1000)

    def hear(sock: socket.socket) -> None:
        with suppress(ConnectionError):
            while sock.recv(65536):
                pass

    async with running(tmp_path) as here:
        with socket.create_connection(("127.0.0.1", int(here.address.rpartition(":")[2]))) as sock:
            threads = [threading.Thread(target=each, args=(sock,)) for each in (ask, hear)]
            for thread in threads:
                thread.start()
            await eventually(lambda: here.server.http._serving)
            (connection,) = here.server.http._serving
            while len(seen) < 2000 and connection.stream is None:
                seen.append(len(connection._said))
                await asyncio.sleep(0)
            ended.set()
            sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                await asyncio.to_thread(thread.join)
        assert 1000 < max(seen) <= MAX_HEAD_BYTES


async def test_an_answer_that_is_not_taken_lets_the_next_wait_and_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connections, "SWEEP_SECONDS", 0.05)
    async with running(tmp_path) as here, HTTP(here) as writer, HTTP(here) as http:
        for _ in range(24):
            assert (await writer.tell("POST", ROOM, {"text": "x" * 8_000}, bearer=TOKEN)).status == 201
        http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        get = request("GET", ROOM)
        await send(http, get * 20)
        await eventually(lambda: any(map(unsent, here.server.http._serving)))
        (connection,) = [each for each in here.server.http._serving if unsent(each)]
        assert here.server.limits.http_bytes > 100_000
        assert len(connection._said) > 15 * len(get), "the others have not been begun"
        assert [(await http.answer()).status for _ in range(2)] == [200] * 2
        await eventually(lambda: unsent(connection))
        connection.due = 0.0
        await eventually(lambda: connection not in here.server.http._serving)
        assert not here.server.limits.http_bytes


async def test_what_is_kept_of_a_body_counts_however_soon_it_follows_a_long_answer(tmp_path: Path) -> None:
    """Its turn may come in the loop turn in which the answer before it was taken."""
    async with running(tmp_path) as here, HTTP(here) as busy, HTTP(here) as http:
        for _ in range(24):
            assert (await busy.tell("POST", ROOM, {"text": "x" * 8_000}, bearer=TOKEN)).status == 201
        http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        await send(http, request("GET", ROOM) + request("POST", "/v1/commands", Content_Length="500000"))
        await eventually(lambda: any(map(unsent, here.server.http._serving)))
        (connection,) = [each for each in here.server.http._serving if unsent(each)]
        turns, over = here.server.http.turns, asyncio.Event()

        def again() -> None:
            if not over.is_set():
                turns.wait(again, b"")

        again()
        assert (await http.answer()).status == 200
        await eventually(lambda: connection._under_way and connection._under_way.lacking)
        await asyncio.sleep(0.01)
        assert here.server.limits.http_bytes == connection.held_bytes == 500_000
        over.set()
    assert not here.server.limits.http_bytes


@pytest.mark.parametrize("reset", [False, True])
async def test_who_hangs_up_while_a_poll_waits_is_noticed(tmp_path: Path, reset: bool) -> None:
    """A reset that comes together with the request, too: the loop tells of that only once."""
    async with running(tmp_path) as here, HTTP(here) as http:
        assert (await http.tell("GET", ROOM)).status == 200
        if reset:
            http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.sock.send(poll(50))
            http.sock.close()
        else:
            await send(http, poll(50))
            await eventually(lambda: here.server.context.polls.waiting)
            http.sock.shutdown(socket.SHUT_WR)
        await eventually(lambda: not len(here.server.http))
        assert not here.server.context.polls.waiting


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", post("not all of it")[:-5]),
        (post("not all of it")[:-9], b"text"),
        (poll(50), request("GET", ROOM)),
        (b"", poll(50) + request("GET", ROOM)),
    ],
)
async def test_a_reset_that_comes_with_what_is_not_all_is_noticed(tmp_path: Path, first: bytes, then: bytes) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        assert (await http.tell("GET", ROOM)).status == 200
        (connection,) = here.server.http._serving
        if first:
            await send(http, first)
            await eventually(lambda: connection._under_way)
            await asyncio.sleep(0.01)
        http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        http.sock.send(then)
        http.sock.close()
        await eventually(lambda: not len(here.server.http))
        assert not here.server.context.polls.waiting


async def test_who_has_gone_before_the_answer_has_it_written_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as asking:
        async with HTTP(here) as http:
            assert (await http.tell("GET", ROOM)).status == 200
            http.sock.send(post("the last word"))
        await eventually(lambda: here.server.metrics.events)
        page = json.loads((await asking.tell("GET", ROOM)).body)
        assert [message["text"] for message in page["messages"]] == ["the last word"]
