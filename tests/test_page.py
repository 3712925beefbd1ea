"""The page in a real Chromium, against the real server."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, WebSocketRoute, expect, sync_playwright
from servers import UNLIMITED, Server

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
SERVER_AWAY = r"WebSocket connection to|net::ERR_(CONNECTION|EMPTY|INCOMPLETE)|Failed to load resource"
MOST_ROWS = 500

expect.set_options(timeout=8_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


class Person:
    """Someone at a browser of their own. Whatever the console says in error is kept in `errors`."""

    def __init__(self, browser: Browser, url: str, name: str, *, room: str = "lobby", **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.context.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.url = url
        self.name = name
        self.errors: list[str] = []
        self.page = self.tab(room)
        if name:
            self.page.locator("#name-input").fill(name)
            self.page.locator("#name-go").click()
            self.live()

    def tab(self, room: str = "lobby") -> Page:
        """A tab of this browser at `room`."""
        page = self.context.new_page()
        page.goto(f"{self.url}/#{room}")
        return page

    def live(self) -> None:
        expect(self.page.locator("#status")).to_have_attribute("data-kind", "live")

    def offline(self) -> None:
        expect(self.page.locator("#status")).not_to_have_attribute("data-kind", "live")

    def say(self, *texts: str) -> None:
        for text in texts:
            self.page.locator("#text").fill(text)
            self.page.locator("#text").press("Enter")

    def row(self, text: str) -> Locator:
        """The one message with exactly this text."""
        exactly = self.page.get_by_text(text, exact=True)
        return self.page.locator(
            "li.message",
            has=self.page.locator(".text", has=exactly).or_(exactly.locator("xpath=self::*[contains(@class,'text')]")),
        )

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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, *UNLIMITED) as server:
        yield server


def test_two_people_chat(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    anna.page.locator("#text").press_sequentially("Hello")
    expect(bob.page.locator("#typing")).to_have_text("Anna is typing")
    anna.page.locator("#text").press("Shift+Enter")
    anna.page.locator("#text").press_sequentially("there")
    anna.page.locator("#text").press("Enter")
    expect(bob.page.locator("#typing")).to_have_text("")
    bob.shows("Hello\nthere")
    expect(bob.page.locator("li.message .name")).to_have_text("Anna")
    expect(bob.page.locator("#live")).to_have_text("Anna: Hello there")
    expect(anna.page.locator("#seen")).to_have_text("Seen by Bob")

    bob.tool("Hello\nthere", "reply")
    bob.say("Hi")
    anna.shows("Hello\nthere", "Hi")
    expect(anna.row("Hi").locator(".quote")).to_have_text("Anna Hello there")
    anna.row("Hi").locator(".quote").click()
    expect(anna.row("Hello\nthere")).to_be_focused()
    expect(anna.page.locator("#list .day")).to_have_text(["Today"])
    anna.leave()
    bob.leave()


def test_text_is_never_markup(browser: Browser, server: Server) -> None:
    name = "<b>Eve</b>"
    eve, bob = Person(browser, server.url, name), Person(browser, server.url, "Bob")
    texts = (
        '<img src=x onerror="window.hacked = 1">',
        "<script>window.hacked = 1</script>",
        "javascript:window.hacked=1 data:text/html,x",
        "look: https://example.org/a_(b)?c=<d>, and HTTP://example.net.",
    )
    eve.say(*texts)
    bob.shows(*texts)
    assert bob.page.locator("li.message .name").first.inner_text() == name
    assert bob.page.locator("#list img, #list script, .name b").count() == 0
    links = bob.page.locator("#list a")
    assert links.all_inner_texts() == ["https://example.org/a_(b)?c=", "HTTP://example.net"]
    for link in links.all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        assert link.get_attribute("target") == "_blank"
    assert bob.page.evaluate("window.hacked") is None
    eve.leave()
    bob.leave()


def test_edits_deletions_and_reactions_are_seen_by_others(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    anna.say("frist", "second")
    anna.shows("frist", "second")
    anna.tool("frist", "edit")
    assert anna.page.locator("#text").input_value() == "frist"
    anna.say("first")
    expect(bob.page.locator("li.message .text")).to_have_text(["first (edited)", "second"])

    bob.shows("first (edited)", "second")
    bob.row("second").hover()
    expect(bob.row("second").locator('[data-do="reply"]')).to_be_visible()
    expect(bob.row("second").locator('[data-do="edit"]')).to_be_hidden()  # another's
    bob.tool("second", "picker")
    bob.row("second").locator(".picker button").nth(3).click()
    chip = anna.row("second").locator(".chip")
    expect(chip).to_have_text("🎉 1")
    expect(chip).to_have_attribute("aria-pressed", "false")
    chip.click()
    expect(bob.row("second").locator(".chip")).to_have_text("🎉 2")
    expect(bob.row("second").locator(".chip")).to_have_attribute("title", re.compile("you"))
    chip.click()
    expect(bob.row("second").locator(".chip")).to_have_text("🎉 1")

    anna.tool("second", "delete")
    anna.page.locator("#delete-keep").click()
    anna.tool("second", "delete")
    anna.page.locator("#delete-form .danger").click()
    gone = "This message was deleted."
    for person in (anna, bob):
        expect(person.page.locator("li.message .text")).to_have_text(["first (edited)", gone])
    carl = Person(browser, server.url, "Carl")
    expect(carl.page.locator("li.message .text")).to_have_text(["first (edited)", gone])
    expect(carl.page.locator(".chip")).to_have_count(0)
    for person in (anna, bob, carl):
        person.leave()


def test_it_works_by_keyboard(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    anna.say("one", "two")
    anna.shows("one", "two")
    anna.page.locator("#text").press("ArrowUp")  # edits what was said last
    assert anna.page.locator("#text").input_value() == "two"
    anna.page.keyboard.press("Escape")
    assert anna.page.locator("#text").input_value() == ""
    anna.page.keyboard.press("Shift+Tab")
    for _ in range(9):  # past the tools of the last message, to the message itself
        if anna.page.evaluate("document.activeElement.matches('li.message')"):
            break
        anna.page.keyboard.press("Shift+Tab")
    expect(anna.row("two")).to_be_focused()
    anna.page.keyboard.press("ArrowUp")
    expect(anna.row("one")).to_be_focused()
    anna.page.keyboard.press("Tab")
    anna.page.keyboard.press("Enter")
    anna.page.keyboard.press("ArrowRight")
    anna.page.keyboard.press("Enter")
    expect(anna.row("one").locator(".chip")).to_have_text("❤️ 1")
    anna.leave()


def test_scrolling_back_loads_the_history_and_stays_in_place(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna", room="other")
    texts = fill_room(anna.page, server.url, 900)
    page = anna.page
    page.goto(f"{server.url}/#lobby")
    expect(anna.row("message 900")).to_be_in_viewport()
    assert anna.texts() == texts[-len(anna.texts()) :]
    assert len(anna.texts()) < 200

    # A message in sight stays where it is while older ones come above it.
    page.locator("#scroller").evaluate("scroller => { scroller.scrollTop = 400; }")
    moved = page.evaluate(
        """async () => {
          const scroller = document.getElementById("scroller");
          const top = scroller.getBoundingClientRect().top;
          const seen = [...document.querySelectorAll("li.message")].find((row) => row.getBoundingClientRect().top > top);
          const [before, rows] = [seen.getBoundingClientRect().top, seen.parentNode.children.length];
          while (seen.parentNode.children.length === rows) await new Promise(requestAnimationFrame);
          return seen.getBoundingClientRect().top - before;
        }"""
    )
    assert abs(moved) < 2
    expect(page.locator("#jump")).to_be_visible()

    for _ in range(200):
        page.locator("#scroller").evaluate("scroller => { scroller.scrollTop = 0; }")
        page.evaluate("new Promise(requestAnimationFrame)")
        assert page.locator("#list > li").count() <= MOST_ROWS
        if page.locator("#top").inner_text() == "This is the beginning of #lobby.":
            break
    expect(page.locator("#top")).to_have_text("This is the beginning of #lobby.")
    page.locator("#scroller").evaluate("scroller => { scroller.scrollTop = 0; }")
    shown = anna.texts()
    assert shown == texts[: len(shown)]

    # What is new does not move who reads above; one press leads to it.
    another(page, server.url, [{"type": "send", "room": "lobby", "text": "news"}])
    expect(page.locator("#jump")).to_have_text("1 new message")
    assert anna.texts() == shown
    page.locator("#jump").click()
    expect(anna.row("news")).to_be_in_viewport()
    expect(page.locator("#jump")).to_be_hidden()

    # Back and forth through the whole: each message once.
    for _ in range(200):
        page.locator("#scroller").evaluate("scroller => { scroller.scrollTop = 0; }")
        page.evaluate("new Promise(requestAnimationFrame)")
        if anna.texts()[0] == "message 1":
            break
    expect(anna.row("message 1")).to_be_attached()
    for _ in range(200):
        page.locator("#scroller").evaluate("scroller => { scroller.scrollTop = scroller.scrollHeight; }")
        page.evaluate("new Promise(requestAnimationFrame)")
        shown = anna.texts()
        assert shown == [*texts, "news"][901 - len(shown) :] or shown == texts[texts.index(shown[0]) :][: len(shown)]
        if page.locator("#jump").is_hidden():
            break
    assert shown[-1] == "news"
    anna.leave()


def test_kill_and_restart_loses_and_doubles_nothing(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    said: list[str] = []
    for round in range(3):
        people = (anna, bob) if round % 2 else (bob, anna)
        for number in range(5):
            texts = [f"{round}.{number} of {person.name}" for person in people]
            for person, text in zip(people, texts, strict=True):
                person.say(text)
                said.append(text)
        server.kill()  # most likely between a commit and its ack
        anna.say(f"{round}: written while it was down")
        anna.offline()
        anna.say(f"{round}: and another")
        said += [f"{round}: written while it was down", f"{round}: and another"]
        expect(anna.page.locator("li.pending .fate").last).to_be_visible()
        server.start()
        for person in (anna, bob):
            person.live()
            expect(person.page.locator("li.pending")).to_have_count(0)
            expect(person.page.locator("li.message")).to_have_count(len(said))
    log = in_the_log(anna.page, server.url)
    assert sorted(log) == sorted(said)
    assert anna.texts() == log
    assert bob.texts() == log
    for name in ("Anna", "Bob"):
        own = [text for text in said if text.endswith(name)]
        assert [text for text in log if text.endswith(name)] == own  # in the order of typing
    anna.leave(SERVER_AWAY)
    bob.leave(SERVER_AWAY)


def test_an_orderly_restart_is_waited_for(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    server.stop()  # closes with 1012 and retry_after_ms
    expect(anna.page.locator("#status")).to_have_text(re.compile("Offline|Connecting"))
    anna.say("meanwhile")
    server.start()
    anna.shows("meanwhile")
    anna.live()
    anna.leave(SERVER_AWAY)


def test_what_is_not_sent_survives_a_reload(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    anna.say("before")
    anna.shows("before")
    server.kill()
    anna.offline()
    anna.say("unsent", "unsent too")
    anna.page.locator("#text").fill("half a tho")
    anna.page.goto("about:blank")  # nothing of the page is left when the server comes back
    server.start()
    anna.page.goto(server.url)
    anna.shows("before", "unsent", "unsent too")
    assert anna.page.locator("#text").input_value() == "half a tho"
    assert in_the_log(anna.page, server.url) == ["before", "unsent", "unsent too"]
    anna.leave(SERVER_AWAY)


def test_an_ack_that_never_came_is_no_second_message(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "", room="lobby")

    def deaf(route: WebSocketRoute) -> None:
        real = route.connect_to_server()
        real.on_message(lambda frame: None if json.loads(frame)["type"] in ("ack", "message") else route.send(frame))

    anna.page.route_web_socket(re.compile("/ws"), deaf)
    anna.page.reload()
    anna.page.locator("#name-input").fill("Anna")
    anna.page.locator("#name-go").click()
    anna.live()
    anna.say("once", "and only once")
    expect(anna.row("once").locator(".fate")).to_have_text("Sending…")
    bob = Person(browser, server.url, "Bob")
    bob.shows("once")  # the second waits for the ack of the first
    state = anna.page.evaluate("JSON.parse(sessionStorage['tornado-chat.outbox'])")
    assert [item["command"]["text"] for item in state] == ["once", "and only once"]

    again = anna.context.new_page()  # what a duplicated tab is: the same session storage
    again.goto(f"{server.url}/healthz")
    again.evaluate("kept => Object.assign(sessionStorage, kept)", anna.page.evaluate("({ ...sessionStorage })"))
    anna.page.close()
    anna.page = again
    anna.page.goto(server.url)
    anna.shows("once", "and only once")
    bob.shows("once", "and only once")
    anna.leave("404")  # no icon for a text
    bob.leave()


def test_two_tabs_of_one_guest(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    first, second = anna.page, anna.tab()
    anna.say("from the first")
    anna.page = second
    anna.live()
    anna.say("from the second")
    anna.shows("from the first", "from the second")
    anna.tool("from the first", "edit")  # the same user, so it is her own
    anna.say("edited in the second")
    for anna.page in (first, second):
        expect(anna.page.locator("li.message .text")).to_have_text(["edited in the second (edited)", "from the second"])
    anna.page.locator("#me").click()
    anna.page.locator("#name-input").fill("Anna Berg")
    anna.page.locator("#name-go").click()
    expect(anna.page.locator("#me b")).to_have_text("Anna Berg")
    anna.live()
    anna.say("under a new name")
    expect(anna.page.locator("li.mine .name").last).to_have_text("Anna Berg")
    anna.tool("edited in the second (edited)", "edit")  # still the same user
    anna.leave()


def test_rooms_are_switched_and_show_what_is_unread(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    anna.page.locator("#enter-name").fill("Side Room")
    anna.page.locator("#enter-name").press("Enter")
    expect(anna.page.locator("#title")).to_have_text("#side-room")
    expect(anna.page.locator("#top")).to_contain_text("Nobody has said anything here yet.")
    assert anna.page.url.endswith("/#side-room")
    bob.say("one", "two")
    badge = anna.page.locator("#rooms .badge")
    expect(badge).to_have_text("2 unread")
    expect(anna.page).to_have_title("(2) #side-room · Chat")
    anna.page.locator("#enter-name").fill("ümlaut")
    anna.page.locator("#enter-name").press("Enter")
    expect(anna.page.locator("#enter-error")).to_be_visible()
    anna.page.locator("#rooms a", has_text="lobby").click()
    anna.shows("one", "two")
    expect(badge).to_have_count(0)
    expect(anna.page).to_have_title("#lobby · Chat")
    anna.page.go_back()
    expect(anna.page.locator("#title")).to_have_text("#side-room")
    bob.say("three")
    expect(badge).to_have_text("1 unread")
    anna.page.reload()
    expect(badge).to_have_text("1 unread")  # the mark is on the server, the rooms are in the browser
    expect(anna.page.locator("#rooms a")).to_have_text(["#lobby1 unread", "#side-room"])
    anna.page.locator("#rooms li", has_text="side-room").hover()
    anna.page.get_by_label("Leave side-room").click()
    expect(anna.page.locator("#title")).to_have_text("#lobby")
    expect(anna.page.locator("#rooms a")).to_have_count(1)
    anna.leave()
    bob.leave()


def test_a_token_that_is_no_good_locks_nobody_out(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "")
    foreign = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJndWVzdC14IiwiZXhwIjo5OTk5OTk5OTk5fQ.c2lnbmF0dXJl"
    anna.page.evaluate(
        """token => {
          localStorage["tornado-chat.token"] = JSON.stringify(token);
          localStorage["tornado-chat.name"] = JSON.stringify("Anna");
        }""",
        foreign,
    )
    anna.page.reload()
    anna.live()
    assert anna.page.evaluate("localStorage['tornado-chat.token']") != json.dumps(foreign)
    anna.say("in")
    anna.shows("in")
    anna.leave(SERVER_AWAY)


def test_without_guests_one_signs_in_with_a_token(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--no-guests") as server:
        alice = Person(browser, server.url, "")
        alice.page.locator("#name-token").click()
        alice.page.locator("#token-input").fill("nonsense")
        alice.page.locator("#token-input").press("Tab")
        alice.page.locator("#token-form .primary").click()
        expect(alice.page.locator("#token-error")).to_contain_text("not a token")
        alice.page.locator("#token-input").fill(server.token("alice", name="Alice", rooms=["lobby"]))
        alice.page.locator("#token-form .primary").click()
        alice.live()
        alice.say("signed in")
        alice.page.reload()
        alice.shows("signed in")
        expect(alice.page.locator("#me")).to_contain_text("Alice")
        alice.page.goto(f"{server.url}/#secrets")
        expect(alice.page.locator("#top")).to_contain_text("You are not in this room")
        alice.leave()

        stranger = Person(browser, server.url, "")
        stranger.page.locator("#name-input").fill("Guest")
        stranger.page.locator("#name-go").click()
        stranger.page.locator("#sign-in:visible, #token-dialog[open]").first.wait_for()
        stranger.leave(SERVER_AWAY)


def test_what_the_server_refuses_is_said_and_kept(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--no-guests") as server:
        alice = Person(browser, server.url, "", room="secrets")
        alice.page.locator("#name-token").click()
        alice.page.locator("#token-input").fill(server.token("alice", name="Alice", rooms=["lobby"]))
        alice.page.locator("#token-form .primary").click()
        expect(alice.page.locator("#me")).to_contain_text("Alice")
        alice.say("one", "two")
        expect(alice.page.locator("li.refused .fate")).to_contain_text(["Not sent.", "Not sent."])
        alice.page.reload()
        expect(alice.page.locator("li.refused .text")).to_have_text(["one", "two"])
        alice.row("one").locator('[data-do="discard"]').click()
        expect(alice.page.locator("li.refused .text")).to_have_text(["two"])

        alice.page.goto(f"{server.url}/#lobby")
        alice.live()
        alice.say("three")  # not held up by what was refused
        alice.shows("three")
        alice.page.evaluate(
            """() => {
              const items = JSON.parse(sessionStorage["tornado-chat.outbox"]);
              const command = { type: "send", room: "lobby", text: "four" };
              items.push({ id: "f".repeat(32), command, at: Date.now(), user: "guest-before" });
              sessionStorage["tornado-chat.outbox"] = JSON.stringify(items);
            }"""
        )
        alice.page.reload()
        expect(alice.row("four").locator(".fate")).to_contain_text("it may be there already")
        alice.row("four").locator('[data-do="retry"]').click()
        alice.shows("three", "four")
        alice.leave()


def test_an_expired_sign_in_is_asked_for_again(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--no-guests") as server:
        alice = Person(browser, server.url, "")
        alice.page.locator("#name-token").click()
        alice.page.locator("#token-input").fill(server.token("alice", ttl=2.0))
        alice.page.locator("#token-form .primary").click()
        alice.live()
        expect(alice.page.locator("#token-error")).to_have_text("Your sign-in has expired.", timeout=15_000)
        alice.page.locator("#token-input").fill(server.token("alice"))
        alice.page.locator("#token-form .primary").click()
        alice.live()
        alice.leave()


def test_many_messages_at_once_wait_for_the_rate_limit(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--guests", "--send-rate", "10", "--send-burst", "2") as server:
        anna = Person(browser, server.url, "Anna")
        texts = [f"line {number}" for number in range(12)]
        anna.say(*texts)
        anna.shows(*texts)
        anna.leave()


def test_it_stays_away_as_long_as_the_server_asks(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "")
    routes: list[WebSocketRoute] = []

    def through(route: WebSocketRoute) -> None:
        routes.append(route)
        route.connect_to_server()

    anna.page.route_web_socket(re.compile("/ws"), through)
    anna.page.clock.install()
    anna.page.reload()
    anna.page.locator("#name-input").fill("Anna")
    anna.page.locator("#name-go").click()
    anna.live()
    for press in (False, True):
        count = len(routes)
        routes[-1].close(code=1012, reason="retry_after_ms=60000")
        expect(anna.page.locator("#banner-text")).to_contain_text(re.compile("Trying again in (60|59|58) s"))
        missed = [{"type": "send", "room": "lobby", "text": f"{press} {number}"} for number in range(80)]
        bob = Person(browser, server.url, "Bob")  # a page of its own, whose clock goes on
        another(bob.page, server.url, missed)
        bob.leave()
        anna.page.clock.run_for(40_000)
        anna.page.evaluate("dispatchEvent(new Event('online'))")  # no reason to come early
        assert len(routes) == count
        if press:
            anna.page.locator("#retry").click()
        else:
            anna.page.clock.run_for(20_000)
        anna.live()
        assert len(routes) == count + 1
        anna.page.clock.run_for(100)  # frames
        expect(anna.page.locator("li.message .text").last).to_have_text(f"{press} 79")
    assert anna.texts() == [f"{press} {number}" for press in (False, True) for number in range(80)]
    anna.leave()


def test_a_restored_log_is_shown_as_it_is(browser: Browser, server: Server, tmp_path: Path) -> None:
    anna = Person(browser, server.url, "Anna")
    anna.say("one", "two")
    anna.shows("one", "two")
    server.stop()
    shutil.copy(server.database, tmp_path / "backup.db")
    server.start()
    anna.live()
    anna.say("three", "four", "five")
    anna.shows("one", "two", "three", "four", "five")
    server.stop()
    for file in tmp_path.glob("chat.db-*"):
        file.unlink()
    shutil.copy(tmp_path / "backup.db", server.database)
    command = [sys.executable, "-m", "tornado_chat", "new-epoch", "--database", f"sqlite:///{server.database}"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent.parent, timeout=30)
    server.start()
    anna.shows("one", "two")
    anna.live()
    anna.say("another three")
    anna.shows("one", "two", "another three")
    anna.leave(SERVER_AWAY)


def test_a_silent_connection_is_given_up(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--ping-interval", "1") as server:
        anna = Person(browser, server.url, "Anna")
        anna.page.clock.install()
        anna.page.reload()
        anna.live()
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)  # the sockets stay open, nobody is there
        try:
            anna.page.clock.run_for(20_000)
            anna.offline()
            anna.say("into the silence")
        finally:
            server.process.send_signal(signal.SIGCONT)
        anna.page.clock.resume()
        anna.live()
        anna.shows("into the silence")
        anna.leave(SERVER_AWAY)


def test_a_message_that_is_too_long_is_not_sent(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    anna.say("😀" * 8_001)
    expect(anna.page.locator("#hint")).to_contain_text("1 characters too long")
    expect(anna.page.locator("#send")).to_be_disabled()
    expect(anna.page.locator("li.message")).to_have_count(0)
    anna.say("😀" * 8_000)
    anna.shows("😀" * 8_000)
    anna.leave()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390, 320])
def test_it_fits_the_screen(browser: Browser, server: Server, tmp_path: Path, scheme: Any, width: int) -> None:
    phone = width < 500
    size = {"width": width, "height": 780}
    anna = Person(browser, server.url, "Anna", viewport=size, color_scheme=scheme, has_touch=phone, is_mobile=phone)
    page = anna.page
    anna.say("A message", "w" * 300, "https://example.org/" + "long/" * 60, "and so on " * 30)
    last = ("and so on " * 30).strip()
    expect(anna.row(last)).to_be_in_viewport()
    fits = "document.documentElement.scrollWidth <= innerWidth && scroller.scrollWidth <= scroller.clientWidth"
    assert page.evaluate(fits)
    if phone:
        anna.row(last).tap()
        anna.row(last).locator('[data-do="picker"]').tap()
        (tmp_path / f"{scheme}-{width}-tools.png").write_bytes(page.screenshot())
        anna.row(last).locator(".picker button").first.tap()
        expect(anna.row(last).locator(".chip")).to_have_text("👍 1")
        page.locator("#menu").tap()
        expect(page.locator("#enter-name")).to_be_in_viewport()
        (tmp_path / f"{scheme}-{width}-rooms.png").write_bytes(page.screenshot())
        page.locator("#menu-close").tap()
        expect(page.locator("#side")).to_have_js_property("inert", True)
    assert page.evaluate(fits)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((part) => part < 60)")
    assert dark == (scheme == "dark")
    box = page.locator("#text").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= size["height"]
    (tmp_path / f"{scheme}-{width}.png").write_bytes(page.screenshot())
    anna.leave()


def run(page: Page, url: str, script: str) -> Any:
    """Run a script with the page's own modules at hand, as `m`."""
    names = ["room", "outbox", "connection", "format", "composer"]
    return page.evaluate(
        f"""async () => {{
          const m = {{}};
          for (const name of {names}) Object.assign(m, await import(`{url}/static/${{name}}.js`));
          {script}
        }}"""
    )


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    anna = Person(browser, server.url, "")
    yield anna.page
    anna.leave()


