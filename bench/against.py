"""Two checkouts of this project in turns, in one run: has a change made anything slower?"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.bench import Size
from bench.errors import BenchError
from bench.report import ROWS, Results, Row
from bench.scenarios import Scenario
from bench.servers import ROOT, Dialect
from bench.tools import Tools

USUAL = ("fan-out", "fan-out-large", "ack", "echo", "connects", "memory")
TURN = Size(seconds=2.0, warm=0.5)  # short: the machine's pace drifts, and a ratio should not
ROUNDS, FEWEST = 5, 3  # usual, and for a verdict
ALLOWED = 0.03  # slower by more than this is worse


def checkout(name: str, directory: Path) -> Path:
    """The folder `name`, or the commit of that name, unpacked into `directory`; its code is compiled, and is what runs.

    So is its C extension, if it has one. BenchError if it is neither.
    """
    tree = Path(name).resolve()
    if not (tree / "tornado_chat").is_dir():
        tree = directory / "checkout"
        packed = run_in(ROOT, "git", "archive", "--format=zip", name)
        if packed.returncode:
            why = packed.stderr.decode().strip()
            raise BenchError(f"{name} is no folder with a tornado_chat in it, and no commit: {why}")
        zipfile.ZipFile(io.BytesIO(packed.stdout)).extractall(tree)
    if (tree / "setup.py").exists():
        build = run_in(tree, sys.executable, "setup.py", "--quiet", "build_ext", "--inplace")
        if build.returncode:
            raise BenchError(f"the C extension of {name} was not built: {build.stderr.decode().strip()}")
    for each in (tree, ROOT):  # or the first start would compile it, and leave the memory for that behind
        run_in(each, sys.executable, "-m", "compileall", "-q", "tornado_chat", "bench/echo_server.py")
    found = run_in(tree, sys.executable, "-c", "import tornado_chat; print(tornado_chat.__file__)").stdout.decode()
    if found.strip() != str(tree / "tornado_chat/__init__.py"):
        raise BenchError(f"in {tree} Python would run {found.strip() or 'no tornado_chat'}")
    return tree


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise BenchError(str(error)) from None


def both(tree: Path) -> Callable[[Scenario, Tools], Mapping[str, Dialect]]:
    """What to measure of a scenario: our server from that folder, `before`, and from this one, `after`."""

    def dialects(scenario: Scenario, tools: Tools) -> Mapping[str, Dialect]:
        here = scenario.dialects(tools)["ours"]
        return {"before": replace(here, tree=tree), "after": here}

    return dialects


def comparison(results: Results, name: str) -> str:
    """A Markdown table: the medians of both, and of the rounds' ratios; CPU time first, since it drifts less."""
    lines = [f"| | {name} | now | now / {name} | in the rounds | |", "|---|---|---|---|---|---|"]
    for row in sorted(ROWS, key=lambda row: "cpu" not in row.figure):
        before, after = (results.get((row.scenario, row.figure, side), []) for side in ("before", "after"))
        if before and after:
            digits = row.digits + 1
            lines.append(
                f"| {row.scenario}: {row.label} | {median(before):,.{digits}f} | {median(after):,.{digits}f} "
                f"| {verdict(row, before, after)} |"
            )
    return "\n".join(lines)


def verdict(row: Row, before: Sequence[float], after: Sequence[float]) -> str:
    """The cells on the ratio: its median, its range, and what follows from them."""
    ratios = sorted(a / b for b, a in zip(before, after, strict=False) if b)
    if not ratios:
        return "| | not measured"
    middle = median(ratios)
    if abs(middle - 1) <= ALLOWED:
        word = "same"
    elif len(ratios) < FEWEST or ratios[0] < 1 < ratios[-1]:
        word = "unclear: more rounds"
    else:
        word = "better" if (middle > 1) == row.more_is_better else "**worse**"
    return f"{middle:.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f} | {word}"
