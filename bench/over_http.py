"""What is measured of the ways in besides the WebSocket: streams of server-sent events, posts and polls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import Any

from bench.bench import KIB, Bench, Figures
from bench.driver import Load, percentile
from bench.servers import SECRET, Dialect, ServerProcess, ours, peers
from bench.tools import Tools
from tornado_chat.auth import mint

TURNS = 3
CLIENTS = 16  # that post
BATCH = 64  # commands in one request
PACE = 10.0  # messages a second to each of the pollers whose cycle is measured
MESSAGES = 5  # to the many pollers
COMMAND = '{"type":"send","room":"acks","id":"{marker}","text":"' + "x" * 128 + '"}'
MESSAGE = '{"id":"{marker}","text":"' + "x" * 128 + '"}'
POLL = '{"rooms":{"room-0":{cursor}},"wait":{wait}}'


def posting(tools: Tools) -> Mapping[str, Dialect]:
    """Ours and a stock Tornado handler that only answers, with the address and the body of a post."""
    path = "/v1/rooms/acks/messages"
    return {
        "ours": replace(ours(), path=path, ready="", message=MESSAGE),
        "tornado": replace(peers("/post", tools)["tornado"], message=MESSAGE),
    }


def polling(tools: Tools) -> Mapping[str, Dialect]:
    """Ours, and that same handler: a cycle is compared with one request."""
    return {"ours": ours(), "tornado": posting(tools)["tornado"]}


@contextmanager
def tokens(bench: Bench, count: int) -> Iterator[Path]:
    """A file with a token for each of so many users, one a line."""
    with NamedTemporaryFile("w", dir=bench.directory) as file:
        file.write("\n".join(mint(SECRET.encode(), f"user-{index}", ttl=3600) for index in range(count)))
        file.flush()
        yield Path(file.name)


def in_turns(bench: Bench, server: ServerProcess, *ways: tuple[Load, Mapping[str, Any]]) -> list[list[Figures]]:
    """What is found while each of these loads publishes so, and the others rest; in short turns, as a pace drifts."""
    turns: list[list[Figures]] = [[] for _ in ways]
    for _ in range(TURNS):
        for (load, fields), found in zip(ways, turns, strict=True):
            load.publish(server, **fields)
            found.append(bench.measure(server, load, seconds=max(1.0, bench.size.seconds / TURNS)))
            load.ask("stop")
            load.drain()
    return turns


def streams(bench: Bench, dialect: Dialect, window: int) -> Figures:
    """A publisher keeps `window` messages in flight to a room whose members are streams, but for itself.

    A message is in flight until the last stream and the publisher have it. Of ours in turns with a room of as many
    WebSockets on the same server; `ratio` is the CPU for a delivery to a stream in that to a WebSocket.
    """
    members = bench.size.small
    fields: dict[str, Any] = {"window": bench.size.window or window, "witnesses": 2}
    with bench.server(dialect) as server, bench.load() as load, bench.load(1) as sockets:
        load.connect(server, members, kind="stream", path=dialect.stream, publisher=dialect.path, timeout=120)
        ways = [(load, fields)]
        if "{room}" in dialect.path:
            sockets.connect(server, members, path=dialect.path.replace("{room}", "sockets"), timeout=120)
            ways.append((sockets, fields | {"message": dialect.message.replace("{room}", "sockets")}))
        own, *others = in_turns(bench, server, *ways)
    figures = {figure: median(turn[figure] for turn in own) for figure in ("delivered", "cpu_us", "p99_ms")}
    for turns in others:
        figures["websocket_cpu_us"] = median(turn["cpu_us"] for turn in turns)
        figures["ratio"] = median(a["cpu_us"] / b["cpu_us"] for a, b in zip(own, turns, strict=True))
    return figures


def streams_memory(bench: Bench, dialect: Dialect) -> Figures:
    """The server's own memory for each of 10,000 idle streams in one room, KiB."""
    count = bench.size.large
    with bench.server(dialect) as server, bench.load() as load:
        bench.warm_up(server, kind="stream", path=dialect.stream)
        before = server.private()
        load.connect(server, count, kind="stream", path=dialect.stream, timeout=120)
        time.sleep(1)  # what the requests left behind is given back
        load.stats()  # BenchError if one was cut
        return {"kib": (server.private() - before) / count / KIB}


