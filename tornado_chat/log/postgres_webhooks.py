"""`Webhooks` in a PostgreSQL log: one connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson

from tornado_chat.log.postgres_pool import Pool
from tornado_chat.log.postgres_schema import Connection
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

COLUMNS = "id, url, rooms, events, secret, former_secret, former_until, created, state, failing, error, fence"
ALL = f"SELECT {COLUMNS} FROM webhooks ORDER BY id"
HELD = f"SELECT {COLUMNS} FROM webhooks WHERE state = '{ACTIVE}' AND holder = $1 ORDER BY id"
LOCK = "LOCK TABLE webhooks IN SHARE ROW EXCLUSIVE MODE"
ADD = """
INSERT INTO webhooks (url, rooms, events, secret, created, state, fence, lapses)
SELECT $1, $2, $3, $4, clock_ms(), $5, 0, 0 WHERE (SELECT count(*) FROM webhooks) < $6 RETURNING id
"""
# Where each room stands: an endpoint is told what comes after that.
ROOMS = """
SELECT r.id, r.name, (SELECT seq FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1)
FROM (SELECT id, name FROM rooms WHERE id > $1 ORDER BY id LIMIT $2) AS r ORDER BY r.id
"""
BEGIN_ROOMS = """
INSERT INTO webhook_rooms (webhook, room, seq, attempts, retry_at)
SELECT $1::bigint, room, seq, 0, 0 FROM unnest($2::bigint[], $3::bigint[]) AS new (room, seq)
"""
REMOVE_ROOMS = """
WITH gone AS (
    DELETE FROM webhook_rooms WHERE webhook = $1 AND room = ANY (ARRAY(
        SELECT room FROM webhook_rooms WHERE webhook = $1 ORDER BY room LIMIT $2
    )) RETURNING 1
)
SELECT count(*) FROM gone
"""
RESUME = """
UPDATE webhooks SET state = $1, failing = NULL, holder = NULL, fence = fence + 1, lapses = 0
WHERE id = $2 AND state NOT IN ($3, $4) RETURNING id
"""
RESUME_ROOMS = """
UPDATE webhook_rooms SET seq = seq + $1, failing = NULL, attempts = 0, retry_at = 0, given_up = NULL
WHERE webhook = $2 AND (failing IS NOT NULL OR given_up IS NOT NULL)
"""
ROTATE = """
UPDATE webhooks SET former_secret = secret, former_until = clock_ms() + $1, secret = $2 WHERE id = $3 RETURNING id
"""
CLAIM = """
UPDATE webhooks SET
    fence = fence + CASE WHEN holder IS DISTINCT FROM $1 THEN 1 ELSE 0 END, holder = $1, lapses = clock_ms() + $2
WHERE state = $3 AND (holder IS NOT DISTINCT FROM $1 OR lapses <= clock_ms())
"""
CLAIMABLE = "SELECT FROM webhooks WHERE state = $1 AND (holder = $2 OR lapses <= clock_ms()) LIMIT 1"
RELEASE = "UPDATE webhooks SET lapses = 0 WHERE holder = $1"
VERSION = """
SELECT txid_snapshot_xmin(now.snapshot), txid_snapshot_xmax(now.snapshot)
FROM (SELECT txid_current_snapshot() AS snapshot) AS now
"""
LOOKED = "SELECT count(*), max(id) FROM (SELECT id FROM rooms WHERE id > $1 ORDER BY id LIMIT $2) AS looked"
# Names of logs of one's own begin with ~, behind all others. One that is removed has lost its places in the rooms.
BEHIND = """
SELECT r.id, r.name, last.seq, coalesce(w.seq, 0), w.failing, coalesce(w.attempts, 0), coalesce(w.retry_at, 0)
FROM rooms AS r
CROSS JOIN LATERAL (SELECT seq FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1) AS last
LEFT JOIN LATERAL (SELECT * FROM webhook_rooms WHERE webhook = $1 AND room = r.id LIMIT 1) AS w ON true
WHERE {which} AND r.name < '~' AND r.name LIKE ANY ($2::text[])
    AND w.given_up IS NULL AND last.seq > coalesce(w.seq, 0)
    AND EXISTS (SELECT FROM webhooks WHERE id = $1 AND state <> '{removing}')
