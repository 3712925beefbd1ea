"""The table: what was measured, against what it was measured, and whether TARGETS are met."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from bench.bench import MIB, Bench
from bench.scenarios import HIGH_WATER_MARK, PACES, PACES_LARGE

SERVERS = {
    "ours": "tornado_chat",
    "pure": "without the extension",
    "socketify": "uWebSockets",
    "picows": "picows",
    "fastapi": "FastAPI + uvicorn",
    "tornado": "stock Tornado",
    "nchan": "Nchan",
    "bare": "bare C",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on our figure, or, with `peer`, on its ratio to the peer's."""

    bound: float
    at_least: bool = False
    peer: str = ""

    def text(self, digits: int) -> str:
        sign = "≥" if self.at_least else "≤"
        if self.peer:
            return f"{sign} {self.bound:.3g} x {SERVERS[self.peer]}"
        return f"{sign} {self.bound:,.{digits}f}"

    def verdict(self, medians: Mapping[str, float]) -> str:
        """The ratio, if it is one, and `met` or `missed`; `not measured` without the figures for it."""
        if "ours" not in medians or (self.peer and self.peer not in medians):
            return "not measured"
        value = medians["ours"] / (medians[self.peer] if self.peer else 1)
        met = value >= self.bound if self.at_least else value <= self.bound
        by = f"{value:.3g} x, " if self.peer else ""
        return by + ("met" if met else "**missed**")


@dataclass(frozen=True, slots=True)
class Row:
    scenario: str
    figure: str
    label: str
    digits: int = 0
    targets: tuple[Target, ...] = ()

    @property
    def more_is_better(self) -> bool:
        """Of what is done in a second; the other figures are costs."""
        return self.figure.endswith(("delivered", "a_second", "per_second", "for_cpu", "_one", "_two", "_gain"))


def least(bound: float, peer: str = "") -> Target:
    return Target(bound, at_least=True, peer=peer)


def most(bound: float, peer: str = "") -> Target:
    return Target(bound, peer=peer)


