"""Which log a database URL names."""

from __future__ import annotations

import importlib.util
import os

from tornado_chat.config import sqlite_path
from tornado_chat.errors import ConfigError
from tornado_chat.log import Log, schema
from tornado_chat.log.store import Store
from tornado_chat.log.webhooks import Webhooks


async def open_log(database: str) -> Log:
    """Open the log at `database` (sqlite:///PATH or postgresql://...), made if there is none.

    ConfigError, in one line without the password, if it cannot be this server's log.
    """
    if database.startswith("sqlite:"):
        from tornado_chat.log.sqlite import open_sqlite

        return await open_sqlite(sqlite_path(database))
    require_asyncpg()
    from tornado_chat.log.postgres import open_postgres

    return await open_postgres(database)


async def open_webhooks(database: str) -> Webhooks:
    """The endpoints of webhooks in the log at `database`, which was opened before: so it is there, of this version."""
    if database.startswith("sqlite:"):
        from tornado_chat.log.sqlite_webhooks import open_sqlite_webhooks

        return await open_sqlite_webhooks(sqlite_path(database))
    from tornado_chat.log.postgres_webhooks import open_postgres_webhooks

    return await open_postgres_webhooks(database)


async def open_store(database: str) -> Store:
    """The tables of the log at `database`; ConfigError, in one line without the password, if they cannot be used."""
    if database.startswith("sqlite:"):
        from tornado_chat.log.sqlite_store import SQLiteStore

        return SQLiteStore(os.path.abspath(sqlite_path(database)))  # noqa: ASYNC240 - no file is looked at
    require_asyncpg()
    from tornado_chat.log.postgres_store import open_postgres_store

    return await open_postgres_store(database)


async def open_existing(database: str) -> Log:
    """As `open_log`, but a ConfigError where there is no log yet."""
    await require_log(database)
    return await open_log(database)


async def require_log(database: str) -> None:
    """ConfigError if there is no log yet at `database`."""
    if database.startswith("sqlite:"):
        empty = not is_file(database)
    else:
        require_asyncpg()
        from tornado_chat.log import postgres_schema

        empty = await postgres_schema.is_empty(database)
    if empty:
        raise ConfigError(f"there is no log at {schema.shown(database)}; give the database that the server uses")


def is_file(database: str) -> bool:
    return os.path.exists(sqlite_path(database))


def require_asyncpg() -> None:
    """ConfigError if what PostgreSQL needs is not installed."""
    if importlib.util.find_spec("asyncpg") is None:
        raise ConfigError("--database: PostgreSQL needs asyncpg; run: pip install 'tornado_chat[postgres]'")
