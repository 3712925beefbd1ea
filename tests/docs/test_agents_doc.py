"""docs/agents.md against the code: the decorators, what `ctx` has, the choices and the numbers."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

import pytest

from tests.support import ROOT
from tests.support.agents import AgentProcess, reading
from tests.support.servers import UNLIMITED, Server
from tornado_chat.agents import Agent, Context, Message, ThreadContext
from tornado_chat.agents.context import ASK_SECONDS
from tornado_chat.agents.question import HOPS, DoubleTexting
from tornado_chat.agents.questions import PENDING
from tornado_chat.wire.attempts import ATTEMPTS

DOC = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")


def public(of: object) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_each_decorator_is_there() -> None:
    decorators = {name for name in public(Agent) if name.startswith("on_")}
    assert set(re.findall(r"@agent\.(on_\w+)", DOC)) == decorators


def test_all_that_ctx_has_is_there() -> None:
    told = set(re.findall(r"\bctx\.(\w+)", DOC))
    assert told | {"room", "message"} == public(Context) | {"room", "message", "state", "attempt", "resumed"}
    assert public(ThreadContext) - {"end"} == (told | {"room", "message"}) - {"stream"}
    for field in Message.__slots__:
        assert f"`{field}`" in DOC or f"message.{field}" in DOC, field


def test_the_choices_and_the_numbers_are_the_codes() -> None:
    for kind in get_args(DoubleTexting):
        assert f'| `"{kind}"` |' in DOC
    defaults = {name: one.default for name, one in inspect.signature(Agent).parameters.items()}
    assert f"`replies_a_minute`, {defaults['replies_a_minute']} " in DOC
    assert f"`max_open`, {defaults['max_open']} " in DOC
    assert f"`max_age`, {defaults['max_age']:,.0f} s" in DOC
    assert f"| {PENDING:,} |" in DOC
    assert f"seconds={ASK_SECONDS:g}" in DOC
    assert (HOPS, ATTEMPTS) == (3, 5)


@pytest.mark.parametrize("page", ["docs/agents.md", "README.md", "tornado_chat/agents/demo.py"])
async def test_the_first_agent_of_each_page_answers(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    module = next(block for block in blocks if "Agent(" in block)
    with Server(tmp_path, *UNLIMITED) as server, AgentProcess(tmp_path, server, "--room", "r", module=module) as agent:
        await agent.answers()
        name = re.findall(r'Agent\("(\w+)"', module)[0]
        async with reading(server) as room:
            asked = (await room.chat.send("r", f"@{name} one two")).seq
            assert (await room.answer(asked))["text"] == "one two "
