"""What the page does when the server, the network or a reload comes between."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.support import ROOT
from tests.support.chromium import SERVER_AWAY, Person, another, in_the_log
from tests.support.servers import UNLIMITED, Server

pytest_plugins = ["tests.support.chromium_fixtures"]


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
        bob.offline()
        anna.say(f"{round}: and another")
        said += [f"{round}: written while it was down", f"{round}: and another"]
        expect(anna.page.locator("li.pending .fate").last).to_be_visible()
        server.start()
        for person in (anna, bob):
            person.live()
        for person in (anna, bob):
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


def test_a_message_of_ones_own_that_comes_before_its_ack(browser: Browser, server: Server) -> None:
    """It is in the log, which is all that an ack says: not shown twice, and the next one is sent."""
    anna = Person(browser, server.url, "")

    def deaf(route: WebSocketRoute) -> None:
        real = route.connect_to_server()
        real.on_message(lambda frame: None if json.loads(frame)["type"] == "ack" else route.send(frame))

    anna.page.route_web_socket(re.compile("/ws"), deaf)
    anna.page.reload()
    anna.page.locator("#name-input").fill("Anna")
    anna.page.locator("#name-go").click()
    anna.live()
    anna.say("one", "two", "three")
    anna.shows("one", "two", "three")
    state = anna.page.evaluate("JSON.parse(sessionStorage['tornado-chat.outbox'])")
    assert [item["command"]["type"] for item in state] == ["follow"], "of which the room has no event"
    anna.leave()


def test_a_read_mark_that_was_lost_is_said_again(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, ""), Person(browser, server.url, "Bob")
    routes: list[WebSocketRoute] = []

    def forgetful(route: WebSocketRoute) -> None:
        routes.append(route)
        real = route.connect_to_server()
        first = len(routes) == 1
        route.on_message(lambda frame: None if first and json.loads(frame)["type"] == "read" else real.send(frame))

    anna.page.route_web_socket(re.compile("/ws"), forgetful)
    anna.page.reload()
    anna.page.locator("#name-input").fill("Anna")
    anna.page.locator("#name-go").click()
    anna.live()
    bob.say("read this")
    anna.shows("read this")
    expect(bob.page.locator("#seen")).to_have_text("")
    routes[0].close(code=1011)
    expect(bob.page.locator("#seen")).to_have_text("Seen by Anna (guest)")
    anna.leave()
    bob.leave()


def test_rooms_that_are_not_let_in_at_once_are_joined_later(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--guests", "--join-rate", "1") as server:
        anna = Person(browser, server.url, "Anna", room="one")
        rooms = [f"room-{number}" for number in range(6)]
        anna.page.evaluate(
            """([url, rooms]) => {
              const follow = (room) => ({ type: "follow", id: room, room, level: "everything" });
              const token = JSON.parse(sessionStorage["tornado-chat.token"]);
              const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
              return fetch(`${url}/v1/commands`, { method: "POST", headers, body: JSON.stringify(rooms.map(follow)) });
            }""",
            [server.url, rooms],
        )
        anna.page.reload()
        anna.live()
        another(anna.page, server.url, [{"type": "send", "room": room, "text": "here"} for room in rooms])
        expect(anna.page.locator("#rooms .badge")).to_have_text(["1 unread"] * len(rooms), timeout=30_000)
        anna.leave()


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
    assert [item["command"]["text"] for item in state if item["command"]["type"] == "send"] == ["once", "and only once"]

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
            for _ in range(42):
                anna.page.clock.run_for(500)
                if len(routes) > count:  # no further than that, or its patience with the WebSocket is over at once
                    break
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
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=30)
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
