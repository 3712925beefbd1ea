"""What the rooms of a process share, and how it depends on the settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.chat import running
from tornado_chat.live.shared import BATCH_BYTES, PAGE_READS, SIGNALS_A_SECOND


@pytest.mark.parametrize(("mark", "batch"), [(1 << 20, BATCH_BYTES), (65536, 32768), (1024, 512)])
async def test_a_batch_is_never_more_than_half_the_high_water_mark(tmp_path: Path, mark: int, batch: int) -> None:
    """Else one batch would put a member that reads behind, and that for ever."""
    async with running(tmp_path, high_water_mark=mark) as here:
        assert here.server.hub.shared.batch_bytes == batch


async def test_rooms_have_one_budget_and_servers_have_their_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    async with (
        running(tmp_path / "a", ring_bytes=1 << 20) as here,
        running(tmp_path / "b", ring_bytes=1 << 21) as there,
    ):
        for room in ("one", "two"):
            client = await here.join(room)
            await client.ask(type="send", room=room, text="hello")
        shared = here.server.hub.shared
        assert {room.shared for room in here.server.hub.rooms.values()} == {shared}
        assert shared.budget.bytes == sum(event.cost for event in shared.budget.order) > 0
        assert len(shared.budget.order) == 2
        assert (shared.budget.limit, there.server.hub.shared.budget.limit) == (1 << 20, 1 << 21)
        assert not there.server.hub.shared.budget.order


async def test_signals_have_one_bucket_and_pages_one_semaphore(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        shared = here.server.hub.shared
        assert shared.signals.take(shared.signals.filled, SIGNALS_A_SECOND) == 0.0
        assert shared.signals.take(shared.signals.filled, 1) > 0
        for _ in range(PAGE_READS):
            await asyncio.wait_for(shared.page_reads.acquire(), 1)
        assert shared.page_reads.locked()
        for _ in range(PAGE_READS):
            shared.page_reads.release()
