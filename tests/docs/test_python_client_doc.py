"""docs/python-client.md against the code: its programs run, and what it names is there."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.agents import living
from tests.support.servers import UNLIMITED, Server
from tornado_chat import client
from tornado_chat.agents import Agent
from tornado_chat.client import Client, background, messages
from tornado_chat.client.answers import ANSWERS, SILENCE_SECONDS
from tornado_chat.client.sync import Answer, Chat, RoomView

DOC = (ROOT / "docs" / "python-client.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)


def public(of: object) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
async def test_each_program_runs(program: str, tmp_path: Path) -> None:
    agent = Agent("demo")

    @agent.on_mention
    async def answer(ctx: Any, message: Any) -> AsyncIterator[str]:
        yield f"<{message.prompt}>"

    with Server(tmp_path, *UNLIMITED) as server:
        program = program.replace("http://127.0.0.1:8080", server.url)
        async with living(agent, server, user="demo"):
            said: list[str] = []
            names = {"print": lambda *words, **_: said.append(" ".join(map(str, words)))}
            await asyncio.to_thread(exec, program, names)
        assert ("<hello>" in said) == ('"demo"' in program)
        assert ("<and again>" in said) == ('"and again"' in program)


def test_each_call_is_told() -> None:
    for name in public(Client) - {"close", "welcome", "transport"}:
        assert re.search(rf"`(?:\w+\.)?{name}\b", DOC), name
    for name in public(Chat) - {"user"}:
        assert re.search(rf"`(?:chat\.|Chat\.)?{name}\b", DOC) or f"chat.{name}(" in DOC, name
    for name in public(RoomView) - {"name"}:
        assert f"lobby.{name}" in DOC, name
    for name in public(Answer) - {"id", "question", "reply", "version", "wait", "room"}:
        assert re.search(rf"`(?:await )?(?:answer)?\.?{name}\b", DOC), name


def test_the_numbers_are_the_codes() -> None:
    timeout = inspect.signature(Chat).parameters["timeout"].default
    assert f"(`timeout`, {timeout:g} s)" in DOC
    assert f"`silence` seconds ({SILENCE_SECONDS:g})" in DOC
    assert f"in {background.END_SECONDS:g} s at most" in DOC
    assert f"newest {messages.KEPT:,} messages" in DOC
    assert f"{messages.KEPT_CHARS:,} characters" in DOC
    assert f"{ANSWERS} answers" in DOC
    for name in re.findall(r"^\| `(\w+)` \| (?:the server|the client was|the agent)", DOC, re.MULTILINE):
        assert hasattr(client, name) or name == "ChatError", name
