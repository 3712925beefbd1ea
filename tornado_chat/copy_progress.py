"""`tornado-chat copy-log`: the copy as it looks, a bar for each table on a terminal, else a line."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tornado_chat.log.copying import Report, copy_log


class Bars:
    """`Report` on a terminal; a context manager."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console())
        self._task = TaskID(0)

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int, done: int) -> None:
        self._task = self._progress.add_task(what, total=total, completed=done)

    def advance(self, rows: int) -> None:
        self._progress.advance(self._task, rows)


class Lines:
    """`Report` for whatever is no terminal."""

    def begin(self, what: str, total: int, done: int) -> None:
        print(f"{what}: {total}" + (f", of which {done} are there" if done else ""), flush=True)

    def advance(self, rows: int) -> None:
        pass


async def run(source: str, target: str) -> int:
    """Copy, and say how it ended; the exit code."""
    report: Report
    if sys.stdout.isatty():
        with Bars() as report:
            differences = await copy_log(source, target, report)
    else:
        differences = await copy_log(source, target, Lines())
    if not differences:
        print("done: the copy is complete, and equal to the log")
        return 0
    for line in differences:
        print(f"tornado-chat: error: {line}", file=sys.stderr)
    print("tornado-chat: error: FROM and TO differ; stop the servers, empty TO and copy again", file=sys.stderr)
    return 1