"""
BEHIND_IN = BEHIND.format(which="r.id > $3 AND r.id <= $4", removing=REMOVING)
BEHIND_OF = BEHIND.format(which="r.id = ANY ($3::bigint[])", removing=REMOVING)
LAG = """
SELECT coalesce(sum(last.seq - coalesce(w.seq, 0)), 0)::bigint, count(*), count(w.given_up)
FROM rooms AS r
CROSS JOIN LATERAL (SELECT seq FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1) AS last
LEFT JOIN LATERAL (SELECT * FROM webhook_rooms WHERE webhook = $1 AND room = r.id LIMIT 1) AS w ON true
WHERE r.name < '~' AND r.name LIKE ANY ($2::text[]) AND last.seq > coalesce(w.seq, 0)
"""
FENCED = "SELECT id FROM webhooks WHERE id = $1 AND fence = $2 AND state = $3 FOR UPDATE"
MOVE = """
INSERT INTO webhook_rooms (webhook, room, seq, failing, attempts, retry_at, given_up)
SELECT $1::bigint, new.* FROM unnest(
    $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]
) AS new (room, seq, failing, attempts, retry_at, given_up)
ON CONFLICT (webhook, room) DO UPDATE SET
    seq = excluded.seq, failing = excluded.failing, attempts = excluded.attempts, retry_at = excluded.retry_at,
    given_up = excluded.given_up
