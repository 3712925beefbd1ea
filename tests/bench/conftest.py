"""Where the tests of the benchmark measure: on this machine's cores, and shortly."""

import os
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

import pytest

from bench.bench import Bench, Size
from bench.tools import find_tools

TINY = Size(
    seconds=0.2, warm=0.1, settle=0.1, small=20, large=20, senders=5, pollers=20, rooms=4, rate=100, slow_events=300,
    missed=10, huge=30, four=40, authors=5, tokens=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    if which("cc") is None:
        pytest.skip("no C compiler (cc) on this machine: the load generator is in C")
    cores = sorted(os.sched_getaffinity(0))
    # Not under pytest's own temporary folder, which nobody but us may enter: PostgreSQL's user must.
    with TemporaryDirectory(prefix="bench-") as directory:
        yield Bench(find_tools(make_venv=False), Path(directory), cores[0], cores[1:] or cores, TINY)