ROOM = """
  const room = new m.Room("lobby");
  const message = (seq, text, more) => ({ type: "message", room: "lobby", seq, user: "u", name: "U", text, ts: seq, ...more });
  const texts = () => room.messages.map(({ text }) => text).join();
"""


def test_a_room_takes_each_event_once(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        ROOM
        + """
        const asked = room.joinFrom;
        room.joined({ head: 12, cursor: 10, read: 0, epoch: "a" }, asked);
        const took = [11, 12, 12, 11, 14, 13, 14].map((seq) => room.event(message(seq, `t${seq}`)));
        return [asked, took, texts(), room.joinFrom, room.more, room.oldest];
        """,
    )
    assert got == [
        {"last": 60},
        [True, True, True, True, False, True, True],
        "t11,t12,t13,t14",
        {"after": 14},
        True,
        11,
    ]


def test_a_room_of_another_epoch_is_forgotten(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        ROOM
        + """
        const held = (cursor, frame) => {
          room.joined({ head: 5, cursor: 0, read: 3, epoch: "a" }, { last: 60 });
          for (let seq = 1; seq <= 5; seq++) room.event(message(seq, `t${seq}`));
          const kept = room.joined({ read: 3, ...frame }, room.joinFrom);
          const result = [kept, texts(), room.joinFrom];
          room.cursor = null;
          return result;
        };
        return [
          held(5, { head: 9, cursor: 5, epoch: "a" }),
          held(5, { head: 9, cursor: 5, epoch: "b" }),
          held(5, { head: 2, cursor: 2, epoch: "a" }),
          held(5, { head: 9999, cursor: 5, epoch: "a" }),
        ];
        """,
    )
    everything, nothing = "t1,t2,t3,t4,t5", ""
    assert got == [
        [True, everything, {"after": 5}],
        [False, nothing, {"last": 60}],
        [False, nothing, {"last": 60}],  # the cursor was above the head: a log that lost its end
        [False, nothing, {"last": 60}],  # too much to have been missed: begin with the newest
    ]


