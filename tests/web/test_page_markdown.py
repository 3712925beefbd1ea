"""Markdown in the page, in Chromium: what CommonMark says, what the chat turns off, what grows, what attacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support import ROOT
from tests.support.attacks import attacks
from tests.support.chromium import Person
from tests.support.servers import Server

pytest_plugins = ["tests.support.chromium_fixtures"]

SPEC = ROOT / "tests" / "web" / "vendor" / "commonmark-spec" / "spec.txt"
FENCE = "`" * 32


def examples() -> list[dict[str, Any]]:
    """The examples of CommonMark's text: `number`, `section`, `markdown`, `html`."""
    text = SPEC.read_text(encoding="utf-8").replace("→", "\t")
    pattern = rf"^{FENCE} example\n(.*?)^\.\n(.*?)^{FENCE}$|^#{{1,6}} +([^\n]*)$"
    section = ""
    found: list[dict[str, Any]] = []
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        if match[3] is None:
            found.append({"number": len(found) + 1, "section": section, "markdown": match[1], "html": match[2]})
        else:
            section = match[3]
    return found


# What is shown, without what the chat adds to it, and what CommonMark's HTML is, without what no page shows.
CANONICAL = r"""
  const BLOCKS = "ADDRESS,BLOCKQUOTE,DIV,UL,OL,LI,P,PRE,TABLE,THEAD,TBODY,TR,TH,TD,H1,H2,H3,H4,H5,H6,HR".split(",");
  const isBlock = (node) => BLOCKS.includes(node?.nodeName);
  /** The nodes as one string; white space beside blocks is not shown by any page. */
  const written = (parent) => [...parent.childNodes].map((node) => {
    if (node.nodeType === Node.TEXT_NODE) {
      let text = node.data;
      if (parent.closest("pre")) return JSON.stringify(text);
      const inBlock = ["DIV", "UL", "OL", "BLOCKQUOTE", "LI", "BODY"].includes(parent.nodeName);
      if (isBlock(node.previousSibling) || (inBlock && !node.previousSibling)) text = text.replace(/^\s+/, "");
      if (isBlock(node.nextSibling) || (inBlock && !node.nextSibling)) text = text.replace(/\s+$/, "");
      return text && JSON.stringify(text);
    }
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    const attrs = [...node.attributes].map(({ name, value }) => ` ${name}=${JSON.stringify(value.trim())}`);
    return `<${node.localName}${attrs.sort().join("")}>${written(node)}</${node.localName}>`;
  }).join("");
  /** Take off what the chat puts around. */
  const undressed = (element) => {
    for (const box of element.querySelectorAll(".code")) {
      const pre = box.querySelector("pre");
      const code = document.createElement("code");
      code.textContent = pre.textContent && `${pre.textContent}\n`;
      if (pre.firstChild.className) code.className = pre.firstChild.className;
      pre.replaceChildren(code);
      pre.removeAttribute("tabindex");
      pre.removeAttribute("dir");
      box.replaceWith(pre);
    }
    for (const box of element.querySelectorAll(".wide")) box.replaceWith(box.firstChild);
    for (const link of element.querySelectorAll("a")) {
      if (link.target !== "_blank" || link.rel !== "noopener noreferrer nofollow") throw new Error(link.outerHTML);
      link.removeAttribute("target");
      link.removeAttribute("rel");
    }
    for (const heading of element.querySelectorAll("h3, h4, h5, h6")) heading.removeAttribute("aria-level");
    return written(element);
  };
  const shown = (m, text) => {
    const element = document.createElement("div");
    new m.Growing(element).show(text);
    return undressed(element);
  };
  /** CommonMark's HTML, with what the chat does otherwise everywhere. */
  const expected = (html) => {
    const { body } = new DOMParser().parseFromString(html, "text/html");
    for (const heading of body.querySelectorAll("h1, h2, h3, h4, h5, h6")) { // below the page's own
      const lower = document.createElement(`h${Math.min(6, Number(heading.localName[1]) + 2)}`);
      lower.append(...heading.childNodes);
      heading.replaceWith(lower);
    }
    for (const image of body.querySelectorAll("img")) { // a link, and in a link its words
      const link = document.createElement("a");
      link.setAttribute("href", image.getAttribute("src"));
      if (image.title) link.title = image.title;
      link.textContent = image.alt || image.getAttribute("src");
      image.replaceWith(image.closest("a") ? link.textContent : link);
    }
    for (const link of body.querySelectorAll("a")) { // one sees where it leads
      if (!link.childNodes.length) link.textContent = link.getAttribute("href");
    }
    for (const end of body.querySelectorAll("br")) { // a new line of the text is one already
      if (end.nextSibling?.nodeType === Node.TEXT_NODE) end.nextSibling.data = end.nextSibling.data.replace(/^\n/, "");
    }
    body.normalize();
    return written(body);
  };
"""


