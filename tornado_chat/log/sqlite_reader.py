"""Reading from an SQLite log. Blocking; a reader's thread calls it.

Each query makes one JSON array of its rows, so that a page is one `sqlite3_step`: beside a busy event loop each one
may wait for the GIL. Measured with pages of 500 events and two cores: 9 times the throughput of fetchall().
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from typing import Any

import orjson

from tornado_chat.errors import LogUnavailable
from tornado_chat.log import Entry, event_of
from tornado_chat.log.sqlite_file import Connected
from tornado_chat.wire.events import Data, Event

# Rows of one query: what is read beyond the limit of bytes and thrown away is at most this.
EVENTS = 128
MESSAGES = 64
REACTIONS = 1000

READ = """
SELECT json_group_array(json_array(seq, type, user, name, key, hidden, text, reply_to, meta, target, emoji, "on", ts))
FROM (
    SELECT * FROM events WHERE room = (SELECT id FROM rooms WHERE name = ?) AND seq > ? AND seq < ?
    ORDER BY seq LIMIT ?
)
"""
HEADS = """
SELECT json_group_array(json_array(r.name, (SELECT max(seq) FROM events WHERE room = r.id)))
FROM json_each(?) AS wanted CROSS JOIN rooms AS r ON r.name = wanted.value
"""
MARKS = """
SELECT json_group_array(json_array(r.name, m.user, m.seq))
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
SELECT json_group_array(
    json_array(e.seq, e.user, e.name, e.key, e.hidden, e.text, e.reply_to, e.meta, e.ts, a.text, a.edited)
)
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
BEYOND = 2**63 - 1  # greater than every seq


class Reader(Connected):
    """One connection that only reads; each query sees what was committed when it began."""

    def __init__(self, path: str, busy_timeout: float) -> None:
        super().__init__(path, busy_timeout)
        self.db.execute("PRAGMA query_only = ON")

    def read(self, room: str, after: int, before: int | None, max_events: int, max_bytes: int) -> list[Event]:
        """As `Log.read` says."""
        events: list[Event] = []
        size = 0
        end = BEYOND if before is None else _within(before)
        while (wanted := min(EVENTS, max_events - len(events))) > 0:
            rows = self._array(READ, (room, _within(after), end, wanted))
            for row in rows:
                text, meta = row[6], row[8]
                size += (len(text.encode()) if text else 0) + (len(meta) if meta else 0)
                if size > max_bytes and events:
                    return events
                events.append(_event(room, row))
            if len(rows) < wanted:
                break
            after = rows[-1][0]
        return events

    def heads(self, rooms: Collection[str]) -> dict[str, int]:
        """As `Log.heads` says."""
        heads = dict.fromkeys(rooms, 0)
        rows = self._array(HEADS, (orjson.dumps(list(heads)).decode(),))
        heads.update((room, head) for room, head in rows)
        return heads

    def marks(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """As `Log.marks` says."""
        rows = self._array(MARKS, (orjson.dumps(list(wanted)).decode(),))
        return {(room, user): seq for room, user, seq in rows}

    def history(self, room: str, before: int | None, limit: int, max_bytes: int) -> tuple[list[Data], bool]:
        """As `Log.history` says; the encoded messages together have `max_bytes` at most.

        A single message that has more because of its reactions loses some of them; its text is never cut.
        """
        found = self._execute("SELECT id FROM rooms WHERE name = ?", (room,))
        if found is None:
            return [], False
        id: int = found[0]
        end = BEYOND if before is None else _within(before)
        messages: list[Data] = []
        size = 0
        while True:
            wanted = min(MESSAGES, limit + 1 - len(messages))
            rows = sorted(self._array(HISTORY, {"room": id, "before": end, "limit": wanted}), reverse=True)
            if not rows:
                return messages[::-1], False
            end = rows[-1][0]
            stream = self._reactions(id, rows[0][0], end)
            reaction = next(stream, None)
            for row in rows:
                if len(messages) == limit:
                    return messages[::-1], True
                message = _message(room, row)
                size += len(orjson.dumps(message)) + len(',"reactions":{},')
                reactions: dict[str, list[str]] = {}
                while reaction is not None and reaction[0] == row[0]:
                    _, emoji, user = reaction
                    cost = len(orjson.dumps(user)) + len(",")
                    if emoji not in reactions:
                        cost += len(orjson.dumps(emoji)) + len(":[],")
                    if size + cost > max_bytes:
                        break
                    size += cost
                    reactions.setdefault(emoji, []).append(user)
                    reaction = next(stream, None)
                if reaction is not None and reaction[0] == row[0]:
                    size = max_bytes + 1  # there are more than fit
                if size > max_bytes and messages:
                    return messages[::-1], True
                if reactions:
                    message["reactions"] = {emoji: reactions[emoji][::-1] for emoji in reversed(reactions)}
                messages.append(message)
            if len(rows) < wanted:
                return messages[::-1], False

    def _reactions(self, room: int, newest: int, oldest: int) -> Iterator[tuple[int, str, str]]:
        """(target, emoji, user) for the targets from `newest` down to `oldest`, in descending order."""
        last: tuple[int, str, str] = (newest + 1, "", "")
        while True:
            rows = self._array(REACTED, (room, *last, oldest, REACTIONS))
            for target, emoji, user in rows:
                last = (target, emoji, user)
                yield last
            if len(rows) < REACTIONS:
                return

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


def _within(seq: int) -> int:
    """`seq`, or the nearest number that SQLite can hold."""
    return min(max(seq, 0), BEYOND)


def _event(room: str, row: list[Any]) -> Event:
    """As `event_of` makes it, straight from a row."""
    seq, type, user, name, key, hidden, text, reply_to, meta, target, emoji, on, ts = row
    entry = Entry(
        type,
        room,
        user,
        name,
        id=None if hidden else key,
        text=text,
        reply_to=reply_to,
        meta=None if meta is None else orjson.loads(meta),
        target=target,
        emoji=emoji,
        on=None if on is None else on == 1,
    )
    return event_of(entry, seq, ts)


def _message(room: str, row: list[Any]) -> Data:
    """A message as it is now."""
    seq, user, name, key, hidden, text, reply_to, meta, ts, new_text, edited = row
    entry = Entry(
        "message",
        room,
        user,
        name,
        id=None if hidden else key,
        text=text if new_text is None else new_text,
        reply_to=reply_to,
        meta=None if meta is None else orjson.loads(meta),
    )
    message = event_of(entry, seq, ts).data
    if edited is not None:
        message["edited"] = edited
    return message
