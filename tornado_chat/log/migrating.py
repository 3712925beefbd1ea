"""Bringing a log's schema up to date, by Alembic. Only `tornado-chat migrate` comes here."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy
from alembic import command
from alembic.config import Config

from tornado_chat.config import sqlite_path
from tornado_chat.log import numbering, schema, sqlite_file
from tornado_chat.log.opening import require_asyncpg

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection  # of the extra, like asyncpg

TIMEOUT = 60.0
"""Seconds to wait for another process that makes or migrates the same database."""

STATEMENT_SECONDS = 3600.0
"""The longest statement makes an index, or changes a whole table."""

PAUSE = 0.002
"""Seconds between two transactions on SQLite, or another process would never find it unlocked."""

COUNTING = schema.migrating(numbering.REVISION)

# Whatever the planner thinks of tables that it has no statistics of: a piece is a range of the primary key.
BY_INDEX = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off"
WAIT = f"SET LOCAL lock_timeout = {int(TIMEOUT * 1000)}"

Report = Callable[[int, int], None]
"""Told how many events were gone through, and how many there are."""


def migrate(database: str, report: Report) -> tuple[str | None, str]:
    """The revision that `database` had (None: it was empty) and the newest, which it has now.

    A schema changes in one transaction, or not at all; what goes through the events does it in pieces, and goes on
    where it was killed. `report` is told after each. ConfigError, in one line, if the database is no log of this
    server's, or too new. Blocking. Safe where several processes do it at once: they take turns.
    """
    if database.startswith("sqlite:"):
        path = os.path.abspath(sqlite_path(database))
        return sqlite_file.opened(path, TIMEOUT, partial(_migrate_sqlite, path, report))
    require_asyncpg()
    return asyncio.run(_migrate_postgres(database, report))


def run_sql(connection: sqlalchemy.Connection, revision: str) -> None:
    """Execute the file of `revision` for the database at hand; the scripts of the revisions call this."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        for statement in sqlite_file.statements(schema.revisions("sqlite")[revision]):
            driver.execute(statement)
    else:
        script = schema.revisions("postgresql")[revision]
        driver.run_async(lambda db: db.execute(script))  # asyncpg takes several statements only this way


def _migrate_sqlite(path: str, report: Report, db: sqlite3.Connection) -> tuple[str | None, str]:
    with sqlite_file.transaction(db, "BEGIN"):
        sqlite_file.revision_of(db, path)  # nothing is changed in a file that is not ours
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 1000")  # else the write-ahead log has all pieces in it at the end
    newest = max(schema.revisions("sqlite"))
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: db, poolclass=sqlalchemy.StaticPool)
    try:
        with engine.connect() as connection:
            first = found = _step_sqlite(connection, db, path, report)
            while found != newest:
                time.sleep(PAUSE)
                found = _step_sqlite(connection, db, path, report)
    except sqlalchemy.exc.DBAPIError as error:
        raise error.orig or error from None
    return first, newest


def _step_sqlite(connection: sqlalchemy.Connection, db: sqlite3.Connection, path: str, report: Report) -> str | None:
    """Whatever comes next, in one transaction; the revision that was found before."""
    with connection.begin():  # this ends the transaction; BEGIN is ours
        db.execute("BEGIN IMMEDIATE")  # before the look: another process may be migrating
        found = sqlite_file.revision_of(db, path)
        if found is None:
            sqlite_file.create(db)
        elif found == COUNTING:
            report(*_driven(db, numbering.piece()))
        elif goal := _goal(found, schema.revisions("sqlite"), path):
            if not sqlite_file.is_stamped(db):
                sqlite_file.stamp(db, found)
            _upgrade(connection, goal)
            if goal == numbering.REVISION:
                _driven(db, numbering.begin())
    return found


def _driven(db: sqlite3.Connection, steps: numbering.Steps) -> tuple[int, int]:
    found: Any = None
    try:
        while True:
            query, parameters = steps.send(found)
            found = db.execute(query.replace("$", "?"), parameters).fetchall()
    except StopIteration as end:
        counted: tuple[int, int] = end.value
        return counted


async def _migrate_postgres(database: str, report: Report) -> tuple[str | None, str]:
    from sqlalchemy.ext.asyncio import create_async_engine  # of the extra, like asyncpg

    from tornado_chat.log import postgres_schema

    newest = max(schema.revisions("postgresql"))
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(postgres_schema.connect, database, STATEMENT_SECONDS),
        poolclass=sqlalchemy.NullPool,
    )
    with postgres_schema.explained(database):
        try:
            async with engine.connect() as connection:
                first = found = await _step_postgres(connection, database, report)
                while found != newest:
                    found = await _step_postgres(connection, database, report)
        except sqlalchemy.exc.DBAPIError as error:
            raise _cause(error) from None
    return first, newest


async def _step_postgres(connection: AsyncConnection, database: str, report: Report) -> str | None:
    """Whatever comes next, in one transaction; the revision that was found before."""
    from tornado_chat.log import postgres_schema

    async with connection.begin():
        await connection.exec_driver_sql(WAIT)  # SQLAlchemy begins the transaction with it
        await connection.exec_driver_sql(postgres_schema.TAKE_LOCK)
        db: Any = (await connection.get_raw_connection()).driver_connection
        await db.execute(BY_INDEX)
        found = await postgres_schema.revision_of(db, database)
        if found is None:
            await postgres_schema.create(db)
        elif found == COUNTING:
            report(*await _driven_async(db, numbering.piece()))
        elif goal := _goal(found, schema.revisions("postgresql"), schema.shown(database)):
            await connection.run_sync(_upgrade, goal)
            if goal == numbering.REVISION:
                await _driven_async(db, numbering.begin())
    return found


async def _driven_async(db: Any, steps: numbering.Steps) -> tuple[int, int]:
    found: Any = None
    try:
        while True:
            query, parameters = steps.send(found)
            found = await db.fetch(query, *parameters)
    except StopIteration as end:
        counted: tuple[int, int] = end.value
        return counted


def _goal(found: str, known: Collection[str], where: str) -> str | None:
    """The revision to which one transaction takes the schema next; None if it is of the newest."""
    schema.check_known(found, known, where)
    if found == max(known):
        return None
    return numbering.REVISION if found < numbering.REVISION else max(known)


def _upgrade(connection: sqlalchemy.Connection, revision: str) -> None:
    """From the revision in `alembic_version` to `revision`, inside the transaction of `connection`."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _cause(error: sqlalchemy.exc.DBAPIError) -> BaseException:
    """What asyncpg raised: SQLAlchemy wraps it twice."""
    return error.orig.__cause__ or error if error.orig is not None else error
