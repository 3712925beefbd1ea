"""The tables of a log as they are, whichever database keeps them: for copying one into another."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Protocol

from tornado_chat.errors import ConfigError
from tornado_chat.log import schema, sqlite_file
from tornado_chat.log.opening import require_asyncpg, sqlite_path

TIMEOUT = 10.0
"""Seconds to wait for another process's lock on an SQLite file."""

Row = tuple[Any, ...]


class Store(Protocol):
    """Parameters of queries stand as $1, $2 ... in them. ConfigError for whatever the database cannot do."""

    dialect: schema.Dialect
    where: str
    """How messages name it."""

    def reading(self) -> AbstractAsyncContextManager[None]:
        """What is read inside is of one moment."""

    def writing(self) -> AbstractAsyncContextManager[None]:
        """What is done inside is one transaction, and nobody makes or migrates the tables meanwhile."""

    def rows(self, query: str, *parameters: Any) -> AsyncIterator[Row]:
        """Only inside `reading`; as they come, not all at once."""

    async def execute(self, query: str, *parameters: Any) -> list[Row]: ...

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """All of them or none."""

    async def revision(self) -> str | None:
        """None for an empty database; ConfigError if it is another program's."""

    async def create(self) -> None:
        """All the tables, in an empty database; inside `writing`."""

    async def close(self) -> None: ...


async def open_store(database: str) -> Store:
    """The store at a database URL; ConfigError, without the password, if it cannot be used."""
    if database.startswith("sqlite:"):
        return SQLiteStore(os.path.abspath(sqlite_path(database)))  # noqa: ASYNC240 - no file is looked at
    require_asyncpg()
    from tornado_chat.log.postgres_store import open_postgres_store

    return await open_postgres_store(database)


class SQLiteStore:
    """`Store` over one file, made if there is none. Blocking."""

    dialect: schema.Dialect = "sqlite"

    def __init__(self, path: str) -> None:
        self.where = path
        sqlite_file.opened(path, TIMEOUT, lambda db: sqlite_file.revision_of(db, path))
        self._db = sqlite_file.connect(path, TIMEOUT)
        self._db.execute("PRAGMA wal_autocheckpoint = 1000")  # else the write-ahead log becomes as big as the copy

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        with self._explained(), sqlite_file.transaction(self._db, "BEGIN"):
            yield

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        with self._explained(), sqlite_file.transaction(self._db, "BEGIN IMMEDIATE"):
            yield

    async def rows(self, query: str, *parameters: Any) -> AsyncIterator[Row]:
        """As `Store.rows` says."""
        with self._explained():
            for row in self._db.execute(_numbered(query), parameters):
                yield row

    async def execute(self, query: str, *parameters: Any) -> list[Row]:
        with self._explained():
            return self._db.execute(_numbered(query), parameters).fetchall()

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """As `Store.insert` says."""
        names = ", ".join(f'"{column}"' for column in columns)
        async with self.writing():
            self._db.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})", rows)

    async def revision(self) -> str | None:
        """As `Store.revision` says."""
        with self._explained():
            return sqlite_file.revision_of(self._db, self.where)

    async def create(self) -> None:
        """As `Store.create` says."""
        with self._explained():
            sqlite_file.create(self._db)

    async def close(self) -> None:
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ConfigError(f"database {self.where}: cannot be used: {error}") from None


def _numbered(query: str) -> str:
    return query.replace("$", "?")
