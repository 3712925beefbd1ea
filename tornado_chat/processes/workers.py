"""A worker as its parent sees it: a process, and the place in which one process follows another."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence

from tornado_chat.metrics import Counts, Levels
from tornado_chat.processes.control import VARIABLE, Message, Pipe, Place
from tornado_chat.processes.listeners import Listeners
from tornado_chat.processes.stand_in import StandIn


class Worker:
    """One process. It is starting, then ready, then perhaps leaving, then gone."""

    __slots__ = (
        "counts",
        "exited",
        "leaving",
        "levels",
        "number",
        "paused",
        "pipe",
        "process",
        "ready",
        "refused",
        "silent",
        "started",
        "started_at",
        "uid",
    )  # fmt: skip

    def __init__(self, number: int, process: subprocess.Popen[bytes], pipe: Pipe) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.process = process
        self.pipe = pipe
        self.uid: str | None = None
        self.started = time.time()  # as the metrics have it
        self.started_at = loop.time()
        self.ready: asyncio.Future[bool] = loop.create_future()  # False: it ended before it was
        self.paused: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.leaving = False
        self.refused: Message | None = None  # the `failed` that it sent
        self.silent = 0  # sweeps since it was heard of
        self.counts: Counts = {}
        self.levels: Levels = {}

    @property
    def is_ready(self) -> bool:
        return self.ready.done() and self.ready.result()


class Slot:
    """The place of worker `number`, in which one process follows another."""

    __slots__ = ("ended", "failures", "listeners", "number", "restarts", "stand_in", "timer", "worker")

    def __init__(self, number: int, listeners: Listeners) -> None:
        self.number = number
        self.listeners = listeners
        self.worker: Worker | None = None  # the one that is to serve; None: it is about to be started again
        self.ended: Counts = {}  # of those that are gone
        self.restarts = 0
        self.failures = 0  # short lives in a row
        self.timer: asyncio.TimerHandle | None = None
        self.stand_in = StandIn(number, listeners)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


async def launch(slot: Slot, workers: int, command: Sequence[str]) -> Worker:
    """Start a process for `slot`, one of `workers`, beside the one that has it; OSError if that is not possible."""
    ours, theirs = socket.socketpair()
    with theirs:
        pipe = await Pipe.open(ours)
        try:
            process = _exec(command, Place(slot.number, workers, theirs, slot.listeners))
        except OSError:
            await pipe.close()
            raise
    return Worker(slot.number, process, pipe)


def _exec(command: Sequence[str], place: Place) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, VARIABLE: place.variable()},
        pass_fds=place.descriptors(),
        preexec_fn=_leave_signals_to_the_parent,
    )


def _leave_signals_to_the_parent() -> None:
    """Before exec, in the child. A terminal signals the whole process group, and only the parent is to obey.

    SIGUSR1, which the parent passes on, must not end a worker that is not ready for it yet.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


async def all_ready(workers: list[Worker]) -> bool:
    """Wait until each is ready or has ended (which the supervisor limits); whether all are ready."""
    if workers:
        await asyncio.wait({worker.ready for worker in workers})
    return all(worker.is_ready for worker in workers)
