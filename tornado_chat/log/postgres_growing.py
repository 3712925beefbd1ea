"""Messages that grow, in a PostgreSQL log."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tornado_chat.errors import ChatError
from tornado_chat.log import Appended
from tornado_chat.log.growing import (
    GROWING,
    LAPSE_SECONDS,
    LAPSED,
    SILENT_MS,
    STOPPED_SECONDS,
    Begin,
    Checkpoint,
    Claim,
    Finish,
    Grown,
    Held,
    Open,
    Orphan,
    Part,
    id_of_another,
    taken_over_too_soon,
    unfinished,
)
from tornado_chat.log.postgres_schema import Connection

LEASE = int(LAPSE_SECONDS * 1000)

CLAIM = "SELECT gen, length, text, held, reason, refused FROM claim_growing($1, $2, $3, $4, $5, $6, $7)"
UNLINK = """
UPDATE growing SET linked = false
WHERE room = (SELECT id FROM rooms WHERE name = $1) AND seq = $2
    AND linked AND stopped IS NULL AND lapses <= clock_ms() + $3
"""
HOME = "SELECT home FROM growing WHERE room = (SELECT id FROM rooms WHERE name = $1) AND seq = $2 FOR UPDATE"
BEGUN = """
SELECT seq FROM events WHERE key = $3 AND room = (SELECT id FROM rooms WHERE name = $1) AND "user" = $2
"""
FINISHABLE = "SELECT seq, ts, author, gen, length, home, lapsed, reason FROM finishable($1, $2, $3, $4)"
IS_ITS_END = """
SELECT type = 'finished' AND (target = $3 OR $3 = 0) FROM events
WHERE room = (SELECT id FROM rooms WHERE name = $1) AND seq = $2
"""
CHECKPOINT = "SELECT checkpoint_growing($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
HAND_OVER = """
WITH found AS MATERIALIZED (
    SELECT
        g.room, g.seq, g.length,
        CASE WHEN g.length >= old.start THEN substr(old.text, (g.length - old.start)::int + 1) ELSE '' END AS text
    FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[]) AS old (room, seq, gen, start, text)
    JOIN rooms AS r ON r.name = old.room
    JOIN growing AS g ON g.room = r.id AND g.seq = old.seq AND g.gen = old.gen
    ORDER BY g.room, g.seq FOR UPDATE OF g
), parts AS (
    INSERT INTO growing_parts (room, seq, start, text) SELECT room, seq, length, text FROM found WHERE text <> ''
)
UPDATE growing AS g SET length = found.length + char_length(found.text), former = nullif(g.former, $1)
FROM found WHERE g.room = found.room AND g.seq = found.seq
"""
STOP = """
UPDATE growing SET stopped = $3, lapses = least(lapses, clock_ms() + $4)
WHERE room = (SELECT id FROM rooms WHERE name = $1) AND seq = ANY ($2) AND stopped IS NULL
"""
OPEN = """
SELECT
    r.name, g.seq, e."user", e.name, e.key, g.gen, g.home, g.stopped,
    (SELECT asked."user" FROM events AS asked WHERE asked.room = g.room AND asked.seq = e.reply_to),
    {text}
