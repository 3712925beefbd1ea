"""One process's life: build, listen, stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import time

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets, bind_unix_socket

from tornado_chat.auth import load_secret
from tornado_chat.config import Settings
from tornado_chat.errors import CloseCode, ConfigError, LogUnavailable
from tornado_chat.live.connection import Transport
from tornado_chat.live.context import Context
from tornado_chat.live.hub import POLL_SECONDS, Hub
from tornado_chat.live.keepalive import Keepalive
from tornado_chat.live.limits import Limits
from tornado_chat.live.publisher import FAILING_POLL_SECONDS, Publisher
from tornado_chat.live.session import Session
from tornado_chat.log import Log
from tornado_chat.log.sqlite import open_sqlite
from tornado_chat.metrics import Metrics
from tornado_chat.web.app import Front
from tornado_chat.web.socket import Gate

logger = logging.getLogger(__name__)

BACKLOG = 4096
ACCEPTS = 16
"""Connections accepted in one loop turn: their handshakes take some 3 ms, for which everybody else waits."""

RESERVED_FILES = 256
"""Of the open files allowed, those kept for the log, for plain HTTP and for what libraries open."""

GC_THRESHOLDS = 10_000, 20, 50
"""Closed connections are freed by counting references; the collector is for accidents, and each of its passes over
10,000 connections would take 20 ms out of somebody's latency."""

HTTP_IDLE_SECONDS = 20.0
"""A plain HTTP connection that sends no whole request for this long is closed: it holds an open file."""

LAG_PERIOD = 0.25
LAG_LIMIT = 1.0
"""A loop that ran a timer later than this (seconds) is not ready."""

DRAIN_SECONDS, CLOSE_SECONDS = 10.0, 5.0
"""On a stop: for the commits under way, and for the clients to answer the close frame."""

RECONNECTS_A_SECOND = 4000
"""`retry_after_ms` spreads the clients of a stopping server over so much time that this many come back a second."""


