"""What is measured: each scenario runs one server once and returns its figures by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from bench import growing, installations, over_http
from bench.bench import KIB, LOAD_SHARE, MIB, Bench, Figures
from bench.driver import Load, connect_all
from bench.errors import BenchError
from bench.servers import OURS_ECHO, SECRET, Dialect, ServerProcess, apart, on_one_port, ours, peers, pure, stream_peers
from bench.tools import Tools
from tornado_chat.auth import mint

HIGH_WATER_MARK = 64 * KIB  # bytes; of the slow readers' server
PACES, PACES_LARGE = (10, 100, 300), (5, 20)  # messages a second to 1,000 members, and to 10,000


def fan_out(bench: Bench, dialect: Dialect, members: int, window: int) -> Figures:
    """One publisher in a room of `members` keeps `window` messages in flight."""
    with in_one_room(bench, dialect, members) as (server, loads):
        return published(bench, server, loads, window=bench.size.window or window)


def paced(bench: Bench, dialect: Dialect) -> Figures:
    """One publisher in a room sends so many messages a second, whether or not the last has arrived."""
    figures: Figures = {}
    for size, members, rates in (("small", bench.size.small, PACES), ("large", bench.size.large, PACES_LARGE)):
        with in_one_room(bench, dialect, members) as (server, loads):
            for rate in rates:
                found = published(bench, server, loads, rate=rate)
                figures |= {f"{size}_{rate}_{figure}": found[figure] for figure in ("cpu_us", "p50_ms", "p99_ms")}
    return figures


@contextmanager
def in_one_room(bench: Bench, dialect: Dialect, members: int) -> Iterator[tuple[ServerProcess, list[Load]]]:
    """The server with so many members in a room; the last load's last connection is the last of all to be served."""
    with bench.server(dialect) as server, bench.several_loads() as loads:
        share = members // len(loads)
        for number, load in enumerate(loads):
            count = share if number else members - share * (len(loads) - 1)
            load.connect(server, count, first=number * members, timeout=120)
        yield server, loads


def published(
    bench: Bench, server: ServerProcess, loads: Sequence[Load], *, window: int = 0, rate: float = 0
) -> Figures:
    """Figures while the last load sends at this pace; ends when everything has come to everybody."""
    publisher = loads[-1]
    publisher.publish(server, window=window, rate=rate)
    figures = bench.measure(server, *loads)
    publisher.ask("stop")
    sent = publisher.drain().sent
    for load in loads:
        load.drain(least=sent)
    return figures


def closed_loop(bench: Bench, dialect: Dialect, path: str = "", message: str = "", ready: str = "") -> Figures:
    """Each of `senders` connections sends when the answer to its last message has come: echoes or acks."""
    with bench.server(dialect) as server, bench.several_loads() as loads:
        connect_all(loads, server, bench.size.senders, rooms=0, path=path, ready=ready or dialect.ready)
        for load in loads:
            load.publish(server, message=message, window=1)
        figures = bench.measure(server, *loads)
        for load in loads:
            load.ask("stop")
            load.drain()
        return figures


def ack(bench: Bench, dialect: Dialect) -> Figures:
    """The senders have not joined the one room they send to, so only acks come back: the marker is the id."""
    message = '{"type":"send","room":"acks","id":"{marker}","text":"' + "x" * 128 + '"}'
    return closed_loop(bench, dialect, path="/ws?name=client-{index}", message=message, ready='"welcome"')


def ack_workers(bench: Bench, tree: Path) -> Figures:
    """The same on one worker and on two, with either log."""
    figures: Figures = {}
    for log, needs in (("sqlite", ()), ("postgres", ("postgres",))):
        if bench.tools.missing.keys() & set(needs):
            bench.note(f"ack-workers: without PostgreSQL: {bench.tools.missing['postgres']}")
        else:
            for workers in (1, 2):
                found = ack(bench, replace(apart(workers, *needs), tree=tree))
                figures[f"{log}_{workers}_a_second"] = found["delivered"]
                figures[f"{log}_{workers}_for_cpu"] = 1e6 / found["cpu_us"]
            figures[f"{log}_gain"] = figures[f"{log}_2_a_second"] / figures[f"{log}_1_a_second"]
    return figures


