"""examples/dice_agent.py beside a real server."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.support import ROOT
from tests.support.agents import AgentProcess, reading
from tests.support.chat import eventually
from tests.support.servers import UNLIMITED, Server

EXAMPLES = ROOT / "examples"


async def test_it_rolls_and_asks(tmp_path: Path) -> None:
    module = (EXAMPLES / "dice_agent.py").read_text()
    with Server(tmp_path, *UNLIMITED) as server, AgentProcess(tmp_path, server, "--room", "r", module=module) as agent:
        await agent.answers()
        async with reading(server) as room:
            end = await room.answer((await room.chat.send("r", "/roll 2d6")).seq)
            found = re.fullmatch(r"\*\*(\d+)\*\* \((\d) \+ (\d)\)\. The best of this room is (\d+)\.", end["text"])
            assert found is not None
            total, one, two, best = map(int, found.groups())
            assert total == one + two == best
            (step,) = end["meta"]["steps"]
            assert (step["name"], step["input"], step["state"]) == ("roll", "2d6", "done")
            end = await room.answer((await room.chat.send("r", "/roll many")).seq)
            assert "such as `/roll 2d6`" in end["text"]
            asked = (await room.chat.send("r", "roll for me", mentions=["dice"])).seq
            await room.said("How many dice, and with how many sides? Such as 2d6.")
            await room.chat.send("r", "3d20")
            assert (await room.answer(asked))["text"] == "Write `/roll 3d20`, and I do."


async def test_it_runs_as_a_program_of_its_own(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        token = server.token("dice", agent=True)
        environment = {"PYTHONPATH": str(ROOT), "TORNADO_CHAT_URL": server.url, "TORNADO_CHAT_TOKEN": token}
        command = sys.executable, EXAMPLES / "dice_agent.py"
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
        try:
            async with reading(server) as room:
                asked = (await room.chat.send("r", "/roll", mentions=["dice"])).seq
                await eventually(lambda: room.replies(asked), 30)
                await room.answer(asked)
        finally:
            process.terminate()
            async with asyncio.timeout(20):
                assert await process.wait() == 0
