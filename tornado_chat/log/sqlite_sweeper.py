"""The slices of `log/sweeping.py` over SQLite, each inside its caller's transaction. Blocking."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

import orjson

from tornado_chat.log import sweeping
from tornado_chat.log.sweeping import Mark

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


def _erase(db: sqlite3.Connection, room: int, target: int, after: int, limit: int) -> tuple[int, int]:
    """Erase at most `limit` edits behind the edit `after`; the last one's seq, and how many they were."""
    seqs: list[int] = orjson.loads(db.execute(EDITS, (room, target, after, limit)).fetchone()[0])
    if not seqs:
        return after, 0
    db.execute(ERASE, (room, orjson.dumps(seqs).decode()))
    return seqs[-1], len(seqs)
