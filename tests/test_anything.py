"""Nothing sent to the port, whatever it is, keeps the server from serving the others; nor does it leave a file open."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw_chat import RawChat, commands, get, handshake, reset, text_frame
from tests.support.raw_websocket import client_frame
from tests.support.servers import UNLIMITED, Server

PATIENCE = 15.0
IDLE = 40.0
"""A reset that came together with data may go unnoticed by uvloop until the connection has been idle for too long."""

UPGRADE = handshake(80)
TLS_HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(range(32)) + bytes(132)
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

ANYTHING: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "line ends": b"\r\n" * 50_000,
    "one long line": b"A" * 200_000,
    "a long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path of bytes": b"GET /ws/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that leaves the folder": b"GET /static/../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "the same, escaped": b"GET /static/%2e%2e/%2e%2e/errors.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a NUL in the path": b"GET /static/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long name in the path": b"GET /static/" + b"a" * 5_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a folder": b"GET /static/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: localhost\r\n: b\r\n\r\n",
    "a header that is none": b"GET / HTTP/1.1\r\nHost: localhost\r\nnothing\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n b\r\n\r\n",
    "headers of bytes": b"GET /ws HTTP/1.1\r\nHost: \xff\r\nOrigin: \xff\r\nCookie: \xff\r\n\r\n",
    "half a request": b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpg",
    "half a handshake": UPGRADE[:-2],
    "a body that never comes": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab",
    "a body too large": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
    "a body of no length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "chunks and a length": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 3\r\n\r\n",
    "chunks that are none": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "a form that is none": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form\r\n"
    b"Content-Length: 0\r\n\r\n",
    "a compressed body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab",
    "a query of bytes": b"GET /ws?name=%ff&token=%ff HTTP/1.1\r\n" + UPGRADE.partition(b"\r\n")[2],
    "a broken origin": handshake(80, "/ws", "Origin: http://["),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "an absolute path": b"GET http://other/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy's request": b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n",
    "an unknown method": b"BREW /ws HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.0": b"GET /healthz HTTP/1.0\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n",
    "HTTP/2": HTTP2,
    "HTTP/2 by upgrade": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + HTTP2,
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "TLS": TLS_HELLO,
    "a proxy's first line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + GET,
    "many requests at once": GET * 300,
    "a handshake behind requests": GET * 5 + UPGRADE + text_frame(b'{"type":"ping"}'),
    "a handshake twice": UPGRADE * 2,
    "a handshake, then zeros": UPGRADE + bytes(100_000),
    "a handshake, then ones": UPGRADE + b"\xff" * 100_000,
    "a handshake, then HTTP": UPGRADE + GET * 100,
    "a handshake, then TLS": UPGRADE + TLS_HELLO,
    "a frame without a mask": UPGRADE + client_frame(1, b'{"type":"ping"}', key=None),
    "a frame of 2**63 bytes": UPGRADE + b"\x81\xff" + b"\xff" * 8 + bytes(100_000),
    "a frame of 1 GiB": UPGRADE + b"\x81\xff" + (1 << 30).to_bytes(8, "big") + bytes(100_000),
    "half a frame": UPGRADE + b"\x81\xfe\xff",
    "a fragment that never ends": UPGRADE + client_frame(1, b"a", fin=False) + client_frame(0, b"", fin=False) * 10_000,
    "text that is no UTF-8": UPGRADE + client_frame(1, b"\xff"),
    "a close frame, then more": UPGRADE + client_frame(8, b"\x03\xe8") + client_frame(1, b"{}") * 1_000,
    "a close frame of one byte": UPGRADE + client_frame(8, b"\x03"),
    "ten thousand pings": UPGRADE + client_frame(9, b"x" * 125) * 10_000,
    "ten thousand joins": UPGRADE + commands({"type": "join", "room": "lobby", "after": 0}) * 10_000,
    "ten thousand errors": UPGRADE + client_frame(1, b"{}") * 10_000,
    "sends and gone": UPGRADE + commands({"type": "send", "room": "garbage", "text": "x"}) * 1_000,
}


EXPECTED = (r" warning tornado\.general 40[03] ",)
"""Tornado's own remarks about requests."""


