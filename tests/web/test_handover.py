"""A socket changes hands: from Tornado's HTTP server to a WebSocket."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application, RequestHandler

from tests.support.connections import Recorder, new_lines, until
from tests.support.raw_websocket import client_frame
from tornado_chat.live.websocket import WebSocket
from tornado_chat.web.handover import take_over
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.frames import TEXT

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

Taken = list[tuple[socket.SocketType, bytes] | StreamClosedError]


@asynccontextmanager
async def serving(
    wait: Callable[[], bool], listeners: list[socket.socket]
) -> AsyncIterator[tuple[Taken, list[weakref.ref[RequestHandler]]]]:
    """A server whose handler waits until `wait()` holds, then takes the socket over."""
    taken: Taken = []
    handlers: list[weakref.ref[RequestHandler]] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            handlers.append(weakref.ref(self))
            await until(wait)
            try:
                taken.append(take_over(self.detach()))
            except StreamClosedError as error:
                taken.append(error)

    server = HTTPServer(Application([("/", Handler)]))
    server.add_sockets(listeners)
    try:
        yield taken, handlers
    finally:
        server.stop()
        await server.close_all_connections()
        for result in taken:
            if isinstance(result, tuple):
                result[0].close()


def tcp() -> tuple[list[socket.socket], Callable[[], socket.socket]]:
    listeners = bind_sockets(0, "127.0.0.1")
    listeners[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 65536)  # as the acceptor does
    return listeners, lambda: socket.create_connection(listeners[0].getsockname(), timeout=5)


@pytest.mark.parametrize("size", [0, 1, 1000, 200_000])
async def test_early_bytes_are_not_lost(size: int) -> None:
    listeners, connect = tcp()
    ready = False
    async with serving(lambda: ready, listeners) as (taken, _):
        with connect() as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            early = bytes(range(256)) * (size // 256 + 1)
            await loop.sock_sendall(client, REQUEST + early[:size])
            if size:
                await asyncio.sleep(0.02)  # so that some of it lies in Tornado's stream already
            ready = True
            await until(lambda: taken)
            assert isinstance(taken[0], tuple)
            plain, got = taken[0]
            assert not plain.getblocking()
            sock = socket.socket(fileno=plain.detach())  # the loop's own methods ask for one of these
            sock.setblocking(False)
            while len(got) < size:
                got += await loop.sock_recv(sock, 65536)
            assert got == early[:size]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            await loop.sock_sendall(sock, b"ours now")
            assert await loop.sock_recv(client, 100) == b"ours now"
            sock.close()


async def test_a_client_that_went_away_meanwhile() -> None:
    listeners, connect = tcp()
    ready = False
    async with serving(lambda: ready, listeners) as (taken, handlers):
        client = connect()
        client.sendall(REQUEST)
        await until(lambda: handlers)
        client.close()
        await asyncio.sleep(0.02)
        ready = True
        await until(lambda: taken)
        assert isinstance(taken[0], StreamClosedError)


async def test_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("unix") / "s")
    async with serving(lambda: True, [bind_unix_socket(path)]) as (taken, _):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(REQUEST + b"early")
            await until(lambda: taken)
            assert isinstance(taken[0], tuple)
            assert taken[0][1] == b"early"


async def test_nothing_of_tornado_is_kept_alive() -> None:
    listeners, connect = tcp()
    lines = new_lines()
    async with serving(lambda: True, listeners) as (taken, handlers):
        with connect() as client:
            client.sendall(REQUEST + client_frame(TEXT, b"early"))
            await until(lambda: taken)
            result = taken.pop()
            assert isinstance(result, tuple)
            listener = Recorder()
            connection = WebSocket(lines, result[0], listener, JSON, deflate=False)
            connection.start(result[1])
            client.sendall(client_frame(TEXT, b"late"))
            await until(lambda: len(listener.messages) == 2)
            assert listener.messages == [(TEXT, b"early"), (TEXT, b"late")]
            gc.collect()
            assert handlers[0]() is None
        await until(lambda: not lines.open)
        await until(lambda: listener.closed)