"""
MOVED = "UPDATE webhooks SET failing = $1, error = $2, state = $3 WHERE id = $4"


class PostgresWebhooks:
    """`Webhooks` over one database. Made by `open_postgres_webhooks`."""

    def __init__(self, database: str, timeout: float) -> None:
        self._pool = Pool("webhooks", database, size=1, limit=WAITING, timeout=timeout)
        self._writes = 0  # transactions of ours that have a number, as `version` counts them
        self._uncounted = 0  # that may have one

    def start(self) -> None:
        self._pool.start()

    async def add(self, url: str, rooms: Sequence[str], events: Sequence[str], secret: str) -> int | None:
        """As `Webhooks.add` says."""
        row = (url, _json(rooms), _json(events), secret, MAKING, WEBHOOKS)

        async def insert(db: Connection) -> int | None:
            await db.execute(LOCK)
            id: int | None = await db.fetchval(ADD, *row)
            return id

        id = await self._write(insert)
        if id is None:
            return None
        after: int | None = 0
        while after is not None:
            after = await self._write(partial(_begin_rooms, id, rooms, after))
        await self._write(lambda db: db.execute("UPDATE webhooks SET state = $1 WHERE id = $2", ACTIVE, id))
        return id

    async def all(self) -> list[Webhook]:
        """As `Webhooks.all` says."""
        return [_webhook(row) for row in await self._pool.call(lambda db: db.fetch(ALL))]

    async def lag(self, webhook: Webhook) -> Lag:
        """As `Webhooks.lag` says."""
        (found,) = await self._pool.call(lambda db: db.fetch(LAG, webhook.id, _likes(webhook.rooms)))
        return Lag(*found)

    async def remove(self, id: int) -> bool:
        """As `Webhooks.remove` says."""
        marking = "UPDATE webhooks SET state = $1 WHERE id = $2 RETURNING id"
        if await self._write(lambda db: db.fetchval(marking, REMOVING, id)) is None:
            return False
        while await self._write(lambda db: db.fetchval(REMOVE_ROOMS, id, PAGE)) == PAGE:
            pass
        await self._write(lambda db: db.execute("DELETE FROM webhooks WHERE id = $1", id))
        return True

    async def resume(self, id: int, *, skip: bool) -> bool:
        """As `Webhooks.resume` says."""

        async def resume(db: Connection) -> bool:
            if await db.fetchval(RESUME, ACTIVE, id, MAKING, REMOVING) is None:
                return False
            await db.execute(RESUME_ROOMS, int(skip), id)
            return True

        return await self._write(resume)

    async def rotate(self, id: int, secret: str, seconds: float) -> bool:
        """As `Webhooks.rotate` says."""
        return await self._write(lambda db: db.fetchval(ROTATE, int(seconds * 1000), secret, id)) is not None

    async def claim(self, holder: str, seconds: float) -> list[Webhook]:
        """As `Webhooks.claim` says."""
        if not await self._pool.call(lambda db: db.fetch(CLAIMABLE, ACTIVE, holder)):
            return []

        async def claim(db: Connection) -> list[Any]:
            await db.execute(CLAIM, holder, int(seconds * 1000), ACTIVE)
            return await db.fetch(HELD, holder)

        return [_webhook(row) for row in await self._write(claim)]

    async def release(self, holder: str) -> None:
        """As `Webhooks.release` says."""
        await self._write(lambda db: db.execute(RELEASE, holder))

    async def version(self) -> str:
        """As `Webhooks.version` says: PostgreSQL numbers the transactions that write, ours are not counted."""
        ((oldest, next),) = await self._pool.call(lambda db: db.fetch(VERSION))
        if oldest != next:  # some are under way: what is asked for next differs, too
            self._uncounted += 1
        return f"{next - self._writes} {self._uncounted} {oldest == next}"

    async def behind(self, webhook: Webhook, after: int, limit: int, newest: int, also: Collection[int]) -> Found:
        """As `Webhooks.behind` says."""

        async def look(db: Connection) -> Found:
            ((looked, last),) = await db.fetch(LOOKED, after, limit)
            beyond = await db.fetchval("SELECT max(id) FROM rooms")
            wanted = (webhook.id, _likes(webhook.rooms))
            rows = await db.fetch(BEHIND_IN, *wanted, after, last or after)
            if beyond is not None and beyond > newest:
                rows += await db.fetch(BEHIND_IN, *wanted, newest, beyond)
            if also:
                rows += await db.fetch(BEHIND_OF, *wanted, list(also))
            rooms = {row[0]: Behind(*row) for row in rows}
            return Found(list(rooms.values()), last if looked == limit else None, beyond or 0)

        return await self._pool.call(look)

    async def move(
        self, webhook: Webhook, rooms: Sequence[Behind], *, failing: int | None, error: str | None, state: str
    ) -> bool:
        """As `Webhooks.move` says."""
        rows = [(room.id, room.seq, room.failing, room.attempts, room.retry_at, room.given_up) for room in rooms]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(6)]

        async def move(db: Connection) -> bool:
            if await db.fetchval(FENCED, webhook.id, webhook.fence, ACTIVE) is None:
                return False
            await db.execute(MOVE, webhook.id, *columns)
            await db.execute(MOVED, failing, error, state, webhook.id)
            return True

        return await self._write(move)

    async def close(self) -> None:
        await self._pool.close()

    async def _write(self, action: Callable[[Connection], Awaitable[T]]) -> T:
        """The result of `action`, in a transaction of its own."""

        async def write(db: Connection) -> T:
            self._uncounted += 1  # until it is known to have a number, just one
            async with db.transaction(isolation="read_committed"):
                await db.fetchval("SELECT txid_current()")
                self._uncounted -= 1
                self._writes += 1
                return await action(db)

        return await self._pool.call(write)


async def open_postgres_webhooks(
    database: str,
    *,
    timeout: float = 10.0,  # noqa: ASYNC109 - it bounds every later wait, not this call
) -> PostgresWebhooks:
    """The endpoints in the log at the URL `database`, which is there and of this version."""
    webhooks = PostgresWebhooks(database, timeout)
    webhooks.start()
    return webhooks


async def _begin_rooms(id: int, patterns: Sequence[str], after: int, db: Connection) -> int | None:
    """Let the endpoint begin at the heads of the next PAGE rooms; the last one's id, None: these were all."""
    found = await db.fetch(ROOMS, after, PAGE)
    heads = [(room, head) for room, name, head in found if head is not None and is_wanted(patterns, name)]
    await db.execute(BEGIN_ROOMS, id, [room for room, _ in heads], [head for _, head in heads])
    return found[-1][0] if len(found) == PAGE else None


def _webhook(row: Sequence[Any]) -> Webhook:
    id, url, rooms, events, *rest = row
    return Webhook(id, url, orjson.loads(rooms), orjson.loads(events), *rest)


def _likes(patterns: Sequence[str]) -> list[str]:
    return [pattern.replace("_", r"\_").replace("*", "%") for pattern in patterns]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