ROWS = (
    Row(
        "fan-out",
        "delivered",
        "fan-out, 1,000 members, window 4: deliveries a second",
        0,
        (least(8, "fastapi"), least(15, "tornado")),
    ),
    Row("fan-out", "cpu_us", "the server's CPU for one, µs", 2, (most(1, "socketify"), most(1.6, "bare"))),
    Row("fan-out", "p99_ms", "p99 from sending to delivery, ms", 1),
    *(
        row
        for window, bound in ((1, 1.1), (16, 1))
        for row in (
            Row(f"fan-out-{window}", "delivered", f"the same, window {window}: deliveries a second", 0),
            Row(f"fan-out-{window}", "cpu_us", "the server's CPU for one, µs", 2, (most(bound, "socketify"),)),
            Row(f"fan-out-{window}", "p99_ms", "p99 from sending to delivery, ms", 1),
        )
    ),
    Row("fan-out-large", "delivered", "fan-out, 10,000 members: deliveries a second", 0, (least(4, "fastapi"),)),
    Row("fan-out-large", "cpu_us", "the server's CPU for one, µs", 2),
    *(
        row
        for size, members, rates in (("small", "1,000", PACES), ("large", "10,000", PACES_LARGE))
        for rate in rates
        for row in (
            Row("paced", f"{size}_{rate}_cpu_us", f"{members} members, {rate} messages a second: CPU for one, µs", 2),
            Row("paced", f"{size}_{rate}_p50_ms", "p50 from when it was due to delivery, ms", 1),
            Row("paced", f"{size}_{rate}_p99_ms", "p99, ms", 1),
        )
    ),
    Row("echo", "cpu_us", "echo, 100 connections: the server's CPU, µs", 1, (most(1 / 6.5, "tornado"),)),
    Row("echo", "delivered", "echoes a second", 0),
    Row("echo", "p99_ms", "p99 of a round trip, ms", 1),
    Row("ack", "delivered", "send, commit, ack, 100 connections: a second", 0, (least(30_000),)),
    Row("ack", "p99_ms", "p99 from `send` to `ack`, ms", 1, (most(20),)),
    Row("ack", "p50_ms", "p50, ms", 1),
    Row("ack", "cpu_us", "the server's CPU for one, µs", 1),
    Row("ack-postgres", "delivered", "the same on PostgreSQL: a second", 0, (least(10_000),)),
    Row("ack-postgres", "p99_ms", "p99 from `send` to `ack`, ms", 1),
    Row("ack-postgres", "p50_ms", "p50, ms", 1),
    Row("ack-postgres", "cpu_us", "the server's CPU for one, µs", 1),
    Row("ack-postgres", "postgres_cpu_us", "PostgreSQL's own CPU for one, µs", 1),
    Row(
        "latency",
        "p50_ms",
        "delivery, 10,000 connections in 1,000 rooms, 2,000 messages a second: p50, ms",
        2,
        (most(2),),
    ),
    Row("latency", "p99_ms", "p99, ms", 2, (most(10),)),
    Row("latency", "cpu_us", "the server's CPU for one delivery, µs", 1),
    Row("fairness", "p99_ms", "a room of two beside a room of 10,000 at 5 messages a second: p99, ms", 2, (most(2),)),
    Row("fairness", "p50_ms", "p50, ms", 2),
    Row("fairness", "silent_p99_ms", "p99 while the large room is silent, ms", 2),
    Row(
        "mentions", "p99_ms", "a room of two beside a room of 10,000 at 20 messages that name 50 users each: p99, ms", 2
    ),
    Row("mentions", "p50_ms", "p50, ms", 2),
    Row("mentions", "plain_p99_ms", "p99 while they name nobody, ms", 2),
    Row("memory", "one_room", "memory for each of 10,000 connections, in one room, KiB", 1, (most(2),)),
    Row("memory", "many_rooms", "in 1,000 rooms, KiB", 1, (most(4),)),
    Row("memory", "deflate", "in one room, with permessage-deflate, KiB", 1, (most(6),)),
    Row(
        "slow-readers",
        "extra",
        "100 clients read nothing while 1 GB is sent to them: memory above the same traffic when they read, MiB",
        1,
        (most(HIGH_WATER_MARK * 100 / MIB),),
    ),
    Row("slow-readers", "reading", "memory of that traffic when they read, MiB", 1),
    Row("slow-readers", "catch_up_seconds", "until each has read every event, in order, s", 1),
    Row("connects", "per_second", "connections opened a second", 0, (least(1.5, "tornado"),)),
    Row("connects", "cpu_us", "the server's CPU for one, µs", 0),
    Row("connects", "joined_per_second", "opened and joined to a room (`synced`) a second", 0, (least(3, "tornado"),)),
    Row("connects", "joined_cpu_us", "the server's CPU for one of those, µs", 0, (most(1 / 3, "tornado"),)),
    Row(
        "storm", "seconds", "10,000 clients come back, each recovers 100 events: until all are synced, s", 1, (most(8),)
    ),
    Row("storm", "log_reads", "log queries for that", 0, (most(1),)),
    Row("storm", "cpu_seconds", "the server's CPU for that, s", 2, (most(1.5),)),
    Row("storm", "strangers_cpu_seconds", "the server's CPU where each comes back as a new guest, s", 2),
    Row(
        "streams",
        "delivered",
        "fan-out to streams, 1,000 members, window 4: deliveries a second",
        0,
        (least(8, "fastapi"), least(1, "nchan")),
    ),
    Row("streams", "cpu_us", "the server's CPU for one, µs", 2),
    Row("streams", "p99_ms", "p99 from sending to delivery, ms", 1),
    Row("streams", "websocket_cpu_us", "CPU for one of the same to WebSockets, in turns, µs", 2),
    Row("streams", "ratio", "the CPU for a delivery to a stream, in that to a WebSocket", 2, (most(1.1),)),
    Row("streams-memory", "kib", "memory for each of 10,000 streams, KiB", 1, (most(4),)),
    Row("posts", "delivered", "post, commit, answer, 16 clients: a second", 0, (least(0.6, "tornado"),)),
    Row("posts", "cpu_us", "the server's CPU for one, µs", 1),
    Row("posts", "p99_ms", "p99 from the request to its answer, ms", 1),
    Row("batches", "a_second", "commands posted 64 at a time, 16 clients: acks a second", 0),
    Row("batches", "cpu_us", "the server's CPU for one, µs", 1),
    Row("batches", "p99_ms", "p99 from the request to its answer, ms", 1),
    Row("batches", "websocket_a_second", "acks a second of 100 WebSockets, in turns", 0),
    Row("batches", "websocket_cpu_us", "the server's CPU for one of those, µs", 1),
    Row("batches", "batched_gain", "acks of batches in what WebSockets get a second", 2, (least(0.5),)),
    Row("polls", "cpu_us", "a poll, its wait and its answer: the server's CPU, µs", 1, (most(1.3, "tornado"),)),
    Row("polls", "p50_ms", "p50 from sending a message until a poll brings it, 100 pollers, ms", 1),
    Row("polls", "p99_ms", "p99, ms", 1),
    Row("pollers", "seconds", "5,000 pollers in one room: until all have a message, s", 2, (most(3),)),
    Row("pollers", "worst_seconds", "of the slowest message, s", 2, (most(3),)),
    Row("pollers", "p50_ms", "p50 of all deliveries, ms", 0),
    Row("pollers", "cpu_us", "the server's CPU for one poll, µs", 1),
    Row("pollers", "load_ms", "the load's own CPU for a message to all, which is a part of those times, ms", 0),
    *(
        row
        for scenario, where, bound in (
            ("growing", "100 messages grow by 50 tokens a second each, in a room of 1,000", 0.3),
            ("growing-rooms", "100 messages grow so in 100 rooms of 10", 0.3),
            ("growing-crowd", "100 messages grow so in 10 rooms of 1,000", 0.4),
        )
        for row in (
            Row(scenario, "cores", f"{where}: cores of the server", 2, (most(bound),)),
            Row(
                scenario,
                "first_p50_ms",
                "from the append of a message's first token to a reader: p50, ms",
                1,
                (most(5),) if bound < 0.4 else (),
            ),
            Row(scenario, "first_p99_ms", "p99, ms", 1),
        )
    ),
    *(
        row
        for scenario, where in (("growing", "in the room of 1,000"), ("growing-rooms", "in the rooms of 10"))
        for row in (
            Row(scenario, "edited_cores", f"by an edit of the message for each token, {where}: cores, reckoned", 1),
            Row(scenario, "event_cores", "by an event for each token on each reader's stream: cores, reckoned", 1),
        )
    ),
    *(
        Row(scenario, f"{way}_{figure}", f"{where}, {load}: {what}", digits, targets)
        for scenario, where in (("workers", "1,000 members of a room"), ("workers-unix", "through Unix sockets"))
        for way, load in (("busy", "window 4"), ("steady", "100 messages a second"))
        for figure, what, digits, targets in (
            ("one", "deliveries for each CPU second of one worker", 0, ()),
            ("two", "500 + 500 on two workers", 0, ()),
            ("ratio", "the two workers' CPU for a delivery, in that of the one", 2, (most(1.25),)),
            ("redis_cpu_us", "Redis's own CPU for one, not counted, µs", 3, ()),
        )
    ),
    *(
        Row("ack-workers", f"{log}_{workers}_{figure}", f"send, commit, ack on {name}, {count}: {what}", 0)
        for log, name in (("sqlite", "SQLite"), ("postgres", "PostgreSQL"))
        for workers, count in ((1, "one worker"), (2, "two workers"))
        for figure, what in (("for_cpu", "for each CPU second"), ("a_second", "a second"))
    ),
    Row("ack-workers", "sqlite_gain", "two workers on SQLite in what one does a second", 2, (least(1),)),
    Row("ack-workers", "postgres_gain", "two workers on PostgreSQL in what one does a second", 2),
    Row(
        "between-workers",
        "over_p50_ms",
        "to a member on another worker: p50 above the same worker's, ms",
        2,
        (most(2),),
    ),
    Row("between-workers", "p50_ms", "p50, ms", 2),
    Row("between-workers", "p99_ms", "p99, ms", 2),
    Row("between-workers", "same_p50_ms", "to a member on the same worker: p50, ms", 2),
    Row("between-workers", "same_p99_ms", "p99, ms", 2),
    Row("crowd", "per_second", "50,000 connections on four workers, none refused: opened and joined a second", 0),
    Row("crowd", "kib", "memory for each, KiB", 1, (most(4),)),
    Row("crowd", "last_ms", "a message a second to all: from sending until the last has it, ms", 0),
    Row("crowd", "worst_ms", "of the slowest message, ms", 0),
    Row("crowd", "p50_ms", "p50 of all deliveries, ms", 0),
    Row("crowd", "p99_ms", "p99, ms", 0),
    Row("crowd", "cpu_us", "the server's CPU for one delivery, µs", 2),
    Row("crowd", "load_ms", "the load's own CPU for a message to all, which is a part of those times, ms", 0),
    *(
        row
        for scenario, what in (
            ("restart", "one of four workers with 5,000 connections each is restarted"),
            ("kill", "one of them is killed"),
            ("roll", "all four are replaced (SIGHUP)"),
        )
        for row in (
            Row(scenario, "most_cuts", f"{what}: reconnects of the client that has most", 0, (most(1),)),
            Row(scenario, "cut", "clients that were cut off", 0),
            Row(scenario, "seconds", "until all are back and have everything, s", 1),
            Row(scenario, "refused", "handshakes told to come later", 0),
        )
    ),
)

