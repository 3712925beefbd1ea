"""`Webhooks` in an SQLite log: a thread with one connection, which writes in its turn as the servers do."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import orjson

from tornado_chat.errors import LogUnavailable
from tornado_chat.log.sqlite_file import Connected, transaction
from tornado_chat.log.sqlite_growing import now
from tornado_chat.log.sqlite_turn import Turn
from tornado_chat.log.threads import Threads
from tornado_chat.log.webhooks import (
    ACTIVE,
    MAKING,
    PAGE,
    REMOVING,
    WEBHOOKS,
    Behind,
    Found,
    Lag,
    Webhook,
    is_wanted,
)

T = TypeVar("T")

WAITING = 64  # calls; a process that delivers makes one at a time
CHECKPOINT_WRITES = 256  # without one, leases alone would let the write-ahead log grow while no client writes

COLUMNS = "id, url, rooms, events, secret, former_secret, former_until, created, state, failing, error, fence"
ALL = f"SELECT {COLUMNS} FROM webhooks ORDER BY id"
HELD = f"SELECT {COLUMNS} FROM webhooks WHERE state = '{ACTIVE}' AND holder = ? ORDER BY id"
ADD = """
INSERT INTO webhooks (url, rooms, events, secret, created, state, fence, lapses)
SELECT ?, ?, ?, ?, ?, ?, 0, 0 WHERE (SELECT count(*) FROM webhooks) < ?
"""
# Where each room stands: an endpoint is told what comes after that.
ROOMS = """
SELECT id, name, (SELECT max(seq) FROM events WHERE room = rooms.id) FROM rooms
WHERE id > ? ORDER BY id LIMIT ?
"""
BEGIN_ROOMS = """
INSERT INTO webhook_rooms (webhook, room, seq, attempts, retry_at)
SELECT ?, json_extract(value, '$[0]'), json_extract(value, '$[1]'), 0, 0 FROM json_each(?)
"""
REMOVE_ROOMS = """
DELETE FROM webhook_rooms WHERE webhook = ?1 AND room IN (
    SELECT room FROM webhook_rooms WHERE webhook = ?1 ORDER BY room LIMIT ?2
)
"""
RESUME = """
UPDATE webhooks SET state = ?, failing = NULL, holder = NULL, fence = fence + 1, lapses = 0
WHERE id = ? AND state <> ? AND state <> ?
"""
RESUME_ROOMS = """
UPDATE webhook_rooms SET seq = seq + ?, failing = NULL, attempts = 0, retry_at = 0, given_up = NULL
WHERE webhook = ? AND (failing IS NOT NULL OR given_up IS NOT NULL)
"""
ROTATE = "UPDATE webhooks SET former_secret = secret, former_until = ?, secret = ? WHERE id = ?"
CLAIM = """
UPDATE webhooks SET fence = fence + (holder IS NOT ?1), holder = ?1, lapses = ?2
WHERE state = ?3 AND (holder IS ?1 OR lapses <= ?4)
"""
CLAIMABLE = "SELECT 1 FROM webhooks WHERE state = ? AND (holder = ? OR lapses <= ?) LIMIT 1"
RELEASE = "UPDATE webhooks SET lapses = 0 WHERE holder = ?"
# Names of logs of one's own begin with ~, behind all others. One that is removed has lost its places in the rooms.
BEHIND = f"""
WITH looked AS MATERIALIZED (
    SELECT id FROM (SELECT id FROM rooms WHERE id > :after ORDER BY id LIMIT :limit)
), wanted AS MATERIALIZED (
    SELECT id FROM looked
    UNION SELECT id FROM rooms WHERE id > :newest
    UNION SELECT value FROM json_each(:also)
)
SELECT json_array(
    (SELECT count(*) FROM looked),
    (SELECT max(id) FROM looked),
    (SELECT max(id) FROM rooms),
    (
        SELECT json_group_array(json_array(id, name, head, seq, failing, attempts, retry_at)) FROM (
            SELECT
                r.id, r.name, (SELECT max(seq) FROM events WHERE room = r.id) AS head, coalesce(w.seq, 0) AS seq,
                w.failing, coalesce(w.attempts, 0) AS attempts, coalesce(w.retry_at, 0) AS retry_at
            FROM wanted CROSS JOIN rooms AS r ON r.id = wanted.id
            LEFT JOIN webhook_rooms AS w ON w.webhook = :webhook AND w.room = r.id
            WHERE r.name < '~' AND (
                :patterns = '["*"]' OR EXISTS (SELECT 1 FROM json_each(:patterns) WHERE r.name GLOB value)
            ) AND w.given_up IS NULL AND head > coalesce(w.seq, 0) AND EXISTS (
                SELECT 1 FROM webhooks WHERE id = :webhook AND state <> '{REMOVING}'
            )
        )
    )
)
"""
LAG = """
SELECT coalesce(sum(head - seq), 0), count(*), count(given_up) FROM (
    SELECT (SELECT max(seq) FROM events WHERE room = r.id) AS head, coalesce(w.seq, 0) AS seq, w.given_up
    FROM rooms AS r LEFT JOIN webhook_rooms AS w ON w.webhook = :webhook AND w.room = r.id
    WHERE r.name < '~' AND EXISTS (SELECT 1 FROM json_each(:patterns) WHERE r.name GLOB value)
) WHERE head > seq
"""
FENCED = f"SELECT 1 FROM webhooks WHERE id = ? AND fence = ? AND state = '{ACTIVE}'"
MOVE = """
INSERT INTO webhook_rooms (webhook, room, seq, failing, attempts, retry_at, given_up)
SELECT
    ?, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]')
