"""The slices of `log/sweeping.py` over SQLite, each inside its caller's transaction. Blocking."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

import orjson

from tornado_chat.log import sweeping
from tornado_chat.log.sweeping import Mark, OwnLogs

# Without INDEXED BY, and without statistics of the tables, SQLite goes through the whole room.
EDITS = """
SELECT json_group_array(seq) FROM (
    SELECT seq FROM events INDEXED BY edits WHERE room = ? AND target = ? AND type = 'edited' AND seq > ?
    ORDER BY seq LIMIT ?
)
"""
ERASE = "UPDATE events SET text = NULL WHERE room = ? AND seq IN (SELECT value FROM json_each(?))"
RENEW_MARKS = """
UPDATE marks SET lapses = ? WHERE lapses IS NOT NULL AND (room, user) IN (
    SELECT r.id, json_extract(wanted.value, '$[1]')
    FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = json_extract(wanted.value, '$[0]')
)
"""
# Names of logs of one's own come behind all others. Some of one is to go: the oldest event is old, and not the newest.
OWN_LOGS = """
SELECT json_group_array(json_array(name, id, coalesce(
    (SELECT ts FROM events WHERE room = id ORDER BY seq LIMIT 1) < ?2
    AND (SELECT min(seq) FROM events WHERE room = id) < (SELECT max(seq) FROM events WHERE room = id)
    OR name >= '~guest-' AND name < '~guest.'
    AND (SELECT ts FROM events WHERE room = id ORDER BY seq DESC LIMIT 1) < ?3
    AND (EXISTS (SELECT 1 FROM follows WHERE own = id) OR EXISTS (SELECT 1 FROM mentions WHERE own = id)),
    0
))) FROM (SELECT id, name FROM rooms WHERE name > ?1 ORDER BY name LIMIT ?4)
"""
CUT_OWN = """
DELETE FROM events WHERE (room, seq) IN (
    SELECT e.room, e.seq FROM json_each(?1) AS log CROSS JOIN events AS e
    ON e.room = log.value AND e.seq < coalesce(
        (SELECT seq FROM events WHERE room = log.value AND ts >= ?2 ORDER BY seq LIMIT 1),
        (SELECT max(seq) FROM events WHERE room = log.value)
    )
)
"""
FORGET_GUESTS = tuple(
    f"""
DELETE FROM {table} WHERE own IN (
    SELECT r.id FROM json_each(?1) AS log CROSS JOIN rooms AS r ON r.id = log.value
    WHERE r.name >= '~guest-' AND r.name < '~guest.'
        AND (SELECT ts FROM events WHERE room = r.id ORDER BY seq DESC LIMIT 1) < ?2
)
"""
    for table in ("follows", "mentions")
)
FORGET_MARKS = """
DELETE FROM marks WHERE (room, user) IN (
    SELECT room, user FROM marks INDEXED BY lapsing WHERE lapses <= ? ORDER BY lapses LIMIT ?
)
"""


def erase_edits(db: sqlite3.Connection, room: int, target: int, limit: int) -> int:
    """Erase the texts of a deleted message's edits, at most `limit`; how many they were. `sweep` does the others."""
    last, erased = _erase(db, room, target, 0, limit)
    if erased == limit:
        db.execute("INSERT INTO erasures (room, target, seq) VALUES (?, ?, ?)", (room, target, last))
    return erased


def erase_more(db: sqlite3.Connection) -> bool:
    """Erase a slice of what is left of one deleted message's edits; False if nothing was left of any."""
    found = db.execute("SELECT room, target, seq FROM erasures LIMIT 1").fetchone()
    if found is None:
        return False
    room, target, after = found
    last, erased = _erase(db, room, target, after, sweeping.EDITS)
    if erased == sweeping.EDITS:
        db.execute("UPDATE erasures SET seq = ? WHERE room = ? AND target = ?", (last, room, target))
    else:
        db.execute("DELETE FROM erasures WHERE room = ? AND target = ?", (room, target))
    return True


def renew_marks(db: sqlite3.Connection, marks: Sequence[Mark]) -> None:
    db.execute(RENEW_MARKS, (sweeping.lapse(), orjson.dumps(marks).decode()))


def forget_marks(db: sqlite3.Connection) -> int:
    """Delete a slice of the marks that have lapsed; how many they were."""
    return db.execute(FORGET_MARKS, (int(time.time()), sweeping.MARKS)).rowcount


def cut_own(db: sqlite3.Connection, logs: OwnLogs) -> bool:
    """Look at a slice of the logs of one's own, and let go what is old; whether that was worth a further look."""
    after = logs.after()
    if after is None:
        return False
    old, forgotten = sweeping.own_horizons()
    found = db.execute(OWN_LOGS, (after, old, forgotten, sweeping.OWN_LOGS)).fetchone()[0]
    cut = orjson.dumps(logs.looked_at(orjson.loads(found))).decode()
    if cut != "[]":
        db.execute(CUT_OWN, (cut, old))
        for forget in FORGET_GUESTS:
            db.execute(forget, (cut, forgotten))
    return logs.after() is not None


def _erase(db: sqlite3.Connection, room: int, target: int, after: int, limit: int) -> tuple[int, int]:
    """Erase at most `limit` edits behind the edit `after`; the last one's seq, and how many they were."""
    seqs: list[int] = orjson.loads(db.execute(EDITS, (room, target, after, limit)).fetchone()[0])
    if not seqs:
        return after, 0
    db.execute(ERASE, (room, orjson.dumps(seqs).decode()))
    return seqs[-1], len(seqs)
