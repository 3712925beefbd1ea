"""Counting, in a log of before, the events that are no messages: what `n` needs of it, a piece at a time.

Each piece is a transaction of its own, which keeps with it how far it came: whatever killed a migration, the next one
goes on behind the last piece, and two at the same time take turns. Only the table `others` grows. No I/O: the
generators yield a query and its parameters, and are sent its rows.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import orjson

from tornado_chat.log import schema
from tornado_chat.log.rows import BEYOND

REVISION = "0004"
"""The revision that is reached when all is counted."""

PIECE = 10_000
"""Events of one transaction."""

Row = Sequence[Any]
Steps = Generator[tuple[str, tuple[Any, ...]], Sequence[Row], tuple[int, int]]
"""Ends with how many events were looked at, and how many there are."""

# There are no holes: this reads one row for each room, not all that there are.
TOTAL = "SELECT CAST(coalesce(sum((SELECT max(seq) FROM events WHERE room = rooms.id)), 0) AS bigint) FROM rooms"
STAMP = "UPDATE alembic_version SET version_num = $1"
BEGIN = "INSERT INTO meta (name, value) VALUES ('numbering', $1)"
PLACE = "SELECT value FROM meta WHERE name = 'numbering'"
MOVE = "UPDATE meta SET value = $1 WHERE name = 'numbering'"
END = "DELETE FROM meta WHERE name = 'numbering'"
LAST_OF_PIECE = """
SELECT room, seq FROM events WHERE (room, seq) > ($1, $2) ORDER BY room, seq LIMIT 1 OFFSET $3
"""
COUNTED = "SELECT number FROM others WHERE room = $1 ORDER BY seq DESC LIMIT 1"
COUNT = """
INSERT INTO others (room, seq, number)
SELECT
    room, seq,
    row_number() OVER (PARTITION BY room ORDER BY seq) + CASE WHEN room = $1 THEN CAST($3 AS bigint) ELSE 0 END
FROM events WHERE (room, seq) > ($1, $2) AND (room, seq) <= ($4, $5) AND type <> 'message'
"""


def begin() -> Steps:
    """Inside the transaction that made the table: from now on there are pieces to be done."""
    ((total,),) = yield TOTAL, ()
    yield STAMP, (schema.migrating(REVISION),)
    yield BEGIN, (_text(0, 0, 0, total),)
    return 0, total


def piece() -> Steps:
    """The next piece; the last one makes the log one of REVISION."""
    ((place,),) = yield PLACE, ()
    room, seq, done, total = orjson.loads(place)
    last = yield LAST_OF_PIECE, (room, seq, PIECE - 1)
    counted = yield COUNTED, (room,)
    end_room, end_seq = last[0] if last else (BEYOND, BEYOND)
    yield COUNT, (room, seq, counted[0][0] if counted else 0, end_room, end_seq)
    if last:
        done += PIECE
        yield MOVE, (_text(end_room, end_seq, done, total),)
        return done, total
    yield END, ()
    yield STAMP, (REVISION,)
    return total, total


def _text(room: int, seq: int, done: int, total: int) -> str:
    return orjson.dumps((room, seq, done, total)).decode()
