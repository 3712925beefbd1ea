"""Messages that grow, in an SQLite log: each function inside its caller's transaction, or one statement. Blocking."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import orjson

from tornado_chat.errors import ChatError
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
    Orphan,
    id_of_another,
    taken_over_too_soon,
    unfinished,
)

BEGIN = """
INSERT INTO growing (room, seq, gen, replica, home, linked, lapses, length) VALUES (?, ?, 1, ?, ?, 1, ?, 0)
"""
FOUND = """
SELECT gen, replica, linked AND lapses > CASE WHEN stopped IS NULL THEN ?1 ELSE ?2 END, length, home
FROM growing WHERE room = ?3 AND seq = ?4
"""
ENDED = """
SELECT e."on", f.emoji, f.reply_to, coalesce(length(e.text), 0)
FROM events AS e LEFT JOIN events AS f ON f.room = e.room AND f.seq = e.target
WHERE e.room = ? AND e.seq = ?
"""
CLAIM = """
UPDATE growing SET
    gen = ?1, replica = coalesce(?2, replica), home = ?3, linked = 1, lapses = ?4, length = ?5,
    former = CASE WHEN gen < ?1 THEN NULL WHEN home = ?3 THEN former ELSE home END
WHERE room = ?6 AND seq = ?7
"""
TEXT = """
SELECT coalesce(group_concat(text, ''), '')
FROM (SELECT text FROM growing_parts WHERE room = ? AND seq = ? ORDER BY start)
"""
BEGUN = "SELECT seq FROM events WHERE room = ? AND user = ? AND key = ?"
TO_FINISH = """
SELECT e.user, g.gen, g.length, g.home, g.lapses <= ?, f.emoji
FROM events AS e LEFT JOIN growing AS g ON g.room = e.room AND g.seq = e.seq
LEFT JOIN events AS f ON f.room = e.room AND f.seq = e.target
WHERE e.room = ? AND e.seq = ? AND e.type = 'message' AND e."on" = 1
"""
IS_ITS_END = "SELECT type = 'finished' AND ?3 IN (0, target) FROM events WHERE room = ?1 AND seq = ?2"
CHECKPOINTED = """
SELECT json_group_array(json_array(wanted.key, g.room, g.length)) FROM json_each(?) AS wanted
CROSS JOIN rooms AS r ON r.name = json_extract(wanted.value, '$[0]')
CROSS JOIN growing AS g ON g.room = r.id AND g.seq = json_extract(wanted.value, '$[1]')
    AND g.gen = json_extract(wanted.value, '$[2]') AND g.home = ? AND g.length >= json_extract(wanted.value, '$[3]')
"""
KEEP = """
UPDATE growing SET
    length = json_extract(value, '$[2]'),
    linked = json_extract(value, '$[3]'),
    lapses = CASE WHEN (linked OR json_extract(value, '$[3]')) AND stopped IS NULL THEN ? ELSE lapses END
FROM json_each(?)
WHERE room = json_extract(value, '$[0]') AND seq = json_extract(value, '$[1]')
"""
CUT = "DELETE FROM growing_parts WHERE room = ? AND seq = ? AND start >= ?"
KEEP_PARTS = """
INSERT INTO growing_parts (room, seq, start, text)
SELECT
    json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]')