def run(page: Page, url: str, script: str, given: Any = None) -> Any:
    """Run a script with the page's own modules at hand, as `m`, and `given`."""
    return page.evaluate(
        f"""async (given) => {{
          const m = {{}};
          for (const name of ["growing", "markdown", "colours", "sentences"]) {{
            Object.assign(m, await import(`{url}/static/${{name}}.js`));
          }}
          {CANONICAL}
          {script}
        }}""",
        given,
    )


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    anna = Person(browser, server.url, "")
    yield anna.page
    anna.leave()


# The examples that look otherwise in the chat, by what it turns off or adds. All else of CommonMark is as it says.
HTML = {
    *(21, 31, *range(148, 192), 201, 308, 309, 344, 475, 476, 477, 491, 494, 524, 536),
    *(613, 614, 615, 616, 617, 623, 625, 626, 627, 628, 629, 630, 631, 642, 643),
}
"""HTML is shown as it was written: a chat's text is no page."""
BARE_ADDRESSES = {602, 608, 611, 612}
"""An address alone is a link, as people expect."""
ALLOWED = re.compile(r"(https?://|mailto:)", re.IGNORECASE)


def differing(page: Page, url: str, before: str) -> dict[int, dict[str, Any]]:
    """The examples that are shown otherwise than CommonMark says, by number, after `before` was run."""
    found = run(
        page,
        url,
        f"""
        {before}
        for (const example of given) {{
          example.shown = shown(m, example.markdown);
          example.expected = expected(example.html);
        }}
        return given.filter((example) => example.shown !== example.expected);
        """,
        examples(),
    )
    return {example["number"]: example for example in found}


