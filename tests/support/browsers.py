"""Three real browsers, each with one tab in which scripts are run: Chromium, Firefox and WebKitGTK, as Debian has them.

The tests of the page have `chromium`, and people in it.
"""

from __future__ import annotations

import asyncio
import glob
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import httpx
from playwright.async_api import Page, async_playwright
from websockets.asyncio.client import ClientConnection, connect

from tests.support.chromium import ARGS, CHROMIUM
from tornado_chat.verify.ports import free_port

START_TIMEOUT = 30.0
TIMEOUT = 30.0

MINIBROWSER = "/usr/lib/*/webkit2gtk-4.1/MiniBrowser"


class Tab(Protocol):
    async def open(self, url: str) -> None:
        """Go there, and wait until it has loaded."""

    async def run(self, script: str) -> Any:
        """What `script` returns, as JSON: the body of an async function that is run in the page."""


Browser = Callable[[Path], AbstractAsyncContextManager[Tab]]
"""Starts one; the folder is for its files."""


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Tab]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield _ChromiumTab(await browser.new_page())
        await browser.close()


class _ChromiumTab:
    def __init__(self, page: Page) -> None:
        self.page = page

    async def open(self, url: str) -> None:
        await self.page.goto(url)

    async def run(self, script: str) -> Any:
        return await self.page.evaluate(f"async () => {{ {script} }}")


@asynccontextmanager
async def firefox(folder: Path) -> AsyncIterator[Tab]:
    """Driven by WebDriver BiDi (W3C), which it speaks by itself."""
    port = free_port()
    command = ["firefox-esr", "--headless", "--no-remote", "--profile", str(folder)]
    async with _running(*command, "--remote-debugging-port", str(port), HOME=str(folder)) as process:
        assert process.stderr is not None
        said = b""
        async with asyncio.timeout(START_TIMEOUT):
            while b"BiDi listening" not in said:
                said = await process.stderr.readline()
                assert said, "Firefox ended"
        async with connect(f"ws://127.0.0.1:{port}/session", proxy=None, max_size=None) as socket:
            tab = _FirefoxTab(socket)
            await tab.start()
            yield tab


class _FirefoxTab:
    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.context = ""
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        await self._ask("session.new", capabilities={})
        self.context = (await self._ask("browsingContext.getTree"))["contexts"][0]["context"]

    async def open(self, url: str) -> None:
        await self._ask("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def run(self, script: str) -> Any:
        expression = f"(async () => JSON.stringify(await (async () => {{ {script} }})()) ?? 'null')()"
        target = {"context": self.context}
        answer = await self._ask("script.evaluate", expression=expression, awaitPromise=True, target=target)
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    async def _ask(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        await self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(TIMEOUT):
            while (answer := json.loads(await self.socket.recv())).get("id") != number:
                pass
        assert answer["type"] == "success", answer
        return answer["result"]


@asynccontextmanager
async def webkit(folder: Path) -> AsyncIterator[Tab]:
    """Driven by WebDriver (W3C). It draws on a display that nobody sees."""
    port = free_port()
    async with _running("Xvfb", "-displayfd", "2", "-nolisten", "tcp") as screen:
        assert screen.stderr is not None
        display = b""
        async with asyncio.timeout(START_TIMEOUT):
            while not display.strip().isdigit():
                display = await screen.stderr.readline()
                assert display, "Xvfb ended"
        where = {"HOME": str(folder), "DISPLAY": f":{display.decode().strip()}"}
        driver = _running("WebKitWebDriver", "--host=127.0.0.1", f"--port={port}", **where)
        async with driver, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as client:
            await _until_ready(client)
            options = {"binary": glob.glob(MINIBROWSER)[0], "args": ["--automation"]}
            wanted = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}}
            session = (await client.post("/session", json=wanted)).raise_for_status().json()["value"]["sessionId"]
            yield _WebKitTab(client, f"/session/{session}")
            await client.delete(f"/session/{session}")


async def _until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            try:
                (await client.get("/status")).raise_for_status()
                return
            except httpx.TransportError:  # it does not listen yet
                await asyncio.sleep(0.02)


class _WebKitTab:
    def __init__(self, client: httpx.AsyncClient, session: str) -> None:
        self.client = client
        self.session = session

    async def open(self, url: str) -> None:
        await self._ask("url", url=url)

    async def run(self, script: str) -> Any:
        done = "(value) => done(JSON.stringify(value) ?? 'null'), (error) => done(`failed: ${error}`)"
        whole = f"const done = arguments[0]; (async () => {{ {script} }})().then({done})"
        answer = await self._ask("execute/async", script=whole, args=[])
        assert not answer.startswith("failed: "), answer
        return json.loads(answer)

    async def _ask(self, command: str, **params: Any) -> Any:
        answer = await self.client.post(f"{self.session}/{command}", json=params)
        assert answer.is_success, answer.text
        return answer.json()["value"]


@asynccontextmanager
async def _running(*command: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program, and whatever it starts, which ends with it. Standard error can be read."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()