class Bystander:
    """A client of a server that others mistreat: it is served all the while."""

    def __init__(self, server: Server) -> None:
        self.chat = RawChat(server.port)
        self.chat.join("bystanders")
        self.sent = 0

    def check(self) -> None:
        self.sent += 1
        self.chat.say({"type": "send", "room": "bystanders", "text": "still here", "id": str(self.sent)})
        got = [self.chat.hear(), self.chat.hear()]
        assert {data["type"]: data.get("seq") for data in got} == {"message": self.sent, "ack": self.sent}, got


def open_files(server: Server) -> dict[str, str]:
    assert server.process is not None
    found, folder = {}, f"/proc/{server.process.pid}/fd"
    for number in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            found[number] = os.readlink(f"{folder}/{number}")
    return found


def cpu_seconds(server: Server) -> float:
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(server: Server, bystander: Bystander, before: dict[str, str], more: int = 0) -> None:
    """Wait until `server` has no more files open than `before`, and `more`; serving the bystander all the while."""
    deadline = time.monotonic() + IDLE
    while len(opened := open_files(server).items() - before.items()) > more:
        assert time.monotonic() < deadline, f"opened since: {sorted(opened)}"
        bystander.check()
        time.sleep(0.01)
    bystander.check()


def throw(server: Server, data: bytes, *, then: str) -> bytes:
    """Connect, send, and `reset`, `hang up`, or `listen` for a moment; what the server said."""
    said = b""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)) as sock:
        try:
            sock.sendall(data)
            if then == "hang up":
                sock.shutdown(socket.SHUT_WR)
            elif then == "listen":
                sock.settimeout(0.05)
            while then != "reset" and (more := sock.recv(1 << 18)):
                said += more
        except TimeoutError:
            assert then == "listen", "it neither hangs up nor says anything"
        except OSError:
            pass  # the server did not want more of it
        if then == "reset":
            reset(sock)
    return said


@pytest.mark.timeout(120)
def test_anything_sent_to_the_port_leaves_the_server_serving_others(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, expected=EXPECTED) as server:
        bystander = Bystander(server)
        with bystander.chat:
            bystander.check()
            before = open_files(server)
            for name, data in ANYTHING.items():
                for then in ("listen", "hang up", "reset"):
                    said = throw(server, data, then=then)
                    assert not said.startswith(b"HTTP/1.1 5"), f"{name}: {said[:200]!r}"
                    assert b"root:" not in said, f"{name}: a file of the system"
                    assert b"ErrorCode" not in said, f"{name}: a file of ours that is none of the page's"
                    bystander.check()
            wait_for(server, bystander, before)
            spent = cpu_seconds(server)
            time.sleep(0.5)  # not a wait for something: how much it does when there is nothing to do
            assert cpu_seconds(server) - spent < 0.25, "the server is busy although nobody asks for anything"


