"""README, "Let a message grow": what stands there, carried out as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import ROOT
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Client

_, _, SECTION = (ROOT / "README.md").read_text().partition("\n## Let a message grow\n")
SECTION = SECTION.partition("\n## ")[0]
SEND, CURL = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


async def last(chat: Client, holds: Any) -> Any:
    """The room's last message, when `holds` is true of it."""
    async with asyncio.timeout(30):
        while True:
            messages = (await chat.history("lobby"))["messages"]
            if messages and "streaming" not in messages[-1] and holds(messages[-1]):
                return messages[-1]
            await asyncio.sleep(0.02)


async def test_it_goes_as_it_stands_there(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "TORNADO_CHAT_URL": server.url, "CHAT_TOKEN": server.token("log")}
        module = f"{sys.executable} -m tornado_chat"

        async def shell(script: str) -> None:
            script = script.replace("sleep 1", "sleep 0.1").replace("tornado-chat", module)
            script = script.replace("http://127.0.0.1:8080", server.url)
            process = await asyncio.create_subprocess_shell(
                script, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            await process.communicate()
            assert process.returncode == 0

        async with Client(server.url, token=server.token("ann")) as ann:
            await shell(SEND)
            assert (await last(ann, lambda _: True))["text"].count("\n") == 5
            await shell(CURL)
            message = await last(ann, lambda one: one["seq"] == 3)
            assert (message["text"].count("\n"), message["user"]) == (5, "log")
            program = PROGRAM.replace("http://127.0.0.1:8080", server.url)
            agent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT)
            try:
                async with asyncio.timeout(30):
                    while not (await ann.presence("lobby"))["count"]:  # noqa: ASYNC110 - of another process
                        await asyncio.sleep(0.02)
                asked = await ann.send("lobby", "Is it?")
                message = await last(ann, lambda one: one["text"] == "That is a good question.")
                assert message["reply_to"] == asked.seq
            finally:
                agent.kill()
                await agent.wait()
