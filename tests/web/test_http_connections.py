"""Sockets that speak HTTP: none of them lasts for nothing, and all of them are counted."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import os
import resource
import socket
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.support.chat import SECRET, Running, eventually, running
from tests.support.plain_http import HTTP, UPGRADE, get
from tests.support.raw_chat import RawChat, Refused, commands, handshake
from tests.support.servers import UNLIMITED, Server
from tornado_chat.auth import mint
from tornado_chat.live.websocket import WebSocket
from tornado_chat.web import http_connection, http_connections, shedding
from tornado_chat.web import socket as web_socket
from tornado_chat.web.request_turns import RequestTurns

PATIENCE = 15.0
PAGE = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
ELSEWHERE = (ipaddress.ip_network("10.0.0.0/8"),)
"""Proxies that are not on loopback: a client there speaks for itself."""


@asynccontextmanager
async def idle(here: Running, count: int) -> AsyncIterator[list[socket.socket]]:
    """So many connections that say nothing."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        made = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for sock in made:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port_of(here)))
        yield made


def port_of(here: Running) -> int:
    return int(here.address.rpartition(":")[2])


def no_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[RequestTurns], None]:
    """Let the loop have no time for requests; what gives it some."""
    turn = RequestTurns._turn
    monkeypatch.setattr(RequestTurns, "_turn", lambda turns: None)
    return turn


async def until(sock: socket.socket, end: bytes) -> bytes:
    """All that comes, up to `end` or more."""
    data = b""
    async with asyncio.timeout(PATIENCE):
        while end not in data:
            data += await asyncio.get_running_loop().sock_recv(sock, 65536)
    return data


async def said_by(sock: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    data = b""
    async with asyncio.timeout(PATIENCE):
        try:
            while more := await asyncio.get_running_loop().sock_recv(sock, 65536):
                data += more
        except ConnectionResetError:
            pass  # it had not read all that was sent
    return data


def flood(port: int) -> socket.socket:
    """A connection that asks for more than its buffers hold, and reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    try:
        while True:
            sock.send(PAGE * 100)
    except (BlockingIOError, ConnectionError):
        return sock


def patiently(port: int) -> RawChat:
    """A newcomer, who is told to come later for as long as those before have done something just now."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return RawChat(port)
        except Refused:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_connections_that_pipeline_and_read_nothing_take_neither_all_files_nor_the_loop(tmp_path: Path) -> None:
    server = Server(tmp_path, *UNLIMITED)
    server.launch()
    try:
        assert server.process is not None
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (300, 300))
        deadline = time.monotonic() + PATIENCE
        while not server.is_listening():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with ExitStack() as stack:
            chat = stack.enter_context(RawChat(server.port, "/ws/r"))
            chat.until("synced")
            for number in range(400):
                stack.enter_context(closing(flood(server.port)))
                if number % 10 == 0:
                    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)) as sock:
                        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a:\r\n" * 15_000 + b"\r\n")
                    assert chat.ask(type="send", room="r", text="x", id=str(number))["type"] == "ack"
            assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 300
            newcomer = stack.enter_context(patiently(server.port))
            assert newcomer.ask(type="send", room="r", text="x", id="new")["type"] == "ack"
        server.stop()
        server.check()  # among others: it never ran out of files
    finally:
        server.kill()


async def test_who_asks_nothing_and_who_takes_no_answer_is_cut_off_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connections, "SWEEP_SECONDS", 0.05)
    async with running(tmp_path) as here, idle(here, 2) as (silent, slow):
        await asyncio.get_running_loop().sock_sendall(slow, PAGE[:20])
        with closing(await asyncio.to_thread(flood, port_of(here))):
            await eventually(lambda: len(here.server.http) == 3)
            monkeypatch.setattr(http_connection, "REQUEST_SECONDS", 0.0)
            async with idle(here, 1) as (newcomer,):
                assert await said_by(newcomer) == b""
            assert len(here.server.http) == 3, "their own time is not up"
            for connection in here.server.http._serving:
                connection.due -= http_connection.REQUEST_SECONDS + 20
            assert await said_by(silent) == b""
            assert await said_by(slow) == b""
            assert len(here.server.http) == 1, "an answer has more time"
            overdue = 0.0

            def is_cut_off() -> bool:
                nonlocal overdue
                for connection in here.server.http._serving:
                    if connection.due != overdue:  # it has got on, as its buffers filled
                        connection.due = overdue = connection.due - http_connection.ANSWER_SECONDS
                return not len(here.server.http)

            await eventually(is_cut_off)


