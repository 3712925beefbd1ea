"""examples/htmx.html in Chromium behind Caddy: HTMX 2 with its SSE extension, and HTMX 4 with its own."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support import ROOT
from tests.support.node import packages
from tests.support.proxies import Proxy
from tests.support.servers import UNLIMITED, Server

pytest_plugins = ["tests.support.chromium_fixtures"]

JUDGES = ROOT / "tests" / "judges"
CDN = "https://cdn.jsdelivr.net/npm/"
HTMX4 = (
    ("htmx.org@2.0.11/dist/htmx.min.js", "htmx.org@4.0.1/dist/htmx.min.js"),
    ("htmx-ext-sse@2.2.4/dist/sse.min.js", "htmx.org@4.0.1/dist/ext/hx-sse.min.js"),
    ('hx-ext="sse" sse-connect=', "hx-sse:connect="),
    (' sse-swap="message"', ""),
    ("hx-on::after-request", "hx-on::after:request"),
    ("event.detail.successful", "event.detail.ctx.response?.status === 204"),
)
ATTACK = '<img src=x onerror="window.hacked=1"><b hx-get="/v1/session" hx-trigger="load">no</b>'


def caddy(port: int, folder: Path) -> Proxy:
    """As docs/integrations.md has it."""
    (text,) = re.findall(r"^```caddyfile\n(.*?)^```$", (ROOT / "docs/integrations.md").read_text(), re.DOTALL | re.M)
    for old, new in (
        ("http://localhost:8000 {", "http://127.0.0.1:{port} {"), ("127.0.0.1:8080", f"127.0.0.1:{port}"),
        ("root * examples", f"root * {folder}"),
    ):  # fmt: skip
        assert text.count(old) == 1
        text = text.replace(old, new)
    command = ["caddy", "run", "--config", "conf", "--adapter", "caddyfile"]
    return Proxy("{\nadmin off\n}\n" + text, lambda _: command)


class Reply:
    """A reply of an agent that grows as the test wants."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.text = ""
        self.token = server.token("helper", name="Helper", agent=True)

    def _ask(self, *commands: dict[str, Any]) -> Any:
        begin = {"type": "begin", "id": "reply", "room": "lobby"}
        headers = {"Authorization": f"Bearer {self.token}"}
        deadline = time.monotonic() + 30
        while True:
            answer = httpx.post(f"{self.server.url}/v1/commands", json=[begin, *commands], headers=headers, timeout=20)
            if answer.status_code != 503:  # as long as no worker is there
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        answer.raise_for_status()
        assert not any(one and one["type"] == "error" for one in answer.json()), answer.text
        return answer.json()

    def say(self, text: str) -> None:
        offset = self._ask()[0]["length"]
        assert offset == len(self.text)
        self._ask({"type": "append", "room": "lobby", "stream": "reply", "offset": offset, "text": text})
        self.text += text

    def finish(self) -> None:
        end = {"type": "finish", "id": "end", "room": "lobby", "stream": "reply", "reason": "done"}
        self._ask(end | {"length": len(self.text)})


def shows(page: Page, *texts: str) -> None:
    expect(page.locator("#messages .text")).to_have_text(list(texts), timeout=60_000, use_inner_text=False)
    assert page.locator("#messages .text").all_text_contents() == list(texts)


def say(page: Page, text: str) -> None:
    page.get_by_label("message", exact=True).fill(text)
    page.get_by_label("message", exact=True).press("Enter")
    expect(page.get_by_label("message", exact=True)).to_have_value("")


@pytest.mark.parametrize("changes", [(), HTMX4], ids=["htmx 2", "htmx 4"])
def test_a_room_without_a_script(changes: tuple[tuple[str, str], ...], browser: Browser, tmp_path: Path) -> None:
    installed = packages(JUDGES)
    html = (ROOT / "examples" / "htmx.html").read_text()
    for old, new in changes:
        assert html.count(old) == 1, old
        html = html.replace(old, new)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "htmx.html").write_text(html)

    def fulfil(route: Route) -> None:
        found = re.fullmatch(r"((?:@\w+/)?[\w.-]+)@([\d.]+)/(.*)", route.request.url[len(CDN) :])
        assert found is not None
        package, version, path = found.groups()
        folder = "htmx4" if version == "4.0.1" else package
        assert f'"version": "{version}"' in (installed / folder / "package.json").read_text()
        # With `path` a thread would read it, which stays.
        route.fulfill(body=(installed / folder / path).read_bytes(), content_type="text/javascript")

    server = Server(tmp_path, *UNLIMITED, "--workers", "2", expected=[r"worker ended .*signal=SIGKILL"])
    with server, caddy(server.port, tmp_path / "pages") as site:
        contexts = [browser.new_context() for _ in range(2)]
        for context in contexts:
            context.route(CDN + "**", fulfil)
        ann, bob = [context.new_page() for context in contexts]
        for page in (ann, bob):
            with page.expect_response("**/v1/session"):
                page.goto(f"{site.url}/htmx.html")
        ann.get_by_label("your name").fill("Ann")
        with ann.expect_response("**/v1/session"):
            ann.get_by_label("your name").press("Tab")
        say(ann, "hello, Bob")
        say(bob, ATTACK)
        shows(ann, "hello, Bob", ATTACK)
        shows(bob, "hello, Bob", ATTACK)
        assert bob.locator("#m1 .name").text_content() == "Ann"
        assert bob.locator("#m1").evaluate("one => getComputedStyle(one).paddingLeft") == "12px", "Tailwind was there"
        reply = Reply(server)
        reply.say("A reply\n")
        reply.say("that grows")
        for page in (ann, bob):
            shows(page, "hello, Bob", ATTACK, "A reply\nthat grows")
        assert ann.locator("#m3.agent .streaming").count() == 1
        before = server.workers()
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        wait(lambda: len(set(server.workers()) - set(before)) == 2)
        reply.say(" on, with other workers")
        for page in (ann, bob):
            shows(page, "hello, Bob", ATTACK, reply.text)
        bob.reload()
        shows(bob, "hello, Bob", ATTACK, reply.text)  # HTMX 4 tries again only what was connected once
        server.kill()
        time.sleep(1)
        server.start()
        reply.say(", and after the server was away.")
        reply.finish()
        say_when_back(ann, "I am back")
        for page in (ann, bob):
            shows(page, "hello, Bob", ATTACK, reply.text, "I am back")
            assert page.locator("#m3 .done").count() == 1
            assert page.evaluate("window.hacked") is None
            assert page.locator("#messages :is(img, .text *)").count() == 0
        for context in contexts:
            context.close()


def say_when_back(page: Page, text: str) -> None:
    """The proxy may still answer for the server: who is not answered says it again."""
    page.get_by_label("message", exact=True).fill(text)
    for _ in range(20):
        page.get_by_label("message", exact=True).press("Enter")
        page.wait_for_timeout(300)
        if not page.get_by_label("message", exact=True).input_value():
            return
    raise AssertionError("nobody took it")


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
