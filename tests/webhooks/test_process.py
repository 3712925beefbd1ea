"""The process that delivers, beside a real server: killed in the middle, and how one sees that something is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.chat import eventually
from tests.support.raw_chat import get
from tests.support.receivers import Receiver
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import samples
from tornado_chat.cli import main
from tornado_chat.client import Client
from tornado_chat.log.opening import open_log
from tornado_chat.verify.processes import is_alive

TIMEOUT = 30.0
KILLED = "child ended name=webhooks how=SIGKILL"


def webhook(path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command `webhook`, on the log of a server whose files are in `path`."""
    return subprocess.run(
        [sys.executable, "-m", "tornado_chat", "webhook", *argv, "--database", f"sqlite:///{path}/chat.db"],
        cwd=path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


async def added(path: Path, receiver: Receiver, *flags: str) -> None:
    result = await asyncio.to_thread(webhook, path, "add", receiver.url, *flags)
    assert (result.returncode, result.stderr) == (0, ""), result
    found = re.fullmatch(r"webhook \d+ is told of what is said from now on\nsecret: (whsec_\S+)\n", result.stdout)
    assert found is not None
    receiver.secrets.append(found[1])


async def made(path: Path) -> None:
    """An empty log."""
    log = await open_log(f"sqlite:///{path}/chat.db")
    await log.close()


def pids(server: Server) -> list[int]:
    return [int(pid) for pid in re.findall(r"child started name=webhooks pid=(\d+)", server.said())]


async def started(server: Server, times: int) -> None:
    await eventually(lambda: len(pids(server)) >= times, TIMEOUT)


async def told(receiver: Receiver, count: int) -> None:
    await eventually(lambda: len(receiver.told) >= count, TIMEOUT)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_killed_in_the_middle_nothing_is_missing_or_out_of_order(tmp_path: Path, workers: str) -> None:
    receiver = Receiver()
    await made(tmp_path)
    await added(tmp_path, receiver, "--rooms", "a,b")
    expected = [KILLED, r"worker ended worker=\d+ pid=\d+"]
    try:
        with Server(tmp_path, *UNLIMITED, "--workers", workers, expected=expected) as server:
            sent = 0
            for life in range(3):
                await started(server, life + 1)
                async with Client(server.url, name="ann") as chat:
                    for _ in range(40):
                        sent += 1
                        await chat.send("a", f"{sent}")
                        await chat.send("b", f"{sent}")
                    await told(receiver, len(receiver.told) + 5)
                    if life == 0:
                        os.kill(pids(server)[-1], signal.SIGKILL)
                    elif life == 1:
                        server.restart()
            await eventually(lambda: len(receiver.taken()) == 2 * sent, TIMEOUT)
            assert not any(is_alive(pid) for pid in pids(server)[:-1])
            last = pids(server)[-1]
        assert not is_alive(last), "it ends with its server"
    finally:
        await receiver.close()
    for room in "a", "b":
        assert [told.place[1] for told in receiver.taken(room)] == list(range(1, sent + 1))
        assert [told.body["data"]["text"] for told in receiver.taken(room)] == [str(n) for n in range(1, sent + 1)]
    by_place: dict[Any, set[str]] = {}
    for one in receiver.told:
        by_place.setdefault(one.place, set()).add(one.id)
    assert all(len(ids) == 1 for ids in by_place.values()), "what is told again has the id that it had"


async def test_how_trouble_is_seen(tmp_path: Path) -> None:
    gone, well = Receiver(lambda body: 410), Receiver()
    expected = ["webhook refused webhook=1", "webhook given up webhook=1"]
    try:
        with Server(tmp_path, *UNLIMITED, "--workers", "2", expected=expected) as server:
            await added(tmp_path, gone)
            await added(tmp_path, well, "--events", "message")
            async with Client(server.url, name="ann") as chat:
                await chat.send("a", "one")

                def degraded() -> bool:
                    return b'"degraded":["webhooks"]' in get(server.port, "/readyz")

                await eventually(degraded, TIMEOUT)
                assert b"200 OK" in get(server.port, "/readyz"), "clients need not know of it"
                assert samples(server.port, "tornado_chat_webhooks") == {"": 2}
                await eventually(lambda: samples(server.port, "tornado_chat_webhooks_given_up") == {"": 1}, TIMEOUT)
                await eventually(lambda: len(well.taken()) == 1)
                result = await asyncio.to_thread(webhook, tmp_path, "list", "--json")
                one, two = json.loads(result.stdout)
                behind = {"events": 1, "rooms": 1}
                assert "whsec_" not in result.stdout
                assert (one["state"], one["error"], one["behind"]) == ("given up", "HTTP 410", behind)
                assert (two["state"], two["error"], two["behind"]) == ("active", None, {"events": 0, "rooms": 0})
                shown = (await asyncio.to_thread(webhook, tmp_path, "list")).stdout
                assert f"1  {gone.url}  given up\n" in shown
                assert "    behind: 1 events in 1 rooms\n" in shown
                gone.answer = lambda body: 204
                assert (await asyncio.to_thread(webhook, tmp_path, "resume", "1")).returncode == 0
                await eventually(lambda: len(gone.taken()) == 1, TIMEOUT)
                assert [told.id for told in gone.told] == [gone.told[0].id] * 2
    finally:
        await gone.close()
        await well.close()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*argv: str) -> str:
        """What the command prints; its one line of error where it fails."""
        code = main(["webhook", *argv, "--database", f"sqlite:///{tmp_path}/chat.db"])
        output, errors = capsys.readouterr()
        if code:
            assert (output, len(errors.splitlines())) == ("", 1)
            assert errors.startswith("tornado-chat: error: ")
            return errors
        assert errors == ""
        return output

    assert "there is no log at" in run("list")
    asyncio.run(made(tmp_path))
    assert "there are none" in run("list")
    for url in "ftp://example.org/", "example.org/x", "http://me:pw@example.org/", "https://example.org/ x":
        assert "error: URL: " in run("add", url)
    url = "https://example.org/x"
    assert "error: --rooms: 'A*' is no pattern" in run("add", url, "--rooms", "a,A*")
    assert "error: --events: 'read' is none of message, " in run("add", url, "--events", "read")
    for action in "remove", "resume", "rotate":
        assert "error: there is no webhook 7" in run(action, "7")
    assert "webhook 1 is told" in run("add", url, "--rooms", "team-*", "--events", "message,finished")
    (found,) = json.loads(run("list", "--json"))
    assert (found["id"], found["rooms"], found["events"]) == (1, ["team-*"], ["message", "finished"])
    assert "secret: whsec_" in run("rotate", "1")
    assert run("resume", "1", "--skip") == "webhook 1 goes on behind what it refused\n"
    assert run("remove", "1") == "webhook 1 is removed\n"
    assert json.loads(run("list", "--json")) == []
