"""Steps as they are told and kept: never more than the protocol takes."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.agents.steps import Step, short, with_steps
from tornado_chat.wire.commands import META_BYTES, parse

TEXTS = st.text(max_size=3000)


def made(texts: list[tuple[str, str, str]]) -> list[Step]:
    steps = []
    for number, (name, input, output) in enumerate(texts, 1):
        step = Step(str(number), name, input)
        step.output = output
        steps.append(step)
    return steps


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=50), st.dictionaries(st.just("hops"), st.integers(2, 3)))
def test_whatever_they_say_they_fit(texts: list[tuple[str, str, str]], meta: dict[str, int]) -> None:
    steps = made(texts)
    for step in steps:
        parse({"type": "step", "room": "r", "seq": 1, "step": step.told()}, 8000)
    kept = with_steps(meta, steps)
    assert len(orjson.dumps(kept)) <= META_BYTES
    assert {key: kept[key] for key in meta} == meta
    told = kept.get("steps", [])
    assert [one["id"] for one in told] == [step.id for step in steps][len(steps) - len(told) :]


def test_what_fits_is_kept_whole_and_of_more_the_texts_go_before_the_steps() -> None:
    few = with_steps({}, made([("search", "x" * 300, "y" * 300)]))["steps"]
    assert few == [{"id": "1", "name": "search", "state": "running", "input": "x" * 300, "output": "y" * 300}]
    more = with_steps({}, made([("search", "x" * 300, "y" * 300)] * 8))["steps"]
    assert len(more) == 8
    assert {len(one["input"]) for one in more} == {30}
    many = with_steps({}, made([("search", "x", "y")] * 50))["steps"]
    assert 30 < len(many) < 50
    assert many[-1] == {"id": "50", "name": "search", "state": "running"}


def test_a_text_is_shortened_with_a_sign() -> None:
    assert [short("abcdef", most) for most in (6, 5, 1, 0)] == ["abcdef", "abcd…", "…", ""]
    assert short("a\0b", 5) == "ab"


def test_what_a_tool_gives_may_be_anything() -> None:
    step = Step("1", "search", "\ud800?")
    given: Any = step
    given.output = {"found": [1, None]}
    assert step.told() == {
        "id": "1",
        "name": "search",
        "state": "running",
        "input": "?",
        "output": "{'found': [1, None]}",
    }