def connects(bench: Bench, dialect: Dialect) -> Figures:
    """Handshakes a second, 100 under way at a time; until the 101, of ours until `welcome`, and until `synced` too.

    A peer's client has joined with the 101: its figures are in both.
    """
    count = bench.size.large
    figures: Figures = {}
    ways = {"": ("", "")}
    if dialect.ready:
        ways = {"": ("/ws?name=client-{index}", '"welcome"'), "joined_": (dialect.path, dialect.ready)}
    for way, (path, ready) in ways.items():
        with bench.server(dialect) as server, bench.several_loads() as loads:
            bench.warm_up(server)
            cpu, load_cpu = server.cpu(), sum(load.cpu() for load in loads)
            seconds = connect_all(loads, server, count, path=path, ready=ready, timeout=120)
            figures[way + "per_second"] = count / seconds
            figures[way + "cpu_us"] = (server.cpu() - cpu) / count * 1e6
            load_cpu = sum(load.cpu() for load in loads) - load_cpu
            if load_cpu > LOAD_SHARE * seconds * min(len(loads), len(bench.load_cores)):
                bench.note(f"connects, {dialect.name}: the load was the bottleneck.")
    if not dialect.ready:
        figures |= {f"joined_{figure}": value for figure, value in figures.items()}
    return figures


def memory(bench: Bench, dialect: Dialect) -> Figures:
    """The server's own memory for each idle connection, KiB: in one room, in many, and with permessage-deflate."""
    count = bench.size.large
    figures: Figures = {}
    ways = {"one_room": (1, 0)}  # rooms, deflate
    if dialect.ready:
        ways |= {"many_rooms": (bench.size.rooms, 0), "deflate": (1, 1)}
    for way, (rooms, deflate) in ways.items():
        with bench.server(dialect) as server, bench.load() as load:
            bench.warm_up(server)
            before = server.private()
            load.connect(server, count, rooms=rooms, deflate=deflate, timeout=120)
            time.sleep(1)  # what the handshakes left behind is given back
            load.stats()  # BenchError if one was cut
            figures[way] = (server.private() - before) / count / KIB
    return figures


def slow_readers(bench: Bench, dialect: Dialect) -> Figures:
    """What 100 clients that read nothing cost while 10 MB is sent to each: MiB above the same traffic when they read.

    Then they read on, and each must get every event, in order.
    """
    readers, events = bench.size.senders, bench.size.slow_events
    peaks: Figures = {}
    for way in ("reading", "stopped"):
        with bench.server(dialect) as server, bench.load() as load, bench.load(1) as publisher:
            load.connect(
                server, readers, rcvbuf=4096
            )  # or the kernel would take the megabytes, and the server see nothing
            publisher.connect(server, 1, first=readers)
            before = server.resident()
            server.forget_peak()
            if way == "stopped":
                load.ask("pause")
            publisher.publish(server, window=64, text=1000, count=events)
            publisher.drain(120, least=events)
            if way == "reading":
                load.drain(120, least=events)
            else:
                if load.stats().least >= events:
                    raise BenchError("the slow readers read")
                peaks["stopped"] = (server.peak() - before) / MIB
                load.ask("resume")
                began = time.monotonic()
                load.drain(120, least=events)
                peaks["catch_up_seconds"] = time.monotonic() - began
                peaks["caught_up"] = (server.peak() - before) / MIB
                continue
            peaks["reading"] = (server.peak() - before) / MIB
    peaks["extra"] = max(peaks["stopped"], peaks["caught_up"]) - peaks["reading"]
    return peaks


def fairness(bench: Bench, dialect: Dialect) -> Figures:
    """Round trips in a room of two (500 a second, open loop) beside a room of 10,000 that gets 5 messages a second.

    Before that the same while the large room is silent: what the machine, and 10,000 idle members, take for themselves.
    The large room's clients give way to the small room's on their core: it is the server that is looked at.
    """
    with bench.server(dialect) as server, bench.load() as crowd, bench.load(1) as pair:
        crowd.connect(server, bench.size.large, timeout=120)
        pair.connect(server, 2, rooms=1, path=dialect.path.replace("{room}", "pair"))
        crowd.give_way()
        pair.publish(server, rate=500, message=dialect.message.replace("{room}", "pair"))
        silent = bench.measure(server, pair, others_expected=True)
        crowd.publish(server, rate=5)
        figures = bench.measure(server, pair, seconds=bench.size.seconds * 2, others_expected=True)  # the crowd
        for load in (pair, crowd):
            load.ask("stop")
            load.drain()
        return figures | {"silent_p99_ms": silent["p99_ms"]}


