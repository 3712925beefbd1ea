"""Processes that were started, by proc(5): those that they started, whether they live, and what they said last."""

from __future__ import annotations

import glob
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that have not been reaped, oldest first; none if it is gone itself."""
    found: list[int] = []
    for listed in glob.glob(f"/proc/{pid}/task/*/children"):  # each thread has its own
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            found += map(int, Path(listed).read_text().split())
    return found


def is_alive(pid: int) -> bool:
    """False for one that has ended and waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def last_words(output: Path) -> str:
    """The end of what it wrote into `output`, in one line."""
    return " | ".join(output.read_text(errors="replace").splitlines()[-3:]) or "nothing"
