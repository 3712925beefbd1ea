"""Processes that were started: tied to us, and by proc(5) those that they started and whether they live."""

from __future__ import annotations

import glob
import signal
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path


def tied(command: list[str], number: signal.Signals) -> list[str]:
    """`command` made to get this signal when the thread that starts it ends, as by a SIGKILL of this process.

    Unchanged where there is no setpriv of util-linux.
    """
    return ["setpriv", "--pdeathsig", number.name.removeprefix("SIG"), "--", *command] if _can_tie() else command


@cache
def _can_tie() -> bool:
    try:
        return not subprocess.run(["setpriv", "--pdeathsig", "KILL", "--", "true"], capture_output=True).returncode
    except FileNotFoundError:
        return False


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