FROM ({which}) AS g
CROSS JOIN LATERAL (SELECT name FROM rooms WHERE id = g.room LIMIT 1) AS r
CROSS JOIN LATERAL (SELECT * FROM events WHERE room = g.room AND seq = g.seq LIMIT 1) AS e
ORDER BY g.{order}
"""
ITS_TEXT = "text_of_growing(g.room, g.seq)"
IN_ROOM = "SELECT * FROM growing WHERE room = (SELECT id FROM rooms WHERE name = $1)"
OPEN_IN = OPEN.format(text="''", which=IN_ROOM, order="seq")
OPEN_ONE = OPEN.format(text=ITS_TEXT, which=f"{IN_ROOM} AND seq = $2", order="seq")
LAPSED_ONES = OPEN.format(
    text=ITS_TEXT,
    which=f"SELECT * FROM growing WHERE lapses <= clock_ms() ORDER BY lapses LIMIT {LAPSED}",
    order="lapses",
)
HELD = """
SELECT r.name, g.seq, g.gen, g.length, g.stopped, g.former
FROM growing AS g CROSS JOIN LATERAL (SELECT name FROM rooms WHERE id = g.room LIMIT 1) AS r WHERE g.home = $1
"""

GROWN = """
SELECT r.name, g.seq, g.gen, g.home, g.length, e."user", e.key, g.linked, g.stopped
FROM (SELECT * FROM growing {where} ORDER BY room, seq LIMIT {limit}) AS g
CROSS JOIN LATERAL (SELECT name FROM rooms WHERE id = g.room LIMIT 1) AS r
CROSS JOIN LATERAL (SELECT "user", key FROM events WHERE room = g.room AND seq = g.seq LIMIT 1) AS e
ORDER BY g.room, g.seq
"""
GROWN_ANYWHERE = GROWN.format(where="", limit=GROWING)
GROWN_IN = GROWN.format(where="WHERE room = (SELECT id FROM rooms WHERE name = $1)", limit=GROWING)
# Of each the part that holds the code point, and those behind it.
PARTS = """
SELECT wanted.place, (
    SELECT coalesce(string_agg(substr(p.text, greatest(0, wanted.start - p.start)::int + 1), '' ORDER BY p.start), '')
    FROM growing_parts AS p WHERE p.room = g.room AND p.seq = g.seq AND p.start >= coalesce((
        SELECT max(start) FROM growing_parts WHERE room = g.room AND seq = g.seq AND start <= wanted.start
    ), 0)
)
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
    AS wanted (room, seq, gen, start, place)
