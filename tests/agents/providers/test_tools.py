"""A typed function is a tool: its schema, its arguments, its result, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from tests.support.chat import eventually
from tornado_chat.agents.providers import Tool, ToolCall, ToolResult
from tornado_chat.agents.providers.limits import RESULT_CHARS


@dataclass
class Place:
    city: str
    country: str = "CH"


def forecast(
    place: Place,
    days: Annotated[int, Meta(description="From today.", ge=1)] = 3,
    *,
    unit: Literal["C", "F"] = "C",
    tags: list[str] = ["dry"],  # noqa: B006  (a tool may be written so)
    since: date | None = None,
) -> dict[str, object]:
    """What the weather will be.

    More of this.
    """
    return {"place": f"{place.city} ({place.country})", "days": days, "unit": unit, "tags": tags, "since": since}


async def run(function: Callable[..., object], arguments: str = "{}", seconds: float = 5.0) -> ToolResult:
    tool = Tool(function)
    return await tool.run(ToolCall("c1", tool.name, arguments), seconds)


def test_its_schema() -> None:
    tool = Tool(forecast)
    assert (tool.name, tool.description) == ("forecast", "What the weather will be.\n\nMore of this.")
    schema = tool.parameters
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["place"], False)
    assert schema["properties"]["place"] == {"$ref": "#/$defs/Place"}
    assert schema["$defs"]["Place"]["properties"]["country"] == {"type": "string", "default": "CH"}
    assert schema["properties"]["days"] == {"type": "integer", "description": "From today.", "minimum": 1, "default": 3}
    assert schema["properties"]["unit"] == {"enum": ["C", "F"], "default": "C"}


async def test_its_arguments_have_their_types() -> None:
    result = await run(forecast, '{"place": {"city": "Bern"}, "since": "2026-11-30", "unit": "F"}')
    content = '{"place":"Bern (CH)","days":3,"unit":"F","tags":["dry"],"since":"2026-11-30"}'
    assert result == ToolResult("c1", "forecast", content, error=False)


@pytest.mark.parametrize(
    "arguments",
    [
        "{",
        "[]",
        "{}",
        '{"place": "Bern"}',
        '{"place": {"city": "Bern"}, "day": 1}',
        '{"place": {"city": "B"}, "days": 0}',
    ],
)
async def test_arguments_that_do_not_fit_are_told_to_the_model(arguments: str) -> None:
    result = await run(forecast, arguments)
    assert result.error
    assert result.content.startswith("These arguments do not fit: ")


async def test_no_arguments_may_be_nothing() -> None:
    def now() -> int:
        """The time."""
        return 7

    assert (await run(now, "")).content == "7"


async def test_a_plain_function_runs_in_a_thread_and_the_loop_goes_on() -> None:
    asked, answered = threading.Event(), threading.Event()
    threads = []

    def wait() -> str:
        """Waits for the loop."""
        threads.append(threading.current_thread())
        asked.set()
        return "went on" if answered.wait(10) else "stood still"

    task = asyncio.create_task(run(wait))
    await eventually(asked.is_set)
    answered.set()
    assert (await task).content == "went on"
    assert threads != [threading.main_thread()]


async def test_an_asynchronous_one_runs_in_the_loop() -> None:
    async def here() -> bool:
        """Where it runs."""
        await asyncio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    assert (await run(here)).content == "true"


@pytest.mark.logs("the tool broken failed")
async def test_an_exception_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> str:
        """Fails."""
        raise KeyError("the password of the database")

    assert await run(broken) == ToolResult("c1", "broken", "broken failed: KeyError", error=True)
    assert "the password of the database" in caplog.text


@pytest.mark.logs("the tool slow did not end within 0.1 s")
async def test_it_has_a_limit_of_time() -> None:
    async def slow() -> None:
        """Sleeps."""
        await asyncio.sleep(3600)

    assert (await run(slow, seconds=0.1)).content == "slow did not end within 0.1 s."


@pytest.mark.logs("the tool late failed")
async def test_a_limit_of_time_of_its_own_is_an_exception() -> None:
    async def late() -> None:
        """Waits for something else."""
        raise TimeoutError

    assert (await run(late)).content == "late failed: TimeoutError"


async def test_a_long_result_is_cut() -> None:
    def read() -> str:
        """Reads a book."""
        return "x" * (RESULT_CHARS + 1000)

    content = (await run(read)).content
    assert content.endswith("x [1,000 characters more are left out]")
    assert len(content) < RESULT_CHARS + 100


async def test_a_method_is_a_tool() -> None:
    class Shop:
        def __init__(self) -> None:
            self.sold: list[str] = []

        def sell(self, what: str) -> int:
            """Sells it."""
            self.sold.append(what)
            return len(self.sold)

    shop = Shop()
    assert (await run(shop.sell, '{"what": "tea"}')).content == "1"
    assert shop.sold == ["tea"]


def _no_docstring(a: int) -> int:
    return a


def _no_hint(a) -> None:  # type: ignore[no-untyped-def]  # that is what is refused
    """X."""


def _many(*a: int) -> None:
    """X."""


def _named(**a: int) -> None:
    """X."""


def _only(a: int, /) -> None:
    """X."""


def _thread(a: threading.Thread) -> None:
    """X."""


def _yields() -> Iterator[int]:
    """X."""
    yield 1


async def _ayields() -> AsyncIterator[int]:
    """X."""
    yield 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_no_docstring, "has to say in its docstring"),
        (_no_hint, "the parameter a of the tool _no_hint has to have a type hint"),
        (_many, "cannot have the parameter"),
        (_named, "cannot have the parameter"),
        (_only, "cannot have the parameter"),
        (_thread, "takes what JSON cannot hold"),
        (_yields, "has to return its result"),
        (_ayields, "has to return its result"),
        (lambda: 1, "a function with a name"),
        (7, "a function with a name"),
    ],
)
def test_functions_that_are_no_tools(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Tool(function)
