"""Bringing a log's schema up to date, by Alembic. Only `tornado-chat migrate` comes here."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from functools import partial
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config

from tornado_chat.config import sqlite_path
from tornado_chat.log import schema, sqlite_file
from tornado_chat.log.opening import require_asyncpg

TIMEOUT = 60.0
"""Seconds to wait for another process that makes or migrates the same database."""


def migrate(database: str) -> tuple[str | None, str]:
    """The revision that `database` had (None: it was empty) and the newest, which it has now.

    All of it in one transaction, or nothing. ConfigError, in one line, if the database is no log of this server's,
    or too new. Blocking. Safe where several processes do it at once: the others find nothing left to do.
    """
    if database.startswith("sqlite:"):
        path = os.path.abspath(sqlite_path(database))
        return sqlite_file.opened(path, TIMEOUT, partial(_migrate_sqlite, path))
    require_asyncpg()
    return asyncio.run(_migrate_postgres(database))


def run_sql(connection: sqlalchemy.Connection, revision: str) -> None:
    """Execute the file of `revision` for the database at hand; the scripts of the revisions call this."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        for statement in sqlite_file.statements(schema.revisions("sqlite")[revision]):
            driver.execute(statement)
    else:
        script = schema.revisions("postgresql")[revision]
        driver.run_async(lambda db: db.execute(script))  # asyncpg takes several statements only this way


def _upgrade(connection: sqlalchemy.Connection) -> None:
    """From the revision in `alembic_version` to the newest, inside the transaction of `connection`."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _migrate_sqlite(path: str, db: sqlite3.Connection) -> tuple[str | None, str]:
    known = schema.revisions("sqlite")
    newest = max(known)
    with sqlite_file.transaction(db, "BEGIN"):
        sqlite_file.revision_of(db, path)  # nothing is changed in a file that is not ours
    db.execute("PRAGMA journal_mode = WAL")
    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: db, poolclass=sqlalchemy.StaticPool)
    try:
        with engine.connect() as connection, connection.begin():  # this ends the transaction; BEGIN is ours
            db.execute("BEGIN IMMEDIATE")  # before the look: another process may be migrating
            found = sqlite_file.revision_of(db, path)
            if found is None:
                sqlite_file.create(db)
            else:
                schema.check_known(found, known, path)
            if found is not None and found != newest:
                if not sqlite_file.is_stamped(db):
                    sqlite_file.stamp(db, found)
                _upgrade(connection)
    except sqlalchemy.exc.DBAPIError as error:
        raise error.orig or error from None
    return found, newest


async def _migrate_postgres(database: str) -> tuple[str | None, str]:
    from sqlalchemy.ext.asyncio import create_async_engine  # of the extra, like asyncpg

    from tornado_chat.log import postgres_schema

    known = schema.revisions("postgresql")
    newest = max(known)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(postgres_schema.connect, database, TIMEOUT),
        poolclass=sqlalchemy.NullPool,
    )
    with postgres_schema.explained(database):
        try:
            async with engine.connect() as connection, connection.begin():
                await connection.exec_driver_sql(postgres_schema.TAKE_LOCK)  # SQLAlchemy begins the transaction with it
                db: Any = (await connection.get_raw_connection()).driver_connection
                found = await postgres_schema.revision_of(db, database)
                if found is None:
                    await postgres_schema.create(db)
                else:
                    schema.check_known(found, known, schema.shown(database))
                if found is not None and found != newest:
                    await connection.run_sync(_upgrade)
        except sqlalchemy.exc.DBAPIError as error:
            raise _cause(error) from None
    return found, newest


def _cause(error: sqlalchemy.exc.DBAPIError) -> BaseException:
    """What asyncpg raised: SQLAlchemy wraps it twice."""
    return error.orig.__cause__ or error if error.orig is not None else error