def mentions(bench: Bench, dialect: Dialect) -> Figures:
    """The room of two while each of 20 messages a second to 10,000 members names 50 users; before, while none does."""
    names = ",".join(f'"user-{number}"' for number in range(50))
    figures: Figures = {}
    with bench.server(dialect) as server, bench.load() as crowd, bench.load(1) as pair:
        crowd.connect(server, bench.size.large, timeout=120)
        pair.connect(server, 2, rooms=1, path=dialect.path.replace("{room}", "pair"))
        crowd.give_way()
        pair.publish(server, rate=500, message=dialect.message.replace("{room}", "pair"))
        for way, more in (("plain_", ""), ("", f',"mentions":[{names}]')):
            crowd.publish(server, rate=20, message=dialect.message.removesuffix("}") + more + "}")
            found = bench.measure(server, pair, seconds=bench.size.seconds * 2, others_expected=True)  # the crowd
            figures |= {way + figure: found[figure] for figure in ("p50_ms", "p99_ms")}
            crowd.ask("stop")
            crowd.drain()
        pair.ask("stop")
        pair.drain()
        return figures


def latency(bench: Bench, dialect: Dialect) -> Figures:
    """From the moment a message is due to its arrival at each of the ten members of its room; open loop."""
    with bench.server(dialect) as server, bench.load() as load:
        load.connect(server, bench.size.large, rooms=bench.size.rooms, timeout=120)
        load.publish(server, rate=bench.size.rate)
        figures = bench.measure(server, load, seconds=bench.size.seconds * 2)
        load.ask("stop")
        load.drain()
        return figures


def storm(bench: Bench, dialect: Dialect) -> Figures:
    """All clients are cut off, miss 100 events, and come back at once with `after`; seconds until all are synced.

    With the tokens that they had as guests, as clients do; and without, so that each is somebody new.
    """
    with NamedTemporaryFile("w", dir=bench.directory) as file:
        for index in range(bench.size.large):
            user = f"guest-{index:016x}"
            token = mint(
                SECRET.encode(), user, name=f"client-{index}", device=f"{index:08x}", ttl=3600, jti=user, guest=True
            )
            print(token, file=file)
        file.flush()
        found = came_back(bench, dialect, f"{dialect.path}&token={{token}}", Path(file.name))
    strangers = came_back(bench, dialect, dialect.path, None)
    return found | {f"strangers_{figure}": value for figure, value in strangers.items()}


