"""examples/chainlit_app.py in Chromium, beside a real server and an agent.

Chainlit has a virtual environment of its own: it pins what others here need otherwise (mcp 1).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import ROOT
from tests.support.agents import AgentProcess
from tests.support.servers import UNLIMITED, Server
from tornado_chat.verify.ports import free_port

pytest_plugins = ["tests.support.chromium_fixtures"]

PYTHON = Path(sys.prefix) / "chainlit" / "bin" / "python"
AGENT = """
import asyncio

from tornado_chat.agents import Agent

agent = Agent("helper")


@agent.on_mention
async def answer(ctx, message):
    for number in range(1, 2000 if "long" in message.text else 6):
        yield f"word{number} "
        await asyncio.sleep(0.1)
"""


@contextmanager
def chainlit(server: Server, folder: Path) -> Iterator[str]:
    """Its address."""
    if not PYTHON.exists():
        pytest.skip("Chainlit is not installed: `make .venv/installed-chainlit` does that")
    port = free_port()
    environment = {
        "PYTHONPATH": str(ROOT),
        "TORNADO_CHAT_URL": server.url,
        "AGENT": "helper",
        "CHAINLIT_APP_ROOT": str(folder),
        "HOME": str(folder),
    }
    program = [str(PYTHON), "-m", "chainlit", "run", str(ROOT / "examples" / "chainlit_app.py"), "--headless"]
    with (folder / "chainlit.out").open("wb") as output:
        process = subprocess.Popen(
            [*program, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "chainlit.out").read_text()
            assert time.monotonic() < deadline, (folder / "chainlit.out").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
    said = (folder / "chainlit.out").read_text()
    assert "Traceback" not in said, said


def say(page: Page, text: str) -> None:
    page.locator("#chat-input").fill(text)
    page.locator("#chat-input").press("Enter")


def test_its_conversation_is_a_room(browser: Browser, tmp_path: Path) -> None:
    with (
        Server(tmp_path, *UNLIMITED) as server,
        AgentProcess(tmp_path, server, module=AGENT),
        chainlit(server, tmp_path) as url,
    ):
        bob = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token('bob', name='Bob')}"})
        room = "/v1/rooms/lobby/messages"
        with bob:
            bob.post(room, json={"text": "I was here before"}).raise_for_status()
            pages = [browser.new_page() for _ in range(2)]
            for page in pages:
                page.goto(url)
                expect(page.get_by_text("I was here before")).to_be_visible(timeout=30_000)
            say(pages[0], "tell us")
            whole = "word1 word2 word3 word4 word5"
            for page in pages:
                expect(page.get_by_text(whole)).to_have_count(1, timeout=30_000)
                expect(page.get_by_text("tell us", exact=True)).to_have_count(1)
            bob.post(room, json={"text": "and so say I"}).raise_for_status()
            for page in pages:
                expect(page.get_by_text("and so say I")).to_be_visible()
            say(pages[0], "something long")
            expect(pages[1].get_by_text("word6 word7")).to_be_visible(timeout=30_000)
            pages[0].locator("#stop-button").click()
            last = bob.get(room, params={"limit": 1})
            deadline = time.monotonic() + 20
            while "streaming" in last.json()["messages"][0]:
                assert time.monotonic() < deadline
                last = bob.get(room, params={"limit": 1})
            text = last.json()["messages"][0]["text"].strip()
            assert 6 < len(text.split()) < 1999
            for page in pages:
                expect(page.get_by_text(text)).to_have_count(1)
                page.close()
