"""Reading from a PostgreSQL log. Each query sees what was committed when it began."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tornado_chat.log import Deliveries, Revocation, State, own, rows
from tornado_chat.log.postgres_schema import Connection
from tornado_chat.log.sweeping import Mark
from tornado_chat.wire.events import Data, Event

# LATERAL with a LIMIT says in which order the tables are joined: left to itself PostgreSQL may plan, while they are
# empty, to go through the whole of one.
READ = """
SELECT
    seq, type, "user", name, key, hidden,
    CASE WHEN type = 'edited' AND EXISTS (
        SELECT FROM erasures AS e WHERE e.room = events.room AND e.target = events.target
    ) THEN NULL ELSE text END,
    reply_to, meta, target, emoji, "on", ts, more,
    coalesce((
        SELECT number FROM others WHERE room = (SELECT id FROM rooms WHERE name = $1) AND seq <= $2
        ORDER BY seq DESC LIMIT 1
    ), 0)
FROM events WHERE room = (SELECT id FROM rooms WHERE name = $1) AND seq > $2 AND seq < $3
ORDER BY seq LIMIT $4
"""
HEADS = """
SELECT r.name, last.seq
FROM rooms AS r CROSS JOIN LATERAL (SELECT seq FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1) AS last
WHERE r.name = ANY ($1)
"""
OPENINGS = """
SELECT r.name, last.seq, EXISTS (SELECT FROM growing WHERE room = r.id)
FROM rooms AS r CROSS JOIN LATERAL (SELECT seq FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1) AS last
WHERE r.name = ANY ($1)
"""
MARKS = """
SELECT wanted.room, wanted."user", m.seq, m.lapses
FROM unnest($1::text[], $2::text[]) AS wanted (room, "user")
CROSS JOIN LATERAL (SELECT id FROM rooms WHERE name = wanted.room LIMIT 1) AS r
CROSS JOIN LATERAL (
    SELECT
        mark_of(r.id, wanted."user") AS seq,
        (SELECT lapses FROM marks WHERE room = r.id AND "user" = wanted."user") AS lapses
) AS m
WHERE m.seq > 0
"""
FLOORS = """
SELECT r.name, first.seq - 1
FROM rooms AS r CROSS JOIN LATERAL (SELECT seq FROM events WHERE room = r.id ORDER BY seq LIMIT 1) AS first
WHERE r.name = ANY ($1)
"""
# One statement, so that all of it is of one moment. The first row is of the log itself.
STATE = """
WITH mine AS MATERIALIZED (SELECT id FROM rooms WHERE name = $1)
SELECT
    NULL AS name, NULL AS level, NULL AS inviter,
    coalesce((SELECT max(seq) FROM events WHERE room = (SELECT id FROM mine)), 0) AS head,
    coalesce((SELECT min(seq) FROM events WHERE room = (SELECT id FROM mine)), 1) - 1,
    NULL::bigint, NULL::bigint, NULL::bigint
UNION ALL (
    SELECT
        r.name, f.level, f.inviter, h.head,
        h.head - coalesce((
            SELECT number FROM others WHERE room = r.id AND seq <= h.head ORDER BY seq DESC LIMIT 1
        ), 0),
        h.mark,
        h.mark - coalesce((
            SELECT number FROM others WHERE room = r.id AND seq <= h.mark ORDER BY seq DESC LIMIT 1
        ), 0),
        (SELECT count(*) FROM mentions AS m WHERE m.own = f.own AND m.room = r.id AND m.target > h.mark)
    FROM follows AS f
    CROSS JOIN LATERAL (SELECT id, name FROM rooms WHERE id = f.room LIMIT 1) AS r
    CROSS JOIN LATERAL (
        SELECT
            coalesce((SELECT seq FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1), 0) AS head,
            mark_of(r.id, $2) AS mark
    ) AS h
    WHERE f.own = (SELECT id FROM mine)
    ORDER BY r.name
)
"""
# The messages before $2, newest first; from one to the next in one step, whatever stands between them.
MESSAGES = """
WITH RECURSIVE page (seq, place) AS (
    SELECT (
        SELECT coalesce(previous_message, seq) FROM events WHERE room = $1 AND seq < $2 ORDER BY seq DESC LIMIT 1
    ), 1
    UNION ALL
    SELECT (
        SELECT coalesce(previous_message, seq) FROM events WHERE room = $1 AND seq = page.seq - 1
    ), place + 1 FROM page WHERE page.seq > 1 AND place < $3
)
SELECT
    e.seq, e."user", e.name, e.key, e.hidden,
    CASE
        WHEN e."on" IS NOT TRUE OR e.text IS NULL THEN e.text
        WHEN e.target IS NULL THEN text_of_growing(e.room, e.seq)
        ELSE (SELECT f.text FROM events AS f WHERE f.room = e.room AND f.seq = e.target)
    END,
    e.reply_to,
    CASE
        WHEN e.target IS NULL THEN e.meta
        ELSE coalesce((SELECT f.meta FROM events AS f WHERE f.room = e.room AND f.seq = e.target), e.meta)
    END,
    e.emoji, e.ts, a.text, a.edited, e.more, e."on" AND e.target IS NULL,
    CASE page.place WHEN 1 THEN coalesce((
        SELECT number FROM others WHERE room = $1 AND seq < page.seq ORDER BY seq DESC LIMIT 1
    ), 0) END
