"""Reading from an SQLite log. Blocking; a reader's thread calls it.

Each query makes one JSON array of its rows, so that a page is one `sqlite3_step`: beside a busy event loop each step
may have to wait for the GIL. Measured with pages of 500 events and two cores: 9 times the throughput of fetchall().
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

import orjson

from tornado_chat.errors import LogUnavailable
from tornado_chat.log import Revocation, rows, sqlite_growing
from tornado_chat.log.growing import Held, Open
from tornado_chat.log.sqlite_file import Connected
from tornado_chat.log.sweeping import Mark
from tornado_chat.wire.events import Data, Event

READ = """
SELECT json_group_array(json_array(
    seq, type, user, name, key, hidden,
    CASE WHEN type = 'edited' AND EXISTS (
        SELECT 1 FROM erasures AS e WHERE e.room = page.room AND e.target = page.target
    ) THEN NULL ELSE text END,
    reply_to, meta, target, emoji, "on", ts
))
FROM (
    SELECT * FROM events WHERE room = (SELECT id FROM rooms WHERE name = ?) AND seq > ? AND seq < ?
    ORDER BY seq LIMIT ?
) AS page
"""
HEADS = """
SELECT json_group_array(json_array(r.name, (SELECT coalesce(max(seq), 0) FROM events WHERE room = r.id)))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = wanted.value
"""
MARKS = """
SELECT json_group_array(json_array(r.name, m.user, m.seq, m.lapses))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = json_extract(wanted.value, '$[0]')
CROSS JOIN marks AS m ON m.room = r.id AND m.user = json_extract(wanted.value, '$[1]')
"""
# The messages before `before`, newest first; from one to the next in one step, whatever stands between them.
HISTORY = """
WITH RECURSIVE page (seq, place) AS (
    SELECT (
        SELECT coalesce(last_message, seq) FROM events WHERE room = :room AND seq < :before ORDER BY seq DESC LIMIT 1
    ), 1
    UNION ALL
    SELECT (
        SELECT coalesce(last_message, seq) FROM events WHERE room = :room AND seq = page.seq - 1
    ), place + 1 FROM page WHERE page.seq > 1 AND place < :limit
)
SELECT json_group_array(json_array(
    e.seq, e.user, e.name, e.key, e.hidden,
    CASE
        WHEN e."on" IS NULL OR e.text IS NULL THEN e.text
        WHEN e.target IS NULL THEN coalesce((
            SELECT group_concat(text, '')
            FROM (SELECT text FROM growing_parts AS p WHERE p.room = e.room AND p.seq = e.seq ORDER BY p.start)
        ), '')
        ELSE (SELECT text FROM events AS f WHERE f.room = e.room AND f.seq = e.target)
    END,
    e.reply_to,
    CASE
        WHEN e.target IS NULL THEN e.meta
        ELSE coalesce((SELECT meta FROM events AS f WHERE f.room = e.room AND f.seq = e.target), e.meta)
    END,
    e.ts, a.text, a.edited, e."on" = 1 AND e.target IS NULL
))
FROM page CROSS JOIN events AS e ON e.room = :room AND e.seq = page.seq
LEFT JOIN amendments AS a ON a.room = e.room AND a.target = e.seq
"""
REACTED = """
SELECT json_group_array(json_array(target, emoji, user))
FROM (
    SELECT target, emoji, user FROM reactions
    WHERE room = ? AND (target, emoji, user) < (?, ?, ?) AND target >= ?
    ORDER BY target DESC, emoji DESC, user DESC LIMIT ?
)
"""
REVOCATIONS = """
SELECT json_group_array(json_array(id, jti)) FROM (SELECT * FROM revocations WHERE id > ? ORDER BY id LIMIT ?)
"""


class Reader(Connected):
    """One connection that only reads; each query sees what was committed when it began."""

    def __init__(self, path: str, busy_timeout: float) -> None:
        super().__init__(path, busy_timeout)
        self.db.execute("PRAGMA query_only = ON")

    def read(self, room: str, after: int, before: int | None, max_events: int, max_bytes: int) -> list[Event]:
        """As `Log.read` says."""
        steps = rows.read(room, after, before, max_events, max_bytes)
        found: Any = None
        try:
            while True:
                found = self._array(READ, (room, *steps.send(found)))
        except StopIteration as end:
            events: list[Event] = end.value
            return events

    def epoch(self) -> str:
        """As `Log.read_epoch` says."""
        epoch: str = self._execute("SELECT value FROM meta WHERE name = 'epoch'", ())[0]
        return epoch

    def heads(self, rooms: Collection[str]) -> dict[str, int]:
        """As `Log.heads` says."""
        heads = dict.fromkeys(rooms, 0)
        rows = self._array(HEADS, (orjson.dumps(list(heads)).decode(),))
        heads.update((room, head) for room, head in rows)
        return heads

    def marks(self, wanted: Collection[Mark]) -> list[list[Any]]:
        """Of each of `wanted` that there is: room, user, seq, when it lapses."""
        return self._array(MARKS, (orjson.dumps(list(wanted)).decode(),))

    def revocations(self, after: int, limit: int) -> list[Revocation]:
        """As `Log.revocations` says."""
        return [Revocation(*row) for row in self._array(REVOCATIONS, (after, limit))]

    def held(self, home: str) -> list[Held]:
        """As `Log.held` says."""
        return [Held(*row) for row in self._array(sqlite_growing.HELD, (home,))]

    def open(self, room: str) -> list[Open]:
        """As `Log.open` says."""
        return [Open(*row) for row in self._array(sqlite_growing.OPEN_IN, (room,))]

    def lapsed(self) -> list[Open]:
        """As `Log.lapsed` says."""
        return [Open(*row) for row in self._array(sqlite_growing.LAPSED_ONES, (sqlite_growing.now(),))]

    def history(self, room: str, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
        """As `Log.history` says."""
        row = self._execute("SELECT id FROM rooms WHERE name = ?", (room,))
        if row is None:
            return [], False
        id: int = row[0]
        steps = rows.history(room, before, limit, max_bytes)
        found: Any = None
        try:
            while True:
                kind, bounds = steps.send(found)
                if kind == "messages":
                    end, wanted = bounds
                    found = sorted(self._array(HISTORY, {"room": id, "before": end, "limit": wanted}), reverse=True)
                else:
                    found = self._array(REACTED, (id, *bounds))
        except StopIteration as done:
            page: tuple[list[Data], bool] = done.value
            return page

    def _execute(self, query: str, parameters: Any) -> Any:
        """The first row of `query`."""
        try:
            return self.db.execute(query, parameters).fetchone()
        except sqlite3.Error as error:
            raise LogUnavailable(f"SQLite: {error}") from error

    def _array(self, query: str, parameters: Any) -> list[list[Any]]:
        """The rows of `query`, which makes one JSON array of them."""
        rows: list[list[Any]] = orjson.loads(self._execute(query, parameters)[0])
        return rows
