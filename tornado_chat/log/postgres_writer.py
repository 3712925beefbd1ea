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
from tornado_chat.log import Appended, Entry, own, postgres_growing, sweeping
from tornado_chat.log.growing import Begin, Finish
from tornado_chat.log.kinds import made_along, rooms_of
from tornado_chat.log.postgres_schema import Connection
from tornado_chat.log.rows import BEYOND, more_of, refusal, unwanted
from tornado_chat.log.sweeping import Mark, OwnLogs

Outcome = Appended | ChatError

ADD_MESSAGES = f"SELECT bases, counts, stamps FROM add_messages({', '.join(f'${n}' for n in range(1, 14))})"
ADD_ENTRIES = (
    "SELECT seq, ts, n, duplicate, changed, along_seqs, along_stamps, refused, following, invited, "
    f"target_type, target_user, target_erased FROM add_entries({', '.join(f'${n}' for n in range(1, 25))})"
)
LOCK_ROOMS = "SELECT FROM lock_rooms($1)"
SWEEP = "SELECT sweep($1, $2, $3, $4, $5, $6)"
# As log/sqlite_sweeper.py has them.
OWN_LOGS = """
SELECT name, id, coalesce(
    first.ts < $2 AND first.seq < last.seq
    OR name >= '~guest-' AND name < '~guest.' AND last.ts < $3
    AND (EXISTS (SELECT FROM follows WHERE own = id) OR EXISTS (SELECT FROM mentions WHERE own = id)),
    false
)
FROM (SELECT id, name FROM rooms WHERE name > $1 ORDER BY name LIMIT $4) AS page
LEFT JOIN LATERAL (SELECT seq, ts FROM events WHERE room = id ORDER BY seq LIMIT 1) AS first ON true
LEFT JOIN LATERAL (SELECT seq, ts FROM events WHERE room = id ORDER BY seq DESC LIMIT 1) AS last ON true
ORDER BY name
"""
CUT_OWN = """
DELETE FROM events USING (
    SELECT id, coalesce(
        (SELECT seq FROM events WHERE room = id AND ts >= $2 ORDER BY seq LIMIT 1),
        (SELECT max(seq) FROM events WHERE room = id)
    ) AS first FROM unnest($1::bigint[]) AS id
) AS log WHERE events.room = log.id AND events.seq < log.first
"""
FORGET_GUESTS = tuple(
    f"""
DELETE FROM {table} WHERE own IN (
    SELECT id FROM rooms WHERE id = ANY ($1::bigint[]) AND name >= '~guest-' AND name < '~guest.'
        AND (SELECT ts FROM events WHERE room = id ORDER BY seq DESC LIMIT 1) < $2
)
"""
    for table in ("follows", "mentions")
)


async def append(db: Connection, batch: Sequence[Entry]) -> list[Outcome]:
    """As `Log.append` says, but that a batch is refused as a whole for the data of one entry."""
    now = int(time.time() * 1000)
    if all(entry.type == "message" and not (entry.mentions or entry.emoji) for entry in batch):
        rooms = sorted({entry.room for entry in batch})
        outcomes = await _add_messages(db, batch, rooms, now)
        if outcomes is not None:
            return outcomes
    rooms = _rooms(batch)
    if any(isinstance(entry, Begin | Finish) for entry in batch):
        return await _append_growing(db, batch, rooms, now)
    return await _add_entries(db, batch, rooms, now)


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
        ["message" if entry.type == "begin" else entry.type for entry in batch],
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


async def _append_growing(db: Connection, batch: Sequence[Entry], rooms: list[str], now: int) -> list[Outcome]:
    """As `_add_entries`, with messages that begin to grow or are finished among them: one after the other."""
    outcomes: list[Outcome] = []
    async with db.transaction():
        await db.execute(LOCK_ROOMS, rooms)  # all at once, and in one order: what follows locks no further room
        await postgres_growing.lock(db, [entry for entry in batch if isinstance(entry, Begin | Finish)])
        for grows, part in groupby(batch, lambda entry: isinstance(entry, Begin | Finish)):
            entries = list(part)
            if not grows:
                outcomes += await _add_entries(db, entries, _rooms(entries), now)
                continue
            for entry in entries:
                outcomes.append(await _append_one_growing(db, entry, now))
    return outcomes


def _rooms(batch: Sequence[Entry]) -> list[str]:
    """The rooms and logs of one's own that `batch` may write to, in the order of locking."""
    return sorted({room for entry in batch for room in rooms_of(entry)})


async def _append_one_growing(db: Connection, entry: Entry, now: int) -> Outcome:
    if isinstance(entry, Finish):
        answer = await postgres_growing.finishable(db, entry)
        if answer is not None:
            return answer
    (outcome,) = await _add_entries(db, [entry], [entry.room], now)
    if isinstance(entry, Begin) and isinstance(outcome, Appended):
        claim = await postgres_growing.claim(db, entry, outcome.seq, new=not outcome.duplicate)
        if isinstance(claim, ChatError):
            return claim
        outcome.claim = claim
    return outcome


def _more_along(entry: Entry) -> str | None:
    """The `more` of the events in logs of one's own that `entry` makes."""
    return next((more_of(made) for made in made_along(entry, 0)), None)


async def sweep(db: Connection, renewed: Sequence[Mark], logs: OwnLogs) -> bool:
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
    return await _cut_own(db, logs) or more


async def _cut_own(db: Connection, logs: OwnLogs) -> bool:
    """As log/sqlite_sweeper.py has it."""
    after = logs.after()
    if after is None:
        return False
    old, forgotten = sweeping.own_horizons()
    cut = logs.looked_at(await db.fetch(OWN_LOGS, after, old, forgotten, sweeping.OWN_LOGS))
    if cut:
        async with db.transaction():
            await db.execute(CUT_OWN, cut, old)
            for forget in FORGET_GUESTS:
                await db.execute(forget, cut, forgotten)
    return logs.after() is not None


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
