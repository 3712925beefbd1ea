"""Reading from an SQLite log. Blocking; a reader's thread calls it.

Each query makes one JSON array of its rows, so that a page is one `sqlite3_step`: beside a busy event loop each step
may have to wait for the GIL. Measured with pages of 500 events and two cores: 9 times the throughput of fetchall().
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

import orjson

from tornado_chat.errors import LogUnavailable
from tornado_chat.log import Deliveries, Revocation, State, own, rows, sqlite_growing
from tornado_chat.log.growing import Grown, Held, Open, Part
from tornado_chat.log.sqlite_file import Connected
from tornado_chat.log.sweeping import Mark
from tornado_chat.wire.events import Data, Event

READ = """
SELECT json_group_array(json_array(
    seq, type, user, name, key, hidden,
    CASE WHEN type = 'edited' AND EXISTS (
        SELECT 1 FROM erasures AS e WHERE e.room = page.room AND e.target = page.target
    ) THEN NULL ELSE text END,
    reply_to, meta, target, emoji, "on", ts, more,
    coalesce((
        SELECT number FROM others WHERE room = (SELECT id FROM rooms WHERE name = ?1) AND seq <= ?2
        ORDER BY seq DESC LIMIT 1
    ), 0)
))
FROM (
    SELECT * FROM events WHERE room = (SELECT id FROM rooms WHERE name = ?1) AND seq > ?2 AND seq < ?3
    ORDER BY seq LIMIT ?4
) AS page
"""
HEADS = """
SELECT json_group_array(json_array(r.name, (SELECT coalesce(max(seq), 0) FROM events WHERE room = r.id)))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = wanted.value
"""
OPENINGS = """
SELECT json_group_array(json_array(
    r.name,
    (SELECT coalesce(max(seq), 0) FROM events WHERE room = r.id),
    EXISTS (SELECT 1 FROM growing WHERE room = r.id)
))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = wanted.value
"""
# Of the room `r.id` and the user `:user`: the mark, which the messages that are not settled yet have moved, too.
MARK = """max(
    coalesce((SELECT seq FROM marks WHERE room = r.id AND user = {user}), 0),
    coalesce((
        SELECT seq FROM events
        WHERE room = r.id AND seq > coalesce((SELECT seq FROM settled WHERE room = r.id), 0)
            AND user = {user} AND type = 'message' AND "on" IS NULL
        ORDER BY seq DESC LIMIT 1
    ), 0)
)"""
# Each room's messages are looked at once, however many ask for their marks there.
MARKS = """
WITH wanted AS MATERIALIZED (
    SELECT r.id AS room, r.name, json_extract(asked.value, '$[1]') AS user
    FROM json_each(?) AS asked CROSS JOIN rooms AS r ON r.name = json_extract(asked.value, '$[0]')
), sent AS MATERIALIZED (
    SELECT e.room, e.user, max(e.seq) AS seq
    FROM (SELECT DISTINCT room FROM wanted) AS w CROSS JOIN events AS e
    ON e.room = w.room AND e.seq > coalesce((SELECT seq FROM settled WHERE room = w.room), 0)
    WHERE (e.room, e.user) IN (SELECT room, user FROM wanted) AND e.type = 'message' AND e."on" IS NULL
    GROUP BY e.room, e.user
)
SELECT json_group_array(json_array(name, user, mark, lapses)) FROM (
    SELECT w.name, w.user, max(coalesce(m.seq, 0), coalesce(s.seq, 0)) AS mark, m.lapses
    FROM wanted AS w
    LEFT JOIN marks AS m ON m.room = w.room AND m.user = w.user
    LEFT JOIN sent AS s ON s.room = w.room AND s.user = w.user
) WHERE mark > 0
"""
FLOORS = """
SELECT json_group_array(json_array(r.name, coalesce((SELECT min(seq) FROM events WHERE room = r.id), 1) - 1))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = wanted.value
"""
# One statement, so that all of it is of one moment.
STATE = f"""
WITH mine AS MATERIALIZED (SELECT id FROM rooms WHERE name = :own)
SELECT json_array(
    coalesce((SELECT max(seq) FROM events WHERE room = (SELECT id FROM mine)), 0),
    coalesce((SELECT min(seq) FROM events WHERE room = (SELECT id FROM mine)), 1) - 1,
    (SELECT json_group_array(json_array(
        name, level, inviter, head,
        head - coalesce((SELECT number FROM others WHERE room = id AND seq <= head ORDER BY seq DESC LIMIT 1), 0),
        mark,
        mark - coalesce((SELECT number FROM others WHERE room = id AND seq <= mark ORDER BY seq DESC LIMIT 1), 0),
        (SELECT count(*) FROM mentions AS m WHERE m.own = found.own AND m.room = id AND m.target > mark)
    )) FROM (
        SELECT
            r.id, r.name, f.own, f.level, f.inviter, {MARK.format(user=":user")} AS mark,
            coalesce((SELECT max(seq) FROM events WHERE room = r.id), 0) AS head
        FROM follows AS f CROSS JOIN rooms AS r ON r.id = f.room
        WHERE f.own = (SELECT id FROM mine) ORDER BY r.name
    ) AS found)
)
"""
# The messages before `before`, newest first; from one to the next in one step, whatever stands between them.
HISTORY = """
WITH RECURSIVE page (seq, place) AS (
    SELECT (
        SELECT coalesce(previous_message, seq) FROM events WHERE room = :room AND seq < :before
        ORDER BY seq DESC LIMIT 1
    ), 1
    UNION ALL
    SELECT (
        SELECT coalesce(previous_message, seq) FROM events WHERE room = :room AND seq = page.seq - 1
    ), place + 1 FROM page WHERE page.seq > 1 AND place < :limit
)
SELECT json_group_array(json_array(
    e.seq, e.user, e.name, e.key, e.hidden,
    CASE
        WHEN e."on" IS NOT 1 OR e.text IS NULL THEN e.text
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
    e.emoji, e.ts, a.text, a.edited, e.more, e."on" = 1 AND e.target IS NULL,
    CASE page.place WHEN 1 THEN coalesce((
        SELECT number FROM others WHERE room = :room AND seq < page.seq ORDER BY seq DESC LIMIT 1
    ), 0) END
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
DELIVERIES = """
SELECT count(*), count(failing), coalesce(sum(
    state = 'given up' OR EXISTS (SELECT 1 FROM webhook_rooms WHERE webhook = id AND given_up IS NOT NULL)
), 0)
FROM webhooks
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

    def openings(self, rooms: Collection[str]) -> dict[str, tuple[int, bool]]:
        """As `Log.openings` says."""
        found = self._array(OPENINGS, (orjson.dumps(list(rooms)).decode(),))
        return {room: (head, bool(grows)) for room, head, grows in found}

    def marks(self, wanted: Collection[Mark]) -> list[list[Any]]:
        """Of each of `wanted` that there is: room, user, seq, when it lapses."""
        return self._array(MARKS, (orjson.dumps(list(wanted)).decode(),))

    def floors(self, rooms: Collection[str]) -> dict[str, int]:
        """As `Log.floors` says."""
        floors = dict.fromkeys(rooms, 0)
        floors.update((room, floor) for room, floor in self._array(FLOORS, (orjson.dumps(list(floors)).decode(),)))
        return floors

    def state(self, user: str) -> State:
        """As `Log.state` says."""
        head, floor, followed = self._array(STATE, {"own": own.room_of(user), "user": user})
        return State(head, floor, rows.followed_rooms(followed))

    def revocations(self, after: int, limit: int) -> list[Revocation]:
        """As `Log.revocations` says."""
        return [Revocation(*row) for row in self._array(REVOCATIONS, (after, limit))]

    def deliveries(self) -> Deliveries:
        """As `Log.deliveries` says."""
        return Deliveries(*self._execute(DELIVERIES, ()))

    def held(self, home: str) -> list[Held]:
        """As `Log.held` says."""
        return [Held(*row) for row in self._array(sqlite_growing.HELD, (home,))]

    def open(self, room: str, seq: int | None) -> list[Open]:
        """As `Log.open` says."""
        query, wanted = (sqlite_growing.OPEN_IN, (room,)) if seq is None else (sqlite_growing.OPEN_ONE, (room, seq))
        return [Open(*row) for row in self._array(query, wanted)]

    def growing(self, room: str | None) -> list[Grown]:
        """As `Log.growing` says."""
        if room is None:
            return [Grown(*row) for row in self._array(sqlite_growing.GROWN_ANYWHERE, ())]
        return [Grown(*row) for row in self._array(sqlite_growing.GROWN_IN, (room,))]

    def parts(self, wanted: Sequence[Part]) -> list[str]:
        """As `Log.parts` says."""
        found = dict(self._array(sqlite_growing.PARTS, (orjson.dumps(wanted).decode(),)))
        return [found.get(place, "") for place in range(len(wanted))]

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

    def _array(self, query: str, parameters: Any) -> list[Any]:
        """The rows of `query`, which makes one JSON array of them."""
        rows: list[Any] = orjson.loads(self._execute(query, parameters)[0])
        return rows
