"""What processes use of the machine, by proc(5): CPU time and memory, with all that they started."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tornado_chat.verify.processes import children

TICKS = os.sysconf("SC_CLK_TCK")
CPUCLOCK_SCHED = 2  # the CPU clock of a process with all its threads, as clock_getcpuclockid(3) names it


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads and its children, those that ended too, in seconds.

    To the nanosecond, but for children that ended: those count in ticks. OSError if the process is gone; a child that
    goes meanwhile counts with its parent once that has noticed.
    """
    own = time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = sum(map(int, fields[13:15]))  # cutime, cstime
    return own + ended / TICKS + _of_children(pid, cpu_seconds)


def resident(pid: int) -> int:
    """Resident memory of a process and its children, bytes; pages that they share count for each. OSError: gone."""
    return _status(pid, "VmRSS")


def private(pid: int) -> int:
    """Memory of a process and its children that they share with nobody, bytes. OSError: gone.

    Resident memory where the kernel does not tell (before Linux 4.14). That counts pages of programs, too, which come
    from their files and are there once for all.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except FileNotFoundError:
        return resident(pid)
    kib = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
    return kib * 1024 + int(_of_children(pid, private))


def peak(pid: int) -> int:
    """The highest resident memory since `forget_peak`, bytes, of a process and its children. OSError: gone."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    for each in (pid, *children(pid)):
        Path(f"/proc/{each}/clear_refs").write_text("5")  # resets VmHWM


def busy_seconds(cores: Sequence[int]) -> float:
    """What all processes, and the host's other guests (steal), used of these cores since boot."""
    return sum(_busy(cores)) / TICKS


def _busy(cores: Sequence[int]) -> Iterator[int]:
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            yield sum(map(int, fields[:3])) + sum(map(int, fields[5:8]))  # all but idle, iowait and guests


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 + int(_of_children(pid, lambda child: _status(child, key)))
    raise ProcessLookupError(f"process {pid} has ended")  # it waits to be reaped, and has no memory


def _of_children(pid: int, measure: Callable[[int], float]) -> float:
    total = 0.0
    for child in children(pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            total += measure(child)
    return total
