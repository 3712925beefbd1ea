"""The tables of a log as they are, whichever database keeps them: for copying one into another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from tornado_chat.log import schema

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
