"""One process's life: build, listen, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

from tornado_chat.auth import load_secret
from tornado_chat.bridges.asking import Askings
from tornado_chat.bridges.endpoints import bridges
from tornado_chat.broker import EVERYBODY, Broker, channel_to
from tornado_chat.broker.opening import open_broker
from tornado_chat.config import Settings
from tornado_chat.errors import CloseCode, LogReplaced, LogUnavailable, retry_reason
from tornado_chat.live.context import Context
from tornado_chat.live.event_stream import EventStream
from tornado_chat.live.fanout import EXTENSION
from tornado_chat.live.hub import POLL_SECONDS, Hub
from tornado_chat.live.keepalive import Keepalive
from tornado_chat.live.limits import Limits
from tornado_chat.live.load import Load
from tornado_chat.live.publisher import Publisher
from tornado_chat.live.revocations import POLL_SECONDS as REVOCATIONS_POLL_SECONDS
from tornado_chat.live.session import Session
from tornado_chat.live.socket_line import Lines
from tornado_chat.log import Deliveries, Log
from tornado_chat.log.opening import open_log
from tornado_chat.log.serving import serving
from tornado_chat.metrics import Metrics
from tornado_chat.processes import listeners
from tornado_chat.processes.children import Children, WebhooksProcess, agents_of
from tornado_chat.processes.control import RECONNECTS_A_SECOND, Parent, Pipe, Place, spread
from tornado_chat.processes.listeners import Listeners
from tornado_chat.processes.systemd import Systemd
from tornado_chat.web.acceptor import Acceptor
from tornado_chat.web.app import Front
from tornado_chat.web.gate import Gate, accountable
from tornado_chat.web.http_connections import HttpConnections
from tornado_chat.web.shedding import WAIT_SECONDS
from tornado_chat.wire import replies

logger = logging.getLogger(__name__)

RESERVED_FILES = 256
"""Of the open files allowed, those kept for the log, for plain HTTP and for what libraries open."""

GC_THRESHOLDS = 5_000, 1, 1_000
"""Closed connections are freed by counting references; the collector is for accidents. A pass over what is young, which
somebody waits for, looks at 15,000 objects or so: 4 ms. With 200,000 of them, which polls of many new rooms bring in a
second, it took 110 ms. What is old is looked at once in ten million objects: over 10,000 connections it takes 20 ms."""

LOG_SECONDS = 5.0
"""A log whose oldest call has been under way for longer than this does not keep up."""

SWEEP_SECONDS, SWEEP_PAUSE = 5.0, 0.05
"""How often the log is asked to do a slice of what no client waits for, and the pause between slices while there are
more: most of the time is left to the commits."""

LAG_PERIOD = 0.25
LAG_LIMIT = 1.0
"""A loop that ran a timer later than this (seconds) is not ready."""

HANDSHAKE_SECONDS = 0.2
"""From the last handshake that a worker begins to its drain."""

DRAIN_SECONDS, CLOSE_SECONDS = 15.0, 5.0
"""On a stop: for the commits under way and their delivery, and for the clients to answer the close frame."""

RETRY_MS = 250
"""The least `retry_after_ms`."""

LEAVE_SECONDS = 28
"""A process that stops is gone after this, whatever stands still."""


class Server:
    """Everything that belongs to one server in this process; two can run side by side."""

    def __init__(self, settings: Settings, secret: bytes, log: Log, broker: Broker) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.loop = loop
        self.log = log
        self.metrics = Metrics()
        self.uid = secrets.token_hex(8)
        self.limits = Limits(settings, _connections_allowed(settings.max_connections), time.monotonic)
        self.lines = Lines(loop, max_frame_bytes=settings.max_frame_bytes, high_water_mark=settings.high_water_mark)
        self.hub = Hub(
            loop,
            log,
            broker,
            self.uid,
            self.metrics,
            self.lines.direct,
            high_water_mark=settings.high_water_mark,
            ring_bytes=settings.ring_bytes,
            limits=self.limits.rooms,
        )
        self.publisher = Publisher(self.hub)
        self.keepalive = Keepalive(
            self.lines,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            write_timeout=settings.write_timeout,
            stream_lifetime=settings.stream_lifetime,
        )
        self.draining = False
        self.log_answers = True
        self.deliveries = Deliveries(0, 0, 0)
        self.tells_deliveries = True  # one of several workers does
        self.want_webhooks: Callable[[], None] = lambda: None  # there are some
        self.lag = 0.0
        self.context = Context(self.hub, self.publisher, self.limits, self.lines, settings)
        self.askings = Askings(self.context)
        front = Front(Gate(self.context, secret), self.metrics, self.failing, self.degraded, bridges(self.askings))
        self.http = HttpConnections(
            front,
            self.limits,
            self.metrics,
            partial(accountable, trusted=settings.trusted_proxies),
            self._free,
        )
        self.context.growing.tell_user = self._tell_user
        self.load = Load(self.context, self.http.by_address)
        self.leave: Callable[[], None] = partial(signal.raise_signal, signal.SIGTERM)
        self.acceptor = Acceptor(loop, self.http, self.metrics)
        self.listeners: Listeners = []
        self.listens_alone = True
        self.watching: list[asyncio.Task[None]] = []
        self._register_gauges()

    def _register_gauges(self) -> None:
        metrics, hub = self.metrics, self.hub
        metrics.bytes_in = lambda: self.lines.bytes_in
        metrics.messages_in = lambda: self.lines.messages_in
        metrics.broker = hub.broker.counts
        metrics.closes = self.lines.closes
        metrics.log_reads = lambda: self.log.reads
        metrics.gauge("connections", "WebSockets and streams open.", lambda: len(self.lines.open))
        metrics.gauge(
            "streams",
            "Streams open: connections that are no WebSocket.",
            lambda: sum(isinstance(line, EventStream) for line in self.lines.open),
        )
        metrics.gauge(
            "http_connections", "Other connections open: plain HTTP, and before the handshake.", lambda: len(self.http)
        )
        metrics.gauge("polls", "Long polls that wait.", lambda: len(self.context.polls.waiting))
        metrics.gauge("failing", "Checks of /readyz that fail.", lambda: len(self.failing()))
        metrics.gauge(
            "degraded",
            "What is away or late although the worker is ready.",
            lambda: len(self.degraded()),
        )
        metrics.gauge("rooms", "Rooms open here: with members, or polled.", lambda: len(hub.rooms))
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
            lambda: self.lines.outbox_bytes,
        )
        metrics.gauge("ring_bytes", "Bytes held by the rings of recent events.", lambda: hub.shared.budget.bytes)
        metrics.gauge(
            "users", "Users with a connection or a spent rate limit.", lambda: len(self.limits.users.accounts)
        )
        metrics.gauge("answers_followed", "Answers of agents told by a bridge.", lambda: len(self.askings.open))
        metrics.gauge("bodies", "Requests whose body is a message that grows.", lambda: len(self.context.bodies))
        metrics.gauge("growing_messages", "Messages that grow here.", lambda: len(self.context.growing.by_name))
        metrics.gauge(
            "growing_copies_chars",
            "Characters here of messages that grow in other processes.",
            lambda: hub.elsewhere.chars,
        )
        metrics.gauge("webhooks", "Endpoints of webhooks.", lambda: self._told(self.deliveries.endpoints))
        metrics.gauge(
            "webhooks_failing", "Endpoints that take nothing for now.", lambda: self._told(self.deliveries.failing)
        )
        metrics.gauge(
            "webhooks_given_up",
            "Endpoints that were given up, or a room of theirs.",
            lambda: self._told(self.deliveries.given_up),
        )
        metrics.gauge("publish_queue", "Entries that are not committed yet.", lambda: self.publisher.queued)

    def _told(self, count: int) -> int:
        return count if self.tells_deliveries else 0

    def _tell_user(self, user: str, told: replies.Stop) -> None:
        for line in list(self.lines.open):
            session = line.listener
            if isinstance(session, Session) and session.user == user:
                session.answer(told)
        for body in list(self.context.bodies):
            if body.user == user:
                body.hear(told)

    def _free(self) -> int:
        """Sockets that there may be besides those of WebSockets and streams."""
        allowed = self.limits.max_connections
        return allowed - len(self.lines.open) if allowed else sys.maxsize

    def failing(self) -> list[str]:
        """The checks that keep this process from being ready."""
        checks = {
            "log": self.publisher.failing or not self.log_answers or self._log_behind(("writer", "lookups", "pages")),
            "event_loop_lag": self.lag > LAG_LIMIT,
            "draining": self.draining,
            "internal": not self.context.draining
            and (self.publisher.ended or not self.watching or any(task.done() for task in self.watching)),
        }
        return [name for name, fails in checks.items() if fails]

    def degraded(self) -> list[str]:
        """What is away or late although the process is ready: without the broker the heads are polled."""
        checks = {
            "broker": self.settings.redis and not self.hub.broker.available,
            "history": self._log_behind(("histories",)),
            "webhooks": self.deliveries.given_up > 0,
        }
        return [name for name, fails in checks.items() if fails]

    def _log_behind(self, lanes: tuple[str, ...]) -> bool:
        delays = self.log.delays()
        return any(delays[lane] > LOG_SECONDS for lane in lanes)

    async def open(self) -> None:
        """Learn what must be known before the first client comes: who may not come in, and what others publish."""
        await self.context.revocations.poll()
        await self.hub.broker.start(self.hub)
        for channel in (EVERYBODY, channel_to(self.uid)):
            await self.hub.broker.subscribe(channel)
        self.publisher.start()

    def start(self, inherited: Listeners | None = None) -> str:
        """Accept connections on the sockets that were inherited, or on some made now; listeners.address of them."""
        self.listens_alone = inherited is None
        self.listeners = listeners.listen(self.settings)[0] if inherited is None else inherited
        for listener in self.listeners:
            listener.setblocking(False)
        self.http.start()
        self.acceptor.start(self.listeners)
        self.keepalive.start()
        watched = (
            self._watch(),
            self._watch_revocations(),
            self._sweep_log(),
            self.hub.presence.run(),
            self.context.growing.run(),
            self.hub.elsewhere.run(),
        )
        self.watching = [self.hub.tasks.spawn(work) for work in watched]
        self._measure_lag(time.monotonic())
        return listeners.address(self.listeners)

    def _measure_lag(self, due: float) -> None:
        lag = max(0.0, time.monotonic() - due)
        self.metrics.lag_seconds.observe(lag)
        self.lag = max(lag, self.lag * 0.9)  # a bad moment is remembered for some seconds
        if not self.context.draining:
            self.loop.call_later(LAG_PERIOD, self._measure_lag, time.monotonic() + LAG_PERIOD)

    async def _watch_revocations(self) -> None:
        while True:
            await asyncio.sleep(REVOCATIONS_POLL_SECONDS)
            try:
                await self.context.revocations.poll()
            except LogUnavailable as error:
                logger.debug("revocations not read reason=%s", error)  # `_watch` has told already
            except Exception:
                logger.exception("revocations not read")

    async def _sweep_log(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                while await self.log.sweep():  # noqa: ASYNC110 - a pause, not a poll
                    await asyncio.sleep(SWEEP_PAUSE)
            except LogUnavailable as error:
                logger.debug("log not swept reason=%s", error)  # `_watch` has told already
            except Exception:
                logger.exception("log not swept")

    async def _watch(self) -> None:
        """Once a second: what may be forgotten; and in time the heads, which also tells if the log answers."""
        for second in itertools.count():
            wanted = self.hub.poll_wanted
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # wait_for of Python 3.11 loses a cancellation just after the event
                    await wanted.wait()
            self.limits.sweep()
            self.load.turn()
            often = self.publisher.failing or not self.log_answers or not self.hub.broker.available
            if not (often or wanted.is_set() or second % POLL_SECONDS == 0):
                continue
            wanted.clear()
            try:
                if self.publisher.failing:
                    await self.log.probe()
                    self.publisher.failing = False
                await self.hub.poll()
                self.deliveries = await self.log.deliveries()
                if self.deliveries.endpoints:
                    self.want_webhooks()
            except LogUnavailable as error:
                if self.log_answers:
                    logger.warning("log does not answer reason=%s", error)
                self.log_answers = False
            except LogReplaced as error:
                # Whoever starts anew begins with what is there, and its clients find out by the epoch and the heads.
                logger.error("the log was replaced or went back, this process ends reason=%s", error)
                self.log_answers = False
                self.leave()
                return
            except Exception:
                logger.exception("log not polled")
                self.log_answers = False
            else:
                if not self.log_answers:
                    logger.info("log answers again")
                self.log_answers = True

    def on_worker_died(self, uid: str) -> None:
        """Another worker has ended: what it committed may not have been announced."""
        self.hub.poll_wanted.set()
        # Once more: PostgreSQL may still have been committing for it.
        self.loop.call_later(1.0, self.hub.poll_wanted.set)
        self.hub.presence.on_died(uid)
        self.context.growing.on_died(uid)

    def pause(self) -> None:
        """Accept no more connections; those that are open go on until `stop`."""
        self.draining = True
        self.acceptor.pause()
        paused, self.listeners = self.listeners, []
        for listener in paused:
            if not self.listens_alone:
                listener.close()  # the parent holds it, with whoever waits in its queue
        if self.listens_alone:
            listeners.close([paused])

    async def finish_handshakes(self) -> None:
        """After `pause`: let those in who were accepted, rather than to answer them that we are stopping."""
        deadline = self.loop.time() + WAIT_SECONDS
        while self.acceptor.waiting and self.loop.time() < deadline:  # noqa: ASYNC110  # once in a life
            await asyncio.sleep(0.01)
        await asyncio.sleep(HANDSHAKE_SECONDS)

    async def stop(self, reconnects: float = RECONNECTS_A_SECOND) -> None:
        """Finish what was taken on, tell every client when to come back, leave nothing open.

        `reconnects`: clients that may come back in a second.
        """
        self.pause()
        self.context.draining = True
        self.acceptor.close()
        deadline = self.loop.time() + DRAIN_SECONDS
        for line in list(self.lines.open):
            line.pause_reading()
        self.context.polls.drain()
        self.askings.drain()
        await self._finish_commands(deadline)
        await self.publisher.stop(max(1.0, deadline - self.loop.time()))
        await self._keep_growing()
        await self._flush_rooms(deadline)
        await self._close_connections(reconnects)
        self.keepalive.stop()
        await self.hub.stop()
        await self.http.close()
        await self.hub.broker.close()
        await self.log.close()

    async def _finish_commands(self, deadline: float) -> None:
        sessions = [line.listener for line in self.lines.open]
        busy = [session for session in sessions if isinstance(session, Session)]
        context = self.context
        while self.loop.time() < deadline and (  # noqa: ASYNC110  # once in a life
            context.requests or context.polls.waiting or any(s.unfinished for s in busy)
        ):
            await asyncio.sleep(0.005)

    async def _keep_growing(self) -> None:
        """Messages that grow here go on elsewhere, from where they are now."""
        try:
            await self.context.growing.leave()
        except LogUnavailable as error:
            logger.warning("growing messages not kept, their authors send the end again reason=%s", error)
        for body in list(self.context.bodies):
            body.leave()

    async def _flush_rooms(self, deadline: float) -> None:
        rooms = self.hub.rooms
        while self.loop.time() < deadline and any(r.pending or r.batches for r in rooms.values()):  # noqa: ASYNC110  # once in a life
            await asyncio.sleep(0.001)

    async def _close_connections(self, reconnects: float) -> None:
        lines = list(self.lines.open)
        milliseconds = 1000 * spread(len(lines), reconnects)
        for number, line in enumerate(lines):
            wait = RETRY_MS + int(milliseconds * number / len(lines))
            line.close(CloseCode.SERVICE_RESTART, retry_reason(wait))
            if number % 256 == 255:
                await asyncio.sleep(0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.lines.wait_empty()
        for line in list(self.lines.open):
            line.abort(CloseCode.SERVICE_RESTART, "did not answer the close frame")


def _connections_allowed(wanted: int) -> int:
    """`max_connections`, but never more than the open-file limit leaves room for; that is raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = hard - min(RESERVED_FILES, hard // 2) if hard != resource.RLIM_INFINITY else 0
    return min(wanted, allowed) if wanted and allowed else wanted or allowed


async def serve(settings: Settings, place: Place | None = None) -> None:
    """Run one server: the worker that has `place`, or else one on its own, which prints `listening on http://...`."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    # Of a worker only SIGTERM: what a terminal sends goes to the parent, too, and is its to obey.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if place is None else (signal.SIGTERM,):
        loop.add_signal_handler(number, told.set)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to tell
    secret = load_secret(settings)
    log = await open_log(settings.database)
    with serving(settings) if place is None else contextlib.nullcontext():
        await _serve(settings, place, secret, log, told)


async def _serve(settings: Settings, place: Place | None, secret: bytes, log: Log, told: asyncio.Event) -> None:
    broker = open_broker(settings, log.epoch, secret)
    try:
        server = Server(settings, secret, log, broker)
        try:
            await server.open()
            address = server.start(None if place is None else place.listeners)
        except BaseException:
            await server.hub.stop()
            raise
    except BaseException:
        await broker.close()
        await log.close()
        raise
    server.loop.add_signal_handler(signal.SIGUSR1, server.load.tell)
    gc.freeze()  # what stands now stays: the collector need not look at it again
    gc.set_threshold(*GC_THRESHOLDS)
    logger.info("serving extension=%s", EXTENSION)
    if place is None:
        print(f"listening on {address}", flush=True)
        agents = agents_of(settings, address)
        agents.start()
        webhooks = WebhooksProcess(settings)
        server.want_webhooks = webhooks.want
        await _run_alone(server, told, agents, webhooks)
    else:
        await _run_in_place(server, told, place)


async def _run_alone(server: Server, told: asyncio.Event, agents: Children, webhooks: WebhooksProcess) -> None:
    systemd = Systemd(os.environ, os.getpid())
    systemd.ready("serving")
    server.hub.tasks.spawn(_feed_watchdog(systemd))
    try:
        await told.wait()
        systemd.stopping()
    finally:
        await asyncio.gather(agents.stop(), webhooks.stop())
    _leave_in_time(server)
    await server.stop()
    logger.info("stopped")


async def _feed_watchdog(systemd: Systemd) -> None:
    while systemd.watchdog is not None:
        systemd.alive()
        await asyncio.sleep(systemd.watchdog)


async def _run_in_place(server: Server, told: asyncio.Event, place: Place) -> None:
    server.tells_deliveries = place.number == 1
    parent = Parent(await Pipe.open(place.socket), server, server.settings.workers)
    parent.start()
    server.loop.add_signal_handler(signal.SIGTERM, parent.leave)
    if told.is_set():
        parent.leave()
    reconnects = await parent.leaving
    _leave_in_time(server)
    server.pause()
    await server.finish_handshakes()
    await server.stop(reconnects)
    await parent.close()
    logger.info("stopped")


def _leave_in_time(server: Server) -> None:
    """The kernel ends the process after LEAVE_SECONDS, even if the loop does not turn any more."""
    signal.alarm(LEAVE_SECONDS)
    logger.info("stopping connections=%d", len(server.lines.open))
