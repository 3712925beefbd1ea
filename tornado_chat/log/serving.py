"""Whether another server serves the same SQLite file: it loses nothing, but each shows the other's messages late."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tornado_chat.config import sqlite_path

logger = logging.getLogger(__name__)

_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, pid
_BYTE = 1 << 62  # behind the end of every file, and behind what SQLite locks


@contextmanager
def serving(database: str) -> Iterator[None]:
    """Warn if another server serves `database`, and let one that starts meanwhile find us. Nothing for PostgreSQL.

    To be entered when the file is there, and left when this process has closed its log: closing the file here takes
    SQLite's own locks away, for they belong to the process. Ours belongs to the open file, and goes with the process
    however that ends. One lock is for a server and all its workers: it is the parent's.
    """
    file = _lock(sqlite_path(database)) if database.startswith("sqlite:") else None
    try:
        yield
    finally:
        if file is not None:
            os.close(file)


def _lock(path: str) -> int | None:
    """The file, open and locked; None where that cannot be done."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared by all who serve: whoever asks then whether it could be had alone learns of the others.
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK))
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    except (AttributeError, OSError):  # not Linux, or a file system without locks
        return file
    if struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK:
        logger.warning(
            "another server serves the same log: each shows the other's messages seconds late; "
            "to share it at once, run one server with --workers path=%s",
            path,
        )
    return file


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, _BYTE, 1, 0)