Results = dict[tuple[str, str, str], list[float]]
"""(scenario, figure, server) -> one value for each round."""


def table(results: Results) -> str:
    """One Markdown table of medians; a row only for what was measured."""
    servers = [server for server in SERVERS if any(key[2] == server for key in results)]
    lines = [f"| | {' | '.join(SERVERS[server] for server in servers)} | target | |", "|---" * (len(servers) + 3) + "|"]
    for row in ROWS:
        medians = {s: median(results[key]) for s in servers if (key := (row.scenario, row.figure, s)) in results}
        if not medians:
            continue
        cells = [f"{medians[server]:,.{row.digits}f}" if server in medians else "" for server in servers]
        targets = "; ".join(target.text(row.digits) for target in row.targets)
        verdicts = "; ".join(target.verdict(medians) for target in row.targets)
        lines.append(f"| {row.label} | {' | '.join(cells)} | {targets} | {verdicts} |")
    return "\n".join(lines)


def machine(bench: Bench, rounds: int) -> str:
    """One line on where and with what the table was made."""
    cpu = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    found = []
    for package in ("tornado", "uvloop"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = "all on one core" if bench.server_core in bench.load_cores else "server on one core, load on the other"
    return (
        f"{datetime.date.today()}, {cpu}, {cores}, Linux {platform.release()}, Python {sys.version.split()[0]}, "
        f"{', '.join(found)}; load from {bench.loads} process{'es' * (bench.loads > 1)}; "
        f"medians of {rounds} round{'s' * (rounds > 1)} of {bench.size.seconds:g} s, the servers in turns."
    )