async def test_half_a_head_that_comes_late_brings_no_more_time(tmp_path: Path) -> None:
    async with running(tmp_path) as here, idle(here, 1) as (slow,):
        await eventually(lambda: len(here.server.http._serving) == 1)
        (connection,) = here.server.http._serving
        connection.due -= 5
        due = connection.due
        await asyncio.get_running_loop().sock_sendall(slow, PAGE[:20])
        await eventually(lambda: connection.stream is not None)
        assert connection.due == due


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_a_reset_together_with_a_handshake_is_no_fault(tmp_path: Path) -> None:
    """uvloop calls the reader once for both, and has closed its handle before the next call."""
    async with running(tmp_path) as here:
        for _ in range(30):
            async with idle(here, 1) as (client,):
                await eventually(lambda: len(here.server.http._serving) == 1)
                client.send(handshake(port_of(here), "/ws/r"))
                reset(client)
            await eventually(lambda: not len(here.server.http) and not here.server.lines.open)


async def test_a_reset_leaves_no_buffer_behind(tmp_path: Path) -> None:
    """A traceback that holds the frame with Tornado's buffer of 64 KiB is freed by the collector only."""
    async with running(tmp_path) as here:
        (await get(here, "/healthz"))
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(40):
                async with idle(here, 1) as (client,):
                    client.send(PAGE[:20])
                    await eventually(lambda: any(c.stream is not None for c in here.server.http._serving))
                    reset(client)
                await eventually(lambda: not len(here.server.http))
            assert tracemalloc.get_traced_memory()[0] - before < 40 * 40_000
        finally:
            tracemalloc.stop()
            gc.enable()


