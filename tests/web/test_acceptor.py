"""A storm of connections: who comes first gets in, who is too many is told to come back, cheaply."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from tests.support.chat import eventually, running
from tests.support.raw_chat import handshake
from tests.support.streams import parse_block
from tornado_chat.processes import turned_away
from tornado_chat.web import acceptor, http_connections, shedding


async def answer(sock: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    loop = asyncio.get_running_loop()
    said = b""
    async with asyncio.timeout(10):
        while more := await loop.sock_recv(sock, 65536):
            said += more
    return said


async def connected(port: int, count: int) -> list[socket.socket]:
    """So many connections, none of which has said anything."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        made.append(sock)
    return made


async def test_while_the_first_waits_too_long_newcomers_are_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        taking, port = here.server.acceptor, int(here.address.rpartition(":")[2])
        begin = taking._turn
        monkeypatch.setattr(taking, "_turn", lambda: None)  # the loop has no time for handshakes
        first = await connected(port, 3)
        await eventually(lambda: len(taking.waiting) == 3)
        monkeypatch.setattr(shedding, "WAIT_SECONDS", 0.0)
        (late,) = await connected(port, 1)
        await asyncio.get_running_loop().sock_sendall(late, handshake(port))
        head, _, body = (await answer(late)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        retry_after = int(head.partition(b"Retry-After: ")[2].split(b"\r\n")[0])
        assert shedding.RETRY_SECONDS[0] <= retry_after <= shedding.RETRY_SECONDS[1]
        assert json.loads(body)["error"]["code"] == "overloaded"
        assert here.server.metrics.refusals[503] == 1
        assert len(taking.waiting) == 3, "those who came first still wait"
        begin()
        for sock in first:
            await asyncio.get_running_loop().sock_sendall(sock, handshake(port))
            assert (await asyncio.get_running_loop().sock_recv(sock, 65536)).startswith(b"HTTP/1.1 101 ")
            sock.close()
        late.close()


async def test_what_waits_is_bounded_by_the_connections_that_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKES", 2)
    monkeypatch.setattr(http_connections, "RESERVED", 2)
    async with running(tmp_path, max_connections=3) as here:
        taking, port = here.server.acceptor, int(here.address.rpartition(":")[2])
        begin = taking._turn
        monkeypatch.setattr(taking, "_turn", lambda: None)
        made = await connected(port, 8)
        await eventually(lambda: here.server.metrics.refusals[503] == 5)
        assert len(taking.waiting) == 3
        begin()
        begin()
        assert not taking.waiting
        for sock in made:
            sock.close()


async def test_those_turned_away_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turned_away, "LINGERING", 2)
    monkeypatch.setattr(turned_away, "LINGER_SECONDS", 0.2)
    monkeypatch.setattr(http_connections, "RESERVED", 1)
    async with running(tmp_path) as here:
        taking, port = here.server.acceptor, int(here.address.rpartition(":")[2])
        monkeypatch.setattr(taking, "_turn", lambda: None)
        monkeypatch.setattr(taking.http, "room", int)
        made = await connected(port, 6)
        await eventually(lambda: here.server.metrics.refusals[503] == 5)
        assert len(taking.turned_away) <= 2
        await eventually(lambda: not len(taking.turned_away))
        for sock in made:
            sock.close()


@pytest.mark.parametrize("later", [False, True])
async def test_an_event_source_that_is_turned_away_is_told_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """By 200, since it gives up on anything else; also where its request comes a moment after the connection."""
    async with running(tmp_path) as here:
        taking, port = here.server.acceptor, int(here.address.rpartition(":")[2])
        monkeypatch.setattr(taking.http, "has_room", lambda: False)
        loop = asyncio.get_running_loop()
        if later:
            (sock,) = await connected(port, 1)
            await eventually(lambda: here.server.metrics.refusals[503] == 1)
            assert len(taking.turned_away) == 1
        else:
            taking.pause()
            (sock,) = await connected(port, 1)
        asked = ["GET /v1/rooms/r/events HTTP/1.1", "Host: localhost", "accept: text/event-stream"]
        asked += ["Origin: https://a.example", "", ""]
        await loop.sock_sendall(sock, "\r\n".join(asked).encode())
        if not later:
            taking.start(here.server.listeners)
        head, _, body = (await answer(sock)).decode().partition("\r\n\r\n")
        lines = head.split("\r\n")
        assert lines[0] == "HTTP/1.1 200 OK"
        assert {"Content-Type: text/event-stream", "Access-Control-Allow-Origin: https://a.example"} < set(lines)
        block = parse_block(body.removesuffix("\n\n"))
        assert (block.data["type"], block.data["code"]) == ("error", "overloaded")
        assert block.retry is not None
        assert 0 <= block.retry - 1000 * block.data["retry_after"] <= turned_away.SPREAD_MS
        assert here.server.metrics.refusals[503] == 1
        sock.close()


async def test_who_says_nothing_is_answered_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turned_away, "LINGER_SECONDS", 0.1)
    async with running(tmp_path) as here:
        taking, port = here.server.acceptor, int(here.address.rpartition(":")[2])
        monkeypatch.setattr(taking.http, "has_room", lambda: False)
        (sock,) = await connected(port, 1)
        assert (await answer(sock)).startswith(b"HTTP/1.1 503 ")
        sock.close()
        await eventually(lambda: not len(taking.turned_away))


async def test_a_server_that_stops_answers_those_it_has_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        taking, port = here.server.acceptor, int(here.address.rpartition(":")[2])
        monkeypatch.setattr(taking, "_turn", lambda: None)
        (sock,) = await connected(port, 1)
        await asyncio.get_running_loop().sock_sendall(sock, handshake(port))
        await eventually(lambda: taking.waiting)
        here.server.context.draining = True
        taking.close()
        said = await answer(sock)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"stopping" in said
        sock.close()


async def test_who_comes_over_a_unix_socket_is_a_proxy_whatever_name_it_has(tmp_path: Path) -> None:
    """A client may give its own end a name, too."""
    loop = asyncio.get_running_loop()
    async with running(tmp_path, unix_socket=str(tmp_path / "s"), connections_per_address=1) as here:
        for name in (None, tmp_path / "client"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                if name is not None:
                    sock.bind(str(name))
                await loop.sock_connect(sock, str(tmp_path / "s"))
                await loop.sock_sendall(sock, handshake(0, "/ws", "X-Forwarded-For: 1.2.3.4"))
                assert (await loop.sock_recv(sock, 65536)).startswith(b"HTTP/1.1 101 ")
                assert here.server.limits.addresses.connections("1.2.3.4") == 1
            await eventually(lambda: not here.server.lines.open)
