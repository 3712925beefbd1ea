"""A plugin for the tests that are the same for both databases; it needs `postgres_servers` beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from tests.support.databases import Open
from tornado_chat.log import Log, opening


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that is empty, or of a file that is not there yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chat.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def open_log(database: str, io_loop: IOLoop) -> Iterator[Open]:
    """Opens one and the same log, as often as it is called; closes what the test left open."""
    logs: list[Log] = []

    async def opened() -> Log:
        log = await opening.open_log(database)
        logs.append(log)
        return log

    yield opened
    for log in logs:
        io_loop.run_sync(log.close)


@pytest.fixture
def log(open_log: Open, io_loop: IOLoop) -> Log:
    log: Log = io_loop.run_sync(open_log)
    return log