FROM page
CROSS JOIN LATERAL (SELECT * FROM events WHERE room = $1 AND seq = page.seq LIMIT 1) AS e
LEFT JOIN LATERAL (SELECT * FROM amendments WHERE room = $1 AND target = page.seq LIMIT 1) AS a ON true
ORDER BY page.place
"""
REACTIONS = """
SELECT target, emoji, "user" FROM reactions
WHERE room = $1 AND (target, emoji, "user") < ($2, $3, $4) AND target >= $5
ORDER BY target DESC, emoji DESC, "user" DESC LIMIT $6
"""
REVOCATIONS = """
SELECT id, jti FROM revocations WHERE id > $1 ORDER BY id LIMIT $2
"""
DELIVERIES = """
SELECT count(*), count(failing), count(*) FILTER (WHERE
    state = 'given up' OR EXISTS (SELECT FROM webhook_rooms WHERE webhook = id AND given_up IS NOT NULL)
)
FROM webhooks
"""


async def read(
    db: Connection, room: str, after: int, before: int | None, max_events: int, max_bytes: int
) -> list[Event]:
    """As `Log.read` says."""
    steps = rows.read(room, after, before, max_events, max_bytes)
    found: Any = None
    try:
        while True:
            found = await db.fetch(READ, room, *steps.send(found))
    except StopIteration as end:
        events: list[Event] = end.value
        return events


async def heads(db: Connection, rooms: Collection[str]) -> dict[str, int]:
    """As `Log.heads` says."""
    found = dict.fromkeys(rooms, 0)
    found.update((name, head) for name, head in await db.fetch(HEADS, list(found)))
    return found


async def openings(db: Connection, rooms: Collection[str]) -> dict[str, tuple[int, bool]]:
    """As `Log.openings` says."""
    return {name: (head, grows) for name, head, grows in await db.fetch(OPENINGS, list(rooms))}


async def marks(db: Connection, wanted: Collection[Mark]) -> list[Any]:
    """Of each of `wanted` that there is: room, user, seq, when it lapses."""
    return await db.fetch(MARKS, [room for room, _ in wanted], [user for _, user in wanted])


async def floors(db: Connection, rooms: Collection[str]) -> dict[str, int]:
    """As `Log.floors` says."""
    found = dict.fromkeys(rooms, 0)
    found.update((name, floor) for name, floor in await db.fetch(FLOORS, list(found)))
    return found


async def state(db: Connection, user: str) -> State:
    """As `Log.state` says."""
    log, *followed = await db.fetch(STATE, own.room_of(user), user)
    return State(log[3], log[4], rows.followed_rooms([tuple(row) for row in followed]))


async def history(db: Connection, room: str, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
    """As `Log.history` says."""
    id = await db.fetchval("SELECT id FROM rooms WHERE name = $1", room)
    if id is None:
        return [], False
    steps = rows.history(room, before, limit, max_bytes)
    found: Any = None
    try:
        while True:
            kind, bounds = steps.send(found)
            found = await db.fetch(MESSAGES if kind == "messages" else REACTIONS, id, *bounds)
    except StopIteration as end:
        page: tuple[list[Data], bool] = end.value
        return page


async def revocations(db: Connection, after: int, limit: int) -> list[Revocation]:
    """As `Log.revocations` says."""
    return [Revocation(*row) for row in await db.fetch(REVOCATIONS, after, limit)]


async def deliveries(db: Connection) -> Deliveries:
    """As `Log.deliveries` says."""
    (found,) = await db.fetch(DELIVERIES)
    return Deliveries(*found)