def test_a_history_that_is_older_than_the_events_after_it(page: Page, server: Server) -> None:
    """An edit that came between the question and the answer must not be undone by the answer."""
    got = run(
        page,
        server.url,
        ROOM
        + """
        room.joined({ head: 3, cursor: 3, read: 0, epoch: "a" }, { last: 60 });
        room.asked();
        room.event({ type: "edited", seq: 4, target: 1, user: "u", text: "new", ts: 40 });
        room.event({ type: "reacted", seq: 5, target: 2, user: "v", emoji: "x", on: false, ts: 50 });
        room.event({ type: "deleted", seq: 6, target: 3, user: "u", ts: 60 });
        const page = [message(1, "old"), message(2, "t2", { reactions: { x: ["v", "w"], y: ["v"] } }), message(3, "t3")];
        room.history({ messages: page, more: true }, { before: 4 });
        room.asked();
        room.history({ messages: [message(1, "stale")], more: true }, { before: 4 }); // no longer what stands above
        const [, two] = room.messages;
        return [texts(), room.messages[0].edited, [...two.reactions].map(([emoji, users]) => [emoji, ...users]), room.messages[2].deleted];
        """,
    )
    assert got == ["new,t2,", 40, [["x", "w"], ["y", "v"]], True]


def test_the_outbox_sends_as_one_user_and_in_order(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        """
        const kept = {};
        const store = { get: (key, other) => kept[key] ?? other, set: (key, value) => { kept[key] = structuredClone(value); return true; } };
        let box = new m.Outbox(store);
        box.add({ type: "send", text: "a" });
        box.add({ type: "send", text: "b" });
        const first = box.next("ann");
        box = new m.Outbox(store); // a reload
        const again = box.next("ann");
        const other = box.next("bob"); // the first may have arrived as ann's: only a person may send it again
        const unsure = box.unsure(box.items[0], "bob");
        box.refuse(other, "no");
        return [again.id === first.id, other.command.text, unsure, box.next("bob"), box.next("ann").id === first.id, new Set(Array.from({ length: 99 }, m.newId)).size];
        """,
    )
    assert got == [True, "b", True, None, True, 99]


