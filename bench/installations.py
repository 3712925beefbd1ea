"""What is measured of an installation of several workers: what it costs, how long it takes, and what a restart does."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from statistics import median

from bench.bench import KIB, Bench, Figures
from bench.driver import check, connect_all, percentile, together
from bench.errors import BenchError
from bench.servers import SECRET, Dialect, wait_until_gone
from tornado_chat.auth import mint

WINDOW = 4  # messages in flight
WITNESSES = 8  # members; where the kernel chooses the worker of each, one time in 128 all are on one
TURNS = 3
STEADY = 100.0  # messages a second, at which hardly any two go into one write
CONNECTIONS = 12_500  # of a load process, which may have 20,000 open files
MESSAGES = 1.0  # a second in each room, while workers are replaced
LEAVE_SECONDS = 60.0  # a worker that drains is gone after half of that, and a roll drains one after the other


def one_and_two(bench: Bench, one: Dialect, two: Dialect) -> Figures:
    """A room of 1,000 on one worker and 500 + 500 on two, in turns: as many messages as go, then a hundred a second.

    Deliveries for each CPU second, and the ratio of the CPU for one. Of two workers both must have a message before it
    counts as arrived.
    """
    figures: Figures = {}
    one = replace(one, tree=two.tree)
    with bench.server(one) as alone, bench.server(two) as pair, bench.load() as first, bench.load() as second:
        sides = ((alone, first), (pair, second))
        for server, load in sides:
            load.connect(server, bench.size.small)
        time.sleep(bench.size.settle)
        for way, fields in (("busy", {"window": WINDOW, "witnesses": WITNESSES}), ("steady", {"rate": STEADY})):
            turns: list[list[Figures]] = [[], []]
            for _ in range(TURNS):  # short ones: the machine's pace drifts, and a ratio should not
                for (server, load), found in zip(sides, turns, strict=True):
                    load.publish(server, **fields)
                    found.append(bench.measure(server, load, seconds=max(0.2, bench.size.seconds / TURNS)))
                    load.ask("stop")
                    load.drain()
            figures[f"{way}_one"], figures[f"{way}_two"] = (median(1e6 / f["cpu_us"] for f in found) for found in turns)
            figures[f"{way}_ratio"] = median(b["cpu_us"] / a["cpu_us"] for a, b in zip(*turns, strict=True))
            figures[f"{way}_redis_cpu_us"] = median(f["redis_cpu_us"] for f in turns[1])
    return figures


def between(bench: Bench, dialect: Dialect) -> Figures:
    """A hundred rooms, 500 messages a second: to two members on the publisher's worker and to one on the other."""
    rooms = bench.size.senders
    with bench.server(dialect) as server, bench.load() as near, bench.load(1) as far:
        far.connect(server, rooms, rooms=rooms, first=2 * rooms, to=server.addresses[1:])
        near.connect(server, 2 * rooms, rooms=rooms, to=server.addresses[:1])
        near.publish(server, rate=500)
        time.sleep(bench.size.warm)
        far.stats()  # begins anew
        same = bench.measure(server, near, others_expected=True)  # the other load
        stats = far.stats()
        check(stats)
        near.ask("stop")
        far.drain(least=near.drain().sent // rooms)
        p50, p99 = percentile(stats.latency, 0.50), percentile(stats.latency, 0.99)
        return {
            "same_p50_ms": same["p50_ms"],
            "same_p99_ms": same["p99_ms"],
            "p50_ms": p50,
            "p99_ms": p99,
            "over_p50_ms": p50 - same["p50_ms"],
        }


def crowd(bench: Bench, dialect: Dialect) -> Figures:
    """50,000 connections in one room, and a message each second to all of them."""
    count = bench.size.huge
    messages = max(3, round(bench.size.seconds * 2))
    with bench.server(dialect) as server, bench.several_loads(-(-count // CONNECTIONS)) as loads:
        bench.warm_up(server)
        memory, cpu = server.resident(), server.cpu()
        seconds = connect_all(loads, server, count, timeout=180)
        figures = {
            "per_second": count / seconds,
            "connect_cpu_us": (server.cpu() - cpu) / count * 1e6,
        }
        time.sleep(bench.size.settle)  # and what the handshakes left behind is given back
        figures["kib"] = (server.resident() - memory) / count / KIB
        publisher = loads[-1]
        cpu, load_cpu, due, late = server.cpu(), sum(load.cpu() for load in loads), time.monotonic(), 0
        latency: Counter[int] = Counter()
        lasts = []
        for number in range(1, messages + 1):
            due += 1
            late += time.monotonic() > due
            time.sleep(max(0.0, due - time.monotonic()))
            publisher.publish(server, window=1, count=number)
            time.sleep(0.2)  # to ask them while they are busy would slow them down
            every = [pair for load in loads for pair in load.drain(least=number).latency]
            for us, times in every:
                latency[us] += times
            lasts.append(percentile(every, 1.0))
        if late:
            bench.note(f"{bench.scenario}, pace: {late} of {messages} messages began late, the one before still came.")
        figures |= {
            "last_ms": median(lasts),
            "worst_ms": max(lasts),
            "p50_ms": percentile(list(latency.items()), 0.50),
            "p99_ms": percentile(list(latency.items()), 0.99),
            "cpu_us": (server.cpu() - cpu) / (messages * count) * 1e6,
            "load_ms": (sum(load.cpu() for load in loads) - load_cpu) / messages * 1e3,
        }
        return figures


def restart(bench: Bench, dialect: Dialect) -> Figures:
    """SIGTERM to one worker of four: it drains."""
    return replaced(bench, dialect, signal.SIGTERM)


def kill(bench: Bench, dialect: Dialect) -> Figures:
    """SIGKILL to one worker of four."""
    return replaced(bench, dialect, signal.SIGKILL)


def roll(bench: Bench, dialect: Dialect) -> Figures:
    """SIGHUP to the parent: it replaces all four."""
    return replaced(bench, dialect, signal.SIGHUP)


def replaced(bench: Bench, dialect: Dialect, number: signal.Signals) -> Figures:
    """20,000 connections in 100 rooms with a message a second in each; whom the old workers cut off comes back.

    From the signal until the old workers are gone and a message sent after that has come to everybody. The publishers,
    who may be cut off as well, send again what they have not seen, with the same ids.
    """
    count, rooms = bench.size.four, bench.size.senders
    with bench.server(dialect) as server, bench.several_loads(-(-count // CONNECTIONS) + 1) as (*loads, publisher):
        # `number` in a path is the next that the connection should see: the seq before that is the same number.
        path = f"{dialect.path}&after={{number}}"
        connect_all(loads, server, count, path=path, rooms=rooms, timeout=180, returns=1, inflight=500)
        token = mint(SECRET.encode(), "publisher", ttl=3600)
        path = f"/ws/room-{{room}}?token={token}&after={{number}}"
        publisher.connect(server, rooms, path=path, rooms=rooms, timeout=180, returns=1, inflight=500)
        publisher.publish(server, rate=MESSAGES * rooms)
        together(partial(load.drain, least=2) for load in loads)
        old = server.workers()
        if number != signal.SIGHUP:
            old = old[:1]
        cpu, began = server.cpu(), time.monotonic()
        for pid in [server.pid] if number == signal.SIGHUP else old:
            os.kill(pid, number)
        wait_until_gone(old, LEAVE_SECONDS * len(old))
        least = publisher.stats().sent // rooms + 2  # of each room, the one that is perhaps on its way not counted
        every = together(partial(load.drain, 60, least=least) for load in (*loads, publisher))
        seconds, cpu = time.monotonic() - began, server.cpu() - cpu
        cuts = sum(stats.cuts for stats in every)
        if not cuts:
            raise BenchError("nobody was cut off")
        last = publisher.stats().sent // rooms + 2
        publisher.publish(server, window=1, count=last)
        together(partial(load.drain, least=last) for load in (*loads, publisher))
        return {
            "seconds": seconds,
            "cut": cuts,
            "most_cuts": max(stats.most_cuts for stats in every),
            "refused": sum(stats.refused for stats in every),
            "cpu_seconds": cpu,
        }
