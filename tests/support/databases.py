"""A plain look into a database of either kind, and an old one."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg

from tornado_chat.config import sqlite_path
from tornado_chat.log import Log, schema

Open = Callable[[], Awaitable[Log]]
"""Opens a log."""


def sql(database: str, *script: str) -> list[tuple[Any, ...]]:
    """Execute statements one by one, each in a transaction of its own; the rows of the last one."""
    return asyncio.run(_sql(database, script))


def sql_in(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """The rows of one statement in the SQLite file `path`, also while a server uses it and a loop runs here."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(statement).fetchall()


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


def age(database: str, revision: str = "0001") -> None:
    """Make of a new database what the version of `revision` left; of 0001: the one before Alembic, on SQLite."""
    sql(database, "DROP TABLE webhooks", "DROP TABLE webhook_rooms")
    if revision == "0007":
        sql(database, f"UPDATE alembic_version SET version_num = '{revision}'")
        return
    if revision == "0006":
        undone = ["ALTER TABLE growing DROP COLUMN former"]
        if not database.startswith("sqlite:"):
            for name in ("claim_growing", "checkpoint_growing"):
                function = _script(database, "0006").partition(f"CREATE FUNCTION {name}(")[2].partition("\n$$;")[0]
                undone += [f"DROP FUNCTION {name}", f"CREATE FUNCTION {name}({function}\n$$"]
        sql(database, *undone, f"UPDATE alembic_version SET version_num = '{revision}'")
        return
    undone = ["DROP TABLE growing", "DROP TABLE growing_parts"]
    if not database.startswith("sqlite:"):
        added = ("clock_ms", "text_of_growing", "claim_growing", "finishable", "checkpoint_growing", "add_entries")
        undone += [f"DROP FUNCTION {name}" for name in added]
    if revision == "0005":
        if not database.startswith("sqlite:"):
            undone += ["CREATE" + _script(database, "0005").partition("DROP FUNCTION add_entries;\nCREATE")[2]]
        sql(database, *undone, f"UPDATE alembic_version SET version_num = '{revision}'")
        return
    undone += [
        "DELETE FROM events WHERE room IN (SELECT id FROM rooms WHERE name LIKE '~%')",
        "DELETE FROM rooms WHERE name LIKE '~%'",
        *(f"DROP TABLE {name}" for name in ("settled", "follows", "mentions")),
    ]
    undone += ["ALTER TABLE events DROP COLUMN more"]
    if not database.startswith("sqlite:"):
        undone += [f"DROP FUNCTION {name}" for name in ("mark_of", "settle")]
    if revision == "0004":
        if not database.startswith("sqlite:"):
            before = _script(database, "0004").partition("-- Appends messages")[2]
            messages, _, entries = before.partition("-- Appends entries")
            undone += ["DROP FUNCTION add_messages", "--" + messages, "--" + entries]
        sql(database, *undone, f"UPDATE alembic_version SET version_num = '{revision}'")
        return
    undone += ["DROP TABLE others", "ALTER TABLE events RENAME COLUMN previous_message TO last_message"]
    if not database.startswith("sqlite:"):
        undone += [f"DROP FUNCTION {name}" for name in ("add_messages", "lock_rooms")]
        functions = _script(database, "0001").partition("CREATE FUNCTION lock_rooms")[2]
        locking, _, appending = functions.partition("-- Appends messages")
        undone += [
            "CREATE FUNCTION lock_rooms" + locking,
            "-- Appends messages" + appending.partition("-- Appends ")[0],
        ]
        undone += ["CREATE" + _script(database, "0003").rpartition("CREATE")[2]]
    if revision != "0003":
        undone += _undoing_0003(database)
    sql(database, *undone, f"UPDATE alembic_version SET version_num = '{revision}'")
    if revision == "0001":
        sql(database, "DROP TABLE revocations")
        if database.startswith("sqlite:"):
            sql(database, "DROP TABLE alembic_version", "PRAGMA user_version = 1")
        else:
            sql(database, "DROP FUNCTION revoke_session")


def _undoing_0003(database: str) -> list[str]:
    if database.startswith("sqlite:"):
        undone = ["DROP TABLE erasures", "DROP INDEX lapsing", "ALTER TABLE marks DROP COLUMN lapses"]
        undone += ["DROP TABLE revocations", *_script(database, "0002").split(";\n")]
    else:
        undone = ["DROP TABLE erasures", "DROP INDEX lapsing", "ALTER TABLE marks DROP COLUMN lapses"]
        undone += ["DROP FUNCTION sweep", "DROP FUNCTION erase_edits", "DROP FUNCTION append_entries"]
        undone += ["DROP FUNCTION revoke_session", "DROP TABLE revocations", "DROP INDEX edits"]
        undone += ["CREATE INDEX edits ON events (room, target) WHERE type = 'edited'"]
        undone += ["CREATE FUNCTION append_entries" + _script(database, "0001").partition("FUNCTION append_entries")[2]]
        undone += [
            _script(database, "0002").partition("-- Forgets")[0],
            "CREATE FUNCTION revoke_session" + _script(database, "0002").partition("FUNCTION revoke_session")[2],
        ]
    return undone


def _script(database: str, revision: str) -> str:
    return schema.revisions("sqlite" if database.startswith("sqlite:") else "postgresql")[revision]
