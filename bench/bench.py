"""Where and with what the scenarios run, and how a stretch of time is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.driver import Load, check, percentile
from bench.errors import BenchError
from bench.processes import busy_seconds
from bench.servers import Dialect, ServerProcess
from bench.services import SERVICES, Service
from bench.tools import Tools
from tornado_chat.errors import ConfigError

Figures = dict[str, float]
KIB, MIB = 1024, 1024 * 1024
LOAD_SHARE = 0.9  # of its cores; from here on the load may have been the bottleneck
OTHERS = 0.15  # of a core; from here on the machine was not quiet


@dataclass(frozen=True, slots=True)
class Size:
    """How large the runs are; `--quick` and the tests have smaller ones, `--members` and `--window` other fan-outs."""

    seconds: float = 5.0  # of each measurement
    warm: float = 1.0  # before it
    settle: float = 3.0  # until several workers have told each other, and all members, who is here
    small: int = 1_000  # members
    large: int = 10_000
    window: int = 0  # messages in flight of a fan-out; 0: as many as the scenario says
    senders: int = 100
    pollers: int = 5_000
    rooms: int = 1_000
    rate: float = 2_000.0  # messages a second of the open loop over all rooms
    slow_events: int = 10_000  # of 1,000 characters, to each of the slow readers
    authors: int = 100  # of messages that grow
    tokens: int = 500  # of each of these
    missed: int = 100  # events, by each client of the storm
    huge: int = 50_000  # connections of four workers
    four: int = 20_000  # connections of four workers of which one is restarted


@dataclass(slots=True)
class Bench:
    """Where and with what the scenarios run. `notes` are the lines under the table."""

    tools: Tools
    directory: Path
    server_core: int
    load_cores: list[int]
    size: Size
    loads: int = 1
    notes: list[str] = field(default_factory=list)
    scenario: str = ""

    @contextmanager
    def server(self, dialect: Dialect) -> Iterator[ServerProcess]:
        """Runs it on new files, beside the services that it needs: those are on the load's cores, as this process."""
        self.directory.chmod(0o711)  # PostgreSQL's user must reach its own below
        with ExitStack() as stack:
            running: dict[str, Service] = {}
            for name in dialect.needs:
                running[name] = service = SERVICES[name][0](self._folder(stack))
                try:
                    stack.enter_context(service)
                except ConfigError as error:
                    raise BenchError(str(error)) from None
            yield stack.enter_context(ServerProcess(dialect, self._folder(stack), self.server_core, running))

    def _folder(self, stack: ExitStack) -> Path:
        return Path(stack.enter_context(TemporaryDirectory(dir=self.directory)))

    def warm_up(self, server: ServerProcess, count: int = 100, **fields: Any) -> None:
        """Let the server do its first connections, imports and caches before something is measured.

        `fields` are those of `Load.connect`.
        """
        with self.load() as load:
            load.connect(server, count, **fields)
            load.ask("cut")
        time.sleep(0.5)  # the server notices; nothing can be asked that tells when

    def load(self, number: int = 0) -> Load:
        return Load(self.tools.load, self.load_cores[number % len(self.load_cores)])

    @contextmanager
    def several_loads(self, count: int = 0) -> Iterator[list[Load]]:
        """As many load processes as the user wants, or `count`, on their cores in turns."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.load(number)) for number in range(count or self.loads)]

    def measure(
        self, server: ServerProcess, *loads: Load, seconds: float = 0, others_expected: bool = False
    ) -> Figures:
        """Figures of a stretch of time in which `loads` are busy, after a warm-up; latencies in ms.

        Per second: `delivered` and `sent`; `cpu_us` for each delivery, and `redis_cpu_us` or `postgres_cpu_us`, which
        it leaves out; `answered_cpu_us` for each answer, if requests were answered; `load_share`: of their cores, used
        by the loads and those services.
        """
        time.sleep(self.size.warm)
        cores = [self.server_core, *self.load_cores]
        before, busy = [load.stats() for load in loads], busy_seconds(cores)
        server_cpu, load_cpu, services = server.cpu(), sum(load.cpu() for load in loads), server.services_cpu()
        time.sleep(seconds or self.size.seconds)
        after, busy = [load.stats() for load in loads], busy_seconds(cores) - busy
        server_cpu, load_cpu = server.cpu() - server_cpu, sum(load.cpu() for load in loads) - load_cpu
        services = {name: cpu - services[name] for name, cpu in server.services_cpu().items()}
        for stats in after:
            check(stats)
        elapsed = after[0].time - before[0].time
        delivered = sum(stats.delivered for stats in after) - sum(stats.delivered for stats in before)
        if not delivered:
            raise BenchError("nothing was delivered")
        answers = sum(stats.answers for stats in after) - sum(stats.answers for stats in before)
        latency = [pair for stats in after for pair in stats.latency]
        beside = sum(services.values())
        share = (load_cpu + beside) / elapsed / min(len(loads) + len(services), len(self.load_cores))
        others = (busy - server_cpu - load_cpu - beside) / elapsed
        if not others_expected and others > OTHERS:
            self.note(f"{self.scenario}, the machine: others used {others:.0%} of a core; rates suffer.")
        if share >= LOAD_SHARE:
            with_what = "".join(f" with {SERVICES[name][2]}" for name in services)
            self.note(
                f"{self.scenario}, {server.dialect.name}: the load{with_what} used {share:.0%} of its core, so it may "
                "be the bottleneck: the server may do more a second; its CPU figures hold."
            )
        return {
            "delivered": delivered / elapsed,
            "sent": (sum(stats.sent for stats in after) - sum(stats.sent for stats in before)) / elapsed,
            "cpu_us": server_cpu / delivered * 1e6,
            **({"answered_cpu_us": server_cpu / answers * 1e6} if answers else {}),
            **{f"{name}_cpu_us": cpu / delivered * 1e6 for name, cpu in services.items()},
            "load_share": share,
            "p50_ms": percentile(latency, 0.50),
            "p99_ms": percentile(latency, 0.99),
        }

    def note(self, line: str) -> None:
        head = line.split(":")[0]
        if not any(note.startswith(head + ":") for note in self.notes):  # once, not once a round
            self.notes.append(line)
