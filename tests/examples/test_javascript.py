"""examples/javascript: the program in Node and the page in Chromium, beside a real server and an agent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from tests.support import ROOT
from tests.support.chromium import SERVER_AWAY, Person
from tests.support.node_app import CLIENT, node
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Client

pytest_plugins = ["tests.support.chromium_fixtures", "tests.support.node_fixtures"]

EXAMPLES = ROOT / "examples" / "javascript"
PATIENCE = 30.0
WORKER = """(url) => {
  const code = `
    import { Chat } from "${url}";
    const chat = new Chat({ name: "Worker" });
    await chat.join("lobby").send("from a worker");
    chat.close();
  `;
  new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), { type: "module" });
}"""


async def test_the_program(project: Path, tmp_path: Path) -> None:
    (client,) = json.loads((EXAMPLES / "package.json").read_text())["dependencies"].values()
    assert (EXAMPLES / client.removeprefix("file:")).resolve() == CLIENT
    shutil.copy(EXAMPLES / "room.js", project)
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, token=server.token("bot", name="Bot", agent=True)) as bot:
            await bot.send("lobby", "before")
            await bot.join("lobby")
            variables = {"TORNADO_CHAT_URL": server.url, "TORNADO_CHAT_TOKEN": "", "USER": "Ann"}
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                node(), "room.js", cwd=project, env={**os.environ, **variables}, stdin=pipe, stdout=pipe
            )
            assert process.stdin is not None
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE):
                assert await process.stdout.readline() == b"Bot: before\n"
                process.stdin.write(b"hello\n@bot why?\n")
                assert await process.stdout.readline() == b"Ann: hello\n"
                assert await process.stdout.readline() == b"Ann: why?\n"
                async with bot.stream("lobby", id="re:3", reply_to=3) as reply:
                    await reply.write("Because of ")
                    assert await process.stdout.readexactly(11) == b"Because of "
                    await reply.write("that.")
                assert await process.stdout.readline() == b"that.\n"
                async with bot.stream("lobby") as reply:
                    await reply.write("not an answer")
                assert await process.stdout.readline() == b"Bot: not an answer\n"
                async with bot.stream("lobby", id="re:4", reply_to=4) as reply:
                    await reply.write("to somebody else")
                assert await process.stdout.readline() == b"Bot: to somebody else\n"
                process.stdin.close()
                assert await process.wait() == 0


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, as `python3 -m http.server` does, and says nothing of it."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The origin of a site with these files."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def test_the_page(browser: Browser, tmp_path: Path) -> None:
    """A page of another origin than the server's, by whose name the browser finds another server."""
    folder = tmp_path / "site"
    folder.mkdir()
    with site(folder) as origin, Server(tmp_path, *UNLIMITED, "--allowed-origins", origin) as server:
        page = (EXAMPLES / "index.html").read_text(encoding="utf-8")
        assert "http://127.0.0.1:8080/" in page
        (folder / "index.html").write_text(page.replace("http://127.0.0.1:8080", server.url), encoding="utf-8")
        anna = Person(browser, origin, "")
        bob = Person(browser, server.url, "Bob")
        expect(anna.page.locator("#state")).to_have_text("open, websocket")
        bob.say("hello")
        rows = anna.page.locator("#list li")
        expect(rows).to_have_text(["Bob: hello"])
        anna.page.evaluate(WORKER, f"{server.url}/static/client/index.js")
        expect(rows).to_have_text(["Bob: hello", "Worker: from a worker"])
        server.kill()
        expect(anna.page.locator("#state")).to_have_text("waiting")
        anna.page.locator("#text").fill("said meanwhile")
        anna.page.locator("button").click()
        server.start()
        expect(rows).to_have_text(["Bob: hello", "Worker: from a worker", "Guest: said meanwhile"])
        bob.shows("hello", "from a worker", "said meanwhile")
        anna.leave(SERVER_AWAY)
        bob.leave(SERVER_AWAY)
