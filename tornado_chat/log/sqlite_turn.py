"""Whose turn it is to write, among the processes that write to one SQLite file."""

from __future__ import annotations

import fcntl
import os


class Turn:
    """A lock that the kernel hands on: `with` it, one process at a time writes.

    It blocks for as long as another process has its turn, be that stopped. Who called the thread is answered in time
    (`Threads`), and the thread goes on when the other does, or is killed.

    SQLite's own lock, which stays the one that counts, is waited for in sleeps of up to 100 ms: who has just written
    gets it again, and the others starve. This one wakes who waits, and goes with the process that has it. It is on the
    write-ahead log, of which SQLite locks nothing: closing a file takes away the locks that its process has there.
    """

    __slots__ = ("_file",)

    def __init__(self, path: str) -> None:
        """For the file at `path`, to which the caller keeps a connection open that has read: so its journal stays."""
        self._file = os.open(f"{path}-wal", os.O_RDONLY)

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)
