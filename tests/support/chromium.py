"""A real Chromium, and people who use the page in it."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

CHROMIUM = "/usr/bin/chromium"
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

NOT_LET_IN = r"the server responded with a status of 401"
SERVER_AWAY = r"WebSocket connection to|net::ERR_(CONNECTION|EMPTY|INCOMPLETE)|Failed to load resource"

expect.set_options(timeout=15_000)


class Person:
    """Someone at a browser of their own. Whatever the console says in error is kept in `errors`."""

    def __init__(self, browser: Browser, url: str, name: str, *, room: str = "lobby", **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.errors: list[str] = []
        self.context.on("console", self._said)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.url = url
        self.name = name
        self.page = self.tab(room)
        if name:
            self.page.locator("#name-input").fill(name)
            self.page.locator("#name-go").click()
            self.live()

    def sign_in(self, token: str) -> None:
        """In the dialog that comes first: who is asked for a name, or for a token, has said nothing yet."""
        self.page.locator("dialog[open]").wait_for()
        if self.page.locator("#name-dialog").is_visible():
            self.page.locator("#name-token").click()
        self.page.locator("#token-input").fill(token)
        self.page.locator("#token-form .primary").click()
        self.live()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def tab(self, room: str = "lobby") -> Page:
        """A tab of this browser at `room`."""
        page = self.context.new_page()
        page.goto(f"{self.url}/#{room}")
        return page

    def live(self) -> None:
        """Connected, and nothing is missing. After several failures the page waits up to 30 s by itself."""
        expect(self.page.locator("#status")).to_have_attribute("data-kind", "live", timeout=40_000)

    def offline(self) -> None:
        expect(self.page.locator("#status")).not_to_have_attribute("data-kind", "live")

    def say(self, *texts: str) -> None:
        for text in texts:
            self.page.locator("#text").fill(text)
            self.page.locator("#text").press("Enter")

    def row(self, text: str) -> Locator:
        """The message with exactly this text, which is plain."""
        words = re.compile(r"^\s*" + r"\s+".join(map(re.escape, text.split())) + r"\s*$")
        return self.page.locator("li.message").filter(has=self.page.locator(".text", has_text=words))

    def texts(self) -> list[str]:
        return self.page.locator("li.message .text").all_inner_texts()

    def shows(self, *texts: str) -> None:
        """These and no others, in this order, none of them on its way still."""
        expect(self.page.locator("li.message .text")).to_have_text(list(texts))
        expect(self.page.locator("li.pending .fate")).to_have_count(0)

    def tool(self, text: str, tool: str) -> None:
        self.row(text).hover()
        self.row(text).locator(f'.toolbar [data-do="{tool}"]').click()

    def leave(self, *expected: str) -> None:
        """Close the browser; fail for errors on its console other than those expected."""
        self.context.close()
        assert not [error for error in self.errors if not any(re.search(pattern, error) for pattern in expected)]


# Speaks to the server as another program would, through a WebSocket of its own.
ANOTHER = """async ([url, commands, wanted]) => {
  const socket = new WebSocket(url.replace("http", "ws") + "/ws?name=Another", "chat.v1.json");
  const frames = [];
  const answers = new Promise((resolve, reject) => {
    socket.onclose = reject;
    socket.onmessage = ({ data }) => {
      frames.push(JSON.parse(data));
      if (frames.filter(({ type }) => type === wanted).length === (wanted === "ack" ? commands.length : 1)) resolve();
    };
  });
  await new Promise((resolve) => { socket.onopen = resolve; });
  commands.forEach((command, at) => socket.send(JSON.stringify({ id: `${Date.now()}.${at}`, ...command })));
  await answers;
  socket.close();
  return frames;
}"""


def another(page: Page, url: str, commands: list[dict[str, Any]], wanted: str = "ack") -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = page.evaluate(ANOTHER, [url, commands, wanted])
    return frames


def fill_room(page: Page, url: str, count: int, room: str = "lobby") -> list[str]:
    texts = [f"message {number}" for number in range(1, count + 1)]
    another(page, url, [{"type": "send", "room": room, "text": text} for text in texts])
    return texts


def in_the_log(page: Page, url: str, room: str = "lobby") -> list[str]:
    frames = another(page, url, [{"type": "join", "room": room, "after": 0}], "synced")
    return [frame["text"] for frame in frames if frame["type"] == "message"]