def test_the_examples_of_commonmark(browser: Browser, server: Server) -> None:
    assert len(examples()) == 652
    anna = Person(browser, server.url, "")
    other = differing(anna.page, server.url, "m.parser.validateLink = () => true; // its addresses are like /url")
    assert set(other) == HTML | BARE_ADDRESSES
    anna.leave("inline style")  # of an example, where the browser reads what is expected

    # As the chat is: an address that leads to no other place is none, and its brackets stay.
    bob = Person(browser, server.url, "")
    other = differing(bob.page, server.url, "")
    for number in set(other) - HTML - BARE_ADDRESSES:
        html, markdown = other[number]["html"], other[number]["markdown"]
        addresses = re.findall(r'(?:href|src)="(.*?)"', html) + re.findall(r"\]:\s*(\S*)", markdown)
        assert any(not ALLOWED.match(address) for address in addresses), other[number]
        assert all(ALLOWED.match(address) for address in re.findall(r'<a href="(.*?)"', other[number]["shown"])), other[
            number
        ]
    bob.leave("inline style")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo  three", '<p>"one\\ntwo  three"</p>'),
        ("~~a~~ snake_case_name @ann_b", '<p><s>"a"</s>" snake_case_name @ann_b"</p>'),
        ("see a[i](x), [note]: this", '<p>"see a[i](x), [note]: this"</p>'),
        ("call f[a](), f![a]()", '<p>"call f[a](), f![a]()"</p>'),
        ("[note]: remember", '<p>"[note]: remember"</p>'),
        ("main.rs, ftp://a.b/c and //a.b", '<p>"main.rs, ftp://a.b/c and //a.b"</p>'),
        (
            "(https://a.b/c_(d)), a@b.example.",
            '<p>"("<a href="https://a.b/c_(d)">"https://a.b/c_(d)"</a>"), "'
            '<a href="mailto:a@b.example">"a@b.example"</a>"."</p>',
        ),
        ("![](https://a.b/c.png)", '<p><a href="https://a.b/c.png">"https://a.b/c.png"</a></p>'),
        (
            "- [ ] a\n- [x] b",
            '<ul><li><input aria-label="To do" disabled="" type="checkbox"></input>" a"</li>'
            '<li><input aria-label="Done" checked="" disabled="" type="checkbox"></input>" b"</li></ul>',
        ),
        (
            "a | b\n:-: | -:\n1 | `x`",
            '<table><thead><tr><th class="center">"a"</th><th class="right">"b"</th></tr></thead>'
            '<tbody><tr><td class="center">"1"</td><td class="right"><code>"x"</code></td></tr></tbody></table>',
        ),
        ("<b>x</b> &amp; &copy;", '<p>"<b>x</b> & ©"</p>'),
        (f"[a](https://a.b/{'c' * 2100})", None),
        ("> " * 60 + "deep", None),
        ("- " * 60 + "deep", None),
        ("a|" * 300 + "\n" + "-|" * 300 + "\n" + "x\n" * 200, None),
    ],
)
def test_what_the_chat_adds_and_what_it_shows_plainly(
    page: Page, server: Server, text: str, expected: str | None
) -> None:
    """(`expected` None: as it was written.)"""
    got = run(
        page,
        server.url,
        "const e = document.createElement('div'); new m.Growing(e).show(given); return [e.textContent, undressed(e)];",
        text,
    )
    if expected is None:
        assert got[0].split() == text.split()
    else:
        assert got[1] == expected


def test_what_a_message_says_in_a_quote(page: Page, server: Server) -> None:
    said = run(page, server.url, "return m.sayable(given);", "# A\n\n- **b** [c](https://d.e)\n- `f`\n\n```py\ng\n```")
    assert said == "A\nb c\nf\ng"


def test_headings_leave_out_no_level(page: Page, server: Server) -> None:
    """Whoever reads by headings comes from the page's own to the first of a text, and to each next one."""
    levels = run(
        page,
        server.url,
        """
        const [text, other] = given;
        const element = document.createElement("div");
        const growing = new m.Growing(element);
        const levels = () => [...element.querySelectorAll("h3, h4, h5, h6")].map(({ ariaLevel }) => ariaLevel).join("");
        const all = [];
        for (let end = 1; end <= text.length; end++) {
          growing.show(text.slice(0, end), true);
          if (all.at(-1) !== levels()) all.push(levels());
        }
        growing.show(other);
        return [all, levels()];
        """,
        ["### a\n\n# b\n\n## c\n\n#### d\n\n> ###### e\n\n# f\n\n", "## One\n\n# Two"],
    )
    assert levels == [["", "2", "22", "223", "2234", "22345", "223452"], "22"]


# Attacks.


