"""Look-ups of the log: what is asked together is one query, and the answers are told some in each loop turn."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial

import pytest

from tests.support.connections import until
from tests.support.hubs import turns
from tornado_chat.errors import LogUnavailable
from tornado_chat.live import turns as module
from tornado_chat.live.lookup import Lookup
from tornado_chat.live.turns import ANSWERS, Turns
from tornado_chat.tasks import Tasks


class Numbers:
    """Answers each key with its length, when it is let."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.open = asyncio.Event()
        self.fails = False

    async def __call__(self, keys: Collection[str]) -> dict[str, int]:
        self.queries.append(sorted(keys))
        await self.open.wait()
        if self.fails:
            raise LogUnavailable("of the test")
        return {key: len(key) for key in keys if key}


def made(numbers: Numbers) -> Lookup[str, int]:
    return Lookup(Tasks(), Turns(asyncio.get_running_loop()), numbers, 0)


async def test_what_is_asked_while_a_query_runs_goes_into_the_next() -> None:
    numbers, told = Numbers(), list[tuple[str, object]]()
    lookup = made(numbers)

    def tell(key: str, answer: object) -> None:
        told.append((key, answer))

    for key in ("a", "bb", "a", ""):
        lookup.ask(key, partial(tell, key))
    await turns(2)
    getting = asyncio.create_task(lookup.get("ccc"))
    await turns(2)
    assert not told
    numbers.open.set()
    assert await getting == 3
    assert numbers.queries == [["", "a", "bb"], ["ccc"]]
    assert told == [("a", 1), ("bb", 2), ("a", 1), ("", 0)]
    assert await lookup.get("dddd") == 4, "it asks again after it had nothing to ask"


async def test_an_error_is_told_to_all_who_asked_and_to_nobody_else() -> None:
    numbers, told = Numbers(), list[object]()
    numbers.fails = True
    numbers.open.set()
    lookup = made(numbers)
    lookup.ask("a", told.append)
    with pytest.raises(LogUnavailable):
        await lookup.get("b")
    assert [type(answer) for answer in told] == [LogUnavailable]
    numbers.fails = False
    assert await lookup.get("a") == 1


async def test_who_does_not_wait_any_more_is_not_told() -> None:
    for count in range(9):
        numbers, told = Numbers(), list[object]()
        numbers.open.set()
        lookup = made(numbers)
        question = lookup.ask("a", told.append)
        getting = asyncio.create_task(lookup.get("a"))
        await turns(count)
        told_before = len(told)
        question.cancel()
        getting.cancel()
        await asyncio.wait([getting])
        await turns(9)
        assert len(told) == told_before
    assert told, "the last ones were told before"


@pytest.mark.logs("Exception in callback")
async def test_who_fails_on_an_answer_leaves_the_others_theirs() -> None:
    numbers, told = Numbers(), list[object]()
    numbers.open.set()
    lookup = made(numbers)

    def fail(answer: object) -> None:
        raise ValueError("a fault of the test")

    lookup.ask("a", fail)
    lookup.ask("bb", told.append)
    await until(lambda: told == [2])


async def test_so_many_answers_are_told_in_one_loop_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reconnect storm's joins come out of one query: each is carried out in the call that tells its answer."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1000.0)
    numbers, told = Numbers(), list[object]()
    numbers.open.set()
    lookup = made(numbers)
    for number in range(3 * ANSWERS):
        lookup.ask(str(number), told.append)
    most = 0
    while len(told) < 3 * ANSWERS:
        before = len(told)
        await asyncio.sleep(0)
        most = max(most, len(told) - before)
    assert most == ANSWERS
    assert len(numbers.queries) == 1


async def test_slow_answers_share_a_loop_turn_for_so_long_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(module, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(module, "ANSWER_SECONDS", 2.5)
    numbers, counts, told = Numbers(), list[int](), list[object]()
    numbers.open.set()
    lookup = made(numbers)
    for number in range(9):
        lookup.ask(str(number), told.append)
    while len(told) < 9:
        before = len(told)
        await asyncio.sleep(0)
        counts.append(len(told) - before)
    assert max(counts) == 2, "a second for each, in this test"
