"""Spawned tasks: a failure is told, and `stop` leaves none."""

from __future__ import annotations

import asyncio

import pytest

from tornado_chat.tasks import Tasks


async def fail() -> None:
    raise RuntimeError("of the test")


@pytest.mark.logs("task failed")
async def test_a_failure_is_told_and_the_task_is_forgotten() -> None:
    tasks = Tasks()
    task = tasks.spawn(fail())
    await tasks.finished()
    assert task.done()
    assert not tasks


async def test_stop_ends_also_what_a_cancelled_task_begins() -> None:
    tasks, begun = Tasks(), []

    async def last() -> None:
        begun.append("last")
        await asyncio.sleep(3600)

    async def first() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            tasks.spawn(last())

    task = tasks.spawn(first())
    await asyncio.sleep(0)
    await tasks.stop()
    assert task.cancelled()
    assert not tasks
    assert len(asyncio.all_tasks()) == 1, "only this test"


@pytest.mark.logs("task goes on although it was cancelled name=stubborn")
async def test_stop_ends_also_what_swallows_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.tasks.STOP_SECONDS", 0.01)
    tasks, swallowed = Tasks(), list[bool]()

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(True)

    tasks.spawn(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await tasks.stop()
    assert not tasks


async def test_finished_waits_and_cancels_nothing() -> None:
    tasks, done = Tasks(), []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append(True)

    tasks.spawn(work(), name="named")
    assert len(tasks) == 1
    await tasks.finished()
    assert done == [True]