def test_attacks_stay_text(browser: Browser, server: Server) -> None:
    """DOMPurify finds nothing to take away. Without the page's policy, so that what slips through does run."""
    anna = Person(browser, server.url, "", bypass_csp=True)
    asked: list[str] = []
    anna.page.context.on("request", lambda request: asked.append(request.url))
    purify = (ROOT / "tests" / "web" / "vendor" / "dompurify" / "dist" / "purify.min.js").read_text(encoding="utf-8")
    anna.page.evaluate(f"() => {{ {purify}\n }}")
    hits, wrong, kinds, links = run(
        anna.page,
        server.url,
        """
        let hits = 0;
        window.attacked = () => { hits++; };
        const wrong = [];
        const kinds = new Set();
        const links = new Set();
        const place = document.body.appendChild(document.createElement("div"));
        for (const text of given) {
          const element = place.appendChild(document.createElement("div"));
          const growing = new m.Growing(element);
          for (let end = 7; end < text.length; end += 7) growing.show(text.slice(0, end), true);
          growing.show(text);
          element.normalize();
          // Links have a target, with their rel. That a title may hold "</script>" is a matter of XML.
          const allowed = { ADD_ATTR: ["target"], SAFE_FOR_XML: false };
          const clean = DOMPurify.sanitize(element.innerHTML, { ...allowed, RETURN_DOM: true });
          if (written(clean) !== written(element)) wrong.push([text, written(element), written(clean)]);
          for (const node of element.querySelectorAll("*")) {
            kinds.add([node.localName, ...node.getAttributeNames().sort()].join(" "));
            if (node.localName === "a") links.add(node.protocol);
            node.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
          }
          for (const link of element.querySelectorAll("a")) {
            link.addEventListener("click", (event) => event.preventDefault());
            link.click();
          }
        }
        await new Promise((resolve) => setTimeout(resolve, 300));
        place.remove();
        return [hits, wrong, [...kinds], [...links]];
        """,
        attacks(),
    )
    assert wrong[:3] == []
    assert hits == 0
    assert set(links) == {"https:", "mailto:"}  # of those that the attacks have
    assert {kind.split(" ")[0] for kind in kinds} <= SHOWN.keys()
    for kind in kinds:
        tag, *attributes = kind.split(" ")
        assert set(attributes) <= SHOWN[tag], kind
    assert [url for url in asked if not url.startswith(f"{server.url}/static/")] == []
    assert not [url for url in asked if "api" in url or "prot" in url.lower()]
    anna.leave()


SHOWN: dict[str, set[str]] = {
    **{tag: set() for tag in re.split(" ", "blockquote br em hr strong s ul li table thead tbody tr")},
    **{tag: {"aria-level"} for tag in ("h3", "h4", "h5", "h6")},
    "a": {"href", "target", "rel", "title"},
    "button": {"type", "class", "aria-label", "aria-expanded", "hidden"},
    "code": {"class"},
    "div": {"class", "tabindex"},
    "input": {"type", "disabled", "checked", "aria-label"},
    "ol": {"start"},
    "p": {"class"},
    "pre": {"tabindex", "dir"},
    "span": {"class"},
    "td": {"class"},
    "th": {"class"},
}
"""All elements and attributes that a text can become."""


# What grows.

TEXT = """\
# A reply

Some *words*, and a [label] that is defined late. `code`
- a list
- with items

  of paragraphs
- [x] done

1. one
2. two

   ```py
   def f(x):
       return x
   ```
> a quote
lazily going on

Setext
---
| a | b |
|---|:-:|
| 1 | 2 |

~~~js
const a = `b`;

// ``` no end
~~~
    indented

[label]: https://example.org/late
"title"
[other]: https://example.org/other 'a
title of two lines'

The [other], and [label][other] again. **bold
over lines** https://example.org/a_(b) end
"""

MARKS = [
    *("[a]", "[b]: https://x.y", '"t', 't"', "'u", "u'", "[a]: https://z.w ", "- ", "* ", "1. ", "2) ", "> ", "# "),
    *("===", "---", "***", "```", "~~~", "`", "    ", "  ", "\t", "\n", "\n", "\n", "\n\n", "a", "b c", "|", "|-|-|"),
    *("a|b", "-|-", "*", "**", "_", "[", "](", "https://q.r", ")", "\\", "&amp;", "<", ">", "[ ] ", "[x] ", "é😀", "!"),
]

