"""The page as people use it, in a real Chromium against the real server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.chromium import Person, another, fill_room
from tests.support.raw_chat import get
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]

MOST_ROWS = 500
MOST_BYTES = 60_000  # of a first visit, as they come over the wire, headers too


def test_two_people_chat(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    anna.page.locator("#text").press_sequentially("Hello")
    expect(bob.page.locator("#typing")).to_have_text("Anna (guest) is typing")
    anna.page.locator("#text").press("Shift+Enter")
    anna.page.locator("#text").press_sequentially("there")
    anna.page.locator("#text").press("Enter")
    expect(bob.page.locator("#typing")).to_have_text("")
    bob.shows("Hello\nthere")
    expect(bob.page.locator("li.message .name")).to_have_text("Anna")
    expect(bob.page.locator("#live")).to_have_text("Anna (guest): Hello there")
    expect(anna.page.locator("#seen")).to_have_text("Seen by Bob (guest)")

    bob.tool("Hello\nthere", "reply")
    bob.say("Hi")
    anna.shows("Hello\nthere", "Hi")
    expect(anna.row("Hi").locator(".quote")).to_have_text("Anna guest Hello there")
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
    moved = page.evaluate(
        """async () => {
          const scroller = document.getElementById("scroller");
          const top = scroller.getBoundingClientRect().top;
          const place = (row) => row.getBoundingClientRect().top;
          scroller.scrollTop = 400;
          const seen = [...document.querySelectorAll("li.message")].find((row) => place(row) > top);
          const [before, rows] = [place(seen), seen.parentNode.children.length];
          while (seen.parentNode.children.length === rows) await new Promise(requestAnimationFrame);
          return place(seen) - before;
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


# Enters a room or opens one of the list, and tells to whom one writes in the same breath: before the browser says
# that the address is another, which it says only after the keys that wait.
AT_ONCE = """([how, name]) => {
  if (how === "entered") {
    document.getElementById("enter-name").value = name;
    document.getElementById("enter").requestSubmit();
  } else document.querySelector(`#rooms a[href="#${name}"]`).click();
  return document.getElementById("text").placeholder;
}"""


def test_what_is_typed_after_a_room_is_chosen_is_for_that_room(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    assert anna.page.evaluate(AT_ONCE, ["entered", "tea"]) == "Message #tea"
    anna.say("for tea")
    anna.shows("for tea")
    assert anna.page.evaluate(AT_ONCE, ["opened", "lobby"]) == "Message #lobby"
    assert anna.page.url.endswith("/#lobby")
    anna.shows()
    anna.page.go_back()
    anna.shows("for tea")
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
    anna = Person(browser, server.url, "", viewport=size, color_scheme=scheme, has_touch=phone, is_mobile=phone)
    page = anna.page
    expect(page.locator("#name-input")).to_be_visible()
    tops = page.locator("#name-form .buttons button").evaluate_all("all => all.map((button) => button.offsetTop)")
    assert len(set(tops)) == 2
    page.locator("#name-input").fill("Anna")
    page.locator("#name-go").click()
    anna.live()
    anna.say("A message", "w" * 300, "https://example.org/" + "long/" * 60, "and so on " * 30)
    last = ("and so on " * 30).strip()
    expect(anna.row(last)).to_be_in_viewport()
    fits = "document.documentElement.scrollWidth <= innerWidth && scroller.scrollWidth <= scroller.clientWidth"
    assert page.evaluate(fits)
    if phone:
        expect(page.locator("li.pending")).to_have_count(0)
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


def test_a_first_visit_loads_little(browser: Browser, server: Server) -> None:
    """What is for texts, other networks, names and options comes when there is need of it."""
    context = browser.new_context()
    page = context.new_page()
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url.removeprefix(server.url)))
    page.goto(server.url)
    page.locator("#name-input").fill("Anna")
    page.locator("#name-go").click()
    expect(page.locator("#status")).to_have_attribute("data-kind", "live")
    files = {path for path in loaded if path == "/" or path.startswith("/static/")}
    assert len(files) > 20
    answers = [get(server.port, path, "Accept-Encoding: gzip, deflate, br, zstd") for path in files]
    assert sum(map(len, answers)) <= MOST_BYTES
    context.close()
