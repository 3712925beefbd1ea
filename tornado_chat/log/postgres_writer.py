"""Writing to a PostgreSQL log: a batch is one call of a function of the schema, and so one round trip and one commit.

Measured with PostgreSQL beside it on the same two cores, fsync on: one message 0.3 ms; 256 messages a batch 92,000 a
second; with 16 read marks among them, which takes the function for all types, 49,000.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tornado_chat.errors import ChatError
from tornado_chat.log import Appended, Entry, own, sweeping
from tornado_chat.log.kinds import made_along, rooms_of
from tornado_chat.log.postgres_schema import Connection
from tornado_chat.log.rows import BEYOND, more_of, refusal, unwanted
from tornado_chat.log.sweeping import Mark

Outcome = Appended | ChatError

ADD_MESSAGES = f"SELECT bases, counts, stamps FROM add_messages({', '.join(f'${n}' for n in range(1, 14))})"
ADD_ENTRIES = (
    "SELECT seq, ts, n, duplicate, changed, along_seqs, along_stamps, refused, following, invited, "
    f"target_type, target_user, target_erased FROM add_entries({', '.join(f'${n}' for n in range(1, 25))})"
)
SWEEP = "SELECT sweep($1, $2, $3, $4, $5, $6)"


async def append(db: Connection, batch: Sequence[Entry]) -> list[Outcome]:
    """As `Log.append` says, but that a batch is refused as a whole for the data of one entry."""
    now = int(time.time() * 1000)
    if all(entry.type == "message" and not entry.mentions for entry in batch):
        rooms = sorted({entry.room for entry in batch})
        outcomes = await _add_messages(db, batch, rooms, now)
        if outcomes is not None:
            return outcomes
    return await _add_entries(db, batch, sorted({room for entry in batch for room in rooms_of(entry)}), now)


async def _add_messages(db: Connection, batch: Sequence[Entry], rooms: list[str], now: int) -> list[Outcome] | None:
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
        ADD_MESSAGES,
        now,
        sweeping.lapse(),
        rooms,
        places,
        ordinals,
        *_columns(batch),
        [entry.on for entry in batch],
    )
    assert answer is not None
    bases, counts, stamps = answer
    if bases is None:
        return None
    outcomes: list[Outcome] = []
    for place, ordinal in zip(places, ordinals, strict=True):
        seq = bases[place - 1] + ordinal
        outcomes.append(Appended(seq, stamps[place - 1], seq - counts[place - 1]))
    return outcomes


async def _add_entries(db: Connection, batch: Sequence[Entry], rooms: list[str], now: int) -> list[Outcome]:
    place_of = {room: place for place, room in enumerate(rooms, 1)}
    lapse = sweeping.lapse()
    naming = [(number, place_of[own.room_of(user)]) for number, entry in enumerate(batch, 1) for user in entry.mentions]
    rows = await db.fetch(
        ADD_ENTRIES,
        now,
        rooms,
        [place_of[entry.room] for entry in batch],
        [entry.type for entry in batch],
        *_columns(batch),
        [entry.target for entry in batch],
        [entry.emoji for entry in batch],
        [entry.on for entry in batch],
        [None if entry.seq is None else min(entry.seq, BEYOND) for entry in batch],
        [lapse if entry.lapses else None for entry in batch],
        lapse,
        [more_of(entry) for entry in batch],
        [place_of[own.room_of(entry.user)] if entry.type == "read" else None for entry in batch],
        [place_of[entry.about] if entry.about else None for entry in batch],
        [entry.level for entry in batch],
        [_more_along(entry) for entry in batch],
        [number for number, _ in naming],
        [place for _, place in naming],
    )
    outcomes: list[Outcome] = []
    for entry, row in zip(batch, rows, strict=True):
        seq, ts, n, duplicate, changed, seqs, stamps, refused, following, invited, *target = row
        error = None
        if refused and following is not None:
            error = unwanted(entry, following, invited)
        elif refused:
            error = refusal(entry, None if target[0] is None else target)
        along = list(zip(made_along(entry, seq), seqs, stamps, strict=True)) if seqs else ()
        outcomes.append(error or Appended(seq, ts, n or 0, duplicate=duplicate, changed=changed, along=along))
    return outcomes


def _more_along(entry: Entry) -> str | None:
    """The `more` of the events in logs of one's own that `entry` makes."""
    return next((more_of(made) for made in made_along(entry, 0)), None)


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
