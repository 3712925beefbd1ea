"""examples/ask.html, openai_client.py and ai_sdk_chat.mjs, each beside a real server with the agent demo."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support import ROOT
from tests.support.node import packages
from tests.support.servers import UNLIMITED, Server

pytest_plugins = ["tests.support.chromium_fixtures"]

EXAMPLES = ROOT / "examples"


@contextmanager
def files() -> Iterator[str]:
    """The address of a web server of its own for the examples."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(EXAMPLES))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_the_page_asks_by_eventsource_from_elsewhere(browser: Browser, tmp_path: Path) -> None:
    with (
        files() as elsewhere,
        Server(tmp_path, *UNLIMITED, "--agent", "demo", "--allowed-origins", elsewhere) as server,
    ):
        page = browser.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{elsewhere}/ask.html?server={server.url}")
        page.wait_for_load_state("networkidle")
        for question in ("/list", "/help"):
            page.get_by_label("Your question").fill(question)
            page.get_by_role("button").click()
            expect(page.locator("#status")).to_have_text("done", timeout=30_000)
            expect(page.locator("#answer")).to_contain_text("clever" if question == "/list" else "what you write")
            page.locator("#status").evaluate("(status) => { status.textContent = ''; }")
        for said, status, shown in ("/ask", "asks", "What is your favourite colour?"), ("blue", "done", "a good one"):
            page.get_by_label("Your question").fill(said)
            page.get_by_role("button").click()
            expect(page.locator("#status")).to_have_text(status, timeout=30_000)
            expect(page.locator("#answer")).to_contain_text(shown)
        assert not [error for error in errors if "favicon" not in error and "404" not in error], errors
        page.close()


def said(*command: str | Path, server: Server) -> str:
    run = subprocess.run(
        command,
        env={**os.environ, "CHAT_URL": server.url, "CHAT_TOKEN": server.token("ann")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


def test_the_client_of_openai(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--agent", "demo") as server:
        output = said(sys.executable, EXAMPLES / "openai_client.py", "/list", server=server)
    assert output.count("clever") == 2
    assert "completed; anybody" in output


def test_the_chat_by_the_ai_sdk(tmp_path: Path) -> None:
    program = packages(ROOT / "tests" / "judges" / "ai_sdk") / "ai_sdk_chat.mjs"  # beside the package that it imports
    shutil.copy(EXAMPLES / "ai_sdk_chat.mjs", program)
    with Server(tmp_path, *UNLIMITED, "--agent", "demo") as server:
        assert "clever" in said("node", program, "/list", server=server)