async def test_arguments_and_offers_without_end_are_not_taken_apart(tmp_path: Path) -> None:
    async with running(tmp_path) as here, idle(here, 2) as (asks, offers):
        asks.send(handshake(port_of(here), "/ws?" + "a&" * 4000))
        assert (await said_by(asks)).startswith(b"HTTP/1.1 400 ")
        offers.send(handshake(port_of(here), "/ws", "Sec-WebSocket-Extensions: permessage-deflate" + "," * 12_000))
        head = await until(offers, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"permessage-deflate" not in head


@pytest.mark.logs("request failed|session not begun")
@pytest.mark.parametrize("where", ["admit", "open_session", "WebSocket.start"])
async def test_a_fault_in_letting_somebody_in_ends_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError("a fault of the test")

    async with running(tmp_path) as here, idle(here, 1) as (client,):
        await eventually(lambda: len(here.server.http._serving) == 1)
        with monkeypatch.context() as patch:
            if where == "WebSocket.start":
                patch.setattr(WebSocket, "start", fail)
            else:
                patch.setattr(web_socket, where, fail)
            await asyncio.get_running_loop().sock_sendall(client, handshake(port_of(here), "/ws"))
            try:
                assert b"101" not in await said_by(client) or where == "WebSocket.start"
            except ConnectionResetError:
                assert where == "WebSocket.start"
        await eventually(lambda: not len(here.server.http) and not here.server.lines.open)
        assert not here.server.limits.addresses.accounts or where != "admit"
        await (await here.connect()).close()


@pytest.mark.parametrize("head", [b"a:\r\n" * 101, b"a:\r\n" * 15_000, b"a: " + b"b" * 17_000 + b"\r\n"])
async def test_431_for_a_head_that_is_too_large(tmp_path: Path, head: bytes) -> None:
    async with running(tmp_path) as here, idle(here, 1) as (sock,):
        await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\n" + head + b"\r\n")
        answer = await said_by(sock)
        assert answer.startswith(b"HTTP/1.1 431 "), answer[:100]
        assert b'"code":"too_large"' in answer
        await eventually(lambda: not len(here.server.http))


async def test_a_head_of_the_greatest_size_is_read(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        many = {f"X-{number}": "x" for number in range(99)}
        assert (await get(here, "/healthz", **many)).status == 200
        assert (await get(here, "/healthz", Cookie="x" * 16_000)).status == 200


async def test_an_address_may_have_so_many_sockets_whatever_they_are(tmp_path: Path) -> None:
    async with running(tmp_path, connections_per_address=3, trusted_proxies=ELSEWHERE) as here:
        async with idle(here, 2) as socks:
            client = await here.connect()
            async with idle(here, 1) as (refused,):
                answer = await said_by(refused)
                assert answer.startswith(b"HTTP/1.1 429 ")
                assert b"Retry-After: " in answer
                assert b'"code":"rate_limited"' in answer
            for sock in socks:  # a connection that becomes a WebSocket does not count twice
                await asyncio.get_running_loop().sock_sendall(sock, handshake(port_of(here)))
                assert (await asyncio.get_running_loop().sock_recv(sock, 65536)).startswith(b"HTTP/1.1 101 ")
            assert here.server.limits.addresses.connections("127.0.0.1") == 3
            assert not len(here.server.http)
            await client.close()
            await eventually(lambda: here.server.limits.addresses.connections("127.0.0.1") == 2)
            assert (await get(here, "/healthz")).status == 200
        await eventually(lambda: not here.server.limits.addresses.connections("127.0.0.1"))
        assert not here.server.http.by_address


async def test_a_proxys_sockets_count_for_the_process_alone(tmp_path: Path) -> None:
    async with running(tmp_path, connections_per_address=1) as here, idle(here, 5):
        await eventually(lambda: len(here.server.http) == 5)
        client = await here.connect(headers={"X-Forwarded-For": "1.2.3.4"})
        async with HTTP(here) as http:
            assert (await http.ask("/ws", UPGRADE | {"X-Forwarded-For": "1.2.3.4"})).status == 429
        await client.close()


async def test_where_there_is_no_room_the_quietest_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "RESERVED", 2)
    async with running(tmp_path, max_connections=3) as here, HTTP(here) as busy, idle(here, 2) as (first, second):
        await eventually(lambda: len(here.server.http._serving) == 3)
        assert (await busy.ask("/healthz", {"Host": "localhost"})).status == 200
        async with idle(here, 1) as (refused,):
            assert (await said_by(refused)).startswith(b"HTTP/1.1 503 "), "each has done something just now"
        monkeypatch.setattr(http_connections, "QUIET_SECONDS", 0.0)
        assert (await get(here, "/healthz")).status == 200
        assert await said_by(first) == b""
        assert (await busy.ask("/healthz", {"Host": "localhost"})).status == 200, "it was the last to do something"
        monkeypatch.setattr(http_connections, "QUIET_SECONDS", 60.0)
        await asyncio.get_running_loop().sock_sendall(second, PAGE)
        assert (await asyncio.get_running_loop().sock_recv(second, 65536)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/v1/nothing", "/healthz"])
async def test_who_has_just_asked_is_not_the_quietest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(http_connections, "RESERVED", 2)
    monkeypatch.setattr(http_connections, "QUIET_SECONDS", 0.0)
    async with running(tmp_path, max_connections=2) as here, HTTP(here) as asking, HTTP(here) as quiet:
        for http in (asking, quiet):
            assert (await http.tell("GET", path)).status in (200, 404)
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        (connection, _) = here.server.http._serving
        since = connection.since
        await asyncio.get_running_loop().sock_sendall(asking.sock, head.encode())
        await eventually(lambda: connection.since > since)
        assert (await get(here, "/healthz")).status == 200
        await asyncio.get_running_loop().sock_sendall(asking.sock, b"{}")
        assert (await asking.answer()).status in (200, 404)
        assert await said_by(quiet.sock) == b""


@pytest.mark.parametrize("late", [False, True])
async def test_a_plain_handshake_makes_no_object_of_tornados(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Whether its request is there when it is accepted, or comes later."""
    monkeypatch.setattr(http_connections, "TornadoStream", None)
    async with running(tmp_path) as here, idle(here, 1) as (sock,):
        if late:
            await eventually(lambda: here.server.http._serving)
        await asyncio.get_running_loop().sock_sendall(sock, handshake(port_of(here)))
        assert (await asyncio.get_running_loop().sock_recv(sock, 65536)).startswith(b"HTTP/1.1 101 ")
        (line,) = here.server.lines.open
        assert line._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not line._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT), "as the system has it"
        assert not len(here.server.http)


async def test_what_comes_in_front_of_its_turn_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a request, a frame behind a handshake, or the end; whoever is cut off before its turn has none."""
    loop = asyncio.get_running_loop()
    async with running(tmp_path) as here, idle(here, 5) as (early, parted, ended, cut, mute):
        http = here.server.http
        no_time(monkeypatch)
        await eventually(lambda: len(http._serving) == 5)
        mute.close()
        await eventually(lambda: len(http._serving) == 4)
        said = handshake(port_of(here), "/ws/r")
        for sock, first in ((early, said), (parted, said[:30]), (ended, said), (cut, said)):
            await loop.sock_sendall(sock, first)
        await eventually(lambda: len(http.turns._first) == 4)
        await loop.sock_sendall(early, commands({"type": "ping", "id": "early"}))
        await loop.sock_sendall(parted, said[30:])
        ended.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.01)
        assert [len(connection._said) for connection in http._serving] == [len(said), 30, len(said), len(said)]
        http.cut_off(list(http._serving)[3])
        assert await said_by(cut) == b""
        monkeypatch.undo()
        http.turns._turn()
        assert b'"early"' in await until(early, b"pong")
        assert b'"synced"' in await until(parted, b"synced")
        assert b"HTTP/1.1 101 " in await said_by(ended)
        assert not len(http)


async def test_a_request_does_not_wait_behind_all_who_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, guests=True) as here, AsyncExitStack() as stack:
        *polling, asking = [await stack.enter_async_context(HTTP(here)) for _ in range(11)]
        for http in (*polling, asking):
            assert (await http.tell("GET", "/v1/rooms/r/messages")).status == 200
        turns = here.server.http.turns
        turn = no_time(monkeypatch)
        asked = [
            asyncio.create_task(
                http.tell("POST", "/v1/poll", {"rooms": {"r": 0}})
                if number % 2
                else http.tell("GET", "/v1/rooms/r/events?wait=0")
            )
            for number, http in enumerate(polling)
        ]
        await eventually(lambda: len(turns._polls) == len(polling))
        asked.append(asyncio.create_task(asking.tell("GET", "/v1/rooms/r/messages")))
        await eventually(lambda: turns._more)
        turn(turns)
        assert not turns._more
        assert len(turns._polls) == len(polling) - 1
        monkeypatch.undo()
        turns._turn()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 11


async def test_a_handshake_and_its_frames_in_one_piece(tmp_path: Path) -> None:
    async with running(tmp_path) as here, idle(here, 2) as socks:
        await eventually(lambda: len(here.server.http._serving) == 2)
        for path, sock in zip(("/ws", "/ws?name=" + "x" * 64), socks, strict=True):
            frames = commands(*({"type": "ping", "id": f"{n}" + "x" * 50} for n in range(400)))
            await asyncio.get_running_loop().sock_sendall(sock, handshake(port_of(here), path) + frames)
            assert (await until(sock, b'"399' + b"x" * 50)).count(b'"pong"') == 400


async def test_a_gauge_tells_how_many_there_are(tmp_path: Path) -> None:
    async with running(tmp_path) as here, idle(here, 4):
        await eventually(lambda: len(here.server.http) == 4)
        assert "tornado_chat_http_connections 5.0" in (await get(here, "/metrics")).body.decode()


async def test_all_that_one_connection_asks_for_at_once_is_answered_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as here, idle(here, 1) as (sock,):
        paths = ["/healthz", "/nothing"] * 50
        asked = b"".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths)
        await asyncio.get_running_loop().sock_sendall(
            sock, asked + PAGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        statuses = [part[:3] for part in (await said_by(sock)).split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"404"] * 50 + [b"200"]


async def test_requests_on_open_connections_are_shed_while_the_first_waits_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        token = mint(SECRET, "alice", ttl=1000)
        asking, late, source = [await stack.enter_async_context(HTTP(here)) for _ in range(3)]
        for http in (asking, late, source):
            assert (await http.tell("GET", "/v1/rooms/r/messages")).status == 200
        turns = here.server.http.turns
        turn = no_time(monkeypatch)
        first = asyncio.create_task(asking.tell("POST", "/v1/rooms/r/messages", {"text": "first"}, bearer=token))
        await eventually(lambda: turns._more)
        monkeypatch.setattr(shedding, "WAIT_SECONDS", 0.0)
        refused = await late.tell("POST", "/v1/rooms/r/messages", {"text": "late"}, bearer=token)
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        assert shedding.RETRY_SECONDS[0] <= int(refused.headers["retry-after"]) <= shedding.RETRY_SECONDS[1]
        assert refused.headers["connection"] == "close"
        told = await source.tell("GET", "/v1/rooms/r/events", Accept="text/event-stream")
        assert (told.status, told.body[:7]) == (200, b"retry: ")
        assert here.server.metrics.refusals[503] == 2
        turn(turns)
        assert (await first).status == 201
        monkeypatch.undo()
        page = json.loads((await asking.tell("GET", "/v1/rooms/r/messages")).body)
        assert [message["text"] for message in page["messages"]] == ["first"]
