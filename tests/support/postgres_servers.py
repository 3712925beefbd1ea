"""A plugin for the tests that need PostgreSQL: one server for all of them, a database for each."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tornado_chat.verify.postgres_server import PostgresServer

# What a test kills here loses nothing by it: only a power failure would.
FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB")


@contextmanager
def _running() -> Iterator[PostgresServer]:
    # Not under pytest's own temporary folder, which nobody but us may enter.
    with tempfile.TemporaryDirectory(prefix="chat-postgres-") as folder, PostgresServer(Path(folder), *FAST) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Not to be stopped, killed or paused: that is for `own_postgres`."""
    with _running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database, dropped after the test."""
    name = f"chat_{secrets.token_hex(4)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server for one test, which may do to it what it likes."""
    with _running() as server:
        yield server
