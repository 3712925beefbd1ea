"""An app in Node that has the client for JavaScript from its packed tarball, as one elsewhere has it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

CLIENT = ROOT / "tornado_chat" / "web" / "static" / "client"
DRIVER = ROOT / "tests" / "web" / "javascript" / "driver.js"
PATIENCE = 30.0
NPM_PATIENCE = 60.0
NODE = (20, 3)
"""The oldest that the client says it runs in."""


class AppError(Exception):
    """What the app's code threw: the code of a ChatError and its message."""


def node() -> str:
    """Node, if there is one that is new enough; else the test is skipped, but in CI."""
    found = shutil.which("node")
    version = (
        subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout if found else "none"
    )
    if found and tuple(map(int, re.findall(r"\d+", version)[:2])) >= NODE:
        return found
    assert os.environ.get("CI") != "true", "in CI there is a Node that is new enough"
    pytest.skip(f"the client for JavaScript wants Node 20.3 or newer, and here is {version.strip()}")


def npm(folder: Path, *command: str) -> str:
    done = subprocess.run(
        ["npm", *command], cwd=folder, capture_output=True, text=True, timeout=NPM_PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class App:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["id"])
            if "error" in answer:
                waiting.set_exception(AppError(f"{answer['error']}: {answer['message']}"))
            else:
                waiting.set_result(answer["value"])
        for waiting in self._waiting.values():
            waiting.set_exception(AssertionError("the app has ended"))

    async def run(self, code: str, argument: object = None) -> Any:
        """What the body of an async function of `app` and `argument` returns."""
        id = next(self._ids)
        self._waiting[id] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": id, "code": code, "argument": argument}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            return await self._waiting[id]

    async def until(self, condition: str) -> None:
        """Wait until an expression of `app` is true."""
        async with asyncio.timeout(PATIENCE):
            while not await self.run(f"return Boolean({condition})"):  # noqa: ASYNC110  # the app tells when it is asked
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        """No more lines come: a program that has closed its chats ends by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            assert await self.process.wait() == 0
            await self._reading


@asynccontextmanager
async def app(project: Path, **options: Any) -> AsyncIterator[App]:
    """The app, with a chat of these options as `app.chat`, which is closed in the end; then the app ends by itself.

    It has the WebSocket that Node has had for long, and gives to everybody since version 22.
    """
    process = await asyncio.create_subprocess_exec(
        node(),
        "--experimental-websocket",
        "--no-warnings",
        "driver.js",
        cwd=project,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    running = App(process)
    try:
        await running.run("app.chat = new app.Chat({ ...argument, storage: app.storage });", options)
        yield running
        await running.run("app.chat.close();")
        await running.end()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
