"""A plain look into a database of either kind, and an old one."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import asyncpg

from tornado_chat.config import sqlite_path


def sql(database: str, *script: str) -> list[tuple[Any, ...]]:
    """Execute statements one by one, each in a transaction of its own; the rows of the last one."""
    return asyncio.run(_sql(database, script))


async def _sql(database: str, script: tuple[str, ...]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    if database.startswith("sqlite:"):
        with closing(sqlite3.connect(sqlite_path(database), isolation_level=None)) as db:
            for statement in script:
                rows = db.execute(statement).fetchall()
        return rows
    connection = await asyncpg.connect(database)
    try:
        for statement in script:
            rows = [tuple(row.values()) for row in await connection.fetch(statement)]
    finally:
        await connection.close()
    return rows


def tables(database: str) -> list[tuple[Any, ...]]:
    """Everything that the schema is made of, in a form to compare by."""
    if database.startswith("sqlite:"):
        return sql(database, "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
    columns = sql(
        database,
        "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name "
        "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
    )
    indexes = sql(database, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
    functions = "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
    return columns + indexes + sql(database, functions)


def age(database: str) -> None:
    """Make of a new database what the version before the first migration left."""
    sql(database, "DROP TABLE revocations")
    if database.startswith("sqlite:"):
        sql(database, "DROP TABLE alembic_version", "PRAGMA user_version = 1")
    else:
        sql(database, "DROP FUNCTION revoke_session", "UPDATE alembic_version SET version_num = '0001'")