def came_back(bench: Bench, dialect: Dialect, path: str, tokens: Path | None) -> Figures:
    """The storm of clients that connect to `path`."""
    seen, missed = 10, bench.size.missed
    with bench.server(dialect) as server, bench.load() as clients, bench.load(1) as publisher:
        clients.connect(server, bench.size.large, path=path, tokens=tokens, timeout=120)
        publisher.connect(server, 1, first=bench.size.large)
        publisher.publish(server, window=8, count=seen)
        clients.drain(least=seen)
        publisher.ask("stop")
        clients.ask("cut")
        publisher.publish(server, window=8, count=seen + missed)
        publisher.drain(least=seen + missed)
        reads, cpu = server.counter("tornado_chat_log_reads_total"), server.cpu()
        began = time.monotonic()
        clients.connect(server, bench.size.large, path=f"{path}&after={seen}", inflight=1000, timeout=120)
        clients.drain(least=seen + missed)
        figures = {"seconds": time.monotonic() - began, "cpu_seconds": server.cpu() - cpu}
        if reads is not None:
            figures["log_reads"] = (server.counter("tornado_chat_log_reads_total") or 0.0) - reads
        return figures


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run` measures one of the servers that `dialects` names. Without the services that it `needs` it is left out."""

    run: Callable[[Bench, Dialect], Figures]
    dialects: Callable[[Tools], Mapping[str, Dialect]]
    needs: tuple[str, ...] = ()


def beside(*names: str) -> Callable[[Tools], Mapping[str, Dialect]]:
    """Our server and the named ones: `pure`, and peers, each with the room that all its clients are in."""

    def dialects(tools: Tools) -> Mapping[str, Dialect]:
        found = {**with_and_without(ours(), tools), **peers("/ws", tools)}
        return {name: dialect for name, dialect in found.items() if name in ("ours", *names)}

    return dialects


def echoes(tools: Tools) -> Mapping[str, Dialect]:
    return {**with_and_without(OURS_ECHO, tools), **peers("/echo", tools)}


def streaming(tools: Tools) -> Mapping[str, Dialect]:
    return {**with_and_without(ours(), tools), **stream_peers(tools)}


def with_and_without(dialect: Dialect, tools: Tools) -> dict[str, Dialect]:
    """Ours, and the same without its C extension, if it has that."""
    return {"ours": dialect} | ({"pure": pure(dialect)} if tools.extension else {})


def alone(run: Callable[[Bench, Dialect], Figures], dialect: Dialect) -> Scenario:
    """Of our server only."""
    return Scenario(run, lambda _: {"ours": dialect}, dialect.needs)


SLOW_READERS = ours("--high-water-mark", str(HIGH_WATER_MARK), "--write-timeout", "600")
FOUR = on_one_port(4)
FAST, SLOW = ("pure", "socketify", "picows", "bare"), ("fastapi", "tornado")

SCENARIOS = {
    "fan-out": Scenario(lambda b, d: fan_out(b, d, b.size.small, 4), beside(*FAST, *SLOW)),
    "fan-out-1": Scenario(lambda b, d: fan_out(b, d, b.size.small, 1), beside(*FAST)),
    "fan-out-16": Scenario(lambda b, d: fan_out(b, d, b.size.small, 16), beside(*FAST)),
    "fan-out-large": Scenario(lambda b, d: fan_out(b, d, b.size.large, 2), beside(*FAST, *SLOW)),
    "paced": Scenario(paced, beside("pure", "socketify")),
    "echo": Scenario(closed_loop, echoes),
    "ack": alone(ack, ours()),
    "ack-postgres": alone(ack, ours(needs=("postgres",))),
    "latency": alone(latency, ours()),
    "fairness": Scenario(fairness, beside("pure")),
    "mentions": alone(mentions, ours()),
    "memory": Scenario(memory, beside("fastapi", "tornado", "socketify", "picows")),
    "slow-readers": alone(slow_readers, SLOW_READERS),
    "connects": Scenario(connects, beside(*FAST, *SLOW)),
    "storm": Scenario(storm, beside("pure")),
    "streams": Scenario(lambda b, d: over_http.streams(b, d, 4), streaming),
    "streams-memory": Scenario(over_http.streams_memory, lambda t: {"ours": ours(), **stream_peers(t)}),
    "posts": Scenario(over_http.posts, over_http.posting),
    "batches": alone(over_http.batches, ours()),
    "polls": Scenario(over_http.polls, over_http.polling),
    "pollers": alone(over_http.pollers, ours()),
    "growing": Scenario(lambda b, d: growing.growing(b, d, 1, b.size.small), growing.tellers),
    "growing-rooms": Scenario(lambda b, d: growing.growing(b, d, b.size.authors, 10), growing.tellers),
    "growing-crowd": alone(lambda b, d: growing.grown(b, d, 10, b.size.small), ours()),
    "workers": alone(lambda b, d: installations.one_and_two(b, ours(), d), on_one_port(2)),
    "workers-unix": alone(lambda b, d: installations.one_and_two(b, apart(1), d), apart(2)),
    "ack-workers": alone(lambda b, d: ack_workers(b, d.tree), apart(2)),
    "between-workers": alone(installations.between, apart(2)),
    "crowd": alone(installations.crowd, FOUR),
    "restart": alone(installations.restart, FOUR),
    "kill": alone(installations.kill, FOUR),
    "roll": alone(installations.roll, FOUR),
}
