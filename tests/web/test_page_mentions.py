"""Who is named in a message, in the page: not in code, nobody unknown, names with spaces; who has invited."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Route, expect

from tests.support.chromium import Person, another
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]


def member(browser: Browser, server: Server, user: str, name: str, room: str = "lobby") -> Person:
    person = Person(browser, server.url, "", room=room)
    person.sign_in(server.token(user, name=name))
    return person


def sent(person: Person) -> list[dict[str, Any]]:
    """The messages of the lobby as they are in the log."""
    frames = another(person.page, person.url, [{"type": "join", "room": "lobby", "after": 0}], "synced")
    return [frame for frame in frames if frame["type"] == "message"]


def test_an_at_in_code_or_in_an_address_names_nobody(browser: Browser, server: Server) -> None:
    anna, carl = member(browser, server, "anna", "Anna"), member(browser, server, "carl", "Carl")
    carl.say("hello")
    expect(anna.page.locator("li.message .text p")).to_have_text("hello")  # until then the page does not know code
    code = "`@carl` and <https://a.example/@carl>\n\n```\n@carl\n```\n\n    @carl\n\nend"
    anna.say(code, f"for **@Carl**: {code}")
    expect(carl.page.locator("li.message .code pre")).to_have_count(4)
    rows = carl.page.locator("li.message")
    expect(rows.nth(1).locator(".mention")).to_have_count(0)
    expect(rows.nth(1)).not_to_have_class("named")
    expect(rows.nth(2).locator(".mention.self")).to_have_text(["@Carl"])
    assert [message.get("mentions") for message in sent(anna)] == [None, None, ["carl"]]
    anna.leave()
    carl.leave()


def test_it_is_told_that_nobody_here_is_called_so(browser: Browser, server: Server) -> None:
    """In a room where nobody spoke, so that the first "@" loads what knows code."""
    anna, carl = member(browser, server, "anna", "Anna"), member(browser, server, "carl", "Carl")
    box, hint = anna.page.locator("#text"), anna.page.locator("#hint")
    with anna.page.expect_response("**/static/growing.js"):
        box.press_sequentially("@carl and @nob")
    expect(anna.page.locator("#people")).to_be_hidden()
    expect(hint).to_have_text("")  # it may become somebody
    box.press_sequentially("ody, ")
    expect(hint).to_have_text("Nobody here is called @nobody.")
    expect(hint).to_have_class("hint")
    expect(anna.page.locator("#send")).to_be_enabled()
    box.press_sequentially("a@b.example, @Anna, `@code` and @no.one.")
    expect(hint).to_have_text("Nobody here is called @nobody.")
    box.press_sequentially(" ")
    expect(hint).to_have_text("Nobody here is called @nobody or @no.one.")
    box.press("Enter")
    expect(carl.page.locator("li.message .text")).to_contain_text("@nobody")
    assert [message.get("mentions") for message in sent(anna)] == [["carl"]]
    expect(box).to_have_value("")
    expect(hint).to_have_text("Nobody here is called @nobody or @no.one.")  # it was sent as text
    box.press_sequentially("z")
    expect(hint).to_have_text("")
    box.fill("@gone")
    box.press("Enter")  # at once
    expect(hint).to_have_text("Nobody here is called @gone.")
    anna.page.locator("#enter-name").fill("other")
    anna.page.locator("#enter-name").press("Enter")
    expect(hint).to_have_text("")
    anna.leave()
    carl.leave()


def test_what_is_code_is_known_late(browser: Browser, server: Server) -> None:
    """What knows code comes after the whole text was written: what was said of the text is corrected."""
    anna = member(browser, server, "anna", "Anna")
    box, hint = anna.page.locator("#text"), anna.page.locator("#hint")
    held: list[Route] = []
    anna.page.route("**/static/markdown.js", lambda route: held.append(route))
    box.fill("`@code`, @no.one ")
    expect(hint).to_have_text("Nobody here is called @code or @no.one.")
    held[0].continue_()
    expect(hint).to_have_text("Nobody here is called @no.one.")
    anna.leave()


def test_names_are_completed_across_their_spaces(browser: Browser, server: Server) -> None:
    bob, maria = member(browser, server, "bob", "Bob"), member(browser, server, "am", "Anna Maria")
    box, people = bob.page.locator("#text"), bob.page.locator("#people")
    box.press_sequentially("dear @anna")
    expect(people.get_by_role("option")).to_have_text(["Anna Maria am"])
    box.press_sequentially(" ")
    expect(people.get_by_role("option")).to_have_text(["Anna Maria am"])
    expect(bob.page.locator("#hint")).to_have_text("")
    box.press_sequentially("m")
    box.press("Enter")
    expect(box).to_have_value("dear @Anna Maria ")
    expect(people).to_be_hidden()
    box.press_sequentially("and @ann")
    expect(people).to_be_visible()
    box.press("Escape")
    box.press_sequentially("a")
    expect(people).to_be_hidden()
    box.press("Backspace")
    box.press("Backspace")
    expect(people).to_be_visible()
    box.press_sequentially("n  b")
    expect(people).to_be_hidden()
    box.press("Enter")
    expect(box).to_have_value("")

    anna = member(browser, server, "anna", "Anna")
    anna.say("I am Anna")
    expect(bob.row("I am Anna")).to_be_visible()
    box.press_sequentially("@anna ")  # is somebody: what comes next is for her
    expect(people).to_be_hidden()
    box.press("Enter")
    expect(box).to_have_value("")
    assert [message.get("mentions") for message in sent(bob)] == [["am"], None, ["anna"]]
    for person in (anna, bob, maria):
        person.leave()


def test_a_name_that_is_markdown_is_completed_by_its_id(browser: Browser, server: Server) -> None:
    anna, star = member(browser, server, "anna", "Anna"), member(browser, server, "star", "*Star*")
    star.say("hello")
    anna.shows("hello")
    box = anna.page.locator("#text")
    box.press_sequentially("@*s")
    anna.page.locator("#people").get_by_role("option").click()
    expect(box).to_have_value("@star ")
    box.press("Enter")
    expect(star.page.locator(".mention.self")).to_have_text(["@star"])
    anna.leave()
    star.leave()


def test_an_invitation_says_who_invites(browser: Browser, server: Server) -> None:
    """By the name, where it is known: from a room, or since one was named by them; else by the user id."""
    anna = member(browser, server, "anna", "Anna", room="team")
    carl, dave = member(browser, server, "carl", "Carl"), member(browser, server, "dave", "Dave", room="side")

    def invite(user: str) -> None:
        anna.page.locator("#options-open").click()
        anna.page.get_by_label("Invite somebody").fill(user)
        anna.page.get_by_label("Invite somebody").press("Enter")
        anna.page.keyboard.press("Escape")

    invite("carl")
    expect(carl.page.locator("#rooms small")).to_have_text("Invited by anna")
    expect(carl.page.locator(".notice")).to_have_text(["You are invited to #team by anna."])
    anna.page.evaluate(
        """async ([url, token]) => {
          const command = { type: "send", room: "lobby", text: "hello @dave", mentions: ["dave"], id: "m" };
          const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
          await fetch(`${url}/v1/commands`, { method: "POST", body: JSON.stringify(command), headers });
        }""",
        [server.url, server.token("anna", name="Anna")],
    )
    expect(carl.page.locator("#rooms small")).to_have_text("Invited by Anna")
    expect(dave.page.locator(".notice")).to_have_text(["Anna has named you in #lobby."])
    invite("dave")
    expect(dave.page.locator(".notice").last).to_have_text("You are invited to #team by Anna.")
    expect(dave.page.locator("#rooms small")).to_have_text("Invited by Anna")
    for person in (anna, carl, dave):
        person.leave()
