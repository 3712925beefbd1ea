"""The texts of messages in the page as people see them: Markdown, code, edits, quotes, narrow screens."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.support.chromium import Person, another, fill_room
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]

CODE = "```py\ndef f(x):\n    return x  # the same\n```"
LONG = "```js\n" + "\n".join(f"const a{number} = {number};" for number in range(40)) + "\n```"


def say(person: Person, *texts: str) -> None:
    """As another program says it: the box of the page is not what is tested."""
    another(person.page, person.url, [{"type": "send", "room": "lobby", "text": text} for text in texts])


def edit(person: Person, text: str) -> None:
    """What the person said last, without a look at the page."""
    person.page.evaluate(
        """async (text) => {
          const box = document.getElementById("text");
          box.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp", bubbles: true }));
          box.value = text;
          box.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
        }""",
        text,
    )


def test_a_message_is_markdown_and_its_quote_is_a_line_of_words(browser: Browser, server: Server) -> None:
    anna, bob = Person(browser, server.url, "Anna"), Person(browser, server.url, "Bob")
    anna.say("**Hello** _there_\n- one\n- [x] two")
    text = bob.page.locator("li.message .text")
    expect(text.locator("strong")).to_have_text("Hello")
    expect(text.locator("li")).to_have_text(["one", "two"])
    expect(text.get_by_role("checkbox", name="Done")).to_be_checked()
    expect(bob.page.locator("#live")).to_have_text("Anna (guest): Hello there one two")
    bob.page.locator("li.message").hover()
    bob.page.locator('.toolbar [data-do="reply"]').click()
    expect(bob.page.locator("#context-text")).to_contain_text("Hello there one two")
    bob.say("`yes`")
    expect(anna.page.locator(".quote .clipped")).to_have_text("Hello there one two")
    expect(anna.page.locator(".text > p > code")).to_have_text("yes")
    anna.leave()
    bob.leave()


def test_an_edit_leaves_the_blocks_that_it_does_not_change(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    anna.say(f"One\n\n{CODE}\n\nthree")
    page = anna.page
    expect(page.locator(".code .shj-kwd")).to_have_text(["def", "return"])
    expect(page.locator("li.pending")).to_have_count(0)
    page.evaluate("window.kept = [...document.querySelectorAll('.text > :is(p, .code)')]")
    page.locator("#text").press("ArrowUp")
    assert page.locator("#text").input_value() == f"One\n\n{CODE}\n\nthree"
    anna.say(f"One\n\n{CODE}\n\n*3*")
    expect(page.locator(".text")).to_contain_text("3 (edited)")
    expect(page.locator(".text > p > em")).to_have_text("3")
    assert page.evaluate(
        "[...document.querySelectorAll('.text > :is(p, .code)')].every((node, at) => node === kept[at])"
    )
    page.locator("li.message").hover()
    page.locator('.toolbar [data-do="picker"]').click()
    page.locator(".picker button").first.click()
    expect(page.locator(".chip")).to_have_text("👍 1")
    assert page.evaluate("kept.every((node) => node.isConnected)")
    anna.leave()


def test_code_is_copied_and_long_code_is_folded(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna", permissions=["clipboard-read", "clipboard-write"])
    say(anna, CODE, LONG, "```unheard-of\nx\n```")
    page = anna.page
    expect(page.locator(".code .language")).to_have_text(["Python", "JavaScript", "unheard-of"])
    copy = page.locator(".code-head button")
    expect(copy.first).to_have_accessible_name("Copy this code")
    copy.first.click()
    expect(copy.first).to_have_text("Copied")
    expect(copy.first).to_have_accessible_name("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "def f(x):\n    return x  # the same"
    expect(copy.first).to_have_text("Copy")
    page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('as on a page of http://')); }"
    )
    page.locator("#text").focus()
    copy.nth(2).click()
    expect(copy.nth(2)).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "x"

    more = page.get_by_role("button", name="Show all 40 lines")
    expect(more).to_have_attribute("aria-expanded", "false")
    folded = page.locator(".code").nth(1)
    expect(page.locator("#jump")).to_be_hidden()  # one is at the end, and follows what comes
    height = folded.bounding_box()
    more.click()
    expect(page.locator("#jump")).to_be_visible()
    less = page.get_by_role("button", name="Show less")
    expect(less).to_have_attribute("aria-expanded", "true")
    whole = folded.bounding_box()
    assert height is not None
    assert whole is not None
    assert whole["height"] > 2 * height["height"]
    assert abs(whole["y"] - height["y"]) < 2
    less.click()
    expect(page.locator("#jump")).to_be_hidden()
    expect(page.get_by_role("button", name="Show all 40 lines")).to_be_visible()
    anna.leave()


def test_who_has_scrolled_up_is_not_moved_when_markdown_comes(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "Anna")
    say(anna, *(f"# {number}\n\n- a\n\n- b\n\n```\nx\n```" for number in range(40)))
    anna.leave()
    bob = Person(browser, server.url, "")
    page = bob.page
    held: list[Route] = []
    page.route("**/growing.js", lambda route: held.append(route))
    page.reload()
    page.locator("#name-input").fill("Bob")
    page.locator("#name-go").click()
    bob.live()
    expect(page.locator("li.message")).to_have_count(40)
    expect(page.locator(".text").last).to_have_text("# 39\n\n- a\n\n- b\n\n```\nx\n```")  # plainly, until then
    page.wait_for_function("scroller.scrollHeight > 3 * scroller.clientHeight")
    page.locator("#scroller").evaluate("scroller => { scroller.scrollTop = scroller.scrollHeight / 2; }")
    expect(page.locator("#jump")).to_be_visible()
    before = page.evaluate(
        """() => {
          const top = scroller.getBoundingClientRect().top;
          const rows = [...document.querySelectorAll("li.message")];
          window.seen = rows.find((row) => row.getBoundingClientRect().bottom > top);
          return seen.getBoundingClientRect().top;
        }"""
    )
    while not held:
        page.wait_for_timeout(10)
    for route in held:
        route.continue_()
    expect(page.locator(".text h3")).to_have_count(40)
    page.evaluate("new Promise(requestAnimationFrame)")
    assert abs(page.evaluate("seen.getBoundingClientRect().top") - before) < 2
    bob.leave()


def test_who_has_scrolled_up_is_not_moved_by_a_message_that_grows(browser: Browser, server: Server) -> None:
    """Below what is read, above it, and in its midst; its blocks stay the same nodes."""
    anna = Person(browser, server.url, "Anna")
    fill_room(anna.page, server.url, 60)
    page = anna.page
    paragraphs = [f"paragraph {number} " * 12 for number in range(12)]
    anna.say("\n\n".join(paragraphs[:3]))
    grows = page.locator("li.message").filter(has_text="paragraph 0")
    expect(grows.locator(".text > p")).to_have_count(3)
    expect(page.locator("li.pending")).to_have_count(0)
    page.evaluate(
        "window.grown = [...document.querySelectorAll('.text > p')].filter((p) => p.textContent.startsWith('p'))"
    )
    another(page, server.url, [{"type": "send", "room": "lobby", "text": f"after {number}"} for number in range(40)])
    expect(page.locator("li.message")).to_have_count(101)
    texts = ["\n\n".join(paragraphs[:count]) for count in range(4, 13)]
    for block, seen in (("start", "grown[0]"), ("end", "[...document.querySelectorAll('.text')].at(-1)")):
        page.evaluate(f"window.watched = {seen}; watched.scrollIntoView({{ block: '{block}' }})")
        page.evaluate("scroller.scrollTop -= 60")  # not at the end, where one follows
        expect(page.locator("#jump")).to_be_visible()
        before = page.evaluate("watched.getBoundingClientRect().top")
        for _ in range(4):
            text = texts.pop(0)
            edit(anna, text)
            expect(grows.locator(".text > p")).to_have_count(text.count("\n\n") + 1)
            page.evaluate("new Promise(requestAnimationFrame)")
            assert abs(page.evaluate("watched.getBoundingClientRect().top") - before) < 2
    assert page.evaluate("grown.length === 3 && grown.every((node) => node.isConnected)")
    anna.leave()


def test_without_its_files_texts_are_plain(browser: Browser, server: Server) -> None:
    anna = Person(browser, server.url, "")
    anna.page.route("**/markdown.css", lambda route: route.abort())
    anna.page.reload()
    anna.page.locator("#name-input").fill("Anna")
    anna.page.locator("#name-go").click()
    anna.live()
    anna.say("**a** https://example.org/b.")
    anna.shows("**a** https://example.org/b.")
    anna.leave("ERR_FAILED")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 320])
def test_code_and_tables_scroll_inside_themselves(browser: Browser, server: Server, scheme: Any, width: int) -> None:
    size = {"width": width, "height": 780}
    anna = Person(browser, server.url, "Anna", viewport=size, color_scheme=scheme, has_touch=True, is_mobile=True)
    wide = "|".join("abcdefghij" for _ in range(12))
    say(
        anna,
        "```\n" + "w" * 300 + "\n```",
        f"{wide}\n{'|'.join('-' * 12)}\n{wide}",
        "> " * 12 + "deep",
        "- " * 8 + "deep",
        "# " + "w" * 200,
    )
    page = anna.page
    expect(page.locator(".wide")).to_be_visible()
    expect(page.locator("li.message")).to_have_count(5)
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth && scroller.scrollWidth <= scroller.clientWidth"
    )
    for box in (".code pre", ".wide"):
        assert page.locator(box).evaluate(
            "box => box.scrollWidth > box.clientWidth && (box.scrollLeft = 40) === 40 && box.scrollLeft === 40"
        )
    contrasts = page.evaluate(
        """() => {
          const light = (color) => {
            const [r, g, b] = color.match(/[\\d.]+/g).map((part) => part / 255)
              .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const box = document.querySelector(".code");
          const ground = light(getComputedStyle(box).backgroundColor);
          return ["kwd", "str", "num", "func", "class", "err", "cmnt", "oper"].map((kind) => {
            const span = box.querySelector("code").appendChild(document.createElement("span"));
            span.className = `shj-${kind}`;
            const ink = light(getComputedStyle(span).color);
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
          });
        }"""
    )
    assert min(contrasts) >= 4.5, contrasts
    anna.leave()
