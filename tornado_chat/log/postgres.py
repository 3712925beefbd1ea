"""The log in a PostgreSQL database, which any number of processes share: a connection for each kind of work.

What is small and waited for by many (heads, marks, revocations) never waits behind pages or histories.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import asyncpg

from tornado_chat.errors import ChatError, ConfigError, ErrorCode, LogUnavailable
from tornado_chat.log import (
    REVOCATIONS,
    Appended,
    Delays,
    Deliveries,
    Entry,
    Revocation,
    State,
    postgres_growing,
    postgres_reader,
    postgres_writer,
    schema,
)
from tornado_chat.log.growing import Checkpoint, Grown, Held, Open, Orphan, Part
from tornado_chat.log.kinds import portion
from tornado_chat.log.postgres_pool import DATA_ERRORS, Pool, first_line
from tornado_chat.log.postgres_schema import Connection, prepare
from tornado_chat.log.sweeping import Mark, OwnLogs, Renewals
from tornado_chat.wire.events import Data, Event

PAGE_READERS = 2
WAITING_WRITES = 64  # calls; the publisher has one batch under way at a time
WAITING_READS = 10_000  # calls; each is small, and a reconnect storm asks for many at once
WAITING_HISTORIES = 1000  # calls; one at a time is made, in a few milliseconds

SETTINGS_ERRORS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
"""What no second attempt mends: the user, the password, the name of the database or a right is wrong."""

OLD_EPOCH = "SELECT value FROM meta WHERE name = 'epoch'"
NEW_EPOCH = "UPDATE meta SET value = $1 WHERE name = 'epoch'"
PROBE = "UPDATE meta SET value = value WHERE name = 'epoch'"


async def open_postgres(
    database: str,
    *,
    timeout: float = 10.0,  # noqa: ASYNC109 - it bounds every later wait, not this call
) -> PostgresLog:
    """Open the log in the database at the URL `database`; its tables are made if there are none.

    `timeout` in seconds bounds every wait. LogUnavailable if it does not answer, ConfigError if it does not let us in,
    is another program's, too old or too new; in one line, without the password.
    """
    log = PostgresLog(database, timeout)
    try:
        await log.start()
    except BaseException:
        await log.close()
        raise
    return log


class PostgresLog:
    """`Log` over one database. Made by `open_postgres`."""

    def __init__(self, database: str, timeout: float) -> None:
        self.epoch = ""
        self.reads = 0  # calls of `read` that went to the database
        self._database = database
        # One, so that batches are committed in the order in which they came.
        self._writer = Pool("writer", database, size=1, limit=WAITING_WRITES, timeout=timeout)
        self._lookups = Pool("lookups", database, size=1, limit=WAITING_READS, timeout=timeout)
        self._pages = Pool("pages", database, size=PAGE_READERS, limit=WAITING_READS, timeout=timeout)
        self._histories = Pool("histories", database, size=1, limit=WAITING_HISTORIES, timeout=timeout)
        self._pools = (self._writer, self._lookups, self._pages, self._histories)
        self._renewals = Renewals()
        self._own_logs = OwnLogs()

    async def start(self) -> None:
        for pool in self._pools:
            pool.start()
        try:
            self.epoch = await self._writer.call(self._prepare)
        except LogUnavailable as error:
            if isinstance(error.__cause__, SETTINGS_ERRORS):
                raise ConfigError(f"database cannot be used: {error}") from None
            raise LogUnavailable(f"database cannot be used: {error}") from None
        except ValueError:  # asyncpg's, which may repeat the password
            right = "postgresql://USER:PASSWORD@HOST:PORT/NAME, where what is no letter or digit is written as %XX"
            raise ConfigError(f"database: not a URL that can be used; give {right}") from None

    async def append(self, batch: Sequence[Entry], limit: int | None = None) -> list[Appended | ChatError]:
        """As `Log.append` says; a batch with an entry that is refused for its data takes more than one commit."""
        if not batch:
            return []
        batch = portion(batch[:limit], limit)
        try:
            return await self._writer.call(lambda db: postgres_writer.append(db, batch))
        except DATA_ERRORS as error:
            if len(batch) == 1:
                return [ChatError(ErrorCode.BAD_REQUEST, f"{batch[0].type} cannot be stored: {first_line(error)}")]
            middle = len(batch) // 2
            return await self.append(batch[:middle]) + await self.append(batch[middle:])

    async def read(
        self, room: str, after: int, *, before: int | None = None, max_events: int, max_bytes: int
    ) -> list[Event]:
        """As `Log.read` says."""
        self.reads += 1
        return await self._pages.call(lambda db: postgres_reader.read(db, room, after, before, max_events, max_bytes))

    async def heads(self, rooms: Collection[str]) -> dict[str, int]:
        """As `Log.heads` says."""
        return await self._lookups.call(lambda db: postgres_reader.heads(db, rooms)) if rooms else {}

    async def openings(self, rooms: Collection[str]) -> dict[str, tuple[int, bool]]:
        """As `Log.openings` says."""
        return await self._lookups.call(lambda db: postgres_reader.openings(db, rooms))

    async def marks(self, wanted: Collection[Mark]) -> dict[Mark, int]:
        """As `Log.marks` says."""
        if not wanted:
            return {}
        return self._renewals.seqs(await self._lookups.call(lambda db: postgres_reader.marks(db, wanted)))

    async def floors(self, rooms: Collection[str]) -> dict[str, int]:
        """As `Log.floors` says."""
        return await self._lookups.call(lambda db: postgres_reader.floors(db, rooms)) if rooms else {}

    async def state(self, user: str) -> State:
        """As `Log.state` says."""
        return await self._pages.call(lambda db: postgres_reader.state(db, user))

    async def history(self, room: str, *, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
        """As `Log.history` says; the encoded messages together have `max_bytes` at most, or there is one only."""
        return await self._histories.call(lambda db: postgres_reader.history(db, room, before, limit, max_bytes))

    async def checkpoint(self, home: str, parts: Sequence[Checkpoint]) -> list[bool]:
        """As `Log.checkpoint` says."""
        return await self._writer.call(lambda db: postgres_growing.checkpoint(db, home, parts))

    async def hand_over(self, home: str, parts: Sequence[Checkpoint]) -> None:
        """As `Log.hand_over` says."""
        await self._writer.call(lambda db: postgres_growing.hand_over(db, home, parts))

    async def stop(self, room: str, seqs: Collection[int], by: str) -> None:
        """As `Log.stop` says."""
        await self._writer.call(lambda db: postgres_growing.stop(db, room, seqs, by))

    async def held(self, home: str) -> list[Held]:
        """As `Log.held` says."""
        return await self._lookups.call(lambda db: postgres_growing.held(db, home))

    async def open(self, room: str, seq: int | None = None) -> list[Open]:
        """As `Log.open` says."""
        return await self._pages.call(lambda db: postgres_growing.opened(db, room, seq))

    async def growing(self, room: str | None = None) -> list[Grown]:
        """As `Log.growing` says."""
        return await self._lookups.call(lambda db: postgres_growing.growing(db, room))

    async def parts(self, wanted: Sequence[Part]) -> list[str]:
        """As `Log.parts` says."""
        return await self._pages.call(lambda db: postgres_growing.parts(db, wanted))

    async def orphan(self, home: str) -> list[Orphan]:
        """As `Log.orphan` says."""
        return await self._writer.call(lambda db: postgres_growing.orphan(db, home))

    async def lapsed(self) -> list[Open]:
        """As `Log.lapsed` says."""
        return await self._lookups.call(postgres_growing.lapsed)

    async def revoke(self, jti: str) -> None:
        """As `Log.revoke` says."""
        await self._writer.call(lambda db: db.execute("SELECT revoke_session($1)", jti))

    async def revocations(self, after: int) -> list[Revocation]:
        """As `Log.revocations` says."""
        return await self._lookups.call(lambda db: postgres_reader.revocations(db, after, REVOCATIONS))

    async def deliveries(self) -> Deliveries:
        """As `Log.deliveries` says."""
        return await self._lookups.call(postgres_reader.deliveries)

    async def sweep(self) -> bool:
        """As `Log.sweep` says."""
        renewed = self._renewals.take()
        return await self._writer.call(lambda db: postgres_writer.sweep(db, renewed, self._own_logs))

    async def probe(self) -> None:
        """As `Log.probe` says."""
        await self._writer.call(lambda db: db.execute(PROBE))

    async def new_epoch(self) -> str:
        """As `Log.new_epoch` says."""
        epoch = schema.new_epoch()
        await self._writer.call(lambda db: db.execute(NEW_EPOCH, epoch))
        self.epoch = epoch
        return epoch

    async def read_epoch(self) -> str:
        """As `Log.read_epoch` says."""
        epoch: str = await self._lookups.call(lambda db: db.fetchval(OLD_EPOCH))
        return epoch

    def delays(self) -> Delays:
        """As `Log.delays` says."""
        return {pool.name: pool.delay() for pool in self._pools}

    async def close(self) -> None:
        """As `Log.close` says."""
        for pool in self._pools:
            await pool.close()

    async def _prepare(self, db: Connection) -> str:
        encoding = db.get_settings().server_encoding
        if encoding != "UTF8":
            raise ConfigError(
                f"database {schema.shown(self._database)}: its encoding is {encoding}, which cannot hold all texts; "
                "make it with: create database NAME encoding 'UTF8' template template0"
            )
        await prepare(db, self._database)
        epoch: str = await db.fetchval(OLD_EPOCH)
        return epoch
