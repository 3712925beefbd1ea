"""The log in one SQLite file: WAL, `synchronous=FULL`, and a thread for each kind of work (two for pages).

What is small and waited for by many (heads, marks, revocations) never waits behind pages or histories. Several
processes write one file in turns; others may read it, and take a lock for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Collection, Sequence
from functools import partial

from tornado_chat.errors import ChatError, ConfigError, LogUnavailable
from tornado_chat.log import REVOCATIONS, Appended, Delays, Deliveries, Entry, Revocation, State
from tornado_chat.log.growing import Checkpoint, Grown, Held, Open, Orphan, Part
from tornado_chat.log.sqlite_checkpointer import Checkpointer
from tornado_chat.log.sqlite_reader import Reader
from tornado_chat.log.sqlite_writer import Writer
from tornado_chat.log.sweeping import EDITS, Mark, Renewals
from tornado_chat.log.threads import Threads
from tornado_chat.tasks import Tasks
from tornado_chat.wire.events import Data, Event

logger = logging.getLogger(__name__)

PAGE_READERS = 2
WAITING_WRITES = 64  # calls; the publisher has one batch under way at a time
WAITING_READS = 10_000  # calls; each is small, and a reconnect storm asks for many at once
WAITING_HISTORIES = 1000  # calls; one at a time is made, in a millisecond or, if it has many bytes, in ten
# The write-ahead log is copied into the file after so many entries, or so long after the first that is not copied.
CHECKPOINT_ENTRIES = 2000
CHECKPOINT_SECONDS = 5.0
RESTART_SECONDS = 0.1  # how long the writer may stand still for readers of the old write-ahead log


async def open_sqlite(
    path: str,
    *,
    timeout: float = 10.0,  # noqa: ASYNC109 - it bounds every later wait, not this call
) -> SQLiteLog:
    """Open the log in the file `path`, made if there is none.

    `timeout` in seconds bounds every wait, for another process's lock too. ConfigError, in one line, if the file
    is truncated, foreign, too old, too new or not to be written.
    """
    log = SQLiteLog(path, timeout)
    await log.start()
    return log


class SQLiteLog:
    """`Log` over one file. Made by `open_sqlite`."""

    def __init__(self, path: str, timeout: float) -> None:
        path = os.path.abspath(path)
        self.epoch = ""
        self.commits = 0
        self.reads = 0  # calls of `read` that went to the database
        self._path = path
        self._files: list[tuple[str, tuple[int, int] | None]] = []
        busy_timeout = timeout / 2
        self._writer = Threads(
            "writer",
            partial(Writer, path, busy_timeout, min(RESTART_SECONDS, busy_timeout)),
            threads=1,
            limit=WAITING_WRITES,
            timeout=timeout,
        )
        reader = partial(Reader, path, busy_timeout)
        self._lookups = Threads("lookups", reader, threads=1, limit=WAITING_READS, timeout=timeout)
        self._pages = Threads("pages", reader, threads=PAGE_READERS, limit=WAITING_READS, timeout=timeout)
        self._histories = Threads("histories", reader, threads=1, limit=WAITING_HISTORIES, timeout=timeout)
        self._checkpointer = Threads(
            "checkpointer", partial(Checkpointer, path, busy_timeout), threads=1, limit=1, timeout=timeout
        )
        self._loop = asyncio.get_running_loop()
        self._unchecked = 0  # entries written since the last checkpoint was begun
        self._due: asyncio.TimerHandle | None = None
        self._checkpoint: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._renewals = Renewals()
        self._closing = False

    async def start(self) -> None:
        try:
            await self._writer.start()  # makes the file
            self.epoch = await self._writer.call(lambda writer: writer.epoch)
            for readers in (self._lookups, self._pages, self._histories):
                await readers.start()
            await self._checkpointer.start()
            self._files = [(path, _identity(path)) for path in (self._path, f"{self._path}-wal")]
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error | LogUnavailable):
                raise ConfigError(f"database {self._path}: cannot be used: {error}") from error
            raise

    async def append(self, batch: Sequence[Entry], limit: int | None = None) -> list[Appended | ChatError]:
        """As `Log.append` says; one commit, on the disk when this returns, of what is there when its turn has come."""
        if not batch:
            return []
        outcomes = await self._writer.call(Writer.append, batch, limit)
        self.commits += 1
        self._check_files()
        self._count(len(outcomes))
        return outcomes

    async def read(
        self, room: str, after: int, *, before: int | None = None, max_events: int, max_bytes: int
    ) -> list[Event]:
        """As `Log.read` says."""
        self.reads += 1
        return await self._pages.call(Reader.read, room, after, before, max_events, max_bytes)

    async def heads(self, rooms: Collection[str]) -> dict[str, int]:
        """As `Log.heads` says."""
        heads = await self._lookups.call(Reader.heads, rooms) if rooms else {}
        self._check_files()
        return heads

    async def openings(self, rooms: Collection[str]) -> dict[str, tuple[int, bool]]:
        """As `Log.openings` says."""
        found = await self._lookups.call(Reader.openings, rooms)
        self._check_files()
        return found

    async def marks(self, wanted: Collection[Mark]) -> dict[Mark, int]:
        """As `Log.marks` says."""
        return self._renewals.seqs(await self._lookups.call(Reader.marks, wanted)) if wanted else {}

    async def floors(self, rooms: Collection[str]) -> dict[str, int]:
        """As `Log.floors` says."""
        return await self._lookups.call(Reader.floors, rooms) if rooms else {}

    async def state(self, user: str) -> State:
        """As `Log.state` says."""
        return await self._pages.call(Reader.state, user)

    async def history(self, room: str, *, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
        """As `Log.history` says; the encoded messages together have `max_bytes` at most, or there is one only."""
        return await self._histories.call(Reader.history, room, before, limit, max_bytes)

    async def checkpoint(self, home: str, parts: Sequence[Checkpoint]) -> list[bool]:
        """As `Log.checkpoint` says."""
        kept = await self._writer.call(Writer.checkpoint, home, parts)
        self._check_files()
        self._count(len(parts))
        return kept

    async def hand_over(self, home: str, parts: Sequence[Checkpoint]) -> None:
        """As `Log.hand_over` says."""
        await self._writer.call(Writer.hand_over, home, parts)
        self._check_files()

    async def stop(self, room: str, seqs: Collection[int], by: str) -> None:
        """As `Log.stop` says."""
        await self._writer.call(Writer.stop, room, list(seqs), by)
        self._check_files()

    async def held(self, home: str) -> list[Held]:
        """As `Log.held` says."""
        return await self._lookups.call(Reader.held, home)

    async def open(self, room: str, seq: int | None = None) -> list[Open]:
        """As `Log.open` says."""
        return await self._pages.call(Reader.open, room, seq)

    async def growing(self, room: str | None = None) -> list[Grown]:
        """As `Log.growing` says."""
        return await self._lookups.call(Reader.growing, room)

    async def parts(self, wanted: Sequence[Part]) -> list[str]:
        """As `Log.parts` says."""
        return await self._pages.call(Reader.parts, wanted)

    async def orphan(self, home: str) -> list[Orphan]:
        """As `Log.orphan` says."""
        return await self._writer.call(Writer.orphan, home)

    async def lapsed(self) -> list[Open]:
        """As `Log.lapsed` says."""
        return await self._lookups.call(Reader.lapsed)

    async def revoke(self, jti: str) -> None:
        """As `Log.revoke` says."""
        await self._writer.call(Writer.revoke, jti)
        self._check_files()

    async def revocations(self, after: int) -> list[Revocation]:
        """As `Log.revocations` says."""
        found = await self._lookups.call(Reader.revocations, after, REVOCATIONS)
        self._check_files()
        return found

    async def deliveries(self) -> Deliveries:
        """As `Log.deliveries` says."""
        return await self._lookups.call(Reader.deliveries)

    async def sweep(self) -> bool:
        """As `Log.sweep` says."""
        more = await self._writer.call(Writer.sweep, self._renewals.take())
        if more:
            self._count(EDITS)
        return more

    async def probe(self) -> None:
        """Find out whether a commit would succeed, by one that changes nothing; LogUnavailable if it would not."""
        await self._writer.call(Writer.probe)
        self._check_files()

    async def new_epoch(self) -> str:
        """As `Log.new_epoch` says."""
        self.epoch = await self._writer.call(Writer.new_epoch)
        return self.epoch

    async def read_epoch(self) -> str:
        """As `Log.read_epoch` says."""
        epoch = await self._lookups.call(Reader.epoch)
        self._check_files()
        return epoch

    def delays(self) -> Delays:
        """As `Log.delays` says."""
        return {lane.name: lane.delay() for lane in (self._writer, self._lookups, self._pages, self._histories)}

    async def close(self) -> None:
        """As `Log.close` says; the write-ahead log is copied into the file, which is all that is left."""
        self._closing = True
        if self._due is not None:
            self._due.cancel()
        await self._tasks.finished()
        for readers in (self._lookups, self._pages, self._histories):
            await readers.close()
        await self._checkpointer.close()
        await self._writer.close()  # last: no other connection is in the way of its checkpoint any more

    def _check_files(self) -> None:
        """LogUnavailable if what was written or read is in a file that nobody finds any more."""
        # Called on the loop and not on the writer's thread, where each system call is one more wait for the GIL. 5 us.
        for path, identity in self._files:
            if _identity(path) != identity:
                raise LogUnavailable(f"{path} was moved, deleted or replaced; put it back or restart the server")

    def _count(self, rows: int) -> None:
        """So many rows were written: a checkpoint is due now or later."""
        self._unchecked += rows
        if self._unchecked >= CHECKPOINT_ENTRIES:
            self._begin_checkpoint()
        elif self._due is None:
            self._checkpoint_later()

    def _checkpoint_later(self) -> None:
        if not self._closing:
            self._due = self._loop.call_later(CHECKPOINT_SECONDS, self._begin_checkpoint)

    def _begin_checkpoint(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._closing:
            return
        if self._checkpoint is not None and not self._checkpoint.done():
            self._checkpoint_later()
            return
        self._unchecked = 0
        self._checkpoint = self._tasks.spawn(self._copy_journal())

    async def _copy_journal(self) -> None:
        """Checkpoint: a thread of its own copies most of the write-ahead log beside the commits, the writer the rest.

        The next commit begins the write-ahead log anew only if all of it was copied. Under steady load the thread alone
        never gets there, and the write-ahead log would grow for ever.
        """
        try:
            await self._checkpointer.call(Checkpointer.checkpoint)
            done = await self._writer.call(Writer.restart_journal)
        except LogUnavailable as error:
            logger.warning("checkpoint failed: %s", error)
            done = False
        if not done and self._due is None:
            self._checkpoint_later()


def _identity(path: str) -> tuple[int, int] | None:
    """Which file stands at `path`; None if there is none that can be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