GROW = """
  let state = given.seed;
  const random = (below) => { // xorshift32
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    return (state >>> 0) % below;
  };
  const whole = (text) => shown(m, text);
  /** Grow to `text` by random cuts; what came out, and whether what was complete stayed the same nodes. */
  const grown = (text, most) => {
    const element = document.createElement("div");
    const growing = new m.Growing(element);
    let kept = [];
    let same = true;
    for (let end = 0; end < text.length; end += 1 + random(most)) {
      growing.show(text.slice(0, end), true);
      same &&= kept.every((node, at) => element.childNodes[at] === node);
      kept = [...element.childNodes].slice(0, growing.complete);
    }
    growing.show(text);
    same &&= kept.every((node, at) => element.childNodes[at] === node);
    return { same, kept: kept.length, work: growing.work, html: undressed(element) };
  };
"""


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_text_that_grew_is_what_the_whole_is(page: Page, server: Server, seed: int) -> None:
    """By any cuts, of a reply and of CommonMark's examples in any order, which stand under one another in any way."""
    got = run(
        page,
        server.url,
        GROW
        + """
        const wrong = [];
        let kept = 0;
        const texts = Array.from({ length: 40 }, () => given.text);
        const some = given.examples.map(({ markdown }) => markdown.replace(/(\\]\\(|\\]: )\\//g, "$1https://a.b/"));
        for (let count = 0; count < 400; count++) {
          const parts = Array.from({ length: 4 }, () => some[random(some.length)] + "\\n".repeat(random(3)));
          texts.push(parts.join(""));
        }
        for (let count = 0; count < 2000; count++) { // marks in any order: what looks ahead must not be cut off
          texts.push(Array.from({ length: 5 + random(40) }, () => given.marks[random(given.marks.length)]).join(""));
        }
        for (const text of texts) {
          const result = grown(text, [1, 3, 20, 100][random(4)]);
          kept += result.kept;
          if (result.html !== whole(text) || !result.same) wrong.push([text, result, whole(text)]);
        }
        return [wrong, kept];
        """,
        {"seed": seed, "text": TEXT, "examples": examples(), "marks": MARKS},
    )
    assert got[0] == []
    assert got[1] > 1000


GROWING = {
    "paragraphs": "Some *words* and `code` for [you](https://a.b/c).\n\n",
    "a paragraph": "Some *words* and `code` for [you](https://a.b/c). ",
    "a list": "- an item of **it**\n",
    "a table": "| a | `b` |\n",
    "code": "    def f(x): return x\n",
    "quotes": "> a\n",
    "brackets": "[a][b",
    "late definitions": "",
}


