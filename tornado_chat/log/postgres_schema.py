"""The tables in a PostgreSQL database: know them for ours, make them if there are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import asyncpg

from tornado_chat.errors import ConfigError, LogUnavailable
from tornado_chat.log import schema

Connection: TypeAlias = "asyncpg.Connection[Any]"

TAKE_LOCK = f"SELECT pg_advisory_xact_lock({0x54436861})"  # "TCha": whoever makes or migrates the tables holds it
CONNECT_SECONDS = 10.0
TABLES = ("alembic_version", "meta", "rooms", "events")
"""What every revision has: where some of it is missing, or has other columns, the tables are another program's."""

PASSING = (OSError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError, asyncpg.LockNotAvailableError)
"""What another attempt may not meet again."""

# Not by to_regclass(): each call of it looks at another moment, and half of what another process makes would be seen.
FOUND = """
SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relname = ANY ($1) AND pg_table_is_visible(oid)
"""


async def connect(database: str, seconds: float) -> Connection:
    """A connection whose statements take so many seconds at most."""
    return await asyncpg.connect(database, timeout=min(seconds, CONNECT_SECONDS), command_timeout=seconds)


@contextmanager
def explained(database: str) -> Iterator[None]:
    """Turns what asyncpg raises into one line: LogUnavailable if the server does not answer, else ConfigError."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        why = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
        line = f"database {schema.shown(database)}: cannot be used: {' '.join(why.split())}"
        if isinstance(error, PASSING):
            raise LogUnavailable(line) from None
        raise ConfigError(line) from None


async def is_empty(database: str) -> bool:
    """Whether no table of ours is there; ConfigError as `revision_of` says, and if the database does not answer."""
    with explained(database):
        db = await connect(database, CONNECT_SECONDS)
        try:
            return await revision_of(db, database) is None
        finally:
            await db.close(timeout=CONNECT_SECONDS)


async def prepare(db: Connection, database: str) -> None:
    """Make the tables if the database is empty; ConfigError, in one line, if it cannot be this server's log.

    `database` is its URL. Safe where several processes do it at once.
    """
    if await _check(db, database) is None:
        async with db.transaction(isolation="read_committed"):  # what was committed before we had the lock is seen
            await db.execute(TAKE_LOCK)
            if await _check(db, database) is None:
                await create(db)


async def _check(db: Connection, database: str) -> str | None:
    """The revision, None for an empty database; ConfigError if it is another than this package's newest."""
    revision = await revision_of(db, database)
    if revision is not None:
        schema.check_revision(revision, schema.revisions("postgresql"), schema.shown(database), database)
    return revision


async def create(db: Connection) -> None:
    """Make all the tables in an empty database, inside the caller's transaction."""
    steps = schema.revisions("postgresql")
    for step in steps.values():
        await db.execute(step)
    await db.execute(schema.VERSION_TABLE)
    await db.execute("INSERT INTO alembic_version VALUES ($1)", max(steps))
    await db.execute("INSERT INTO meta (name, value) VALUES ('epoch', $1)", schema.new_epoch())


async def revision_of(db: Connection, database: str) -> str | None:
    """The database's revision, None if it has no table of ours; ConfigError if the tables are another program's."""
    found = await db.fetchval(FOUND, TABLES)
    if not found:
        return None
    try:
        if len(found) == len(TABLES):
            revision = await db.fetchval(
                "SELECT max(version_num) FROM alembic_version WHERE EXISTS (SELECT FROM meta WHERE name = 'epoch')"
            )
            if revision is not None:
                return str(revision)
    except asyncpg.UndefinedColumnError:
        pass
    raise ConfigError(
        f"database {schema.shown(database)}: another program has tables of our names there ({', '.join(found)}); "
        "give an empty database"
    )
