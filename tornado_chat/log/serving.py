"""Whether another server serves the same SQLite file. Nothing is lost by that; without Redis, messages come late."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tornado_chat.config import Settings, sqlite_path

logger = logging.getLogger(__name__)

_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, pid
_BYTE = 1 << 62  # behind the end of every file, and behind what SQLite locks


@contextmanager
def serving(settings: Settings) -> Iterator[None]:
    """Warn if another server serves the same SQLite file and there is no Redis; who starts meanwhile finds us.

    To be entered when the file is there, and left when this process has closed its log: closing the file here takes
    SQLite's own locks away, for they belong to the process. Ours belongs to the open file, and goes with the process
    however that ends. One lock is for a server and all its workers: it is the parent's.
    """
    path = sqlite_path(settings.database) if settings.database.startswith("sqlite:") else None
    file = None if path is None else _open(path)
    try:
        if file is not None and not _lock(file) and not settings.redis:
            logger.warning(
                "another server serves the same log: each shows the other's messages seconds late; "
                "start both with the same --redis, or one with --workers path=%s",
                path,
            )
        yield
    finally:
        if file is not None:
            os.close(file)


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None  # it is not there any more: health tells


def _lock(file: int) -> bool:
    """Lock the byte together with all others who serve; whether there are none."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK))
        found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    except (AttributeError, OSError):  # not Linux, or a file system without locks
        return True
    return bool(struct.unpack(_FLOCK, found)[0] == fcntl.F_UNLCK)


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, _BYTE, 1, 0)
