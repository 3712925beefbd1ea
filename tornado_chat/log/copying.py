"""Copying a whole log into another database, exactly: the same numbers, times and ids, down to the hidden ones.

Each table goes in the order of its key, a page at a time, and each page is committed: whatever killed a copy, the next
one goes on behind the last page. Until both are found to be equal, the revision of TO is one that no server takes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from tornado_chat.errors import ConfigError
from tornado_chat.log import schema
from tornado_chat.log.opening import open_store, require_log
from tornado_chat.log.store import Row, Store

PAGE_ROWS = 5000
PAGE_BYTES = 4 << 20
"""Of their texts, nearly: a page ends with the row that exceeds it."""

SHOWN = 10
"""Rooms that differ and are named; the others are counted."""


class Table:
    """`key` is the primary key's columns, `booleans` those that SQLite has no type for. `rows` asks how many there are.

    `tally` makes one row for each room (or each row), in the order of its first column: equal where the copy is exact.
    That column is a room's id where the table is `of_rooms`.
    """

    __slots__ = ("booleans", "columns", "key", "name", "of_rooms", "rows", "tally")

    def __init__(
        self, name: str, key: str, more: str, tally: str, *, booleans: Sequence[str] = (), rows: str | None = None
    ) -> None:
        self.name = name
        self.key = key.split()
        self.columns = self.key + more.split()
        self.booleans = [self.columns.index(column) for column in booleans]
        self.tally = tally
        self.of_rooms = name not in ("revocations", "webhooks", "webhook_rooms")
        self.rows = rows or f"SELECT count(*) FROM {name}"


TABLES = (
    Table("rooms", "id", "name", "SELECT id, name FROM rooms ORDER BY id"),
    Table(
        "events",
        "room seq",
        "type user name key hidden text reply_to meta target emoji on previous_message more ts",
        "SELECT room, count(*), max(seq), max(ts), count(text), count(meta), count(more) "
        "FROM events GROUP BY room ORDER BY room",
        booleans=("hidden", "on"),
        # There are no holes: this reads two rows for each room, not all that there are.
        rows="SELECT CAST(coalesce(sum((SELECT max(seq) FROM events WHERE room = rooms.id) "
        "- (SELECT min(seq) FROM events WHERE room = rooms.id) + 1), 0) AS bigint) FROM rooms",
    ),
    Table(
        "others",
        "room seq",
        "number",
        "SELECT room, count(*), max(seq), max(number) FROM others GROUP BY room ORDER BY room",
    ),
    Table(
        "amendments",
        "room target",
        "text edited",
        "SELECT room, count(*), CAST(sum(target) AS bigint), max(edited), count(text) FROM amendments "
        "GROUP BY room ORDER BY room",
    ),
    Table(
        "reactions",
        "room target emoji user",
        "",
        "SELECT room, count(*), CAST(sum(target) AS bigint) FROM reactions GROUP BY room ORDER BY room",
    ),
    Table(
        "erasures",
        "room target",
        "seq",
        "SELECT room, count(*), CAST(sum(target) AS bigint), CAST(sum(seq) AS bigint) FROM erasures "
        "GROUP BY room ORDER BY room",
    ),
    Table(
        "marks",
        "room user",
        "seq lapses",
        "SELECT room, count(*), CAST(sum(seq) AS bigint), CAST(sum(lapses) AS bigint) FROM marks "
        "GROUP BY room ORDER BY room",
    ),
    Table("settled", "room", "seq", "SELECT room, seq FROM settled ORDER BY room"),
    Table(
        "follows",
        "own room",
        "level inviter",
        "SELECT own, count(*), CAST(sum(room) AS bigint), CAST(sum(length(level)) AS bigint), count(inviter) "
        "FROM follows GROUP BY own ORDER BY own",
    ),
    Table(
        "mentions",
        "own room target",
        "seq",
        "SELECT own, count(*), CAST(sum(target) AS bigint), max(seq) FROM mentions GROUP BY own ORDER BY own",
    ),
    Table(
        "growing",
        "room seq",
        "gen replica home linked lapses length stopped former",
        "SELECT room, count(*), CAST(sum(seq) AS bigint), CAST(sum(gen) AS bigint), CAST(sum(length) AS bigint) "
        "FROM growing GROUP BY room ORDER BY room",
        booleans=("linked",),
    ),
    Table(
        "growing_parts",
        "room seq start",
        "text",
        "SELECT room, count(*), CAST(sum(seq) AS bigint), CAST(sum(start) AS bigint), "
        "CAST(sum(length(text)) AS bigint) FROM growing_parts GROUP BY room ORDER BY room",
    ),
    Table("revocations", "id", "jti", "SELECT id, jti FROM revocations ORDER BY id"),
    Table(
        "webhooks",
        "id",
        "url rooms events secret former_secret former_until created state failing error holder fence lapses",
        "SELECT id, url, rooms, events, length(secret), created, state, failing FROM webhooks ORDER BY id",
    ),
    Table(
        "webhook_rooms",
        "webhook room",
        "seq failing attempts retry_at given_up",
        "SELECT webhook, count(*), CAST(sum(room) AS bigint), CAST(sum(seq) AS bigint), CAST(sum(attempts) AS bigint), "
        "count(failing), count(given_up) FROM webhook_rooms GROUP BY webhook ORDER BY webhook",
    ),
)

# SQLite goes on behind the greatest id by itself.
SEQUENCES = tuple(
    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), greatest(max(id), 1), max(id) IS NOT NULL) FROM {table}"
    for table in ("rooms", "revocations", "webhooks")
)


class Report(Protocol):
    """Whoever is told how far the copy is."""

    def begin(self, what: str, total: int, done: int) -> None:
        """`what` (a table) comes next; `done` of its `total` rows are there already."""

    def advance(self, rows: int) -> None: ...


async def copy_log(source: str, target: str, report: Report) -> list[str]:
    """Copy the log at the URL `source` to `target`, or go on with it; what differs at the end, a line for each room.

    ConfigError, in one line, if there is no log at `source`, another one at `target`, or one of them cannot be used.
    A copy that is finished is only compared.
    """
    if source == target:
        raise ConfigError("FROM and TO are the same database; give an empty one as TO")
    await require_log(source)
    origin = await open_store(source)
    try:
        known = schema.revisions(origin.dialect)
        schema.check_revision(await origin.revision() or "", known, origin.where, source)
        copy = await open_store(target)
        try:
            unfinished = await _begin(origin, copy, target)
            if unfinished:
                async with origin.reading():
                    for table in TABLES:
                        await _copy_table(table, origin, copy, report)
                for statement in SEQUENCES if copy.dialect == "postgresql" else ():
                    await copy.execute(statement)
            # Another moment than that of the copy: what has been written since then is found.
            async with origin.reading(), copy.reading():
                differences = await _compare(origin, copy, report)
            if unfinished and not differences:
                await copy.execute("UPDATE alembic_version SET version_num = $1", max(known))
            return differences
        finally:
            await copy.close()
    finally:
        await origin.close()


async def _begin(origin: Store, copy: Store, target: str) -> bool:
    """Take TO for this copy; False if it is finished already, ConfigError if another log is there."""
    epoch = await _epoch(origin)
    known = schema.revisions(copy.dialect)
    unfinished = schema.unfinished(max(known))
    async with copy.writing():
        revision = await copy.revision()
        if revision is None:
            await copy.create()
        elif revision != unfinished:
            schema.check_revision(revision, known, copy.where, target)
        same = revision is not None and await _epoch(copy) == epoch
        if not same and await copy.execute("SELECT id FROM rooms LIMIT 1"):
            raise ConfigError(f"database {copy.where}: another log is there; give an empty database as TO")
        if same and revision != unfinished:
            return False
        await copy.execute("UPDATE meta SET value = $1 WHERE name = 'epoch'", epoch)
        await copy.execute("UPDATE alembic_version SET version_num = $1", unfinished)
    return True


async def _epoch(store: Store) -> str:
    ((epoch,),) = await store.execute("SELECT value FROM meta WHERE name = 'epoch'")
    return str(epoch)


async def _copy_table(table: Table, origin: Store, copy: Store, report: Report) -> None:
    ((total,),) = await origin.execute(table.rows)
    ((done,),) = await copy.execute(table.rows)
    report.begin(table.name, total, done)
    key = ", ".join(f'"{column}"' for column in table.key)
    last = await copy.execute(f"SELECT {key} FROM {table.name} ORDER BY {key.replace(',', ' DESC,')} DESC LIMIT 1")
    columns = ", ".join(f'"{column}"' for column in table.columns)
    behind = f"WHERE ({key}) > ({', '.join(f'${place + 1}' for place in range(len(table.key)))})" if last else ""
    query = f"SELECT {columns} FROM {table.name} {behind} ORDER BY {key}"
    async for page in _pages(table, origin.rows(query, *(last[0] if last else ()))):
        await copy.insert(table.name, table.columns, page)
        report.advance(len(page))


async def _pages(table: Table, rows: AsyncIterator[Row]) -> AsyncIterator[list[Row]]:
    page: list[Row] = []
    size = 0
    async for row in rows:
        page.append(_typed(row, table.booleans) if table.booleans else row)
        size += sum(len(value) for value in row if type(value) is str)
        if len(page) == PAGE_ROWS or size > PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _typed(row: Row, booleans: Sequence[int]) -> Row:
    values = list(row)
    for place in booleans:
        if values[place] is not None:
            values[place] = bool(values[place])
    return tuple(values)


async def _compare(origin: Store, copy: Store, report: Report) -> list[str]:
    """A line for each room (or revocation, or webhook) that differs."""
    lines = []
    if await _epoch(origin) != await _epoch(copy):
        lines.append("the epochs differ")
    report.begin("check", len(TABLES), 0)
    for table in TABLES:
        found = 0
        async for key, one, other in _differences(origin.rows(table.tally), copy.rows(table.tally)):
            found += 1
            if found <= SHOWN:
                whose = await _room(origin, copy, key) if table.of_rooms else str(key)
                lines.append(f"{table.name} of {whose}: FROM has {_counts(one)}, TO has {_counts(other)}")
        if found > SHOWN:
            lines.append(f"{table.name}: {found - SHOWN} more differ")
        report.advance(1)
    return lines


async def _differences(ours: AsyncIterator[Row], theirs: AsyncIterator[Row]) -> AsyncIterator[tuple[int, Row, Row]]:
    """Of two series of rows that ascend by their first column, that column and the rest of the rows that differ."""
    one, other = await anext(ours, None), await anext(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[0], one[1:], ()
            one = await anext(ours, None)
        elif one is None or other[0] < one[0]:
            yield other[0], (), other[1:]
            other = await anext(theirs, None)
        else:
            if one != other:
                yield one[0], one[1:], other[1:]
            one, other = await anext(ours, None), await anext(theirs, None)


async def _room(origin: Store, copy: Store, id: int) -> str:
    for store in (origin, copy):
        for (name,) in await store.execute("SELECT name FROM rooms WHERE id = $1", id):
            return f"room {name!r}"
    return f"room number {id}"


def _counts(values: Row) -> str:
    return " / ".join(map(str, values)) if values else "nothing"
