"""Threads with a bounded queue: bounds, time limits, and that none is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tests.support.chat import eventually
from tornado_chat.errors import LogUnavailable
from tornado_chat.log.threads import Threads


class Gate:
    """A resource whose calls stand still until they are let go or interrupted."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.begun: list[str] = []
        self.closed = 0

    def wait(self, name: str) -> str:
        self.begun.append(name)
        self.entered.set()
        assert self.opened.wait(30)
        return name

    def fail(self) -> None:
        raise ValueError("bad")

    def who(self) -> tuple[int, int]:
        return self.thread, threading.get_ident()

    def interrupt(self) -> None:
        self.opened.set()

    def close(self) -> None:
        self.closed += 1


class Gates:
    """Makes gates, and keeps them for the test to see."""

    def __init__(self) -> None:
        self.made: list[Gate] = []

    def __call__(self) -> Gate:
        gate = Gate()
        self.made.append(gate)
        return gate


async def start(make: Callable[[], Gate], *, threads: int = 1, limit: int = 9, seconds: float = 20) -> Threads[Gate]:
    pool = Threads("gates", make, threads=threads, limit=limit, timeout=seconds)
    await pool.start()
    return pool


async def entered(gate: Gate) -> None:
    await eventually(gate.entered.is_set)


async def test_results_and_errors_come_back() -> None:
    gates = Gates()
    pool = await start(gates)
    gates.made[0].opened.set()
    assert await pool.call(Gate.wait, "a") == "a"
    with pytest.raises(ValueError, match="bad"):
        await pool.call(Gate.fail)
    made_in, called_in = await pool.call(Gate.who)
    assert made_in == called_in != threading.get_ident()
    await pool.close()
    assert gates.made[0].closed == 1


async def test_calls_past_the_limit_are_refused() -> None:
    gates = Gates()
    pool = await start(gates, limit=3)
    tasks = [asyncio.ensure_future(pool.call(Gate.wait, name)) for name in "abc"]
    await entered(gates.made[0])
    with pytest.raises(LogUnavailable, match="3 calls wait"):
        await pool.call(Gate.wait, "d")
    gates.made[0].opened.set()
    assert await asyncio.gather(*tasks) == ["a", "b", "c"]
    assert await pool.call(Gate.wait, "e") == "e"
    assert gates.made[0].begun == ["a", "b", "c", "e"]
    await pool.close()


async def test_a_call_that_takes_too_long_is_unavailable_and_the_next_ones_too() -> None:
    gates = Gates()
    pool = await start(gates, limit=2, seconds=0.05)
    tasks = [asyncio.ensure_future(pool.call(Gate.wait, name)) for name in "ab"]
    for task in tasks:
        with pytest.raises(LogUnavailable, match=r"within 0\.05 s"):
            await task
    with pytest.raises(LogUnavailable, match="2 calls wait"):  # the thread is not free yet
        await pool.call(Gate.wait, "c")
    gates.made[0].opened.set()
    await pool.close()
    assert gates.made[0].begun == ["a"]  # nobody waited for b any more


async def test_a_call_that_was_cancelled_is_not_begun() -> None:
    gates = Gates()
    pool = await start(gates)
    first = asyncio.ensure_future(pool.call(Gate.wait, "a"))
    second = asyncio.ensure_future(pool.call(Gate.wait, "b"))
    third = asyncio.ensure_future(pool.call(Gate.wait, "c"))
    await entered(gates.made[0])
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    gates.made[0].opened.set()
    assert await third == "c"
    assert gates.made[0].begun == ["a", "c"]
    await pool.close()


async def test_closing_finishes_what_waits() -> None:
    gates = Gates()
    pool = await start(gates, threads=2)
    tasks = [asyncio.ensure_future(pool.call(Gate.wait, name)) for name in "abcd"]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(pool.close())
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable, match="closed"):
        await pool.call(Gate.wait, "e")
    for gate in gates.made:
        gate.opened.set()
    await closing
    assert [await task for task in tasks] == ["a", "b", "c", "d"]
    assert [gate.closed for gate in gates.made] == [1, 1]


async def test_closing_interrupts_what_does_not_end() -> None:
    gates = Gates()
    pool = await start(gates, seconds=0.05)
    task = asyncio.ensure_future(pool.call(Gate.wait, "a"))
    await entered(gates.made[0])
    await pool.close()
    with pytest.raises(LogUnavailable):
        await task
    assert gates.made[0].closed == 1


async def test_a_resource_that_cannot_be_made_leaves_no_thread() -> None:
    gates = Gates()

    def make() -> Gate:
        if len(gates.made) == 2:
            raise OSError("no more")
        return gates()

    before = threading.active_count()
    with pytest.raises(OSError, match="no more"):
        await start(make, threads=3)
    assert threading.active_count() == before
    assert [gate.closed for gate in gates.made] == [1, 1]
