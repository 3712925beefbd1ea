"""Who one is on the page: guests, tokens, and what becomes of a message when that changes."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.chromium import NOT_LET_IN, SERVER_AWAY, Person
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]


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


def test_a_name_that_the_server_does_not_know_locks_nobody_out(browser: Browser, server: Server) -> None:
    """The page's idea of what can be seen, and the server's, come from two versions of Unicode."""
    anna = Person(browser, server.url, "")
    anna.page.evaluate("""localStorage["tornado-chat.name"] = JSON.stringify("\\u2066\\u200b")""")
    anna.page.reload()
    anna.live()
    expect(anna.page.locator("#me")).to_contain_text("Guest")
    assert anna.page.evaluate("localStorage['tornado-chat.name']") == json.dumps("")
    anna.leave(SERVER_AWAY)


def test_without_guests_one_signs_in_with_a_token(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--no-guests") as server:
        alice = Person(browser, server.url, "")
        expect(alice.page.locator("#token-dialog")).to_contain_text("To come in here one needs a token.")
        expect(alice.page.locator("#token-error")).to_be_hidden()
        expect(alice.page.locator("#token-leave")).to_be_hidden()
        expect(alice.page.locator("#name-dialog")).to_be_hidden()
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
        alice.leave(NOT_LET_IN)

        team = Person(browser, server.url, "")
        team.page.locator("#token-input").fill(server.token("tom", rooms=["team-*", "all"]))
        team.page.locator("#token-form .primary").click()
        expect(team.page.locator("#top")).to_contain_text("Your token is for team-*, #all.")
        team.page.locator("#top a").click()
        team.live()
        expect(team.page.locator("#title")).to_have_text("#all")
        team.leave(NOT_LET_IN)

        stranger = Person(browser, server.url, "")  # who gave a name while guests were let in
        stranger.page.evaluate("""localStorage["tornado-chat.name"] = JSON.stringify("Guest")""")
        stranger.page.reload()
        expect(stranger.page.locator("#status")).to_contain_text("Not signed in", timeout=30_000)
        expect(stranger.page.locator("#token-dialog")).to_contain_text("To come in here one needs a token.")
        expect(stranger.page.locator("#token-error")).to_be_hidden()
        stranger.leave(SERVER_AWAY)


def test_what_the_server_refuses_is_said_and_kept(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--no-guests") as server:
        alice = Person(browser, server.url, "", room="secrets")
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
        alice.leave(NOT_LET_IN)


def test_an_expired_sign_in_is_asked_for_again(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--no-guests") as server:
        alice = Person(browser, server.url, "")
        alice.page.locator("#token-input").fill(server.token("alice", ttl=2.0))
        alice.page.locator("#token-form .primary").click()
        alice.live()
        expect(alice.page.locator("#token-error")).to_have_text("Your sign-in has expired.", timeout=15_000)
        expect(alice.page.locator("#token-must")).to_be_hidden()
        alice.page.locator("#token-input").fill(server.token("alice"))
        alice.page.locator("#token-form .primary").click()
        alice.live()
        alice.leave(NOT_LET_IN)
