"""The page judged by axe-core: no state of it breaks a rule of WCAG 2.1 A and AA, or one of its own good practice."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import ROOT
from tests.support.chromium import Person, another
from tests.support.raw_chat import RawChat
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]

AXE = (ROOT / "tests" / "web" / "vendor" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]  # all of them are on

# What fades in has its colours at the end.
STILL = """Promise.allSettled(document.getAnimations().flatMap((one) => (
  one.effect.getComputedTiming().endTime < Infinity ? [one.finished] : []
)))"""

JUDGED = """async (rules) => {
  const { violations, passes } = await axe.run(document, { runOnly: rules, resultTypes: ["violations", "passes"] });
  const told = violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => (
    `${id}: ${target.join(" ")}: ${failureSummary}`
  )));
  return [told, passes.map(({ id }) => id)];
}"""

MARKDOWN = """## A heading

#### Another

A [link](https://example.org), **bold**, *thin*, ~~gone~~, `code`, a line that ends\\
here.

> A quotation

- [x] done
- [ ] to do

1. one
2. two

| a table | with numbers |
| ------- | -----------: |
| of two  |            1 |

```python
# what code is made of
class Kind(Exception):
    def name(self) -> str:
        return f"{self!r}" + "text" * 12 if True else None
```
"""


def judge(page: Page, state: str, *rules: str) -> None:
    """No rule is broken, and `rules` had something to judge: the state is what it is meant to be."""
    page.evaluate(STILL)
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE)
    broken, held = page.evaluate(JUDGED, RULES)
    assert broken == [], state
    assert {"color-contrast", "button-name", *rules} <= set(held), state


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390])
def test_no_rule_is_broken(browser: Browser, server: Server, scheme: Any, width: int) -> None:
    phone = width < 500
    screen: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 780}, "is_mobile": phone}
    anna = Person(browser, server.url, "", has_touch=phone, **screen)
    page = anna.page
    expect(page.locator("#name-dialog")).to_be_visible()
    judge(page, "asked for a name", "label")
    page.locator("#name-token").click()
    expect(page.locator("#token-dialog")).to_be_visible()
    page.locator("#token-input").fill("none")
    page.locator("#token-form .primary").click()
    expect(page.locator("#token-error")).to_be_visible()
    judge(page, "a token that is none", "label")
    page.locator("#token-input").fill(server.token("anna", name="Anna"))
    page.locator("#token-form .primary").click()
    anna.live()
    expect(page.locator("#top")).to_contain_text("Nobody has said anything here yet.")
    judge(page, "an empty room", "page-has-heading-one")

    def others(*commands: dict[str, Any]) -> None:
        another(page, server.url, [{"room": "lobby", **command} for command in commands])

    others(
        {"type": "send", "text": "hello"},
        {"type": "send", "text": "hello to @Anna", "mentions": ["anna"]},
        {"type": "send", "text": "an answer", "reply_to": 1},
        {"type": "edit", "seq": 1, "text": "hello all"},
        {"type": "react", "seq": 1, "emoji": "🎉", "on": True},
        {"type": "send", "text": "no more"},
        {"type": "delete", "seq": 6},
        {"type": "send", "text": MARKDOWN},
    )
    anna.say("mine")
    expect(anna.row("mine")).to_be_visible()
    expect(page.locator("li.pending")).to_have_count(0)
    expect(page.locator(".text table")).to_be_visible()
    expect(page.locator(".shj-kwd").first).to_be_visible()
    judge(page, "messages", "link-name", "list", "th-has-data-cells")
    page.locator("#list > li:last-child").focus()
    page.locator("#list > li:last-child [data-do=picker]").click()
    expect(page.locator(".picker")).to_be_visible()
    judge(page, "the tools of a message")
    page.keyboard.press("Escape")

    token = server.token("agent", name="Agent", agent=True)
    agent = RawChat(server.port, "/ws", f"Authorization: Bearer {token}")
    seq = agent.ask(type="begin", id="re:9", room="lobby", reply_to=9)["seq"]
    agent.say({"type": "status", "room": "lobby", "seq": seq, "text": "thinking"})
    step = {"id": "1", "name": "search", "input": "what", "output": "that"}
    for id, state in (("1", "done"), ("2", "running"), ("3", "error")):
        told = {**step, "id": id, "state": state}
        agent.say({"type": "step", "room": "lobby", "seq": seq, "step": told})
    agent.say(
        {
            "type": "append",
            "room": "lobby",
            "stream": "re:9",
            "offset": 0,
            "text": "It *grows* with `code`:\n\n```\nopen\n",
        }
    )
    expect(page.get_by_role("button", name="Stop the message of Agent")).to_be_visible()
    expect(page.locator(".code", has_text="open")).to_be_visible()
    page.locator(".step summary").first.click()
    expect(page.locator(".step dd").first).to_be_visible()
    expect(page.locator("#typing")).to_have_text("Agent is thinking")
    judge(page, "a message that grows")
    page.get_by_role("button", name="Stop the message of Agent").click()
    expect(page.locator(".growing")).to_have_count(0)
    judge(page, "a message that was stopped")
    agent.ask(type="begin", id="re:9:2", room="lobby", reply_to=9)
    agent.ask(
        type="finish",
        id="end",
        room="lobby",
        stream="re:9:2",
        length=0,
        reason="error",
        meta={"steps": [step | {"state": "done"}]},
    )
    expect(page.locator(".attempts")).to_have_text("2 of 2")
    expect(page.get_by_role("button", name="Regenerate")).to_be_enabled()
    judge(page, "the attempts of an agent")
    commands = [{"name": "model", "description": "which of them answers", "choices": ["quick"]}]
    agent.ask(type="send", id="c", room="commands.agent", text="-", meta={"commands": commands})
    agent.sock.close()

    box = page.locator("#text")
    box.press_sequentially("@a")
    expect(page.locator("#people").get_by_role("option").first).to_be_visible()
    judge(page, "names that complete an @", "aria-required-children")
    box.press("Escape")
    box.fill("")
    box.press_sequentially("/")
    expect(page.locator("#people")).to_contain_text("which of them answers")
    judge(page, "commands that complete a /", "aria-required-children")
    box.press("Escape")
    box.fill("@a")
    box.press_sequentially(" @nobody ")
    expect(page.locator("#hint")).to_have_text("Nobody here is called @a or @nobody.")
    judge(page, "nobody is called so")
    box.fill("")
    page.locator("#options-open").click()
    expect(page.get_by_label("Invite somebody")).to_be_visible()
    judge(page, "the options of a room", "label")
    page.keyboard.press("Escape")

    if phone:
        page.locator("#menu").click()
    page.locator("#enter-name").fill("side")
    page.locator("#enter-name").press("Enter")
    expect(page.locator("#title")).to_have_text("#side")
    bob = Person(browser, server.url, "Bob")
    bob.say("one")
    another(
        page,
        server.url,
        [
            {"type": "send", "room": "lobby", "text": "@Anna, two", "mentions": ["anna"]},
            {"type": "invite", "room": "team", "user": "anna"},
        ],
    )
    expect(page.locator(".notice")).to_contain_text("You are invited to #team")
    judge(page, "an invitation is told")
    if phone:
        page.locator("#menu").click()
    expect(page.locator("#rooms .badge")).to_have_count(2)
    expect(page.locator("#rooms small")).to_contain_text("Invited by")
    judge(page, "the list of rooms", "list", "link-name")
    if phone:
        page.locator("#menu-close").click()
    bob.leave()
    page.goto(f"{server.url}/agent/agent")
    anna.live()
    expect(page.locator("#top")).to_contain_text("Ask Agent something.")
    judge(page, "a page of one agent", "page-has-heading-one")
    anna.say("a question")
    expect(page.locator("li.pending")).to_have_count(0)
    if phone:
        page.locator("#menu").click()
    expect(page.locator("#rooms .label")).to_have_text(["a question"])
    judge(page, "its conversations", "list", "link-name")
    anna.leave()
