"""What a supervising parent and its workers tell each other: JSON objects, a line each, over one socket pair a worker.

From a worker:
- `ready {uid}`: it accepts connections. `failed {error, code}`: it cannot, and exits with `code`.
- `report {counts, levels, answers}`: what it has counted: each second, at the end, and when asked.
- `scrape {}`: somebody wants the metrics of all; `metrics` comes back.
- `paused {}`: it accepts no more. `leaving {}`: it drains because of a signal: another should take its place.

To a worker:
- `pause {}`: accept no more connections. `drain {reconnects}`: and leave; so many clients may come back a second.
- `report {number}`: report at once, with this number as `answers`.
- `metrics {workers}`: the answer to `scrape`; a list, see metrics.WorkerReport.
- `died {uid}`: another worker has ended.

The end of the pipe is a message too: a worker whose parent is gone leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping
from typing import Any, Protocol, Self

import orjson

from tornado_chat.metrics import Metrics, WorkerReport
from tornado_chat.tasks import Tasks

logger = logging.getLogger(__name__)

VARIABLE = "_TORNADO_CHAT_WORKER"
"""In the environment of a worker: who it is, and the descriptors that it inherits. Nobody else sets it."""

MESSAGE_BYTES = 16 << 20
"""The longest message: the counts of 512 workers are a tenth of it."""

UNREAD_BYTES = 4 << 20
"""What may wait for the other end to read; one that reads so little stands still, and misses the rest."""

SEND_SECONDS = 5.0
REPORT_SECONDS = 1.0
SCRAPE_SECONDS = 2.0
"""How long a scrape waits for the parent."""

RECONNECTS_A_SECOND = 4000
"""Clients that one worker can take back in a second when another stops."""

SHORTEST_SPREAD_SECONDS = 1.0

Message = dict[str, Any]


class Place:
    """What a worker inherits: its number, from 1, of how many; its end of the pipe; the sockets it listens on."""

    __slots__ = ("listeners", "number", "socket", "workers")

    def __init__(self, number: int, workers: int, sock: socket.socket, listeners: list[socket.socket]) -> None:
        self.number = number
        self.workers = workers
        self.socket = sock
        self.listeners = listeners

    @classmethod
    def inherited(cls, environ: MutableMapping[str, str]) -> Self | None:
        """The place of this process; None if it is not a worker. Takes the variable out of `environ`."""
        value = environ.pop(VARIABLE, None)
        if value is None:
            return None
        number, workers, control, *listeners = map(int, value.split())
        sockets = [socket.socket(fileno=descriptor) for descriptor in (control, *listeners)]
        for sock in sockets:
            sock.set_inheritable(False)
        return cls(number, workers, sockets[0], sockets[1:])

    def variable(self) -> str:
        """The value of VARIABLE for the process that shall have this place."""
        return " ".join(map(str, (self.number, self.workers, *self.descriptors())))

    def descriptors(self) -> list[int]:
        return [sock.fileno() for sock in (self.socket, *self.listeners)]

    def fail(self, error: object, code: int) -> bool:
        """Tell the parent why this worker cannot start; False if that is not possible any more."""
        try:
            self.socket.settimeout(SEND_SECONDS)
            self.socket.sendall(_line({"type": "failed", "error": str(error), "code": code}))
        except OSError:
            return False
        return True


class Pipe:
    """One end of the socket pair, on the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """Take over `sock`."""
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MESSAGE_BYTES))

    def send(self, type: str, **fields: Any) -> None:
        """Never waits; a message for an end that is gone, or has stood still for long, is dropped."""
        transport = self._writer.transport
        if not transport.is_closing() and transport.get_write_buffer_size() <= UNREAD_BYTES:
            self._writer.write(_line({"type": type, **fields}))

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            line = await self._reader.readline()
            message: Message | None = orjson.loads(line) if line.endswith(b"\n") else None
        except ConnectionError:
            return None
        except ValueError as error:  # of a message too long, or not JSON
            logger.error("control pipe broken reason=%s", error)
            return None
        return message

    async def close(self) -> None:
        """Send what waits, for a limited time, and hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(SEND_SECONDS):
                await self._writer.wait_closed()


def reconnects(takers: int, sharing: int = 1) -> float:
    """Clients a second that `takers` workers can take back on this machine, for each of `sharing` that stop at once."""
    return RECONNECTS_A_SECOND * min(max(1, takers), len(os.sched_getaffinity(0))) / sharing


def spread(clients: int, reconnects: float) -> float:
    """Seconds over which so many clients come back, beginning at once."""
    return max(SHORTEST_SPREAD_SECONDS, clients / reconnects)


class Controlled(Protocol):
    """A server, as its parent sees it."""

    uid: str
    metrics: Metrics

    def pause(self) -> None:
        """Accept no more connections."""

    def on_worker_died(self, uid: str) -> None:
        """Another worker has ended, in whatever way."""


class Parent:
    """The supervising process, as a worker sees it. `leaving` gets `reconnects` when the worker is to drain."""

    def __init__(self, pipe: Pipe, worker: Controlled, workers: int) -> None:
        """`workers`: how many there are."""
        self.leaving: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._pipe = pipe
        self._worker = worker
        self._workers = workers
        self._scrapes: list[asyncio.Future[list[WorkerReport]]] = []
        self._tasks = Tasks()

    def start(self) -> None:
        """Say that the worker is ready, report, and listen."""
        self._tasks.spawn(self._follow())
        self._tasks.spawn(self._report_each_second())
        self._worker.metrics.scrape = self.scrape
        self._pipe.send("ready", uid=self._worker.uid)

    def leave(self) -> None:
        """Drain because of a signal; the parent is told, so that another takes this worker's place at once."""
        self._pipe.send("leaving")
        self._leave(reconnects(self._workers - 1))

    async def scrape(self) -> list[WorkerReport]:
        """What all workers have counted, as the parent knows it; TimeoutError if it does not say."""
        answer: asyncio.Future[list[WorkerReport]] = asyncio.get_running_loop().create_future()
        self._scrapes.append(answer)
        if len(self._scrapes) == 1:
            self._pipe.send("scrape")
        try:
            async with asyncio.timeout(SCRAPE_SECONDS):
                return await answer
        finally:
            if answer in self._scrapes:
                self._scrapes.remove(answer)

    async def close(self) -> None:
        """Report for the last time, and hang up."""
        await self._tasks.stop()
        self._report()
        await self._pipe.close()

    async def _follow(self) -> None:
        try:
            while (message := await self._pipe.receive()) is not None:
                self._obey(message)
            logger.info("parent is gone")
        except Exception:
            logger.exception("parent not understood")
        self._leave(reconnects(self._workers, sharing=self._workers))

    def _obey(self, message: Message) -> None:
        match message["type"]:
            case "pause":
                self._worker.pause()
                self._pipe.send("paused")
            case "drain":
                self._leave(message["reconnects"])
            case "report":
                self._report(message["number"])
            case "metrics":
                scrapes, self._scrapes = self._scrapes, []
                for answer in scrapes:
                    if not answer.done():
                        answer.set_result(message["workers"])
            case "died":
                logger.debug("another worker has ended uid=%s", message["uid"])
                self._worker.on_worker_died(message["uid"])

    def _leave(self, reconnects: float) -> None:
        if not self.leaving.done():
            self.leaving.set_result(reconnects)

    async def _report_each_second(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(REPORT_SECONDS)

    def _report(self, answers: int | None = None) -> None:
        metrics = self._worker.metrics
        self._pipe.send("report", counts=metrics.counts(), levels=metrics.levels(), answers=answers)


def _line(message: Message) -> bytes:
    return orjson.dumps(message) + b"\n"
