"""The command `agent`, and `serve --agent`: processes that answer, are kept running, and end when they should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.agents import AgentProcess, reading
from tests.support.chat import eventually
from tests.support.servers import UNLIMITED, Server
from tornado_chat.verify.processes import children, is_alive

ECHO = """
from tornado_chat.agents import Agent

agent = Agent("bot", rooms=["r"])


@agent.on_mention
async def answer(ctx, message):
    return "first " + message.prompt
"""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_agent_beside_the_server_is_kept_running_and_ends_with_it(tmp_path: Path, workers: str) -> None:
    flags = ("--agent", "demo", "--workers", workers)
    with Server(tmp_path, *UNLIMITED, *flags, expected=["child ended name=demo how=SIGKILL again_in=0.0"]) as server:
        for life in range(2):
            await _answers(server, life + 1)
            async with reading(server, f"ann{life}", "lobby") as room:
                asked = (await room.chat.send("lobby", "/help", mentions=["demo"])).seq
                assert "| anything |" in (await room.answer(asked))["text"]
            pid = int(re.findall(r"child started name=demo pid=(\d+)", server.said())[-1])
            if life == 0:
                os.kill(pid, signal.SIGKILL)
        assert len([one for one in room.events if one.get("id") == "hello"]) == 1
    assert not is_alive(pid)


async def _answers(server: Server, times: int) -> None:
    await eventually(lambda: server.said().count("agent answers user=demo") >= times, 30)


async def test_an_agent_ends_when_its_server_is_killed(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--agent", "demo") as server:
        await _answers(server, 1)
        assert server.process is not None
        (pid,) = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        server.process = None
        await eventually(lambda: not is_alive(pid))


async def test_replicas_are_started_and_ended_together_and_a_changed_file_starts_them_anew(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        flags = ("--replicas", "2", "--reload", "--room", "other")
        with AgentProcess(tmp_path, server, *flags, module=ECHO) as agent:
            await agent.answers(2)
            async with reading(server) as room, reading(server, "bob", "other") as other:
                assert (await room.answer(await room.ask("@bot hi")))["text"] == "first hi"
                assert (await other.answer(await other.ask("hi")))["text"] == "first hi"
                (tmp_path / "mine.py").write_text(ECHO.replace("first", "second"))
                await agent.answers(4)
                assert (await room.answer(await room.ask("hi")))["text"] == "second hi"
            assert agent.process is not None
            processes = children(agent.process.pid)
            assert len(processes) == 2
        assert not any(is_alive(pid) for pid in processes)
        assert "child ended" not in agent.said()


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["nothing"], "AGENT: 'nothing' is neither demo nor module:name, such as my_agents:agent"),
        (["no_such_module:agent"], "AGENT: importing no_such_module failed: ModuleNotFoundError: No module named"),
        (["os:path"], "AGENT: path of os is no Agent; give the name of one"),
        (["broken:agent"], "AGENT: importing broken failed: ZeroDivisionError: division by zero (/"),
        (["demo"], "--database: there is no log at 'data/chat.db'"),
        (["demo", "--token", "x"], "--token: is no token"),
        (["demo", "--replicas", "0"], "--replicas: 0 is not a whole number from 1 to 64"),
        (["no_such_module:agent", "--reload"], "AGENT: there is no module 'no_such_module' here"),
        (["demo", "--room", "A B"], "ROOM: "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, argv: list[str], error: str) -> None:
    (tmp_path / "broken.py").write_text("# an agent\n1 / 0\n")
    done = _run(tmp_path, *argv)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tornado-chat: error: {error}")
    assert "broken" not in line or line.endswith("/broken.py, line 2)")


def test_a_persons_token_is_not_taken(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        done = _run(tmp_path, "demo", "--url", server.url, TORNADO_CHAT_TOKEN=server.token("ann"))
        assert done.returncode == 2
        assert "is not an agent's; make one with tornado-chat token --agent" in done.stderr
        token = server.token("ann", agent=True, rooms=["elsewhere"], ttl=-1.0)
        done = _run(tmp_path, "demo", "--url", server.url, TORNADO_CHAT_TOKEN=token)
        assert done.returncode == 1
        assert "tornado-chat: error: the server will not have demo: " in done.stderr


def _run(cwd: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TORNADO_CHAT_")}
    return subprocess.run(
        [sys.executable, "-m", "tornado_chat", "agent", *argv],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