def posts(bench: Bench, dialect: Dialect) -> Figures:
    """Each of 16 clients posts its next message when the last is answered, on a connection that it keeps."""
    with tokens(bench, CLIENTS) as file, bench.server(dialect) as server, bench.load() as load:
        load.connect(server, CLIENTS, rooms=CLIENTS, kind="post", ready="", tokens=file)
        load.publish(server, window=1)
        figures = bench.measure(server, load)
        load.ask("stop")
        load.drain()
        return figures


def batches(bench: Bench, dialect: Dialect) -> Figures:
    """The same clients with 64 commands in each request; in turns with the WebSockets of `ack`, on one server."""
    senders = bench.size.senders
    with (
        tokens(bench, CLIENTS) as file,
        bench.server(dialect) as server,
        bench.load() as load,
        bench.load(1) as sockets,
    ):
        load.connect(server, CLIENTS, rooms=CLIENTS, kind="post", path="/v1/commands", ready="", tokens=file)
        sockets.connect(server, senders, rooms=senders, path="/ws?name=client-{index}", ready='"welcome"')
        ways = ((load, {"message": COMMAND, "window": BATCH}), (sockets, {"message": COMMAND, "window": 1}))
        batched, single = in_turns(bench, server, *ways)
    return {
        "a_second": median(turn["delivered"] for turn in batched),
        "cpu_us": median(turn["cpu_us"] for turn in batched),
        "p99_ms": median(turn["p99_ms"] for turn in batched),
        "websocket_a_second": median(turn["delivered"] for turn in single),
        "websocket_cpu_us": median(turn["cpu_us"] for turn in single),
        "batched_gain": median(a["delivered"] / b["delivered"] for a, b in zip(batched, single, strict=True)),
    }


def polls(bench: Bench, dialect: Dialect) -> Figures:
    """The server's CPU for a poll, its wait and its answer: 100 pollers and 10 messages a second.

    Of the peer that only answers: for a request of `posts`.
    """
    if dialect.path == "/post":
        return {"cpu_us": posts(bench, dialect)["cpu_us"]}
    count = bench.size.senders
    with (
        tokens(bench, count) as file,
        bench.server(dialect) as server,
        bench.load() as load,
        bench.load(1) as publisher,
    ):
        connect_pollers(load, server, count, file)
        publisher.connect(server, 1)
        publisher.publish(server, rate=PACE)
        figures = bench.measure(server, load, others_expected=True)  # the publisher
        publisher.ask("stop")
        load.drain(least=publisher.drain().sent)
        return {"cpu_us": figures["answered_cpu_us"], "p50_ms": figures["p50_ms"], "p99_ms": figures["p99_ms"]}


def pollers(bench: Bench, dialect: Dialect) -> Figures:
    """5,000 pollers in one room, and a message each 5 s: until all have it."""
    count = bench.size.pollers
    with (
        tokens(bench, count) as file,
        bench.server(dialect) as server,
        bench.load() as load,
        bench.load(1) as publisher,
    ):
        connect_pollers(load, server, count, file)
        publisher.connect(server, 1)
        time.sleep(bench.size.settle)
        cpu, load_cpu, answers = server.cpu(), load.cpu(), load.stats().answers
        lasts: list[float] = []
        every: Counter[int] = Counter()
        for number in range(1, MESSAGES + 1):
            due = time.monotonic() + bench.size.seconds
            publisher.publish(server, window=1, count=number)
            latency = load.drain(60, least=number).latency
            lasts.append(percentile(latency, 1.0) / 1000)
            for us, times in latency:
                every[us] += times
            time.sleep(max(0.0, due - time.monotonic()))
        answers = load.stats().answers - answers
        return {
            "seconds": median(lasts),
            "worst_seconds": max(lasts),
            "p50_ms": percentile(list(every.items()), 0.50),
            "cpu_us": (server.cpu() - cpu) / answers * 1e6,
            "load_ms": (load.cpu() - load_cpu) / MESSAGES * 1e3,
        }


def connect_pollers(load: Load, server: ServerProcess, count: int, tokens: Path) -> None:
    """Each with its first answer: it knows where the log ends, and waits for what follows."""
    load.connect(server, count, kind="poll", path="/v1/poll", body=POLL, ready="", tokens=tokens, timeout=120)
