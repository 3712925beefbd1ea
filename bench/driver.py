"""The handle of a load process: its commands, its answers, and a time limit on every wait."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import BenchError
from bench.processes import cpu_seconds
from bench.servers import ROOT, ServerProcess

ANSWER_SECONDS = 20.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the process began, and the latencies since the answer before this one.

    `outstanding` is the sum, over the connections, of messages that were sent to its room by this process and have not
    come to it; `answers` are those to posts and polls; `least` is the smallest number of messages that any connection
    has. `cuts` are the times that the server ended a connection which came back, `most_cuts` those of the connection
    that has most, `refused` the handshakes that were to come later. Latencies: (microseconds, count).
    """

    time: float
    sent: int
    delivered: int
    answers: int
    bytes: int
    lost: int
    doubled: int
    pings: int
    outstanding: int
    least: int
    cuts: int
    most_cuts: int
    refused: int
    latency: list[tuple[int, int]]


class Load:
    """One load process, pinned to `core`."""

    def __init__(self, program: str, core: int) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        self.pid = self._process.pid
        os.sched_setaffinity(self.pid, {core})
        assert self._process.stdin
        assert self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait(10)
        self._selector.close()
        self._stdin.close()
        self._stdout.close()

    def ask(self, command: str, limit: float = ANSWER_SECONDS, /, **fields: float | str | Path) -> dict[str, object]:
        """Give a command and return the answer. BenchError when there is none in `limit` s, and when it is an error."""
        line = "\t".join([command, *(f"{key}={value}" for key, value in fields.items())])
        try:
            os.write(self._stdin.fileno(), line.encode() + b"\n")
        except BrokenPipeError:
            raise BenchError(f"the load process ended at {command!r}") from None
        deadline, data = time.monotonic() + limit, b""
        while not data.endswith(b"\n"):
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise BenchError(f"the load process did not answer {command!r} in {limit:.0f} s")
            part = os.read(self._stdout.fileno(), 1 << 20)
            if not part:
                raise BenchError(f"the load process ended with {self._process.wait(10)}")
            data += part
        answer: dict[str, object] = json.loads(data)
        if "error" in answer:
            raise BenchError(str(answer["error"]))
        return answer

    def connect(
        self,
        server: ServerProcess,
        count: int,
        *,
        rooms: int = 1,
        path: str = "",
        ready: str | None = None,
        timeout: float = 60,
        to: Sequence[str] = (),
        tokens: Path | None = None,
        kind: str = "websocket",
        publisher: str = "",
        body: str = "",
        **fields: int,
    ) -> float:
        """Open `count` connections, in `rooms` by turns, and wait until all are ready; the seconds it took.

        A second call brings back those that were cut. More fields: `inflight` (handshakes at a time), `deflate`,
        `rcvbuf` (bytes), `first` (number of the first client), `returns` (1: those that the server ends come back).
        `path` and `ready` stand for the dialect's, `to` for all of the server's addresses.
        `tokens` is a file with a token in each line, that of the first client first, for `{token}` in `path`, and for
        the requests of other kinds than `websocket`: `stream`, `post` and `poll`, which has a `body`, too. With
        `publisher` the last of each room is a WebSocket at that path.
        """
        answer = self.ask(
            "connect",
            timeout + 5,
            to=",".join(to or server.addresses),
            count=count,
            rooms=rooms,
            path=path or server.dialect.path,
            ready=server.dialect.ready if ready is None else ready,
            timeout=timeout,
            tokens=tokens or "",
            kind=kind,
            publisher=publisher,
            body=body,
            **fields,
        )
        return float(str(answer["seconds"]))

    def publish(self, server: ServerProcess, *, message: str = "", text: int = 128, **fields: float) -> None:
        """Let each room's publisher send: `window` messages in flight, or `rate` a second from all; `count` each.

        A message is in flight until the last `witnesses` members of the room (1: the publisher) have it.
        """
        self.ask("publish", message=message or server.dialect.message, text=text, **fields)

    def grow(self, *, authors: int, tokens: int, rate: float) -> None:
        """Let the last `authors` connections write messages of so many tokens, `rate` tokens a second each.

        What is delivered from now on are tokens, latencies are those of the first of a message, and what is sent are
        messages that have ended. After `stop` what has begun is finished.
        """
        self.ask("grow", authors=authors, tokens=tokens, rate=rate)

    def stats(self) -> Stats:
        answer = self.ask("stats")
        answer["latency"] = [tuple(pair) for pair in answer["latency"]]  # type: ignore[attr-defined]  # it is a list
        return Stats(**answer)  # type: ignore[arg-type]  # print_stats in load/main.c gives exactly these fields

    def give_way(self) -> None:
        """From now on it runs only when no other process wants its core."""
        os.sched_setscheduler(self.pid, os.SCHED_IDLE, os.sched_param(0))

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self.pid)

    def drain(self, seconds: float = 30, *, least: int | None = None) -> Stats:
        """Wait until everything has come to everybody, or `least` messages to each; BenchError unless exactly once."""
        deadline = time.monotonic() + seconds
        latency: list[tuple[int, int]] = []
        while True:
            stats = self.stats()
            check(stats)
            latency += stats.latency
            if stats.outstanding == 0 if least is None else stats.least >= least:
                return replace(stats, latency=latency)
            if time.monotonic() > deadline:
                missing = f"{stats.outstanding} deliveries" if least is None else f"{least - stats.least} messages"
                raise BenchError(f"{missing} did not come within {seconds:.0f} s")
            time.sleep(0.01)


def connect_all(loads: Sequence[Load], server: ServerProcess, count: int, *, rooms: int = 1, **fields: Any) -> float:
    """`Load.connect` for `count` clients, shared out among the processes, at the same time; the seconds it took.

    `rooms` 0: a room for each client.
    """
    jobs, first = [], 0
    for number, load in enumerate(loads):
        share = count // len(loads) + (number < count % len(loads))
        jobs.append(partial(load.connect, server, share, rooms=rooms or share, first=first, **fields))
        first += share
    return max(together(jobs))


def together(work: Iterable[Callable[[], T]]) -> list[T]:
    """Do all of it at the same time: commands to several load processes."""
    jobs = list(work)
    with ThreadPoolExecutor(len(jobs)) as threads:
        return list(threads.map(lambda job: job(), jobs))


def check(stats: Stats) -> None:
    """BenchError if a message was lost, doubled or came out of order (which shows as both)."""
    if stats.lost or stats.doubled:
        raise BenchError(f"{stats.lost} deliveries lost, {stats.doubled} doubled or out of order")


def percentile(latency: Sequence[tuple[int, int]], share: float) -> float:
    """The latency, in milliseconds, that `share` (0 to 1) of the deliveries did not pass."""
    latency = sorted(latency)
    left = share * sum(count for _, count in latency)
    for microseconds, count in latency:
        left -= count
        if left <= 0:
            return microseconds / 1000
    raise BenchError("no latency was measured: nothing was delivered")