def test_waits_links_and_limits(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        """
        const links = (text) => m.pieces(text).filter(({ href }) => href).map(({ text }) => text);
        return {
          waits: [0, 1, 3, 20].map((attempt) => m.backoff(attempt, () => 1)),
          none: m.backoff(9, () => 0),
          asked: ["retry_after_ms=1500", "going: retry_after_ms=20", "", "retry_after_ms=x"].map(m.retryAfter),
          links: links("(https://a.example/b_(c)), javascript:x https://b.example. http:// ftp://c.example"),
          whole: m.pieces("a https://b.example c").map(({ text }) => text).join(""),
          rooms: ["Lobby", "#a b", "a".repeat(65), "-a", "ü", ""].map(m.roomName),
          clean: m.cleaned(" a\\0b\\ud800 "),
          long: [m.tooLong("ab", { text_chars: 2, frame_bytes: 65536 }), m.tooLong("😀😀", { text_chars: 2, frame_bytes: 65536 })],
        };
        """,
    )
    assert got == {
        "waits": [500, 1000, 4000, 30000],
        "none": 0,
        "asked": [1500, 20, None, None],
        "links": ["https://a.example/b_(c)", "https://b.example"],
        "whole": "a https://b.example c",
        "rooms": ["lobby", "a-b", None, None, None, None],
        "clean": "ab\ufffd",
        "long": [None, None],
    }