CROSS JOIN LATERAL (SELECT id FROM rooms WHERE name = wanted.room LIMIT 1) AS r
CROSS JOIN LATERAL (
    SELECT * FROM growing WHERE room = r.id AND seq = wanted.seq AND gen = wanted.gen LIMIT 1
) AS g
"""
# In the order in which all lock these rows; a message that is not known is found by the id of its `begin`.
LOCK = """
SELECT FROM growing AS g JOIN (
    SELECT r.id AS room, coalesce(wanted.target, e.seq) AS seq
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS wanted (room, "user", key, target)
    CROSS JOIN LATERAL (SELECT id FROM rooms WHERE name = wanted.room LIMIT 1) AS r
    LEFT JOIN LATERAL (
        SELECT seq FROM events WHERE key = wanted.key AND room = r.id AND "user" = wanted."user" LIMIT 1
    ) AS e ON wanted.target IS NULL
) AS found ON g.room = found.room AND g.seq = found.seq
ORDER BY g.room, g.seq FOR UPDATE OF g
"""
ORPHAN = """
WITH theirs AS MATERIALIZED (
    SELECT room, seq FROM growing WHERE home = $1 AND linked ORDER BY room, seq FOR UPDATE
), gone AS (
    UPDATE growing AS g SET linked = false FROM theirs WHERE g.room = theirs.room AND g.seq = theirs.seq
    RETURNING g.room, g.seq
)
SELECT r.name, gone.seq, e."user", e.key
FROM gone
CROSS JOIN LATERAL (SELECT name FROM rooms WHERE id = gone.room LIMIT 1) AS r
CROSS JOIN LATERAL (SELECT "user", key FROM events WHERE room = gone.room AND seq = gone.seq LIMIT 1) AS e
ORDER BY r.name, gone.seq
"""


async def lock(db: Connection, entries: Sequence[Begin | Finish]) -> None:
    """The rows of what these go on with or end, at once: their rooms are locked, and no process waits for another."""
    await db.execute(
        LOCK,
        [entry.room for entry in entries],
        [entry.user for entry in entries],
        [entry.stream if isinstance(entry, Finish) else entry.key for entry in entries],
        [entry.target or None for entry in entries],
    )


async def claim(db: Connection, entry: Begin, seq: int, *, new: bool) -> Claim | ChatError:
    """The message `seq` grows from now on, or goes on with `entry`, if that may have it; its room is locked."""
    before: str = "" if new else await db.fetchval(HOME, entry.room, seq) or ""
    if entry.take_over and not new:
        await db.execute(UNLINK, entry.room, seq, SILENT_MS)
    row = await db.fetchrow(CLAIM, entry.room, seq, new, entry.replica, entry.home, entry.take_over, LEASE)
    assert row is not None
    gen, length, text, held, reason, refused = row
    if refused:
        return taken_over_too_soon(entry.room, seq, gen, length)
    moved = before != entry.home and not held
    return Claim(gen, length, text, held=held, reason=reason, before=before if moved else "")


async def finishable(db: Connection, entry: Finish) -> Appended | ChatError | None:
    """None if `entry` can end its target; else what it is answered. Its room is locked."""
    target: int = entry.target or await db.fetchval(BEGUN, entry.room, entry.user, entry.stream) or 0
    row = await db.fetchrow(FINISHABLE, entry.room, target, entry.user, entry.key)
    assert row is not None
    seq, ts, author, *found = row
    if seq is not None:
        is_its_end = await db.fetchval(IS_ITS_END, entry.room, seq, entry.target)
        return Appended(seq, ts, duplicate=True) if is_its_end else id_of_another(entry)
    return unfinished(entry, target, None if author is None else (author, *found))


async def checkpoint(db: Connection, home: str, parts: Sequence[Checkpoint]) -> list[bool]:
    """As `Log.checkpoint` says."""
    places = await db.fetchval(
        CHECKPOINT,
        home,
        LEASE,
        [part.room for part in parts],
        [part.seq for part in parts],
        [part.gen for part in parts],
        [part.start for part in parts],
        [len(part.text) for part in parts],
        [part.linked for part in parts],
        [part.cut for part in parts],
        [part.text for part in parts],
    )
    kept = [False] * len(parts)
    for place in places:
        kept[place - 1] = True
    return kept


async def hand_over(db: Connection, home: str, parts: Sequence[Checkpoint]) -> None:
    """As `Log.hand_over` says."""
    await db.execute(
        HAND_OVER,
        home,
        [part.room for part in parts],
        [part.seq for part in parts],
        [part.gen for part in parts],
        [part.start for part in parts],
        [part.text for part in parts],
    )


async def stop(db: Connection, room: str, seqs: Collection[int], by: str) -> None:
    """As `Log.stop` says."""
    await db.execute(STOP, room, list(seqs), by, int(STOPPED_SECONDS * 1000))


async def held(db: Connection, home: str) -> list[Held]:
    """As `Log.held` says."""
    return [Held(*row) for row in await db.fetch(HELD, home)]


async def opened(db: Connection, room: str, seq: int | None) -> list[Open]:
    """As `Log.open` says."""
    rows = await db.fetch(OPEN_IN, room) if seq is None else await db.fetch(OPEN_ONE, room, seq)
    return [Open(*row) for row in rows]


async def growing(db: Connection, room: str | None) -> list[Grown]:
    """As `Log.growing` says."""
    rows = await db.fetch(GROWN_ANYWHERE) if room is None else await db.fetch(GROWN_IN, room)
    return [Grown(*row) for row in rows]


async def parts(db: Connection, wanted: Sequence[Part]) -> list[str]:
    """As `Log.parts` says."""
    rooms, seqs, gens, starts = zip(*wanted, strict=True) if wanted else ((), (), (), ())
    texts = [""] * len(wanted)
    for place, text in await db.fetch(PARTS, rooms, seqs, gens, starts):
        texts[place - 1] = text
    return texts


async def orphan(db: Connection, home: str) -> list[Orphan]:
    """As `Log.orphan` says."""
    return [Orphan(*row) for row in await db.fetch(ORPHAN, home)]


async def lapsed(db: Connection) -> list[Open]:
    """As `Log.lapsed` says."""
    return [Open(*row) for row in await db.fetch(LAPSED_ONES)]
