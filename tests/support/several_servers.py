"""Several servers on one log, each with its own hub and its own connections to it, in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import Running, running
from tornado_chat.live.hub import Hub

LOGS = ["sqlite", "postgresql"]


@pytest.fixture(params=LOGS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chat.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@asynccontextmanager
async def servers(path: Path, count: int, database: str, *redis: str) -> AsyncIterator[list[Running]]:
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"database": database, "redis": redis, "siblings": count - 1}
        yield [await stack.enter_async_context(running(path, **settings)) for _ in range(count)]


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Counter[Hub]:
    """How often each hub has asked for the heads. After the first time it does so only when something makes it."""
    counted = Counter[Hub]()
    poll = Hub.poll

    async def counting(hub: Hub) -> None:
        await poll(hub)
        counted[hub] += 1

    monkeypatch.setattr(Hub, "poll", counting)
    monkeypatch.setattr("tornado_chat.server.POLL_SECONDS", 1_000_000)
    return counted