FROM json_each(?)
"""
HANDED_OVER = """
SELECT room, length FROM growing WHERE room = (SELECT id FROM rooms WHERE name = ?) AND seq = ? AND gen = ?
"""
HAND_OVER = "UPDATE growing SET length = ?, former = nullif(former, ?) WHERE room = ? AND seq = ?"
HAND_OVER_PART = "INSERT INTO growing_parts (room, seq, start, text) VALUES (?, ?, ?, ?)"
STOP = """
UPDATE growing SET stopped = ?, lapses = min(lapses, ?)
WHERE room = (SELECT id FROM rooms WHERE name = ?) AND seq IN (SELECT value FROM json_each(?)) AND stopped IS NULL
"""
OPEN = """
SELECT json_group_array(json_array(
    r.name, g.seq, e.user, e.name, e.key, g.gen, g.home, g.stopped,
    (SELECT user FROM events AS asked WHERE asked.room = g.room AND asked.seq = e.reply_to),
    {text}
))
FROM ({which}) AS g CROSS JOIN rooms AS r ON r.id = g.room CROSS JOIN events AS e ON e.room = g.room AND e.seq = g.seq
"""
ITS_TEXT = """coalesce((
    SELECT group_concat(text, '')
    FROM (SELECT text FROM growing_parts AS p WHERE p.room = g.room AND p.seq = g.seq ORDER BY p.start)
), '')"""
IN_ROOM = "SELECT * FROM growing WHERE room = (SELECT id FROM rooms WHERE name = ?)"
OPEN_IN = OPEN.format(text="''", which=f"{IN_ROOM} ORDER BY seq")
OPEN_ONE = OPEN.format(text=ITS_TEXT, which=f"{IN_ROOM} AND seq = ?")
LAPSED_ONES = OPEN.format(
    text=ITS_TEXT, which=f"SELECT * FROM growing WHERE lapses <= ? ORDER BY lapses LIMIT {LAPSED}"
)
HELD = """
SELECT json_group_array(json_array(r.name, g.seq, g.gen, g.length, g.stopped, g.former))
FROM growing AS g CROSS JOIN rooms AS r ON r.id = g.room WHERE g.home = ?
"""

GROWN = """
SELECT json_group_array(json_array(r.name, g.seq, g.gen, g.home, g.length, e.user, e.key, g.linked, g.stopped))
FROM (SELECT * FROM growing {where} ORDER BY room, seq LIMIT {limit}) AS g
CROSS JOIN rooms AS r ON r.id = g.room CROSS JOIN events AS e ON e.room = g.room AND e.seq = g.seq
"""
GROWN_ANYWHERE = GROWN.format(where="", limit=GROWING)
GROWN_IN = GROWN.format(where="WHERE room = (SELECT id FROM rooms WHERE name = ?)", limit=GROWING)
# Of each the part that holds the code point, and those behind it.
PARTS = """
SELECT json_group_array(json_array(wanted.key, (
    SELECT coalesce(group_concat(text, ''), '') FROM (
        SELECT substr(p.text, max(0, json_extract(wanted.value, '$[3]') - p.start) + 1) AS text
        FROM growing_parts AS p WHERE p.room = g.room AND p.seq = g.seq AND p.start >= coalesce((
            SELECT max(start) FROM growing_parts
            WHERE room = g.room AND seq = g.seq AND start <= json_extract(wanted.value, '$[3]')
        ), 0) ORDER BY p.start
    )
)))
FROM json_each(?) AS wanted
CROSS JOIN rooms AS r ON r.name = json_extract(wanted.value, '$[0]')
CROSS JOIN growing AS g ON g.room = r.id AND g.seq = json_extract(wanted.value, '$[1]')
    AND g.gen = json_extract(wanted.value, '$[2]')
