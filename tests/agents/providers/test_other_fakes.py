"""Fakes of both APIs that we did not write: fakellm and llmock, as processes, with the faults that they know."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.scripted_provider import ANTHROPIC, ASK, OPENAI, Dialect, gather
from tornado_chat.agents.providers import Anthropic, Limits, OpenAI, ProviderError, ToolCall, ToolResult

both = pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)

START_SECONDS = 60.0

RULES = """
version: 1
rules:
  - name: after the tool
    when: {tool_result_contains: "sunny in Bern"}
    respond: {content: "Take no umbrella."}
  - name: with a tool
    when: {tools_include: weather}
    respond:
      tool_calls: [{name: weather, arguments: {city: Bern}}]
  - name: greeting
    when: {messages_contain: hello}
    respond: {content: "Grüezi, one word after another 🎉"}
"""


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def _serve(program: list[str], probe: str, environment: dict[str, str], output: Path) -> Iterator[str]:
    """The address of a server that is started with `--port`, and ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *program, "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < until, output.read_text()
            try:
                httpx.get(url + probe).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def fakellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fakellm")
    (folder / "rules.yaml").write_text(RULES)
    program = ["fakellm.cli", "serve", "--config", str(folder / "rules.yaml")]
    yield from _serve(program, "/_fakellm/stats", {}, folder / "out")


@pytest.fixture(scope="module")
def llmock_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = ["llmock.cli", "serve", "--response-style", "hello"]
    yield from _serve(program, "/health", {}, tmp_path_factory.mktemp("llmock") / "out")


@both
async def test_a_reply_of_fakellm(dialect: Dialect, fakellm: str) -> None:
    async with dialect.provider(fakellm) as provider:
        deltas = [delta async for delta in provider.stream(ASK)]
        assert len(deltas) > 4
        assert deltas == [*map(str, deltas)]
        assert "".join(map(str, deltas)) == "Grüezi, one word after another 🎉"


@both
async def test_a_tool_with_fakellm(dialect: Dialect, fakellm: str) -> None:
    async with dialect.provider(fakellm) as provider:
        deltas = await gather(provider.stream([{"role": "user", "content": f"Rain? {dialect.name}"}], [weather]))
        call, result, text = deltas
        assert isinstance(call, ToolCall)
        assert (call.name, call.arguments) == ("weather", '{"city": "Bern"}')
        assert result == ToolResult(call.id, "weather", "sunny in Bern", error=False)
        assert text == "Take no umbrella."


class Faults:
    """llmock with what is to happen next; at the end its verdict."""

    def __init__(self, url: str, dialect: Dialect) -> None:
        self.url = url
        self._dialect = dialect

    def add(self, *behaviors: dict[str, Any]) -> None:
        httpx.post(self.url + "/_llmock/scenario", json={"behaviors": behaviors}).raise_for_status()

    def asked(self) -> int:
        count: int = httpx.get(self.url + "/_llmock/requests").json()["count"]
        return count

    def verdict(self) -> str:
        return httpx.get(self.url + "/_llmock/verdict?format=text").text

    def provider(self, limits: Limits | None = None) -> OpenAI | Anthropic:
        return self._dialect.provider(self.url + ("/anthropic" if self._dialect is ANTHROPIC else ""), limits)


@pytest.fixture
def faults(llmock_url: str, dialect: Dialect) -> Faults:
    httpx.post(llmock_url + "/_llmock/reset").raise_for_status()
    return Faults(llmock_url, dialect)


@both
async def test_a_reply_of_llmock(faults: Faults) -> None:
    faults.add({"type": "reply", "text": "Grüezi, one word after another 🎉"})
    async with faults.provider() as provider:
        assert await gather(provider.stream(ASK)) == ["Grüezi, one word after another 🎉"]


@both
@pytest.mark.parametrize("status", [429, 503, 529])
async def test_refusals_of_llmock_are_survived(faults: Faults, status: int) -> None:
    faults.add({"type": "fail", "status": status, "times": 2, "retry_after": 0.2}, {"type": "reply", "text": "Yes"})
    async with faults.provider() as provider:
        assert await gather(provider.stream(ASK)) == ["Yes"]
    assert faults.asked() == 3
    assert "PASS" in faults.verdict(), faults.verdict()


@both
@pytest.mark.parametrize(
    ("fault", "kind"), [("disconnect", "cut"), ("truncate", "cut"), ("stall", "silent"), ("malformed", "malformed")]
)
async def test_streams_that_llmock_breaks(faults: Faults, fault: str, kind: str) -> None:
    faults.add(
        {"type": "stream_fault", "kind": fault, "after_chunks": 5, "stall_seconds": 5, "times": None},
        {"type": "reply", "text": "one two three four five six seven eight", "times": None},
    )
    async with faults.provider(Limits(silent=0.5)) as provider:
        deltas = provider.stream(ASK)
        assert await anext(deltas) == "one "
        with pytest.raises(ProviderError) as caught:
            await gather(deltas)
        assert caught.value.kind == kind
    assert faults.asked() == 1, "what was said is not said again, though llmock's verdict would have it so"


@both
async def test_a_tool_with_llmock(faults: Faults) -> None:
    async with faults.provider() as provider:
        call, result, text = await gather(provider.stream(ASK, [weather]))
        assert isinstance(call, ToolCall)
        assert isinstance(result, ToolResult)
        assert (call.name, result.error) == ("weather", False)
        assert isinstance(text, str)


@both
@pytest.mark.parametrize("fault", ["malformed_arguments", "unknown_tool"])
async def test_broken_calls_of_llmock_are_told_to_the_model(faults: Faults, fault: str) -> None:
    faults.add({"type": "tool_fault", "kind": fault})
    async with faults.provider() as provider:
        call, result, text = await gather(provider.stream(ASK, [weather]))
        assert isinstance(call, ToolCall)
        assert isinstance(result, ToolResult)
        assert result.error
        assert isinstance(text, str)