FROM json_each(?) WHERE true
ON CONFLICT (webhook, room) DO UPDATE SET
    seq = excluded.seq, failing = excluded.failing, attempts = excluded.attempts, retry_at = excluded.retry_at,
    given_up = excluded.given_up
"""


class Endpoints(Connected):
    """The thread's connection, to a file that is there. Blocking."""

    def __init__(self, path: str, busy_timeout: float) -> None:
        super().__init__(path, busy_timeout)
        try:
            self.db.execute("SELECT count(*) FROM meta").fetchone()  # so that the write-ahead log is there
            self._turn = Turn(path)
        except (sqlite3.Error, OSError) as error:
            self.db.close()
            raise LogUnavailable(f"{path} cannot be opened: {error}") from error
        self._writes = 0

    def close(self) -> None:
        self._turn.close()
        super().close()

    def write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `action`, in a transaction of its own."""
        try:
            with self._turn, transaction(self.db, "BEGIN IMMEDIATE"):
                result = action(self.db)
            self._writes += 1
            if self._writes % CHECKPOINT_WRITES == 0:
                with suppress(sqlite3.OperationalError):  # another process is at it
                    self.db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # beside the commits of others
        except sqlite3.Error as error:
            raise LogUnavailable(f"SQLite: {error}") from error
        except OSError as error:
            raise LogUnavailable(f"no turn to write: {error}") from error
        return result

    def read(self, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        try:
            return self.db.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise LogUnavailable(f"SQLite: {error}") from error


class SQLiteWebhooks:
    """`Webhooks` over one file. Made by `open_sqlite_webhooks`."""

    def __init__(self, path: str, timeout: float) -> None:
        make = partial(Endpoints, os.path.abspath(path), timeout / 2)
        self._thread = Threads("webhooks", make, threads=1, limit=WAITING, timeout=timeout)

    async def start(self) -> None:
        await self._thread.start()

    async def add(self, url: str, rooms: Sequence[str], events: Sequence[str], secret: str) -> int | None:
        """As `Webhooks.add` says."""
        row = (url, _json(rooms), _json(events), secret, now(), MAKING, WEBHOOKS)

        def insert(db: sqlite3.Connection) -> int | None:
            made = db.execute(ADD, row)
            return made.lastrowid if made.rowcount else None

        id = await self._write(insert)
        if id is None:
            return None
        after: int | None = 0
        while after is not None:
            after = await self._write(partial(_begin_rooms, id, rooms, after))
        await self._write(lambda db: db.execute("UPDATE webhooks SET state = ? WHERE id = ?", (ACTIVE, id)).rowcount)
        return id

    async def all(self) -> list[Webhook]:
        """As `Webhooks.all` says."""
        return [_webhook(row) for row in await self._thread.call(Endpoints.read, ALL)]

    async def lag(self, webhook: Webhook) -> Lag:
        """As `Webhooks.lag` says."""
        wanted = {"webhook": webhook.id, "patterns": _json(webhook.rooms)}
        ((events, rooms, given_up),) = await self._thread.call(Endpoints.read, LAG, wanted)
        return Lag(events, rooms, given_up)

    async def remove(self, id: int) -> bool:
        """As `Webhooks.remove` says."""
        marking = "UPDATE webhooks SET state = ? WHERE id = ?"
        if not await self._write(lambda db: db.execute(marking, (REMOVING, id)).rowcount):
            return False
        while await self._write(lambda db: db.execute(REMOVE_ROOMS, (id, PAGE)).rowcount) == PAGE:
            pass
        await self._write(lambda db: db.execute("DELETE FROM webhooks WHERE id = ?", (id,)).rowcount)
        return True

    async def resume(self, id: int, *, skip: bool) -> bool:
        """As `Webhooks.resume` says."""

        def resume(db: sqlite3.Connection) -> bool:
            if not db.execute(RESUME, (ACTIVE, id, MAKING, REMOVING)).rowcount:
                return False
            db.execute(RESUME_ROOMS, (int(skip), id))
            return True

        return await self._write(resume)

    async def rotate(self, id: int, secret: str, seconds: float) -> bool:
        """As `Webhooks.rotate` says."""
        until = now() + int(seconds * 1000)
        return await self._write(lambda db: db.execute(ROTATE, (until, secret, id)).rowcount) > 0

    async def claim(self, holder: str, seconds: float) -> list[Webhook]:
        """As `Webhooks.claim` says."""
        if not await self._thread.call(Endpoints.read, CLAIMABLE, (ACTIVE, holder, now())):
            return []

        def claim(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
            db.execute(CLAIM, (holder, now() + int(seconds * 1000), ACTIVE, now()))
            return db.execute(HELD, (holder,)).fetchall()

        return [_webhook(row) for row in await self._write(claim)]

    async def release(self, holder: str) -> None:
        """As `Webhooks.release` says."""
        await self._write(lambda db: db.execute(RELEASE, (holder,)).rowcount)

    async def version(self) -> str:
        """As `Webhooks.version` says: SQLite counts what other connections commit."""
        ((version,),) = await self._thread.call(Endpoints.read, "PRAGMA data_version")
        return str(version)

    async def behind(self, webhook: Webhook, after: int, limit: int, newest: int, also: Collection[int]) -> Found:
        """As `Webhooks.behind` says."""
        wanted = {"webhook": webhook.id, "patterns": _json(webhook.rooms), "after": after, "limit": limit}
        wanted |= {"newest": newest, "also": _json(list(also))}
        ((found,),) = await self._thread.call(Endpoints.read, BEHIND, wanted)
        looked, last, newest, rows = orjson.loads(found)
        return Found([Behind(*row) for row in rows], last if looked == limit else None, newest or 0)

    async def move(
        self, webhook: Webhook, rooms: Sequence[Behind], *, failing: int | None, error: str | None, state: str
    ) -> bool:
        """As `Webhooks.move` says."""
        rows = [(room.id, room.seq, room.failing, room.attempts, room.retry_at, room.given_up) for room in rooms]

        def move(db: sqlite3.Connection) -> bool:
            if db.execute(FENCED, (webhook.id, webhook.fence)).fetchone() is None:
                return False
            db.execute(MOVE, (webhook.id, _json(rows)))
            changed = (failing, error, state, webhook.id)
            db.execute("UPDATE webhooks SET failing = ?, error = ?, state = ? WHERE id = ?", changed)
            return True

        return await self._write(move)

    async def close(self) -> None:
        await self._thread.close()

    async def _write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        return await self._thread.call(Endpoints.write, action)


async def open_sqlite_webhooks(path: str, *, timeout: float = 10.0) -> SQLiteWebhooks:  # noqa: ASYNC109 - as open_sqlite
    """The endpoints in the log at `path`, which is there and of this version."""
    webhooks = SQLiteWebhooks(path, timeout)
    await webhooks.start()
    return webhooks


def _begin_rooms(id: int, patterns: Sequence[str], after: int, db: sqlite3.Connection) -> int | None:
    """Let the endpoint begin at the heads of the next PAGE rooms; the last one's id, None: these were all."""
    found = db.execute(ROOMS, (after, PAGE)).fetchall()
    heads = [(room, head) for room, name, head in found if head is not None and is_wanted(patterns, name)]
    db.execute(BEGIN_ROOMS, (id, _json(heads)))
    return found[-1][0] if len(found) == PAGE else None


def _webhook(row: Sequence[Any]) -> Webhook:
    id, url, rooms, events, *rest = row
    return Webhook(id, url, orjson.loads(rooms), orjson.loads(events), *rest)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
