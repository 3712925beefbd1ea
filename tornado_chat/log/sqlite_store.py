"""`Store` over an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tornado_chat.errors import ConfigError
from tornado_chat.log import schema, sqlite_file
from tornado_chat.log.store import Row

TIMEOUT = 10.0
"""Seconds to wait for another process's lock on an SQLite file."""


class SQLiteStore:
    """Over the file at `path`, made if there is none. Blocking."""

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
