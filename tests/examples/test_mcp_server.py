"""examples/mcp_server.py beside a real server, asked by the SDK's own client over its standard streams."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
from mcp import Client, StdioServerParameters

from tests.support import ROOT
from tests.support.agents import AgentProcess
from tests.support.servers import UNLIMITED, Server

AGENT = """
from tornado_chat.agents import Agent

agent = Agent("helper")


@agent.on_mention
async def answer(ctx, message):
    yield message.prompt.upper()
    yield "." * 10_000
"""


async def test_a_model_reads_and_says_and_asks_with_the_token_of_a_user(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server, AgentProcess(tmp_path, server, module=AGENT) as helper:
        await helper.answers()
        headers = {"Authorization": f"Bearer {server.token('bob', name='Bob')}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as bob:
            for number in range(60):
                text = "x" * 5000 if number == 59 else f"message {number}"
                (await bob.post("/v1/rooms/team-a/messages", json={"text": text})).raise_for_status()
            (await bob.post("/v1/me/invitations", json={"room": "team-a", "user": "ada"})).raise_for_status()
        token = server.token("ada", name="Ada", rooms=["team-*", "helper-*"])
        environment = {"PYTHONPATH": str(ROOT), "TORNADO_CHAT_URL": server.url, "TORNADO_CHAT_TOKEN": token}
        program = StdioServerParameters(
            command=sys.executable, args=[str(ROOT / "examples" / "mcp_server.py")], env=environment
        )
        async with Client(program, read_timeout_seconds=30) as model:

            async def call(tool: str, **arguments: Any) -> tuple[bool, str]:
                result = await model.call_tool(tool, arguments)
                (content,) = result.content
                assert content.type == "text"
                return bool(result.is_error), content.text

            assert {tool.name for tool in (await model.list_tools()).tools} == {
                "list_rooms", "read_room", "say", "ask_agent"
            }  # fmt: skip
            assert await call("list_rooms") == (False, "team-a: 60 messages, 60 unread")
            failed, text = await call("read_room", room="team-a", limit=50)
            first, *lines = text.split("\n")
            assert (failed, first, len(lines)) == (False, "(There are older ones: before=11)", 50)
            assert lines[0] == "[11] Bob: message 10"
            assert lines[-1] == f"[60] Bob: {'x' * 1000} … (4,000 more characters)"
            assert (await call("read_room", room="team-a", limit=1000))[0]
            assert await call("read_room", room="team-b") == (False, "Nobody has said anything in team-b.")
            assert await call("say", room="team-a", text="hello", reply_to=60) == (
                False,
                "Said in team-a, as message 61.",
            )
            assert (await call("read_room", room="team-a", limit=1))[1].endswith("[61] Ada: hello")
            failed, text = await call("ask_agent", agent="helper", question="how are you?")
            assert not failed
            assert text.startswith("HOW ARE YOU?....")
            assert "… (2,012 more characters)\n\n(message 2 of helper-" in text
            failed, text = await call("say", room="secret", text="x")
            assert failed
            assert "does not let you into secret" in text
