"""examples/script.py beside a real server and an agent."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.support import ROOT
from tests.support.agents import AgentProcess, reading
from tests.support.servers import UNLIMITED, Server

ECHO = """
from tornado_chat.agents import Agent

agent = Agent("demo")

@agent.on_mention
async def answer(ctx, message):
    for word in message.prompt.split():
        yield word + " "
"""


async def test_it_prints_the_answer_and_leaves_a_word(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server, AgentProcess(tmp_path, server, module=ECHO) as agent:
        await agent.answers()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, ROOT / "examples" / "script.py", "what", "now?"),
            env={**os.environ, "PYTHONPATH": str(ROOT), "TORNADO_CHAT_URL": server.url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            assert await process.communicate() == (b"what now? ", b"")
        async with reading(server, name="lobby") as room:
            await room.said("I have asked demo something.")