@pytest.mark.parametrize("kind", GROWING)
def test_the_work_for_what_grows_is_in_proportion(page: Page, server: Server, kind: str) -> None:
    """What is parsed, all in all, grows as the text does, however long one block of it is."""

    def text(length: int) -> str:
        head = {"a table": "| a | b |\n|---|---|\n", "code": "```py\n"}.get(kind, "")
        if kind == "late definitions":
            asked = "".join(f"[l{number}] " for number in range(length // 40)) + "\n\n"
            return asked + "".join(f"[l{number}]: https://a.b/{number}\n\nx\n\n" for number in range(length // 40))
        return head + GROWING[kind] * (length // len(GROWING[kind]))

    small, large = (text(length) for length in (20_000, 80_000))
    work = run(
        page,
        server.url,
        """
        return given.map((text) => {
          const growing = new m.Growing(document.createElement("div"));
          for (let end = 0; end < text.length; end += 40) growing.show(text.slice(0, end), true);
          growing.show(text);
          return growing.work;
        });
        """,
        [small, large],
    )
    assert work[1] / len(large) < 1.3 * work[0] / len(small)
    assert work[1] < 250 * len(large)


def test_an_open_fence_does_not_flicker(page: Page, server: Server) -> None:
    """From its first line on it is code, in one element; nothing of its marks is seen, nor of those of a list."""
    seen = run(
        page,
        server.url,
        r"""
        const element = document.createElement("div");
        const growing = new m.Growing(element);
        const seen = [];
        let pre = null;
        let changes = 0;
        for (let end = 1; end <= given.length; end++) {
          growing.show(given.slice(0, end), true);
          const now = element.querySelector("pre");
          if (now !== pre) changes++;
          pre = now;
          const code = (node) => node.querySelector("pre")?.textContent ?? "";
          const look = [...element.children].map((node) => node.localName + code(node)).join();
          if (seen.at(-1) !== look && !look.endsWith("li")) seen.push(look);
        }
        return [changes, seen.filter((look) => /h\d|`|hr/.test(look)), seen.at(-1)];
        """,
        "So:\n- a\n- b\n\n```python\nx = 1\n```\nand\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    )
    assert seen == [1, [], "p,ul,divx = 1,p,div"]


def test_what_grows_is_read_by_sentences(page: Page, server: Server) -> None:
    """Each once and whole, without its marks, however it came; what is read does not wait for the end."""
    read = run(
        page,
        server.url,
        GROW
        + """
        return [1, 7, 30].map((most) => {
          const growing = new m.Growing(document.createElement("div"));
          const sentences = new m.Sentences();
          const read = [];
          for (let end = 0; end < given.text.length; end += 1 + random(most)) {
            growing.show(given.text.slice(0, end), true);
            read.push(sentences.next(growing.said, true));
          }
          growing.show(given.text);
          read.push(sentences.next(growing.said, false), sentences.next(growing.said, false));
          return read.filter(Boolean);
        });
        """,
        {"seed": 3, "text": "# Title\n\nIt is 3.5 m. *Who* came?\nYes!\n\n- one\n- `two`\n\nThe end"},
    )
    for each in read[:2]:
        assert each == ["Title", "It is 3.5 m.", "Who came?", "Yes!", "one", "two", "The end"]
    assert " ".join(read[2]) == " ".join(read[0])


def test_what_has_no_sentences_is_read_in_parts(page: Page, server: Server) -> None:
    read = run(
        page,
        server.url,
        """
        const sentences = new m.Sentences();
        const read = [];
        for (let end = 0; end < given.length; end += 10) read.push(sentences.next(given.slice(0, end), true));
        read.push(sentences.next(given, false));
        return read.filter(Boolean);
        """,
        "word " * 200 + "x" * 2000,
    )
    assert " ".join(read).replace("x ", "x") == "word " * 200 + "x" * 2000
    assert max(map(len, read)) < 450


# Code.

WORDS = (
    "bash sh c cpp C# css diff docker go html http ini java kt js jsx json log lua make md pl py rs sql toml ts tsx uri"
    " xml yml asm regex"
)


def test_code_that_a_grammar_does_not_get_done_with_stays_plain(page: Page, server: Server) -> None:
    """The page goes on meanwhile, and what comes after it has its colours."""
    got = run(
        page,
        server.url,
        """
        const colours = new m.Colours();
        let turns = 0;
        const turning = setInterval(() => { turns++; }, 10);
        const asked = [["a".repeat(49_000), "js"], ["return 1", "py"], ["return 1", "__proto__"]];
        const [slow, quick, unknown] = await Promise.all(asked.map((each) => colours.of(...each)));
        clearInterval(turning);
        return [slow, turns > 20, quick.map(({ type }) => type), unknown];
        """,
    )
    assert got == [None, True, ["kwd", "", "num"], [{"type": "", "text": "return 1"}]]


def test_each_language_has_its_grammar_and_gives_back_the_code(page: Page, server: Server) -> None:
    got = run(
        page,
        server.url,
        r"""
        const colours = new m.Colours();
        const code = "# a /* b */ <c d='e'>\nlet x = 1; // f\nSELECT 'g' FROM h\n+i\n[j]\nk: l\n";
        const said = [];
        for (const word of given) {
          const pieces = await colours.of(code, m.grammarOf(word));
          said.push([m.nameOf(word), pieces?.map(({ text }) => text).join("") === code]);
        }
        return [said, m.grammarOf("nonsense"), m.grammarOf("constructor"), m.nameOf("x".repeat(99)).length];
        """,
        re.split(" ", WORDS),
    )
    assert [whole for _, whole in got[0]] == [True] * len(got[0])
    assert [name for name, _ in got[0]][:5] == ["Shell", "Shell", "C", "C++", "C#"]
    assert got[1:] == [None, None, 24]
