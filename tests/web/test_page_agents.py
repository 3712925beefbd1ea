"""Agents in the page: what they do and did, their answers and other attempts at them, their commands, a page of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.support.chromium import Person, another, in_the_log
from tests.support.raw_chat import RawChat
from tests.support.servers import UNLIMITED, Server

pytest_plugins = ["tests.support.chromium_fixtures"]

ANSWER = "It is **cold**.\n\n- `-3` degrees"


class Bot(RawChat):
    """An agent, as its framework speaks."""

    def __init__(self, server: Server) -> None:
        token = server.token("bot", name="Helper", agent=True)
        super().__init__(server.port, "/ws", f"Authorization: Bearer {token}")

    def begin(self, question: int, number: int = 1, text: str = "") -> int:
        id = f"re:{question}" + (f":{number}" if number > 1 else "")
        seq: int = self.ask(type="begin", id=id, room="lobby", reply_to=question)["seq"]
        if text:
            self.say({"type": "append", "room": "lobby", "stream": id, "offset": 0, "text": text})
        return seq

    def finish(self, question: int, number: int = 1, length: int = 0, reason: str = "done", **more: Any) -> None:
        id = f"re:{question}" + (f":{number}" if number > 1 else "")
        end = {"room": "lobby", "stream": id, "length": length, "reason": reason, **more}
        assert self.ask(type="finish", id=f"end of {id}", **end)["type"] == "ack"

    def answer(self, question: int, number: int = 1, text: str = ANSWER, reason: str = "done") -> int:
        seq = self.begin(question, number, text)
        self.finish(question, number, len(text), reason)
        return seq

    def step(self, seq: int, **step: str) -> None:
        self.say({"type": "step", "room": "lobby", "seq": seq, "step": {"id": "1", "name": "search", **step}})

    def leave(self) -> None:
        self.sock.close()


def asked(person: Person, text: str) -> None:
    person.say(text)
    expect(person.row(text)).to_be_visible()
    expect(person.page.locator("li.pending")).to_have_count(0)


def test_what_an_agent_does_is_seen_while_it_does_it_and_kept(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    page = anna.page
    page.evaluate(
        """() => {
          window.heard = [];
          const live = document.getElementById("live");
          new MutationObserver(() => heard.push(live.textContent)).observe(live, { childList: true });
        }"""
    )
    asked(anna, "weather?")
    bot = Bot(server)
    bot.ask(type="join", id="j", room="lobby")
    seq = bot.begin(1)
    bot.say({"type": "status", "room": "lobby", "seq": seq, "text": "searching the <b>web</b>"})
    expect(page.locator("#typing")).to_have_text("Helper is searching the <b>web</b>")
    bot.say({"type": "status", "room": "lobby", "seq": seq, "text": "2 of 3"})
    expect(page.locator("#typing")).to_have_text("Helper: 2 of 3")
    bot.step(seq, state="running", input="Oslo")
    step = page.locator("details.step")
    expect(step).to_have_class("step running")
    expect(step.locator("summary")).to_have_text("search running Oslo")
    expect(page.locator("li.message .agent")).to_have_accessible_name("agent: a conversation with Helper alone")
    expect(page.locator("li.message").last.locator(".quote")).to_have_count(0)  # it stands right above

    lie = {"id": "2", "name": "lie", "state": "done"}  # of somebody else
    another(page, server.url, [{"type": "step", "room": "lobby", "seq": seq, "step": lie}, {"type": "ping"}], "pong")
    step.locator("summary").press("Enter")
    expect(step.locator("dd")).to_have_text(["Oslo"])
    bot.step(seq, state="done", input="Oslo", output="<i>-3</i>")
    expect(step.locator("dd")).to_have_text(["Oslo", "<i>-3</i>"])
    expect(step.locator("summary")).to_be_focused()
    bot.say({"type": "append", "room": "lobby", "stream": "re:1", "offset": 0, "text": ANSWER})
    bot.say({"type": "status", "room": "lobby", "seq": seq, "text": ""})
    kept = {"id": "1", "name": "search", "state": "error", "input": "Oslo", "output": "kept"}
    bot.finish(1, length=len(ANSWER), meta={"steps": [kept, "none", {"id": 3}]})
    for person in (anna, bob):
        expect(person.page.locator("details.step summary")).to_have_text(["search failed Oslo"])
        expect(person.page.locator("#typing")).to_have_text("")
    expect(step).to_have_attribute("open", "")
    expect(step.locator("dd")).to_have_text(["Oslo", "kept"])
    expect(page.locator("#live")).to_have_text(re.compile("degrees$"))
    told = [words for words in page.evaluate("heard") if "Helper is searching" in words or "2 of 3" in words]
    assert told == ["Helper is searching the <b>web</b>."]
    page.reload()
    expect(step.locator("summary")).to_have_text(["search failed Oslo"])
    expect(step).not_to_have_attribute("open", "")
    assert page.locator("details b b, details i").count() == 0
    expect(bob.page.locator(".actions")).to_have_count(0)  # he has not asked
    bot.leave()
    anna.leave()
    bob.leave()


def test_who_asked_copies_and_asks_again_and_finds_the_attempts_before(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna", permissions=["clipboard-read", "clipboard-write"])
    page = anna.page
    asked(anna, "weather?")
    bot = Bot(server)
    bot.ask(type="join", id="j", room="lobby", after=0)
    first = bot.answer(1, text="It is", reason="stopped")
    another(page, server.url, [{"type": "send", "room": "lobby", "text": "said between", "reply_to": first}])
    texts = page.locator("li.message .text")
    expect(texts).to_have_text(["weather?", "It is (stopped)", "said between"])
    again = page.get_by_role("button", name="Regenerate")
    expect(again).to_have_text("Regenerate")  # it says so, as it has not ended well
    again.click()
    edited = bot.until("edited", target=1)
    assert edited["text"] == "weather?"
    expect(again).to_be_enabled()

    bot.begin(1, 2, "It *grows*")
    expect(texts).to_have_text([re.compile("^weather"), "said between", "It grows"])
    expect(page.locator(".attempts")).to_have_text("2 of 2")
    bot.finish(1, 2, len("It *grows*"))
    bot.answer(1, 3)
    row = page.locator("li.message").last
    expect(row.locator(".attempts")).to_have_text("3 of 3")
    expect(row.locator(".text")).to_have_text(re.compile("It is cold."))
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied", exact=True)).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER

    back = page.get_by_role("button", name="The attempt before")
    back.focus()
    page.keyboard.press("Enter")
    expect(row.locator(".text")).to_have_text("It grows")
    expect(back).to_be_focused()
    page.keyboard.press("Enter")
    expect(row.locator(".text")).to_have_text("It is (stopped)")
    expect(back).to_be_disabled()
    page.get_by_role("button", name="The attempt after").click()
    expect(row.locator(".attempts")).to_have_text("2 of 3")
    anna.row("said between").locator(".quote").click()  # which answers the first
    expect(row.locator(".attempts")).to_have_text("1 of 3")
    expect(row).to_be_focused()

    page.get_by_role("button", name="Edit and ask again").click()
    expect(page.locator("#text")).to_have_value("weather?")
    page.locator("#text").fill("weather in Oslo?")
    page.locator("#text").press("Enter")
    assert bot.until("edited", target=1)["text"] == "weather in Oslo?"
    bot.answer(1, 4, "New.")
    expect(row.locator(".text")).to_have_text("New.")  # what is new is shown, whichever was looked at
    expect(row.locator(".attempts")).to_have_text("4 of 4")
    page.reload()
    expect(texts).to_have_text(["weather in Oslo? (edited)", "said between", "New."])
    bot.leave()
    anna.leave()


def test_commands_are_completed_and_reach_the_agent_that_has_them(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    page, box, options = anna.page, anna.page.locator("#text"), anna.page.locator("#people [role=option]")
    asked(anna, "/")  # no agent is known: it is a text
    assert not page.evaluate("performance.getEntriesByType('resource').some(({ name }) => name.includes('slash'))")
    bot = Bot(server)
    commands = [
        {"name": "model", "description": "which answers", "choices": ["quick", "careful"]},
        {"name": "mood"},
        {"name": "<b>"},
        None,
    ]
    bot.ask(type="send", id="c", room="commands.bot", text="-", meta={"commands": commands})
    lie = {"commands": [{"name": "moan"}]}
    another(page, server.url, [{"type": "send", "room": "commands.bot", "text": "-", "meta": lie}])
    bot.ask(type="send", id="hello", room="lobby", text="Hello")
    expect(anna.row("Hello")).to_be_visible()
    box.press_sequentially("/mo")
    expect(options).to_have_text(["/model which answers", "/mood "])
    expect(page.locator("#people")).to_have_accessible_name("Commands")
    expect(options.first).to_have_attribute("aria-selected", "true")
    box.press("Tab")
    expect(box).to_have_value("/model ")
    expect(options).to_have_text(["quick", "careful"])
    box.press("ArrowDown")
    box.press("Enter")
    expect(box).to_have_value("/model careful ")
    expect(page.locator("#people")).to_be_hidden()
    box.press("Enter")
    expect(anna.row("/model careful")).to_be_visible()
    box.press_sequentially("/mood")
    expect(options).to_have_text(["/mood "])
    box.press("Enter")  # it is all there: it is sent
    expect(anna.row("/mood")).to_be_visible()
    expect(page.locator("#people")).to_be_hidden()
    box.press_sequentially("@Helper, /moo")
    expect(options).to_have_text(["/mood "])
    box.press("Escape")
    box.fill("")
    expect(page.locator("li.pending")).to_have_count(0)
    frames = another(page, server.url, [{"type": "join", "room": "lobby", "after": 0}], "synced")
    said = {frame["text"]: frame.get("mentions") for frame in frames if frame["type"] == "message"}
    assert said == {"/": None, "Hello": None, "/model careful": ["bot"], "/mood": ["bot"]}
    bot.leave()
    anna.leave()


def talks(page: Page) -> Any:
    return expect(page.locator("#rooms .label"))


def test_a_page_of_one_agent(browser: Browser, tmp_path: Path) -> None:
    """With a real one: a question and its streamed answer in a room that is followed, reloaded, and found again."""
    with Server(tmp_path, *UNLIMITED, "--agent", "demo") as server:
        anna = Person(browser, server.url, "Anna")
        page = anna.page
        expect(anna.page.locator("li.message .agent")).to_be_visible()
        page.locator("li.message .agent").click()
        anna.live()
        assert re.search("/agent/demo#demo-[a-z2-7]{26}$", page.url)
        expect(page.locator("#title")).to_have_text("demo agent")
        expect(page.locator("#top")).to_contain_text("Ask demo something.")
        expect(page.locator("#top")).to_contain_text("write / to see them")
        talks(page).to_have_count(0)
        page.locator("#text").press_sequentially("/tab")  # of an agent that has said nothing here
        expect(page.locator("#people")).to_contain_text("/table")
        page.locator("#text").fill("/help")
        page.locator("#text").press("Enter")
        expect(page.locator(".text table")).to_be_visible()
        talks(page).to_have_text(["/help"])
        first = page.url
        page.reload()
        expect(page.locator(".text table")).to_be_visible()
        assert page.url == first
        talks(page).to_have_text(["/help"])

        page.get_by_role("button", name="New conversation").click()
        expect(page.locator("li.message")).to_have_count(0)
        assert page.url != first
        anna.say("Tell me of wind")
        expect(page.locator("details.step summary")).to_contain_text("clock")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".edited")).to_have_text("(stopped)")
        talks(page).to_have_text(["Tell me of wind", "/help"])
        expect(page).to_have_title("Tell me of wind · demo · Chat")
        page.locator("#rooms a").last.click()
        expect(page.locator(".text table")).to_be_visible()
        assert page.url == first

        page.get_by_role("link", name="All rooms").click()
        anna.live()
        talks(page).to_have_text(["lobby", "demoagent"])
        expect(page.locator("#rooms button")).to_have_count(1)
        page.locator("#rooms a", has_text="demo").click()
        talks(page).to_have_text(["Tell me of wind", "/help"])
        page.get_by_role("button", name="Remove “/help” from the list").click()
        talks(page).to_have_text(["Tell me of wind"])
        room = first.partition("#")[2]
        assert in_the_log(page, server.url, room)[0] == "/help"  # it is a room like others
        anna.leave()


def test_it_is_said_that_an_agent_does_not_answer(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    anna.page.clock.install()
    anna.page.goto(f"{server.url}/agent/helper")
    anna.live()
    asked(anna, "Are you there?")
    anna.page.clock.fast_forward(10_000)
    notice = "Helper does not answer: it may not be running. What you asked is kept."
    expect(anna.page.locator(".notice")).to_have_text(notice)
    anna.leave()


def test_the_box_is_as_high_as_what_it_says(browser: Browser, server: Server) -> None:
    """The name of a conversation's room is long, and is not what the box shows."""
    anna = Person(browser, server.url, "Anna", viewport={"width": 390, "height": 780})
    anna.page.goto(f"{server.url}/agent/helper")
    anna.live()
    box = anna.page.locator("#text")
    expect(box).to_have_attribute("placeholder", "Message helper")
    high = "(box) => box.getBoundingClientRect().height"
    empty = box.evaluate(high)
    box.fill("hello")
    assert box.evaluate(high) == empty
    anna.leave()