"""
ORPHANS = """
SELECT r.name, g.seq, e.user, e.key
FROM growing AS g CROSS JOIN rooms AS r ON r.id = g.room CROSS JOIN events AS e ON e.room = g.room AND e.seq = g.seq
WHERE g.home = ? AND g.linked
"""
ORPHAN = "UPDATE growing SET linked = 0 WHERE home = ? AND linked"


def now() -> int:
    """Ms since 1970. All who share the file share the machine, and so its clock."""
    return int(time.time() * 1000)


def begin(db: sqlite3.Connection, room: int, seq: int, entry: Begin) -> Claim:
    """The message `seq` of the room with this id is new: it grows from now on."""
    db.execute(BEGIN, (room, seq, entry.replica, entry.home, _lease()))
    return Claim(1)


def claim(db: sqlite3.Connection, room: int, seq: int, entry: Begin) -> Claim | ChatError:
    """The message is there already: it goes on with `entry`, if that may have it."""
    found = db.execute(FOUND, (now() + SILENT_MS, now(), room, seq)).fetchone()
    if found is None:
        grew, reason, length, text_length = db.execute(ENDED, (room, seq)).fetchone()
        ended = grew and reason is not None
        return Claim(0, length, reason=reason) if ended else Claim(0, text_length, reason="done")
    gen, replica, linked, length, home = found
    text = ""
    if None not in (replica, entry.replica) and replica != entry.replica:
        if not entry.take_over:
            return Claim(gen, length, held=True)
        if linked:
            return taken_over_too_soon(entry.room, seq, gen, length)
        gen, length = gen + 1, 0
        db.execute("DELETE FROM growing_parts WHERE room = ? AND seq = ?", (room, seq))
    else:
        text = db.execute(TEXT, (room, seq)).fetchone()[0]
    db.execute(CLAIM, (gen, entry.replica, entry.home, _lease(), length, room, seq))
    return Claim(gen, length, text, before=home if home != entry.home else "")


def refusal(db: sqlite3.Connection, room: int, entry: Finish) -> ChatError | None:
    """Why `entry` cannot end its target; None if it can."""
    seq = entry.target
    if not seq:
        seq = (db.execute(BEGUN, (room, entry.user, entry.stream)).fetchone() or (0,))[0]
    return unfinished(entry, seq, db.execute(TO_FINISH, (now(), room, seq)).fetchone())


def not_its_end(db: sqlite3.Connection, room: int, seq: int, entry: Finish) -> ChatError | None:
    """Why the event `seq`, which has the key of `entry`, is not what that asks for; None if it is."""
    return None if db.execute(IS_ITS_END, (room, seq, entry.target)).fetchone()[0] else id_of_another(entry)


def end(db: sqlite3.Connection, room: int, target: int, seq: int) -> None:
    """The `finished` of the message `target` stands at `seq`."""
    db.execute("UPDATE events SET target = ? WHERE room = ? AND seq = ?", (seq, room, target))
    db.execute("DELETE FROM growing WHERE room = ? AND seq = ?", (room, target))
    db.execute("DELETE FROM growing_parts WHERE room = ? AND seq = ?", (room, target))


def checkpoint(db: sqlite3.Connection, home: str, parts: Sequence[Checkpoint]) -> list[bool]:
    """As `Log.checkpoint` says."""
    wanted = [(part.room, part.seq, part.gen, part.start) for part in parts]
    found: list[list[Any]] = orjson.loads(db.execute(CHECKPOINTED, (_json(wanted), home)).fetchone()[0])
    rows, texts = [], []
    kept = [False] * len(parts)
    for place, room, length in found:
        part = parts[place]
        if length > part.start + len(part.text) and not part.cut:
            continue
        if length > part.start:  # the last one was kept, and its process did not hear of it
            db.execute(CUT, (room, part.seq, part.start))
        kept[place] = True
        rows.append((room, part.seq, part.start + len(part.text), part.linked))
        if part.text:
            texts.append((room, part.seq, part.start, part.text))
    if rows:
        db.execute(KEEP, (_lease(), _json(rows)))
    if texts:
        db.execute(KEEP_PARTS, (_json(texts),))
    return kept


def hand_over(db: sqlite3.Connection, home: str, parts: Sequence[Checkpoint]) -> None:
    """As `Log.hand_over` says."""
    for part in parts:
        found = db.execute(HANDED_OVER, (part.room, part.seq, part.gen)).fetchone()
        if found is not None:
            room, length = found
            end = part.start + len(part.text)
            if part.start <= length < end:
                db.execute(HAND_OVER_PART, (room, part.seq, length, part.text[length - part.start :]))
                length = end
            db.execute(HAND_OVER, (length, home, room, part.seq))


def stop(db: sqlite3.Connection, room: str, seqs: Sequence[int], by: str) -> None:
    """As `Log.stop` says."""
    db.execute(STOP, (by, now() + int(STOPPED_SECONDS * 1000), room, _json(seqs)))


def orphan(db: sqlite3.Connection, home: str) -> list[Orphan]:
    """As `Log.orphan` says."""
    found = [Orphan(*row) for row in db.execute(ORPHANS, (home,)).fetchall()]
    if found:
        db.execute(ORPHAN, (home,))
    return found


def _lease() -> int:
    return now() + int(LAPSE_SECONDS * 1000)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