@pytest.mark.timeout(120)
def test_a_thousand_connections_dropped_at_any_point(tmp_path: Path) -> None:
    """Cut at random anywhere in a handshake and a stream of commands; hung up or reset."""
    chance = random.Random(7)
    stream = handshake(80) + commands(
        {"type": "join", "room": "lobby", "after": 0},
        *({"type": "send", "room": "lobby", "text": "x" * 50} for _ in range(100)),
        {"type": "history", "room": "lobby"},
        {"type": "typing", "room": "lobby", "on": True},
        {"type": "status", "room": "lobby", "text": "x", "seq": 1},
        {"type": "leave", "room": "lobby"},
    )
    with Server(tmp_path, *UNLIMITED) as server:
        bystander = Bystander(server)
        with bystander.chat, ExitStack() as kept:
            before = open_files(server)
            sockets = []
            for number in range(1000):
                sock = kept.enter_context(
                    closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
                )
                sock.sendall(stream[: chance.randrange(len(stream) if number % 2 else 400)])
                sockets.append(sock)
                if len(sockets) > 40:
                    leaving = sockets.pop(chance.randrange(len(sockets)))
                    reset(leaving) if chance.random() < 0.5 else leaving.close()
                if number % 50 == 0:
                    bystander.check()
            for sock in sockets:
                sock.close()
            wait_for(server, bystander, before)
            metrics = get(server.port, "/metrics")
            assert b"tornado_chat_connections 1.0" in metrics
            assert b"tornado_chat_rooms 1.0" in metrics
            assert b"tornado_chat_members 1.0" in metrics


def test_who_sends_a_byte_now_and_then_holds_up_nobody(tmp_path: Path) -> None:
    """Slowloris, in the request and in a frame: the others do not notice, and the idle are let go in the end."""
    with Server(tmp_path, *UNLIMITED, "--ping-interval", "300ms", "--ping-timeout", "300ms") as server:
        bystander = Bystander(server)
        before = open_files(server)
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(60)]
        try:
            request, frame = handshake(80), text_frame(json.dumps({"type": "ping"}).encode())
            for number in range(30):
                for which, sock in enumerate(slow):
                    if which % 2:
                        sock.sendall(request[number : number + 1])
                    elif number == 0:
                        sock.sendall(request)
                    else:
                        sock.sendall(frame[number - 1 : number])
                bystander.check()
            wait_for(server, bystander, before, more=30)  # those in a frame are silent now, and answer no ping
        finally:
            for sock in slow:
                sock.close()
        with bystander.chat:
            wait_for(server, bystander, before)


@pytest.mark.timeout(120)
def test_bytes_of_chance(tmp_path: Path) -> None:
    """Whole handshakes and frames with some bytes changed, cut out or doubled."""
    chance = random.Random(11)
    good = handshake(80, "/ws/lobby?after=0", "Origin: http://127.0.0.1:80", "Sec-WebSocket-Protocol: chat.v1.json")
    good += commands(*({"type": "send", "room": "lobby", "text": "x", "id": str(number)} for number in range(5)))
    with Server(tmp_path, *UNLIMITED, expected=EXPECTED) as server:
        bystander = Bystander(server)
        with bystander.chat:
            before = open_files(server)
            for number in range(600):
                data = bytearray(good)
                for _ in range(chance.randrange(1, 6)):
                    at = chance.randrange(len(data))
                    match chance.randrange(3):
                        case 0:
                            data[at] = chance.randrange(256)
                        case 1:
                            del data[at : at + chance.randrange(1, 20)]
                        case _:
                            data[at:at] = data[at : at + chance.randrange(1, 20)]
                said = throw(server, bytes(data), then=chance.choice(["hang up", "hang up", "reset"]))
                assert not said.startswith(b"HTTP/1.1 5"), bytes(data)
                if number % 50 == 0:
                    bystander.check()
            wait_for(server, bystander, before)


def test_a_client_that_is_reset_while_much_is_unanswered(tmp_path: Path) -> None:
    """Its acks have nowhere to go; its descriptor's next owner must not notice."""
    with Server(tmp_path, *UNLIMITED) as server:
        bystander = Bystander(server)
        with bystander.chat:
            before = open_files(server)
            for number in range(100):
                gone = RawChat(server.port)
                gone.say(*({"type": "send", "room": "lobby", "text": "x", "id": f"{number} {n}"} for n in range(200)))
                gone.reset()
                with RawChat(server.port) as newcomer:
                    sent: dict[str, Any] = {"type": "send", "room": "elsewhere", "text": "x", "id": str(number)}
                    assert newcomer.ask(**sent)["seq"] == number + 1
            wait_for(server, bystander, before)
