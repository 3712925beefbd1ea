"""Messages that grow, in the page: by every way in, stopped, reloaded, scrolled, read aloud."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, WebSocketRoute, expect

from tests.support.chromium import SERVER_AWAY, Person, fill_room
from tests.support.middlebox import Middlebox
from tests.support.raw_chat import RawChat
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]

TEXT = "".join(f"Sentence {number} of a text 😀 that *grows*.\n\n" for number in range(40))


class Author:
    """One message that grows, as its author says it."""

    def __init__(self, server: Server, id: str = "m", **begin: Any) -> None:
        self.chat = RawChat(server.port, "/ws", f"Authorization: Bearer {server.token('agent', name='Agent')}")
        self.id = id
        ack = self.chat.ask(type="begin", id=id, room="lobby", **begin)
        self.seq, self.length = ack["seq"], ack["length"]

    def append(self, text: str) -> None:
        self.chat.say({"type": "append", "room": "lobby", "stream": self.id, "offset": self.length, "text": text})
        self.length += len(text)

    def finish(self, reason: str = "done") -> None:
        end = {"room": "lobby", "stream": self.id, "length": self.length, "reason": reason}
        assert self.chat.ask(type="finish", id=f"end of {self.id}", **end)["type"] == "ack"

    def leave(self) -> None:
        self.chat.sock.close()


@pytest.fixture
def box(server: Server) -> Iterator[Middlebox]:
    with Middlebox(server.port) as box:
        yield box


def pieces(text: str, size: int = 37) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("kind", ["websocket", "stream", "poll"])
def test_it_is_seen_to_grow_by_every_way(browser: Browser, server: Server, box: Middlebox, kind: str) -> None:
    box.websockets = "passed" if kind == "websocket" else "refused"
    box.buffers = kind == "poll"
    anna = Person(browser, box.url, "Anna")
    author = Author(server)
    row, text = anna.page.locator("li.message"), anna.page.locator("li.message .text")
    expect(row.locator(".growing")).to_be_visible()
    expect(row.get_by_role("button", name="Stop")).to_have_count(0)
    parts = pieces(TEXT)
    for part in parts[:20]:
        author.append(part)
    expect(text).to_contain_text("Sentence 12 of a text 😀 that grows.")
    first = text.locator("p").first
    first.evaluate("node => { node.stays = true; }")
    for part in parts[20:30]:
        author.append(part)
    expect(text).to_contain_text("Sentence 20 of")
    assert first.evaluate("node => node.stays")

    anna.page.reload()  # in the middle of it
    expect(text).to_contain_text("Sentence 20 of a text 😀 that grows.")
    expect(text).to_contain_text("Sentence 0 of")
    for part in parts[30:]:
        author.append(part)
    author.finish()
    expect(text.locator("p")).to_have_text([f"Sentence {number} of a text 😀 that grows." for number in range(40)])
    expect(row.locator(".growing")).to_have_count(0)
    anna.page.reload()
    expect(text.locator("p")).to_have_count(40)
    author.leave()
    anna.leave(SERVER_AWAY)


def test_who_asked_may_stop_it(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    anna.say("question")
    anna.shows("question")
    author = Author(server, reply_to=1)
    author.append("An answer without an end")
    for person in (anna, bob):
        expect(person.page.locator("li.message .text").last).to_have_text("An answer without an end")
    expect(bob.page.locator(".growing button")).to_have_count(0)
    anna.page.locator("#text").press("Shift+Tab")
    expect(anna.page.get_by_role("button", name="Stop the message of Agent")).to_be_focused()
    anna.page.keyboard.press("Enter")
    expect(anna.page.locator(".growing")).to_have_text("Stopping…")
    anna.say("meanwhile")
    for person in (anna, bob):
        expect(person.row("meanwhile")).to_have_count(1)
    heard = author.chat.until("stop")
    assert heard["seq"] == author.seq
    author.append(", but")
    author.finish("stopped")
    for person in (anna, bob):
        person.shows("question", "An answer without an end, but (stopped)", "meanwhile")
        expect(person.page.locator(".growing")).to_have_count(0)
    author.leave()
    anna.leave()
    bob.leave()


def test_what_was_missed_is_asked_for(browser: Browser, server: Server) -> None:
    """Chunks that got lost, and one that came as something else: the text is right in the end, at the latest."""
    anna = Person(browser, server.url, "")
    frames: list[str] = []

    def lossy(route: WebSocketRoute) -> None:
        real = route.connect_to_server()

        def hear(frame: str | bytes) -> None:
            told = json.loads(frame)
            if told["type"] == "appended":
                frames.append("appended")
                if len(frames) % 3 == 0:
                    return
                if len(frames) == 4:
                    [chunk] = told["chunks"]
                    chunk[3] = "x" * len(chunk[3])
            route.send(json.dumps(told))

        def say(frame: str | bytes) -> None:
            if json.loads(frame)["type"] == "fetch":
                frames.append("fetch")
            real.send(frame)

        real.on_message(hear)
        route.on_message(say)

    anna.page.route_web_socket(re.compile("/ws"), lossy)
    anna.page.reload()
    anna.page.locator("#name-input").fill("Anna")
    anna.page.locator("#name-go").click()
    anna.live()
    author = Author(server)
    for number, part in enumerate(pieces(TEXT, 150), 1):
        author.append(part)
        while frames.count("appended") < number:
            anna.page.wait_for_timeout(20)
    author.finish()
    expect(anna.page.locator("li.message .text p")).to_have_text(
        [f"Sentence {number} of a text 😀 that grows." for number in range(40)]
    )
    assert frames.count("fetch") >= 2
    author.leave()
    anna.leave()


def test_it_goes_on_after_a_kill(browser: Browser, server: Server) -> None:
    """Of the text that the page has, the server may have lost the end: the author says it again."""
    anna = Person(browser, server.url, "Anna")
    author = Author(server)
    for part in pieces(TEXT[:600]):
        author.append(part)
    expect(anna.page.locator("li.message .text p")).to_have_count(16)
    server.kill()
    anna.offline()
    author.leave()
    server.start()
    author = Author(server)
    assert author.length <= 600
    for part in pieces(TEXT[author.length :]):
        author.append(part)
    anna.live()
    author.finish()
    expect(anna.page.locator("li.message .text p")).to_have_text(
        [f"Sentence {number} of a text 😀 that grows." for number in range(40)]
    )
    author.leave()
    anna.leave(SERVER_AWAY)


def test_who_has_scrolled_up_is_not_moved(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    fill_room(anna.page, server.url, 50)
    expect(anna.row("message 50")).to_be_in_viewport()
    author = Author(server)
    author.append("```\n" + "a line\n" * 60)
    expect(anna.page.locator(".code pre")).to_contain_text("a line\n" * 59)
    place = """() => {
      const scroller = document.getElementById("scroller");
      const row = [...document.querySelectorAll("li.message")].at(-1);
      return [scroller.scrollTop, row.getBoundingClientRect().top];
    }"""
    anna.page.evaluate("scroller.scrollTop = [...document.querySelectorAll('li.message')].at(-1).offsetTop + 50")
    expect(anna.page.locator("#jump")).to_be_visible()
    before = anna.page.evaluate(place)
    assert before[1] < 100, "it is what is read"
    code = anna.page.locator(".code").evaluate_handle("node => node")
    for number in range(30):
        author.append(f"line {number}\n" * 5)
    expect(anna.page.locator(".code")).to_contain_text("line 29")
    assert anna.page.evaluate(place) == before
    assert code.evaluate("node => node.isConnected"), "the fence does not flicker"
    author.append("```\n\nand on")
    author.finish()
    expect(anna.page.locator("li.message .text").last).to_contain_text("and on")
    assert anna.page.evaluate(place) == before
    anna.page.locator("#jump").click()
    expect(anna.page.get_by_text("and on")).to_be_in_viewport()
    author.leave()
    anna.leave()


def test_it_is_read_aloud_by_sentences(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    anna.page.evaluate(
        """() => {
          window.heard = [];
          const live = document.getElementById("live");
          const said = () => heard.push(live.textContent);
          new MutationObserver(said).observe(live, { childList: true, characterData: true });
        }"""
    )
    author = Author(server)
    for part in pieces("One two three. Four **five** six! Seven and so on until the end", 3):
        author.append(part)
        anna.page.wait_for_timeout(60)
    author.finish()
    expect(anna.page.locator("#live")).to_have_text(re.compile("until the end$"))
    heard = anna.page.evaluate("heard")
    assert " ".join(heard) == "Agent: One two three. Four five six! Seven and so on until the end"
    assert all(re.search(r"[.!]$|until the end$", words) for words in heard)
    author.leave()
    anna.leave()


def test_the_text_is_what_the_chunks_make_it(browser: Browser, server: Server) -> None:
    """Overlaps, gaps, another writing of it, an end that cuts; all in code points."""
    anna = Person(browser, server.url, "")
    got = anna.page.evaluate(
        """async (url) => {
          const { Growth, crc32 } = await import(`${url}/static/client/growth.js`);
          const { Room } = await import(`${url}/static/client/room.js`);
          const room = new Room("lobby");
          room.joined({ head: 0, cursor: 0, read: 0, epoch: "a" }, { last: 60 });
          const event = { room: "lobby", user: "u", name: "U", ts: 1 };
          room.event({ ...event, type: "message", seq: 1, n: 1, streaming: true, text: "" });
          const [message] = room.messages;
          const asked = [];
          let answer;
          const growth = new Growth({
            rooms: () => [],
            polls: () => false,
            grown: () => {},
            fetch: (_, seq, offset) => {
              asked.push(offset);
              return new Promise((resolve) => { answer = resolve; });
            },
          });
          const texts = [];
          const chunks = (...all) => {
            growth.appended(room, { chunks: all.map(([gen, offset, text]) => [1, gen, offset, text]) });
            texts.push(message.text);
          };
          chunks([1, 0, "😀a"], [1, 1, "ab"], [1, 0, "😀"]);
          chunks([1, 5, "lost"], [1, 9, "too"]);
          await answer({ seq: 1, gen: 1, offset: 3, text: "cdlosttoo", done: false });
          await null;
          texts.push(message.text);
          chunks([2, 0, "again"], [1, 12, "late"]);
          room.event({ ...event, type: "finished", seq: 2, target: 1, reason: "done", length: 3, crc: crc32("aga") });
          growth.end(room, message);
          const { text, end, streaming } = message;
          return { texts, asked, text, end, streaming, crc: crc32("😀 a") };
        }""",
        server.url,
    )
    assert got == {
        "texts": ["😀ab", "😀ab", "😀abcdlosttoo", "again"],
        "asked": [3],
        "text": "aga",
        "end": None,
        "streaming": False,
        "crc": zlib.crc32("😀 a".encode()),
    }
    anna.leave()


def test_an_end_that_does_not_fit_is_asked_for_in_peace(browser: Browser, server: Server) -> None:
    """Whoever tells the end may not know which writing it was, and an edit may have come before it."""
    anna = Person(browser, server.url, "")
    got = anna.page.evaluate(
        """async (url) => {
          const { Growth, crc32 } = await import(`${url}/static/client/growth.js`);
          const { Room } = await import(`${url}/static/client/room.js`);
          const room = new Room("lobby");
          room.joined({ head: 0, cursor: 0, read: 0, epoch: "a" }, { last: 60 });
          const event = { room: "lobby", user: "u", name: "U", ts: 1 };
          const asked = [];
          const answers = [];
          const growth = new Growth({
            rooms: () => [],
            polls: () => false,
            grown: () => {},
            fetch: async (_, seq, offset) => {
              asked.push(offset);
              return answers.shift() ?? { seq, gen: 1, offset: 0, text: "edited", done: true };
            },
          });
          const settled = () => new Promise((resolve) => setTimeout(resolve, 50));
          const finished = { ...event, type: "finished", reason: "done", length: 4, crc: crc32("text") };
          room.event({ ...event, type: "message", seq: 1, n: 1, streaming: true, text: "" });
          growth.appended(room, { chunks: [[1, 2, 0, "te"]] });
          room.event({ ...finished, seq: 2, target: 1 });
          answers.push({ seq: 1, gen: 1, offset: 2, text: "xt", done: true });
          growth.end(room, room.find(1));
          await settled();
          const first = { text: room.find(1).text, end: room.find(1).end, asked: asked.splice(0) };
          room.event({ ...event, type: "message", seq: 3, n: 2, streaming: true, text: "" });
          growth.appended(room, { chunks: [[3, 1, 0, "te"]] });
          room.event({ ...finished, seq: 4, target: 3 });
          growth.end(room, room.find(3));
          await settled();
          const times = asked.length;
          room.event({ ...event, type: "edited", seq: 5, target: 3, text: "edited" });
          return { first, times, text: room.find(3).text, end: room.find(3).end };
        }""",
        server.url,
    )
    assert got == {"first": {"text": "text", "end": None, "asked": [2]}, "times": 1, "text": "edited", "end": None}
    anna.leave()


def test_a_chunk_that_comes_before_an_older_answer_is_asked_for(browser: Browser, server: Server) -> None:
    """The answer takes another way than the chunks, and no other chunk may come for long."""
    anna = Person(browser, server.url, "")
    got = anna.page.evaluate(
        """async (url) => {
          const { Growth } = await import(`${url}/static/client/growth.js`);
          const { Room } = await import(`${url}/static/client/room.js`);
          const room = new Room("lobby");
          room.joined({ head: 0, cursor: 0, read: 0, epoch: "a" }, { last: 60 });
          const event = { room: "lobby", user: "u", name: "U", ts: 1 };
          const asked = [];
          let answer = () => {};
          const growth = new Growth({
            rooms: () => [room],
            polls: () => false,
            grown: () => {},
            fetch: (_, seq, offset) => {
              asked.push(offset);
              return new Promise((resolve) => {
                answer = (gen, at, text) => resolve({ seq, gen, offset: at, text, done: false });
              });
            },
          });
          const settled = () => new Promise((resolve) => setTimeout(resolve, 20));
          room.event({ ...event, type: "message", seq: 1, n: 1, streaming: true, text: "" });
          growth.look(room);
          growth.appended(room, { chunks: [[1, 1, 4, "late"]] });
          answer(1, 0, "told");
          await settled();
          answer(1, 4, "late");
          await settled();
          const { text } = room.find(1);
          growth.appended(room, { chunks: [[1, 2, 3, "ew"]] });
          answer(2, 0, "anew");
          await settled();
          return { asked, text, again: room.find(1).text };
        }""",
        server.url,
    )
    assert got == {"asked": [0, 4, 0], "text": "toldlate", "again": "anew"}
    anna.leave()
