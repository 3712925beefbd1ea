"""The page and the log of one's own: rooms, what is read, mentions and invitations, the same on all devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.chromium import SERVER_AWAY, Person, another, fill_room
from tests.support.middlebox import Middlebox
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]


@pytest.fixture
def box(server: Server) -> Iterator[Middlebox]:
    with Middlebox(server.port) as box:
        yield box


def device(browser: Browser, server: Server, url: str = "", room: str = "lobby", user: str = "anna") -> Person:
    """A browser of its own, in which `user` is signed in."""
    person = Person(browser, url or server.url, "", room=room)
    person.sign_in(server.token(user, name=user.capitalize()))
    return person


def rooms(person: Person, *names: str) -> None:
    expect(person.page.locator("#rooms .label")).to_have_text(list(names))


def enter(person: Person, room: str) -> None:
    person.page.locator("#enter-name").fill(room)
    person.page.locator("#enter-name").press("Enter")
    expect(person.page.locator("#title")).to_have_text(f"#{room}")
    person.live()


def send(person: Person, room: str, text: str, **more: Any) -> None:
    another(person.page, person.url, [{"type": "send", "room": room, "text": text, **more}])


@pytest.mark.parametrize("kind", ["websocket", "stream", "poll"])
def test_another_device_sees_what_was_done_here(browser: Browser, server: Server, box: Middlebox, kind: str) -> None:
    box.websockets = "passed" if kind == "websocket" else "refused"
    box.buffers = kind == "poll"
    phone, laptop = device(browser, server, room="phone"), device(browser, server, box.url, room="laptop")
    rooms(phone, "laptop", "phone")
    rooms(laptop, "laptop", "phone")
    enter(phone, "news")
    rooms(laptop, "laptop", "news", "phone")
    phone.page.locator("#rooms a", has_text="phone").click()
    send(phone, "news", "for @Anna", mentions=["anna"])
    send(phone, "news", "for all")
    for person in (phone, laptop):
        expect(person.page.locator("#rooms .badge.named")).to_have_text("@1 mention of you")
        expect(person.page.locator("#rooms .badge:not(.named)")).to_have_text("2 unread")
    phone.page.locator("#rooms a", has_text="news").click()
    phone.shows("for @Anna", "for all")
    expect(laptop.page.locator("#rooms .badge")).to_have_count(0)
    expect(laptop.page).to_have_title("#laptop · Chat")

    phone.page.locator("#rooms li", has_text="news").hover()
    phone.page.get_by_label("Leave news").click()
    rooms(phone, "laptop", "phone")
    rooms(laptop, "laptop", "phone")
    laptop.page.reload()
    rooms(laptop, "laptop", "phone")
    phone.leave()
    laptop.leave(SERVER_AWAY)


def test_what_came_while_one_was_away_is_counted_by_subtraction(browser: Browser, server: Server) -> None:
    """More than is held, and read on the other device meanwhile."""
    phone = device(browser, server, room="news")
    rooms(phone, "news")
    enter(phone, "lobby")
    rooms(phone, "lobby", "news")
    texts = fill_room(phone.page, phone.url, 80, room="news")
    expect(phone.page.locator("#rooms .badge")).to_have_text("80 unread")
    laptop = device(browser, server)
    expect(laptop.page.locator("#rooms .badge")).to_have_text("80 unread")  # 60 of them are held
    laptop.page.reload()
    expect(laptop.page.locator("#rooms .badge")).to_have_text("80 unread")
    phone.page.evaluate(
        """async ([token, url]) => {
          const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
          await fetch(`${url}/v1/rooms/news/read`, { method: "PUT", body: '{"seq": 70}', headers });
        }""",
        [server.token("anna"), server.url],
    )
    for person in (phone, laptop):
        expect(person.page.locator("#rooms .badge")).to_have_text("10 unread")
    laptop.page.locator("#rooms a", has_text="news").click()
    expect(laptop.row(texts[-1])).to_be_in_viewport()
    expect(phone.page.locator("#rooms .badge")).to_have_count(0)
    phone.leave()
    laptop.leave()


def test_one_names_others_by_the_keyboard(browser: Browser, server: Server) -> None:
    anna, bob = device(browser, server), Person(browser, server.url, "Bob")
    carl = device(browser, server, user="carl")
    rooms(carl, "lobby")
    enter(carl, "side")
    bob.say("hello")
    anna.shows("hello")
    box, people = anna.page.locator("#text"), anna.page.locator("#people")
    box.press_sequentially("mail a@b.example, @")
    expect(people.get_by_role("option")).to_contain_text(["Bob guest"])  # Carl is in another room
    box.press("Escape")
    expect(people).to_be_hidden()
    box.fill("")
    box.press_sequentially("@b")
    expect(people.get_by_role("option", selected=True)).to_contain_text("Bob")
    expect(box).to_have_attribute("aria-activedescendant", "option-0")
    box.press("Enter")
    assert box.input_value() == "@Bob "
    expect(people).to_be_hidden()
    expect(box).not_to_have_attribute("aria-activedescendant", "option-0")
    box.press_sequentially("and @anna: `@Bob`")
    box.press("Enter")

    row = bob.row("@Bob and @anna: @Bob")
    expect(row).to_have_class("message first named")
    expect(row.locator(".mention")).to_have_text(["@Bob"])
    expect(row.locator(".mention.self")).to_have_count(1)
    mine = anna.row("@Bob and @anna: @Bob")
    expect(mine.locator(".mention")).to_have_text(["@Bob"])
    expect(mine.locator(".mention.self")).to_have_count(0)
    expect(mine).to_have_class("message first mine")
    for person in (anna, bob, carl):
        person.leave()


def test_a_guest_who_is_called_like_a_user_is_not_named_in_their_place(browser: Browser, server: Server) -> None:
    anna, carl = device(browser, server), device(browser, server, user="carl")
    carl.say("mine is the name")
    guest = Person(browser, server.url, "Carl")
    guest.say("mine, too")
    expect(anna.row("mine, too")).to_be_visible()
    anna.say("@carl hello")
    expect(carl.row("@carl hello").locator(".mention.self")).to_have_count(1)
    for person in (anna, carl, guest):
        person.leave()


def test_an_invitation_arrives_and_is_taken_by_opening_the_room(browser: Browser, server: Server) -> None:
    anna, carl = device(browser, server, room="team"), device(browser, server, user="carl")
    rooms(anna, "team")
    rooms(carl, "lobby")
    anna.page.locator("#options-open").click()
    anna.page.get_by_label("Invite somebody").fill("carl")
    anna.page.get_by_label("Invite somebody").press("Enter")
    expect(anna.page.locator("#invite-note")).to_have_text(
        "Whoever has the user id “carl” will find #team in their list of rooms."
    )
    expect(carl.page.locator("#notices")).to_have_text("You are invited to #team by anna.")
    rooms(carl, "lobby", "teamInvited by anna")
    send(anna, "team", "secret")
    carl.page.reload()
    rooms(carl, "lobby", "teamInvited by anna")
    carl.page.locator("#rooms a", has_text="team").click()
    carl.shows("secret")
    rooms(carl, "lobby", "team")
    carl.page.reload()
    rooms(carl, "lobby", "team")
    anna.leave()
    carl.leave()


def test_what_comes_while_one_looks_on_has_no_line_above_it(browser: Browser, server: Server) -> None:
    anna = device(browser, server, room="news")
    anna.say("mine")
    anna.page.reload()
    anna.live()
    expect(anna.row("mine")).to_be_visible()
    send(anna, "news", "live")
    expect(anna.row("live")).to_be_visible()
    expect(anna.page.locator("#list [data-key=new]")).to_have_count(0)
    anna.leave()


def test_a_room_tells_as_much_as_one_wants(browser: Browser, server: Server) -> None:
    phone, laptop = device(browser, server, room="news"), device(browser, server)
    rooms(laptop, "lobby", "news")

    def choose(level: str) -> None:
        if phone.page.locator("#options").is_hidden():
            phone.page.locator("#options-open").click()
        phone.page.get_by_label(level).check()

    choose("Mentions of me")
    send(phone, "news", "one")
    send(phone, "news", "two, @anna", mentions=["anna"])
    expect(laptop.page.locator("#rooms .badge")).to_have_text(["@1 mention of you"])
    choose("Nothing")
    expect(laptop.page.locator("#rooms .quiet")).to_have_text("#news")
    expect(laptop.page.locator("#rooms .badge")).to_have_count(0)
    laptop.page.reload()
    expect(laptop.page.locator("#rooms .quiet")).to_have_text("#news")
    phone.page.keyboard.press("Escape")
    expect(phone.page.locator("#options")).to_be_hidden()
    choose("Every message")
    phone.page.locator("#rooms").get_by_role("link", name="lobby").click()  # else it reads what comes
    expect(phone.page.locator("#title")).to_have_text("#lobby")
    send(phone, "news", "three")
    expect(laptop.page.locator("#rooms .badge").first).to_be_visible()
    phone.page.locator("#rooms").get_by_role("link", name="news").click()
    expect(phone.page.locator("#title")).to_have_text("#news")
    if phone.page.locator("#options").is_hidden():
        phone.page.locator("#options-open").click()
    phone.page.get_by_role("button", name="Leave this room").click()
    rooms(laptop, "lobby")
    expect(phone.page.locator("#title")).to_have_text("#lobby")
    phone.leave()
    laptop.leave()


def test_a_guests_rooms_go_on_to_the_next_user(browser: Browser, server: Server) -> None:
    """Those that the page kept itself in former versions, too; but nobody's who was signed in."""
    guest = Person(browser, server.url, "")
    guest.page.evaluate("localStorage['tornado-chat.rooms'] = JSON.stringify(['one', 'No Room', 'two'])")
    guest.page.locator("#name-input").fill("Guest")
    guest.page.locator("#name-go").click()
    rooms(guest, "lobby", "one", "two")
    guest.page.locator("#me").click()
    guest.page.locator("#name-token").click()
    guest.page.locator("#token-input").fill(server.token("anna"))
    guest.page.locator("#token-form .primary").click()
    rooms(guest, "lobby", "one", "two")
    another_device = device(browser, server)
    rooms(another_device, "lobby", "one", "two")
    guest.page.locator("#me").click()
    guest.page.locator("#token-input").fill(server.token("carl"))
    guest.page.locator("#token-form .primary").click()
    rooms(guest, "lobby")
    guest.leave()
    another_device.leave()
