"""`/echo` on the server's own WebSocket: for conformance suites, and as the baseline of latency and CPU.

python -m bench.echo_server --port 9001
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from tornado_chat.live.keepalive import Keepalive
from tornado_chat.live.socket_line import Lines
from tornado_chat.live.websocket import WebSocket
from tornado_chat.web.handover import take_over
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.deflate import deflate, negotiate
from tornado_chat.wire.frames import BINARY, TEXT, frame
from tornado_chat.wire.handshake import check, response
from tornado_chat.wire.refusals import RequestError

DEFLATE_FROM = 128  # bytes; smaller payloads go uncompressed


class Echo:
    """Sends each message back as it came."""

    __slots__ = ("connection", "window_bits")

    def __init__(self, window_bits: int) -> None:
        self.window_bits = window_bits  # 0: no compression
        self.connection: WebSocket | None = None

    def on_message(self, payload: bytes) -> None:
        self.echo(TEXT, payload)

    def echo(self, opcode: int, payload: bytes) -> None:
        if self.connection is None:
            return
        if self.window_bits and len(payload) >= DEFLATE_FROM:
            self.connection.write(frame(opcode, deflate(payload, self.window_bits), rsv1=True))
        else:
            self.connection.write(frame(opcode, payload))

    def on_overhead(self, size: int) -> None:
        pass

    def on_drained(self) -> None:
        pass

    def on_closed(self, code: int, reason: str) -> None:
        self.connection = None


class EchoSocket(WebSocket):
    """Takes text and binary messages."""

    __slots__ = ()

    def _take_other_kind(self, payload: bytes) -> None:
        if isinstance(self.listener, Echo):
            self.listener.echo(BINARY, payload)


class EchoHandler(RequestHandler):
    def initialize(self, lines: Lines) -> None:
        self.lines = lines

    async def get(self) -> None:
        request = self.request
        try:
            upgrade = check(request.method or "", request.version, request.headers)
        except RequestError as error:
            self.set_status(error.status)
            for name, value in error.headers.items():
                self.set_header(name, value)
            self.finish({"error": {"code": error.code, "message": error.message}})
            return
        extensions, window_bits = negotiate(upgrade.extensions) or (None, 0)
        try:
            sock, early = take_over(self.detach())
        except StreamClosedError:
            return
        echo = Echo(window_bits)
        echo.connection = EchoSocket(self.lines, sock, echo, JSON, deflate=bool(window_bits))
        echo.connection.write(response(upgrade, extensions=extensions))
        echo.connection.start(early)


class EchoServer:
    """An echo server on the running loop; listens once it is made."""

    def __init__(self, host: str, port: int, max_frame_bytes: int) -> None:
        self.lines = Lines(
            asyncio.get_running_loop(), max_frame_bytes=max_frame_bytes, high_water_mark=1 << 20, close_timeout=5.0
        )
        self.keepalive = Keepalive(self.lines, ping_interval=25.0, ping_timeout=20.0, write_timeout=30.0)
        self.http = HTTPServer(Application([("/echo", EchoHandler, {"lines": self.lines})]))
        sockets = bind_sockets(port, host, backlog=4096)
        self.port: int = sockets[0].getsockname()[1]
        self.http.add_sockets(sockets)
        self.keepalive.start()

    async def stop(self) -> None:
        """Stop listening, say goodbye to everyone, and wait until all sockets are closed."""
        self.keepalive.stop()
        self.http.stop()
        await self.http.close_all_connections()
        for connection in list(self.lines.open):
            connection.close(1001)
        await self.lines.wait_empty()


async def main(arguments: argparse.Namespace) -> None:
    server = EchoServer(arguments.host, arguments.port, arguments.max_frame_bytes)
    print(f"listening on http://{arguments.host}:{server.port}", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.echo_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0: any free one (default: %(default)s)")
    parser.add_argument("--max-frame-bytes", type=int, default=16 << 20, metavar="N", help="default: %(default)s")
    uvloop.run(main(parser.parse_args()))
