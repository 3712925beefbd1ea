"""`Store` over a PostgreSQL database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Literal

import asyncpg

from tornado_chat.log import postgres_schema, schema
from tornado_chat.log.postgres_schema import Connection, explained
from tornado_chat.log.store import Row

STATEMENT_SECONDS = 3600.0
"""The longest statement goes once through all events."""

LOCK_SECONDS = 30.0
ONE_AT_A_TIME = "SELECT pg_advisory_lock($1)"
LOCK = 0x54436863  # "TChc": whoever copies holds it; PostgreSQL frees it when it notices that a copy was killed


async def open_postgres_store(database: str) -> PostgresStore:
    """ConfigError if the database does not answer, or if another copies to or from it."""
    with explained(database):
        db = await postgres_schema.connect(database, STATEMENT_SECONDS)
        try:
            await db.execute(ONE_AT_A_TIME, LOCK, timeout=LOCK_SECONDS)
        except BaseException:
            db.terminate()
            raise
        return PostgresStore(database, db)


class PostgresStore:
    """Made by `open_postgres_store`."""

    dialect: schema.Dialect = "postgresql"

    def __init__(self, database: str, db: Connection) -> None:
        self.where = schema.shown(database)
        self._database = database
        self._db = db

    def reading(self) -> AbstractAsyncContextManager[None]:
        """As `Store.reading` says."""
        return self._transaction("repeatable_read", readonly=True)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """As `Store.writing` says."""
        async with self._transaction("read_committed", readonly=False):
            await self.execute(postgres_schema.TAKE_LOCK)
            yield

    @asynccontextmanager
    async def _transaction(
        self, isolation: Literal["repeatable_read", "read_committed"], *, readonly: bool
    ) -> AsyncIterator[None]:
        transaction = self._db.transaction(isolation=isolation, readonly=readonly)
        with explained(self._database):
            await transaction.start()
        try:
            yield
        except BaseException:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):  # the first error is the one to tell
                await transaction.rollback()
            raise
        with explained(self._database):
            await transaction.commit()

    async def rows(self, query: str, *parameters: Any) -> AsyncIterator[Row]:
        """As `Store.rows` says."""
        with explained(self._database):
            async for record in self._db.cursor(query, *parameters, prefetch=1000):
                yield tuple(record.values())

    async def execute(self, query: str, *parameters: Any) -> list[Row]:
        with explained(self._database):
            return [tuple(record.values()) for record in await self._db.fetch(query, *parameters)]

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """As `Store.insert` says."""
        with explained(self._database):
            await self._db.copy_records_to_table(table, records=rows, columns=columns)

    async def revision(self) -> str | None:
        """As `Store.revision` says."""
        with explained(self._database):
            return await postgres_schema.revision_of(self._db, self._database)

    async def create(self) -> None:
        """As `Store.create` says."""
        with explained(self._database):
            await postgres_schema.create(self._db)

    async def close(self) -> None:
        try:
            await self._db.close(timeout=LOCK_SECONDS)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._db.terminate()
