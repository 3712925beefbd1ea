"""A guest may be called like anybody, and like nobody: the page tells them from who is signed in."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocketRoute, expect

from tests.support.chromium import Person
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]

LONG = "Maximilian Alexander zu Hohenlohe-Waldenburg-Schillingsfuerst VI"
WHOLE = """element => {
  const { left, top, width, height } = element.getBoundingClientRect();
  const ends = [1, width - 1].map((x) => document.elementFromPoint(left + x, top + height / 2));
  const whole = width > 0 && element.scrollWidth <= element.clientWidth;
  return whole && ends.every((seen) => element === seen || element.contains(seen));
}"""
CONTRAST = """element => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const { color, backgroundColor } = getComputedStyle(element);
  const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


def test_a_guest_called_like_a_user_is_told_from_them(browser: Browser, server: Server) -> None:
    user, guest, bob = (
        Person(browser, server.url, ""),
        Person(browser, server.url, "Anna"),
        Person(browser, server.url, ""),
    )
    user.sign_in(server.token("anna", name="Anna"))
    bob.sign_in(server.token("bob", name="Bob"))
    user.say("the user")
    bob.shows("the user")
    guest.say("the guest")
    bob.shows("the user", "the guest")
    for person in (user, guest, bob):
        expect(person.row("the user").locator(".guest")).to_have_count(0)
        expect(person.row("the guest").locator(".head .guest")).to_be_visible()
        assert "Anna guest" in person.row("the guest").aria_snapshot()  # as a screen reader has it
        assert "guest" not in person.row("the user").aria_snapshot()
    expect(bob.page.locator("#live")).to_contain_text("Anna (guest): the guest")
    expect(guest.page.locator("#seen")).to_have_text(re.compile(r"^Seen by (Anna and Bob|Bob and Anna)$"))

    guest.page.locator("#text").press_sequentially("I")
    expect(bob.page.locator("#typing")).to_have_text("Anna (guest) is typing")
    guest.page.locator("#text").fill("")
    user.page.locator("#text").press_sequentially("I")
    expect(bob.page.locator("#typing")).to_have_text("Anna is typing")
    for text in ("the user", "the guest"):
        guest.tool(text, "picker")
        guest.row(text).locator(".picker button").first.click()
        expect(bob.row(text).locator(".chip")).to_have_attribute("title", "Anna (guest)")
        bob.tool(text, "reply")
        mark = "guest " if text == "the guest" else ""
        expect(bob.page.locator("#context-text")).to_have_text(f"Replying to Anna {mark}{text}")
        bob.say(f"to {text}")
        quote = bob.row(f"to {text}").locator(".quote")
        expect(quote).to_have_text(f"Anna {mark}{text}")
        called = "Anna (guest)" if mark else "Anna"
        expect(quote).to_have_attribute("title", f"In reply to {called}: go there")
    for person in (user, guest, bob):
        person.leave()


def shown_whole(place: Locator) -> None:
    assert place.evaluate(WHOLE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390])
def test_no_name_is_so_long_that_it_hides_the_mark(browser: Browser, server: Server, scheme: Any, width: int) -> None:
    guest = Person(browser, server.url, LONG)
    guest.say("of many words " * 12)
    bob = Person(browser, server.url, "", viewport={"width": width, "height": 780}, color_scheme=scheme)
    bob.sign_in(server.token("bob", name="Bob"))
    text = ("of many words " * 12).strip()
    bob.tool(text, "reply")
    shown_whole(bob.page.locator("#context .guest"))
    bob.say("an answer")
    expect(bob.row("an answer").locator(".quote")).to_be_visible()
    expect(bob.page.locator("li.pending")).to_have_count(0)
    bob.page.locator("#text").hover()  # the tools of a message cover its head where that is short
    guest.page.locator("#text").press_sequentially("I")
    typing = bob.page.locator("#typing .clipped")
    expect(typing).to_contain_text("(guest) is typing")
    for mark in (bob.row(text).locator(".head .guest"), bob.row("an answer").locator(".quote .guest"), typing):
        shown_whole(mark)
    assert bob.row(text).locator(".guest").evaluate(CONTRAST) >= 4.5  # WCAG 2.2, 1.4.3
    assert bob.page.evaluate("scroller.scrollWidth <= scroller.clientWidth")
    for person in (guest, bob):
        person.leave()


def renamed(page: Page, name: str) -> None:
    """Whoever the server speaks of is called `name`."""

    def rename(frame: str | bytes) -> str:
        told = json.loads(frame)
        return json.dumps({**told, "name": name} if "name" in told else told)

    def route(route: WebSocketRoute) -> None:
        real = route.connect_to_server()
        real.on_message(lambda frame: route.send(rename(frame)))

    page.route_web_socket(re.compile("/ws"), route)
    page.reload()


@pytest.mark.parametrize("name", ["\u2800\u2800", "\u3164", " \u00a0 "])
def test_a_name_that_looks_like_nothing_is_not_shown(browser: Browser, server: Server, name: str) -> None:
    guest, bob = Person(browser, server.url, "Somebody"), Person(browser, server.url, "")
    renamed(bob.page, name)
    bob.sign_in(server.token("bob"))
    guest.say("who am I?")
    bob.shows("who am I?")
    called = bob.page.locator("li.message .name")
    expect(called).to_have_text(re.compile("^guest-"))
    expect(bob.page.locator("li.message .avatar")).to_have_text(re.compile("^[A-Z0-9]"))
    expect(bob.page.locator("#me b")).to_have_text("bob")
    guest.page.locator("#text").press_sequentially("I")
    expect(bob.page.locator("#typing")).to_have_text(re.compile(r"^guest-\S+ \(guest\) is typing"))

    bob.page.locator("#text").fill("hm")
    guest.page.locator("#me").click()
    guest.page.locator("#name-input").fill(name)
    guest.page.locator("#name-go").click()
    expect(guest.page.locator("#name-error")).to_contain_text("something to see")
    for person in (guest, bob):
        person.leave()
