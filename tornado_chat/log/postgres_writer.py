"""Writing to a PostgreSQL log: a batch is one call of a function of the schema, and so one round trip and one commit.

Measured with PostgreSQL beside it on the same two cores, fsync on: one message 0.3 ms; 256 messages a batch 92,000 a
second; with 16 read marks among them, which takes the function for all types, 49,000.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tornado_chat.errors import ChatError
from tornado_chat.log import Appended, Entry, postgres_growing, sweeping
from tornado_chat.log.growing import Begin, Finish
from tornado_chat.log.postgres_schema import Connection
from tornado_chat.log.rows import BEYOND, refusal
from tornado_chat.log.sweeping import Mark

Outcome = Appended | ChatError

APPEND_MESSAGES = "SELECT bases, stamps FROM append_messages($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
APPEND_ENTRIES = (
    "SELECT seq, ts, duplicate, changed, refused, target_type, target_user, target_erased "
    "FROM append_entries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
)
LOCK_ROOMS = "SELECT FROM lock_rooms($1)"
SWEEP = "SELECT sweep($1, $2, $3, $4, $5, $6)"


async def append(db: Connection, batch: Sequence[Entry]) -> list[Outcome]:
    """As `Log.append` says, but that a batch is refused as a whole for the data of one entry."""
    rooms = sorted({entry.room for entry in batch})
    now = int(time.time() * 1000)
    if all(entry.type == "message" for entry in batch):
        outcomes = await _append_messages(db, batch, rooms, now)
        if outcomes is not None:
            return outcomes
    elif any(isinstance(entry, Begin | Finish) for entry in batch):
        return await _append_growing(db, batch, rooms, now)
    return await _append_entries(db, batch, rooms, now)


async def _append_messages(db: Connection, batch: Sequence[Entry], rooms: list[str], now: int) -> list[Outcome] | None:
    """None, and nothing is written, if one of the messages is in the log, or in the batch twice."""
    if len({(entry.key, entry.user, entry.room) for entry in batch}) < len(batch):
        return None
    place_of = {room: place for place, room in enumerate(rooms, 1)}
    places = [place_of[entry.room] for entry in batch]
    counts = [0] * len(rooms)
    ordinals = []
    for place in places:
        counts[place - 1] += 1
        ordinals.append(counts[place - 1])
    answer = await db.fetchrow(
        APPEND_MESSAGES,
        now,
        rooms,
        places,
        ordinals,
        *_columns(batch),
    )
    assert answer is not None
    bases, stamps = answer
    if bases is None:
        return None
    return [
        Appended(bases[place - 1] + ordinal, stamps[place - 1]) for place, ordinal in zip(places, ordinals, strict=True)
    ]


async def _append_entries(db: Connection, batch: Sequence[Entry], rooms: list[str], now: int) -> list[Outcome]:
    place_of = {room: place for place, room in enumerate(rooms, 1)}
    lapses = sweeping.lapse()
    rows = await db.fetch(
        APPEND_ENTRIES,
        now,
        rooms,
        [place_of[entry.room] for entry in batch],
        ["message" if entry.type == "begin" else entry.type for entry in batch],
        *_columns(batch),
        [entry.target for entry in batch],
        [entry.emoji for entry in batch],
        [entry.on for entry in batch],
        [None if entry.seq is None else min(entry.seq, BEYOND) for entry in batch],
        [lapses if entry.lapses else None for entry in batch],
    )
    outcomes: list[Outcome] = []
    for entry, row in zip(batch, rows, strict=True):
        seq, ts, duplicate, changed, refused, *target = row
        error = refusal(entry, None if target[0] is None else target) if refused else None
        outcomes.append(error or Appended(seq, ts, duplicate=duplicate, changed=changed))
    return outcomes


async def _append_growing(db: Connection, batch: Sequence[Entry], rooms: list[str], now: int) -> list[Outcome]:
    """As `_append_entries`, with messages that begin to grow or are finished among them: one after the other."""
    outcomes: list[Outcome] = []
    async with db.transaction():
        await db.execute(LOCK_ROOMS, rooms)  # all at once, and in one order: what follows locks no further room
        for grows, part in groupby(batch, lambda entry: isinstance(entry, Begin | Finish)):
            entries = list(part)
            if not grows:
                outcomes += await _append_entries(db, entries, sorted({entry.room for entry in entries}), now)
                continue
            for entry in entries:
                outcomes.append(await _append_one_growing(db, entry, now))
    return outcomes


async def _append_one_growing(db: Connection, entry: Entry, now: int) -> Outcome:
    if isinstance(entry, Finish):
        answer = await postgres_growing.finishable(db, entry)
        if answer is not None:
            return answer
    (outcome,) = await _append_entries(db, [entry], [entry.room], now)
    if isinstance(entry, Begin) and isinstance(outcome, Appended):
        claim = await postgres_growing.claim(db, entry, outcome.seq, new=not outcome.duplicate)
        if isinstance(claim, ChatError):
            return claim
        outcome.claim = claim
    return outcome


async def sweep(db: Connection, renewed: Sequence[Mark]) -> bool:
    """As `Log.sweep` says; `renewed` are the marks that shall not lapse yet."""
    more: bool = await db.fetchval(
        SWEEP,
        int(time.time()),
        sweeping.lapse(),
        [room for room, _ in renewed],
        [user for _, user in renewed],
        sweeping.EDITS,
        sweeping.MARKS,
    )
    return more


def _columns(batch: Sequence[Entry]) -> tuple[list[Any], ...]:
    return (
        [entry.user for entry in batch],
        [entry.name for entry in batch],
        [entry.key for entry in batch],
        [entry.id is None for entry in batch],
        [entry.text for entry in batch],
        [entry.reply_to for entry in batch],
        [None if entry.meta is None else entry.meta.decode() for entry in batch],
    )
