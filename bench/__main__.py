"""python -m bench: measure the server and its peers on this machine, and print one table."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bench import against
from bench.bench import Bench, Size
from bench.errors import BenchError
from bench.report import Results, machine, table
from bench.scenarios import SCENARIOS, Scenario
from bench.servers import Dialect
from bench.tools import Tools, find_tools

QUICK = Size(seconds=1.0, warm=0.3, slow_events=2_000, huge=10_000, four=4_000)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)} (default: all of them)"
    )
    parser.add_argument(
        "--against",
        metavar="REV",
        help="measure this server, and that of another commit or folder, in turns "
        f"(default: {', '.join(against.USUAL)})",
    )
    parser.add_argument("--ours", action="store_true", help="measure this server only, with its extension and without")
    parser.add_argument(
        "--members", type=int, help="of the room of `fan-out`, `fan-out-N`, `paced` and `streams`, for 1,000"
    )
    parser.add_argument(
        "--window", type=int, help="messages in flight in `fan-out`, `fan-out-N`, `fan-out-large` and `streams`"
    )
    parser.add_argument("--rounds", type=int, help=f"turns of each server (default 3, {against.ROUNDS} with --against)")
    parser.add_argument("--quick", action="store_true", help="one round of one second: to see that it works")
    parser.add_argument(
        "--loads",
        type=int,
        help="load processes where one may be too slow (default: 2 where there are 3 cores, else 1)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--directory", type=Path, help="for the databases, on a real disk (default: the temporary one)")
    chosen = parser.parse_args(argv)
    unknown = [name for name in chosen.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are: {', '.join(SCENARIOS)}")
    if chosen.rounds is None:
        chosen.rounds = 1 if chosen.quick else against.ROUNDS if chosen.against else 3
    if not chosen.scenarios:
        chosen.scenarios = list(against.USUAL if chosen.against else SCENARIOS)
    for option in ("rounds", "loads", "members", "window"):
        if (value := getattr(chosen, option)) is not None and value < 1:
            parser.error(f"--{option} begins at 1")
    return chosen


def sized(chosen: argparse.Namespace) -> Size:
    size = QUICK if chosen.quick else against.TURN if chosen.against else Size()
    return replace(size, small=chosen.members or size.small, window=chosen.window or size.window)


def filesystem(path: Path) -> str:
    """The type of the file system that `path` is on, by the longest mount point above it (proc(5), mounts)."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(len(mount[1]), mount[2]) for mount in mounts if path.resolve().is_relative_to(mount[1])]
    return max(above)[1] if above else "unknown"


Choice = Callable[[Scenario, Tools], Mapping[str, Dialect]]
"""The servers of a scenario that are to be measured, by name."""


def all_servers(scenario: Scenario, tools: Tools) -> Mapping[str, Dialect]:
    return scenario.dialects(tools)


def only_ours(scenario: Scenario, tools: Tools) -> Mapping[str, Dialect]:
    return {name: dialect for name, dialect in scenario.dialects(tools).items() if name in ("ours", "pure")}


def run(bench: Bench, names: list[str], rounds: int, choice: Choice = all_servers) -> tuple[Results, bool]:
    """All rounds of the named scenarios, the servers in turns; False if one of them failed."""
    results: Results = {}
    fine = True
    for name in names:
        scenario = SCENARIOS[name]
        bench.scenario = name
        for service in scenario.needs:
            if service in bench.tools.missing:
                bench.note(f"{name}: left out: {bench.tools.missing[service]}")
                print(bench.notes[-1], file=sys.stderr)
        if bench.tools.missing.keys() & set(scenario.needs):
            continue
        dialects = dict(choice(scenario, bench.tools))
        for number in range(rounds):
            turns = list(dialects.items())
            for server, dialect in reversed(turns) if number % 2 else turns:  # so a steady drift falls on all alike
                began = time.monotonic()
                try:
                    figures = scenario.run(bench, dialect)
                except BenchError as error:
                    bench.note(f"{name}, {server}: **failed** in round {number + 1}: {error}")
                    del dialects[server]  # the next round would only wait as long again
                    fine = False
                    figures = {}
                for figure, value in figures.items():
                    results.setdefault((name, figure, server), []).append(value)
                shown = ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items()) or bench.notes[-1]
                print(
                    f"{name} {number + 1}/{rounds} {server} ({time.monotonic() - began:.0f} s): {shown}",
                    file=sys.stderr,
                )
    return results, fine


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(sys.argv[1:] if argv is None else argv)
    names = [name for name in SCENARIOS if name in chosen.scenarios]
    server_core, *load_cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(load_cores or [server_core]))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=chosen.directory) as directory:
            text, fine = page(chosen, names, Path(directory), server_core, load_cores)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(text)
    if chosen.output:
        chosen.output.write_text(text)
    return 0 if fine else 1


def page(
    chosen: argparse.Namespace, names: list[str], directory: Path, server_core: int, load_cores: list[int]
) -> tuple[str, bool]:
    """What to print, and False if a run failed. BenchError if nothing can be measured."""
    choice: Choice = only_ours if chosen.ours else all_servers
    if chosen.against:
        choice = against.both(against.checkout(chosen.against, directory))
    tools = find_tools(make_venv=not (chosen.ours or chosen.against))
    bench = Bench(tools, directory, server_core, load_cores or [server_core], sized(chosen))
    bench.loads = chosen.loads or min(2, len(bench.load_cores))
    bench.notes += tools.notes
    for option in ("members", "window"):
        if value := getattr(chosen, option):
            bench.note(f"--{option} {value}: whatever a row on a fan-out says.")
    kind = filesystem(directory)
    if kind in ("tmpfs", "ramfs"):
        bench.note(f"The databases were on {kind}, which commits for nothing: give a --directory on a disk.")
    if not load_cores:
        bench.note("Only one core: the load runs beside the server, so only the CPU figures mean anything.")
    results, fine = run(bench, names, chosen.rounds, choice)
    shown = against.comparison(results, chosen.against) if chosen.against else table(results)
    return "\n".join([shown, "", machine(bench, chosen.rounds), *(f"- {note}" for note in bench.notes), ""]), fine


if __name__ == "__main__":
    sys.exit(main())