class Server:
    """Everything that belongs to one server in this process; two can run side by side."""

    def __init__(self, settings: Settings, secret: bytes, log: Log) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.loop = loop
        self.log = log
        self.metrics = Metrics()
        self.hub = Hub(
            loop, log, self.metrics, high_water_mark=settings.high_water_mark, ring_bytes=settings.ring_bytes
        )
        self.publisher = Publisher(self.hub)
        self.limits = Limits(
            send_rate=settings.send_rate,
            send_burst=settings.send_burst,
            join_rate=settings.join_rate,
            per_address=settings.connections_per_address,
            max_connections=_connections_allowed(settings.max_connections),
            time=time.monotonic,
        )
        self.transport = Transport(
            loop, max_frame_bytes=settings.max_frame_bytes, high_water_mark=settings.high_water_mark
        )
        self.keepalive = Keepalive(
            self.transport,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            write_timeout=settings.write_timeout,
        )
        self.draining = False
        self.log_answers = True
        self.lag = 0.0
        self.context = Context(self.hub, self.publisher, self.limits, settings)
        front = Front(Gate(self.context, self.transport, secret), self.metrics, self.failing)
        self.http = HTTPServer(
            front, idle_connection_timeout=HTTP_IDLE_SECONDS, body_timeout=HTTP_IDLE_SECONDS, max_body_size=64 * 1024
        )
        self.listeners: list[socket.socket] = []
        self.watching: asyncio.Task[None] | None = None
        self._register_gauges()

    def _register_gauges(self) -> None:
        metrics, hub = self.metrics, self.hub
        metrics.bytes_in = lambda: self.transport.bytes_in
        metrics.messages_in = lambda: self.transport.messages_in
        metrics.closes = self.transport.closes
        metrics.log_reads = lambda: self.log.reads
        metrics.gauge("connections", "WebSocket connections open.", lambda: len(self.transport.connections))
        metrics.gauge("rooms", "Rooms with members here.", lambda: len(hub.rooms))
        metrics.gauge(
            "members",
            "Memberships: a connection in two rooms counts twice.",
            lambda: sum(room.size() for room in hub.rooms.values()),
        )
        metrics.gauge(
            "catching_up",
            "Memberships that are behind and being fed.",
            lambda: sum(len(room.catching.members) for room in hub.rooms.values() if room.catching),
        )
        metrics.gauge(
            "outbox_bytes",
            "Bytes waiting for slow clients' sockets, what they share counted for each.",
            lambda: sum(connection.outbox_bytes for connection in self.transport.connections),
        )
        metrics.gauge("ring_bytes", "Bytes held by the rings of recent events.", lambda: hub.budget.bytes)
        metrics.gauge(
            "users", "Users with a connection or a spent rate limit.", lambda: len(self.limits.users.accounts)
        )
        metrics.gauge("publish_queue", "Entries waiting for a commit.", lambda: len(self.publisher.queue))

    def failing(self) -> list[str]:
        """The checks that keep this process from being ready."""
        checks = {
            "log": self.publisher.failing or not self.log_answers,
            "event_loop_lag": self.lag > LAG_LIMIT,
            "draining": self.draining,
            "internal": self.publisher.ended or self.watching is None or self.watching.done(),
        }
        return [name for name, fails in checks.items() if fails]

    def start(self) -> str:
        """Listen; the address, as `http://HOST:PORT` or `http://unix:PATH`."""
        settings = self.settings
        try:
            if settings.unix_socket is not None:
                # Any local user may connect, as on loopback: nginx's workers are not this user.
                self.listeners = [bind_unix_socket(settings.unix_socket, mode=0o666, backlog=BACKLOG)]
                address = f"http://unix:{settings.unix_socket}"
            else:
                self.listeners = bind_sockets(settings.port, settings.host, backlog=BACKLOG)
                host, port = self.listeners[0].getsockname()[:2]
                address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        except OSError as error:
            where = settings.unix_socket or f"{settings.host}:{settings.port}"
            raise ConfigError(f"cannot listen on {where}: {error.strerror}; give another address or port") from None
        for listener in self.listeners:
            self.loop.add_reader(listener, self._accept, listener)
        self.keepalive.start()
        self.watching = self.hub.spawn(self._watch())
        self._measure_lag(time.monotonic())
        return address

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # The listener stays readable: without a pause the loop would do nothing else.
                logger.error("cannot accept for a second reason=%s", error.strerror)
                self.loop.remove_reader(listener)
                self.loop.call_later(1.0, self._accept_again, listener)
                return
            self.http.handle_stream(IOStream(sock), address)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self.listeners:
            self.loop.add_reader(listener, self._accept, listener)

    def _measure_lag(self, due: float) -> None:
        lag = max(0.0, time.monotonic() - due)
        self.metrics.lag_seconds.observe(lag)
        self.hub.lapse_typing()
        self.lag = max(lag, self.lag * 0.9)  # a bad moment is remembered for some seconds
        if not self.draining:
            self.loop.call_later(LAG_PERIOD, self._measure_lag, time.monotonic() + LAG_PERIOD)

    async def _watch(self) -> None:
        """Once a second: what lapses, what may be forgotten; and the heads, which also tells if the log answers."""
        polled = 0.0
        while True:
            await asyncio.sleep(1.0)
            self.limits.sweep()
            failing = self.publisher.failing or not self.log_answers
            if self.loop.time() - polled < (FAILING_POLL_SECONDS if failing else POLL_SECONDS):
                continue
            polled = self.loop.time()
            try:
                if self.publisher.failing:
                    await self.log.probe()
                    self.publisher.failing = False
                await self.hub.poll()
            except LogUnavailable as error:
                if self.log_answers:
                    logger.warning("log does not answer reason=%s", error)
                self.log_answers = False
            except Exception:
                logger.exception("log not polled")
                self.log_answers = False
            else:
                if not self.log_answers:
                    logger.info("log answers again")
                self.log_answers = True

    async def stop(self) -> None:
        """Finish what was taken on, tell every client when to come back, leave nothing open."""
        self.draining = self.context.draining = True
        for listener in self.listeners:
            self.loop.remove_reader(listener)
            listener.close()
        self.listeners = []
        if self.settings.unix_socket is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.settings.unix_socket)
        for connection in list(self.transport.connections):
            connection.pause_reading()
        await self._finish_commands()
        await self.publisher.stop(DRAIN_SECONDS)
        await self._flush_rooms()
        await self._close_connections()
        self.keepalive.stop()
        await self.hub.stop()
        await self.http.close_all_connections()
        await self.log.close()

    async def _finish_commands(self) -> None:
        deadline = self.loop.time() + DRAIN_SECONDS
        sessions = [connection.receiver for connection in self.transport.connections]
        busy = [session for session in sessions if isinstance(session, Session)]
        while self.loop.time() < deadline and any(s.unfinished for s in busy):  # noqa: ASYNC110  # once in a life
            await asyncio.sleep(0.005)

    async def _flush_rooms(self) -> None:
        deadline = self.loop.time() + DRAIN_SECONDS
        rooms = self.hub.rooms
        while self.loop.time() < deadline and any(r.pending or r.batches for r in rooms.values()):  # noqa: ASYNC110  # once in a life
            await asyncio.sleep(0.001)

    async def _close_connections(self) -> None:
        connections = list(self.transport.connections)
        window = max(1000, len(connections) * 1000 // RECONNECTS_A_SECOND)
        for number, connection in enumerate(connections):
            wait = 250 + window * number // len(connections)
            connection.close(CloseCode.SERVICE_RESTART, f"retry_after_ms={wait}")
            if number % 256 == 255:
                await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.transport.wait_empty(), CLOSE_SECONDS)
        for connection in list(self.transport.connections):
            connection.abort(CloseCode.SERVICE_RESTART, "did not answer the close frame")


def _connections_allowed(wanted: int) -> int:
    """`max_connections`, but never more than the open-file limit leaves room for; that is raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = hard - min(RESERVED_FILES, hard // 2) if hard != resource.RLIM_INFINITY else 0
    return min(wanted, allowed) if wanted and allowed else wanted or allowed


async def serve(settings: Settings) -> None:
    """Run one server until SIGTERM or SIGINT; prints `listening on http://...` once it does."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    secret = load_secret(settings)
    log = await open_sqlite(settings.database_path)
    try:
        server = Server(settings, secret, log)
        address = server.start()
    except BaseException:
        await log.close()
        raise
    gc.freeze()  # what stands now stays: the collector need not look at it again
    gc.set_threshold(*GC_THRESHOLDS)
    print(f"listening on {address}", flush=True)
    await stopped.wait()
    logger.info("stopping connections=%d", len(server.transport.connections))
    await server.stop()
    logger.info("stopped")
