"""The page on networks that do not bear every way in: nobody notices by which one it comes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.chromium import NOT_LET_IN, SERVER_AWAY, Person, another, fill_room, in_the_log
from tests.support.middlebox import Middlebox
from tests.support.proxies import buffering_proxy
from tests.support.raw_chat import get
from tests.support.servers import UNLIMITED, Server

pytest_plugins = ["tests.support.chromium_fixtures"]

KINDS = ["websocket", "stream", "poll"]
REMEMBERED = "sessionStorage['tornado-chat.transport'] ?? null"
WATCH = """() => {
  window.kinds = [];
  const status = document.getElementById("status");
  const seen = () => status.dataset.kind === "live" || kinds.push(status.dataset.kind);
  new MutationObserver(seen).observe(status, { attributeFilter: ["data-kind"] });
}"""
LONG_AGO = """kind => {
  sessionStorage["tornado-chat.transport"] = JSON.stringify({ kind, at: Date.now() - 595_000 });
}"""


@pytest.fixture
def box(server: Server) -> Iterator[Middlebox]:
    with Middlebox(server.port) as box:
        yield box


def only(box: Middlebox, kind: str) -> None:
    """From now on, nothing better than this gets through."""
    box.websockets = "passed" if kind == "websocket" else "refused"
    box.buffers = kind == "poll"


def comes_by(person: Person, kind: str) -> None:
    shown = {"websocket": "WebSocket"}.get(kind, kind)
    expect(person.page.locator("#status .transport")).to_have_text(shown, timeout=40_000)
    person.live()


def chat(*people: Person, rounds: int = 3) -> None:
    """They speak in turns; all of them see all of it, once, and in one order."""
    before = people[0].texts()
    said = []
    for number in range(len(before), len(before) + rounds):
        for person in people:
            text = f"{number} of {person.name}"
            person.say(text)
            said.append(text)
            for each in people:
                expect(each.row(text)).to_have_count(1)
    for person in people:
        person.shows(*before, *said)


@pytest.mark.parametrize("websockets", ["refused", "swallowed", "deaf"])
def test_without_websockets_it_is_a_stream(browser: Browser, server: Server, box: Middlebox, websockets: Any) -> None:
    box.websockets = websockets
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
    comes_by(anna, "stream")
    tried = box.count("/ws")
    assert tried == 1
    comes_by(bob, "websocket")
    chat(anna, bob)
    anna.page.locator("#text").press_sequentially("I")
    expect(bob.page.locator("#typing")).to_have_text("Anna (guest) is typing")
    anna.page.locator("#text").fill("")
    bob.page.locator("#text").press_sequentially("I")
    expect(anna.page.locator("#typing")).to_have_text("Bob (guest) is typing")
    bob.page.locator("#text").fill("")
    anna.say("read by whom?")
    expect(anna.page.locator("#seen")).to_have_text("Seen by Bob (guest)")

    anna.page.reload()  # the same guest, and without a new wait for a WebSocket
    comes_by(anna, "stream")
    anna.tool("0 of Anna", "edit")
    anna.say("zero of Anna")
    expect(bob.page.locator("li.message .text").first).to_have_text("zero of Anna (edited)")
    assert box.count("/ws") == tried
    anna.leave(SERVER_AWAY)
    bob.leave()


def test_where_streams_are_held_back_it_polls(browser: Browser, server: Server, box: Middlebox) -> None:
    only(box, "poll")
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
    comes_by(anna, "poll")
    assert box.count("/v1/commands") <= 1  # the room is followed
    assert not [error for error in anna.errors if re.search(NOT_LET_IN, error)]
    chat(anna, bob)
    expect(bob.page.locator("#seen")).to_have_text("Seen by Anna (guest)")
    tried = box.count("/v1/events")
    anna.page.reload()
    comes_by(anna, "poll")
    anna.shows(*bob.texts())
    anna.tool("0 of Anna", "edit")  # the same guest
    anna.say("zero of Anna")
    expect(bob.page.locator("li.message .text").first).to_have_text("zero of Anna (edited)")
    assert box.count("/v1/events") == tried
    assert [cookie["name"] for cookie in anna.context.cookies()] == []
    anna.leave(SERVER_AWAY)
    bob.leave()


def test_behind_a_proxy_that_others_made(browser: Browser, server: Server) -> None:
    with buffering_proxy(server.port) as proxy:
        anna, bob = Person(browser, proxy.url, "Anna"), Person(browser, server.url, "Bob")
        comes_by(anna, "poll")
        chat(anna, bob)
        anna.leave(SERVER_AWAY)
        bob.leave()


@pytest.mark.parametrize("kind", KINDS)
def test_rooms_are_entered_and_left_by_every_way(browser: Browser, server: Server, box: Middlebox, kind: str) -> None:
    only(box, kind)
    anna, bob = Person(browser, box.url, "Anna", room="one"), Person(browser, server.url, "Bob", room="two")
    comes_by(anna, kind)
    texts = fill_room(bob.page, server.url, 200, room="two")
    anna.page.locator("#enter-name").fill("two")
    anna.page.locator("#enter-name").press("Enter")
    expect(anna.row(texts[-1])).to_be_in_viewport()
    anna.live()
    anna.page.locator("#rooms a", has_text="one").click()
    bob.say("for the badge")
    expect(anna.page.locator("#rooms .badge")).to_have_text("1 unread")
    anna.page.locator("#rooms a", has_text="two").click()
    expect(anna.row("for the badge")).to_be_in_viewport()
    expect(anna.page.locator("#rooms .badge")).to_have_count(0)
    for _ in range(200):
        anna.page.locator("#scroller").evaluate("scroller => { scroller.scrollTop = 0; }")
        anna.page.evaluate("new Promise(requestAnimationFrame)")
        if anna.page.locator("#top").inner_text() == "This is the beginning of #two.":
            break
    expect(anna.row("message 1")).to_be_attached()
    anna.page.locator("#rooms a", has_text="one").click()
    anna.page.locator("#rooms li", has_text="two").hover()
    anna.page.get_by_label("Leave two").click()
    anna.page.locator("#enter-name").fill("three")
    anna.page.locator("#enter-name").press("Enter")
    anna.live()
    anna.say("here")
    anna.shows("here")
    expect(anna.page.locator("#rooms a")).to_have_text(["#one", "#three"])
    comes_by(anna, kind)
    anna.leave(SERVER_AWAY)
    bob.leave()


def test_it_changes_in_the_middle_and_nobody_notices(browser: Browser, server: Server, box: Middlebox) -> None:
    """Down by each cut, up beside what runs; both write all the while."""
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
    comes_by(anna, "websocket")
    said = 0

    def both_speak() -> None:
        nonlocal said
        for _ in range(4):
            anna.say(f"anna {said}")
            another(bob.page, server.url, [{"type": "send", "room": "lobby", "text": f"other {said}"}])
            bob.say(f"bob {said}")
            said += 1

    for kind in ("stream", "poll"):
        only(box, kind)
        box.cut()
        both_speak()
        comes_by(anna, kind)
        both_speak()
        box.cut()
        both_speak()
        comes_by(anna, kind)
    anna.page.evaluate(WATCH)
    for kind in ("stream", "websocket"):
        only(box, kind)
        both_speak()
        anna.page.evaluate("dispatchEvent(new Event('online'))")  # another network: no wait for the time to be up
        both_speak()
        comes_by(anna, kind)
        both_speak()
    for person in (anna, bob):
        expect(person.page.locator("li.message")).to_have_count(3 * said)
        expect(person.page.locator("li.pending")).to_have_count(0)
    assert anna.page.evaluate("kinds") == []
    log = in_the_log(bob.page, server.url)
    assert len(set(log)) == 3 * said
    assert anna.texts() == log
    assert bob.texts() == log
    for name in ("anna", "bob", "other"):
        assert [text for text in log if text.startswith(name)] == [f"{name} {number}" for number in range(said)]
    anna.leave(SERVER_AWAY)
    bob.leave()


@pytest.mark.parametrize("kind", ["stream", "poll"])
def test_an_outage_is_no_news_of_the_network(browser: Browser, server: Server, box: Middlebox, kind: str) -> None:
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
    comes_by(anna, "websocket")
    chat(anna, bob)
    before = anna.texts()
    anna.page.evaluate("import('./static/client/lower.js')")  # as a page does that is some seconds old
    asked = box.count("/v1/session")
    box.away = True
    box.cut()
    anna.offline()
    anna.say("into the outage")
    bob.say("beside it")
    while box.count("/v1/session") == asked:  # the last of the three ways
        anna.page.wait_for_timeout(100)
    only(box, kind)
    box.away = False
    comes_by(anna, kind)
    assert anna.page.evaluate(REMEMBERED) is None
    only(box, "websocket")
    expect(anna.page.locator("#status .transport")).to_have_text("WebSocket", timeout=20_000)
    anna.live()
    anna.shows(*before, "beside it", "into the outage")
    bob.shows(*before, "beside it", "into the outage")
    chat(anna, bob)
    assert anna.texts() == in_the_log(bob.page, server.url)
    anna.leave(SERVER_AWAY)
    bob.leave()


def test_a_visit_that_begins_in_an_outage(browser: Browser, server: Server, box: Middlebox) -> None:
    anna = Person(browser, box.url, "")
    anna.page.locator("#name-skip").wait_for()
    asked = box.count("/static/client/lower.js")
    box.away = True
    anna.page.locator("#name-skip").click()
    while box.count("/static/client/lower.js") < asked + 2:  # for a stream, and for polls
        anna.page.wait_for_timeout(100)
    only(box, "stream")
    assert anna.page.evaluate(REMEMBERED) is None
    tried = box.count("/ws")
    box.away = False
    comes_by(anna, "stream")
    while anna.page.evaluate(REMEMBERED) is None:
        anna.page.wait_for_timeout(100)
    assert box.count("/ws") > tried, "once more, and then it is the network"
    anna.leave(SERVER_AWAY)


@pytest.mark.parametrize("kind", ["stream", "poll"])
def test_an_upward_trial_that_fails_changes_nothing(
    browser: Browser, server: Server, box: Middlebox, kind: str
) -> None:
    only(box, kind)
    if kind == "stream":
        box.websockets = "deaf"  # welcomed, but what we say does not arrive
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
    comes_by(anna, kind)
    tried = box.count("/ws"), box.count("/v1/events")
    anna.page.evaluate(LONG_AGO, kind)
    anna.page.reload()
    comes_by(anna, kind)
    anna.page.evaluate(WATCH)
    with anna.page.expect_websocket():  # 10 minutes after the last trial
        chat(anna, bob)
    anna.page.wait_for_timeout(8_000 if kind == "poll" else 3_000)  # 2.5 s for the one, 5 s for the other
    chat(anna, bob)
    comes_by(anna, kind)
    assert box.count("/ws") == tried[0] + 1
    assert anna.page.evaluate("kinds") == []
    only(box, "websocket")
    anna.page.evaluate(LONG_AGO, kind)
    anna.page.reload()
    comes_by(anna, kind)
    comes_by(anna, "websocket")
    chat(anna, bob)
    anna.leave(SERVER_AWAY)
    bob.leave()


@pytest.mark.parametrize("kind", ["stream", "poll"])
def test_an_answer_that_got_lost_makes_no_second_message(
    browser: Browser, server: Server, box: Middlebox, kind: str
) -> None:
    only(box, kind)
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
    comes_by(anna, kind)
    anna.say("before")
    bob.shows("before")
    box.loses = {"/v1/commands", "/v1/poll"}
    anna.say("once", "and only once")
    expect(bob.row("once")).to_have_count(1)
    box.loses = set()
    for person in (anna, bob):
        person.shows("before", "once", "and only once")
    anna.leave(SERVER_AWAY)
    bob.leave()


def test_a_request_that_hangs_is_given_up(browser: Browser, server: Server, box: Middlebox) -> None:
    only(box, "stream")
    anna = Person(browser, box.url, "Anna")
    anna.page.clock.install()
    anna.page.reload()
    comes_by(anna, "stream")
    box.holds = {"/v1/commands"}
    anna.say("held")
    for attempt in (1, 2):
        while box.count("/v1/commands") < attempt:
            anna.page.clock.run_for(500)
        anna.page.clock.run_for(10_000)
    box.holds = set()
    anna.page.clock.resume()
    anna.shows("held")
    anna.leave(SERVER_AWAY)


@pytest.mark.parametrize("kind", ["stream", "poll"])
def test_a_silent_server_is_noticed_without_a_websocket(browser: Browser, tmp_path: Path, kind: str) -> None:
    with Server(tmp_path, *UNLIMITED, "--ping-interval", "1") as server, Middlebox(server.port) as box:
        only(box, kind)
        anna = Person(browser, box.url, "Anna")
        comes_by(anna, kind)
        anna.page.clock.install()
        anna.page.reload()
        comes_by(anna, kind)
        server.freeze()
        try:
            anna.page.clock.run_for(60_000)
            anna.offline()
            anna.say("into the silence")
        finally:
            server.thaw()
        anna.page.clock.resume()
        anna.shows("into the silence")
        anna.live()
        anna.leave(SERVER_AWAY)


@pytest.mark.parametrize("kind", ["websocket", "stream"])
def test_a_server_without_heartbeats_may_be_silent(browser: Browser, tmp_path: Path, kind: str) -> None:
    with Server(tmp_path, *UNLIMITED, "--ping-interval", "0") as server, Middlebox(server.port) as box:
        only(box, kind)
        anna = Person(browser, box.url, "Anna")
        comes_by(anna, kind)
        anna.page.evaluate(WATCH)
        opened = box.count("/v1/events")
        anna.page.wait_for_timeout(2_500)  # the page looks each second
        anna.say("still here")
        anna.shows("still here")
        assert (box.count("/v1/events"), anna.page.evaluate("kinds")) == (opened, [])
        received = re.search(rb"^tornado_chat_received_messages_total ([0-9]+)", get(server.port, "/metrics"), re.M)
        assert received
        assert int(received[1]) < 20, "it does not ask all the time"
        anna.leave(SERVER_AWAY)


@pytest.mark.parametrize("kind", ["stream", "poll"])
def test_it_comes_back_after_a_kill_and_a_restart(browser: Browser, server: Server, box: Middlebox, kind: str) -> None:
    only(box, kind)
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
    comes_by(anna, kind)
    chat(anna, bob)
    server.kill()
    anna.offline()
    anna.say("while it was down")
    server.start()
    bob.live()
    expect(bob.row("while it was down")).to_have_count(1, timeout=40_000)
    chat(bob, anna)
    server.stop()
    anna.offline()
    server.start()
    bob.live()
    anna.live()
    chat(anna, bob)
    anna.leave(SERVER_AWAY)
    bob.leave(SERVER_AWAY)


@pytest.mark.parametrize("kind", ["stream", "poll"])
def test_who_one_is_counts_by_every_way(browser: Browser, tmp_path: Path, kind: str) -> None:
    with Server(tmp_path, "--no-guests") as server, Middlebox(server.port) as box:
        only(box, kind)
        alice = Person(browser, box.url, "", room="secrets")
        alice.page.locator("#token-input").fill(server.token("alice", name="Alice", rooms=["lobby"]))
        alice.page.locator("#token-form .primary").click()
        expect(alice.page.locator("#me")).to_contain_text("Alice", timeout=30_000)
        expect(alice.page.locator("#top")).to_contain_text("You are not in this room")
        alice.say("to nobody")
        expect(alice.page.locator("li.refused .fate")).to_contain_text("Not sent.")
        alice.page.goto(f"{box.url}/#lobby")
        alice.live()
        alice.say("signed in")
        alice.shows("signed in")
        alice.leave(SERVER_AWAY)


def test_a_sign_in_that_expires_on_a_stream(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, "--no-guests") as server, Middlebox(server.port) as box:
        only(box, "stream")
        alice = Person(browser, box.url, "")
        alice.sign_in(server.token("alice", ttl=4.0))
        expect(alice.page.locator("#token-error")).to_have_text("Your sign-in has expired.", timeout=30_000)
        alice.page.locator("#token-input").fill(server.token("alice"))
        alice.page.locator("#token-form .primary").click()
        alice.live()
        alice.leave(SERVER_AWAY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cookie_says_who_one_is_by_every_way(browser: Browser, server: Server, box: Middlebox, kind: str) -> None:
    only(box, kind)
    alice = Person(browser, box.url, "")
    alice.context.add_cookies([{"name": "chat_session", "value": server.token("alice", name="Alice"), "url": box.url}])
    alice.page.locator("#name-input").fill("Alice in Wonderland")  # the token has another name: it counts
    alice.page.locator("#name-go").click()
    expect(alice.page.locator("#me b")).to_have_text("Alice", timeout=30_000)
    comes_by(alice, kind)
    alice.say("by cookie")
    alice.shows("by cookie")
    alice.page.reload()
    comes_by(alice, kind)
    alice.shows("by cookie")
    alice.leave(SERVER_AWAY)


def test_a_stream_is_renewed_by_us_or_ended_by_the_server(browser: Browser, tmp_path: Path) -> None:
    flags = (*UNLIMITED, "--stream-lifetime", "2", "--ping-interval", "1000")
    with Server(tmp_path, *flags) as server, Middlebox(server.port) as box:
        only(box, "stream")
        anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob")
        comes_by(anna, "stream")
        said = 0
        while box.count("/v1/events") < 4:
            bob.say(f"while it changes {said}")
            said += 1
        anna.shows(*(f"while it changes {number}" for number in range(said)))
        anna.leave(SERVER_AWAY)
        bob.leave()
    with Server(tmp_path, *UNLIMITED, "--ping-interval", "1000") as server, Middlebox(server.port) as box:
        only(box, "stream")
        anna = Person(browser, box.url, "Anna", room="other")
        anna.page.clock.install()
        anna.page.reload()
        comes_by(anna, "stream")
        anna.page.evaluate(WATCH)
        opened = box.count("/v1/events")
        anna.page.clock.run_for(159_000)
        for _ in range(45):
            anna.page.clock.run_for(1_000)  # a second takes as long as a request, at least: it may have 5 of them
            anna.page.wait_for_timeout(100)
            if box.count("/v1/events") > opened:
                break
        anna.say("on the next one")
        anna.page.clock.run_for(1_000)
        anna.shows("on the next one")
        assert box.count("/v1/events") == opened + 1
        assert anna.page.evaluate("kinds") == []
        anna.leave(SERVER_AWAY)


def test_a_stream_that_cannot_be_replaced_at_once_is_replaced_later(
    browser: Browser, server: Server, box: Middlebox
) -> None:
    only(box, "stream")
    anna, bob = Person(browser, box.url, "Anna"), Person(browser, server.url, "Bob", room="other")
    comes_by(anna, "stream")
    opened = box.count("/v1/events")
    box.holds = {"/v1/events"}
    anna.page.locator("#enter-name").fill("other")
    anna.page.locator("#enter-name").press("Enter")
    for _ in range(400):
        anna.page.wait_for_timeout(50)
        if box.count("/v1/events") > opened + 1:
            break
    box.holds = set()
    bob.say("at last")
    anna.shows("at last")
    comes_by(anna, "stream")
    anna.leave(SERVER_AWAY)
    bob.leave()


def test_who_enters_another_room_does_not_wait_for_the_stream_that_is_tried_again(
    browser: Browser, server: Server, box: Middlebox
) -> None:
    only(box, "stream")
    anna = Person(browser, box.url, "Anna")
    anna.page.clock.install()
    anna.page.reload()
    comes_by(anna, "stream")
    anna.page.clock.pause_at(anna.page.evaluate("Date.now() / 1000 + 1"))

    def enter_and_open(room: str, so_far: int) -> None:
        anna.page.locator("#enter-name").fill(room)
        anna.page.locator("#enter-name").press("Enter")
        anna.page.clock.run_for(100)
        for _ in range(100):
            if box.count("/v1/events") > so_far:
                return
            anna.page.wait_for_timeout(50)
        raise AssertionError("no stream is opened for it")

    opened = box.count("/v1/events")
    box.holds = {"/v1/events"}
    enter_and_open("one", opened)
    anna.page.clock.run_for(5_000)  # it is given up, and the next one is due in a second at least
    box.holds = set()
    enter_and_open("two", opened + 1)
    anna.page.clock.resume()
    anna.say("here")
    anna.shows("here")
    comes_by(anna, "stream")
    anna.leave(SERVER_AWAY)


def test_more_tabs_than_a_browser_has_connections(browser: Browser, server: Server, box: Middlebox) -> None:
    only(box, "stream")
    anna = Person(browser, box.url, "Anna")
    comes_by(anna, "stream")
    pages = [anna.page] + [anna.tab() for _ in range(6)]
    for page in pages:
        expect(page.locator("#status")).to_have_attribute("data-kind", "live", timeout=40_000)
    by = [page.locator("#status .transport").inner_text() for page in pages]
    assert sorted(by) == ["poll"] * 3 + ["stream"] * 4
    for page, kind in zip(pages, by, strict=True):
        page.locator("#status").click()
        expect(page.locator("#way")).to_contain_text(
            "other tabs" if kind == "poll" else "did not work when it was last"
        )
        page.keyboard.press("Escape")
    said = []
    for number, page in enumerate(pages):
        anna.page = page
        said.append(f"from tab {number}")
        anna.say(said[-1])
        anna.shows(*said)
    for page in pages:
        anna.page = page
        anna.shows(*said)
    for page in pages[:4]:
        page.close()
    anna.page = pages[4]
    anna.page.evaluate("dispatchEvent(new Event('online'))")
    comes_by(anna, "stream")
    anna.leave(SERVER_AWAY)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390])
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_line_says_which_it_is(
    browser: Browser, server: Server, box: Middlebox, tmp_path: Path, scheme: Any, width: int, kind: str
) -> None:
    only(box, kind)
    size = {"width": width, "height": 780}
    anna = Person(browser, box.url, "Anna", room="a" * 64, viewport=size, color_scheme=scheme, has_touch=True)
    comes_by(anna, kind)
    words = {
        "websocket": "in the usual way, by a WebSocket",
        "stream": "a WebSocket, did not work when it was last tried",
        "poll": "asks for new ones again and again, since the quicker ways did not work",
    }[kind]
    expect(anna.page.locator("#status")).to_have_attribute("title", re.compile(words))
    way = anna.page.locator("#way")
    expect(way).to_be_hidden()
    anna.page.locator("#status").tap()
    expect(way).to_contain_text(words)
    expect(way).to_be_in_viewport(ratio=1)
    assert anna.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    (tmp_path / f"{scheme}-{width}-{kind}.png").write_bytes(anna.page.screenshot())
    anna.page.locator("#scroller").tap()
    expect(way).to_be_hidden()
    anna.leave(SERVER_AWAY)
