"""The page in the three browsers that there are, where no WebSocket gets through and then one does."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.support.browsers import Browser, Tab, chromium, firefox, webkit
from tests.support.middlebox import Middlebox
from tests.support.servers import UNLIMITED, Server

TIMEOUT = 25.0

ASKED = 'document.getElementById("name-dialog").open'
SEEN = '[...document.querySelectorAll("li.message .text")].map((text) => text.innerText.trim())'
PENDING = 'document.querySelectorAll("li.pending").length'
STATE = """[
  document.getElementById("status").dataset.kind, document.querySelector("#status .transport")?.innerText ?? "",
]"""


async def until(tab: Tab, expression: str, wanted: object) -> None:
    """Wait in the page until `expression` is `wanted`."""
    got = await tab.run(
        f"""
        const wanted = {json.dumps(json.dumps(wanted, separators=(",", ":")))};
        const end = Date.now() + {TIMEOUT * 1_000};
        const now = () => {expression};
        while (JSON.stringify(now()) !== wanted && Date.now() < end) {{
          await new Promise((resolve) => {{ setTimeout(resolve, 20); }});
        }}
        return now();
        """
    )
    assert got == wanted


async def say(tab: Tab, text: str) -> None:
    await tab.run(
        f"""
        const box = document.getElementById("text");
        box.value = {text!r};
        box.dispatchEvent(new Event("input", {{ bubbles: true }}));
        document.getElementById("composer").requestSubmit();
        """
    )


@pytest.mark.parametrize("kind", ["stream", "poll"])
@pytest.mark.parametrize("browser", [chromium, firefox, webkit])
async def test_it_chats_by_every_way(tmp_path: Path, browser: Browser, kind: str) -> None:
    with Server(tmp_path, *UNLIMITED) as server, Middlebox(server.port) as box:
        box.websockets = "refused"
        box.buffers = kind == "poll"
        said: list[str] = []
        async with httpx.AsyncClient(base_url=server.url) as bob, browser(tmp_path) as tab:
            session = (await bob.post("/v1/session", json={"name": "Bob"})).raise_for_status().json()
            headers = {"Authorization": f"Bearer {session['token']}"}
            await tab.open(box.url)
            await until(tab, ASKED, True)
            await tab.run(
                """
                document.getElementById("name-input").value = "Anna";
                document.getElementById("name-form").requestSubmit();
                """
            )
            await until(tab, STATE, ["live", kind])
            for number, shown in enumerate((kind, kind, "WebSocket", "WebSocket")):
                if number == 2:
                    box.websockets = "passed"
                    await tab.run('dispatchEvent(new Event("online"));')
                text = f"{number} of Bob"
                answer = await bob.post("/v1/rooms/lobby/messages", json={"text": text}, headers=headers)
                answer.raise_for_status()
                said.append(text)
                await until(tab, SEEN, said)
                said.append(f"{number} of Anna")
                await say(tab, said[-1])
                await until(tab, SEEN, said)
                await until(tab, PENDING, 0)
                await until(tab, STATE, ["live", shown])
            page = (await bob.get("/v1/rooms/lobby/messages")).raise_for_status().json()
        assert [message["text"] for message in page["messages"]] == said


MARKED = """**Hello** ~~all~~

- [x] done

```py
def f(x):
    return x
```

| a | b |
|---|--:|
| 1 | 2 |
"""
LOOKS = """[
  [...document.querySelectorAll(".text > *")].map((block) => block.localName),
  [...document.querySelectorAll(".code .shj-kwd")].map((word) => word.textContent),
  document.querySelector(".text input")?.checked ?? null,
  scroller.scrollWidth <= scroller.clientWidth,
]"""


@pytest.mark.parametrize("browser", [chromium, firefox, webkit])
async def test_it_shows_markdown(tmp_path: Path, browser: Browser) -> None:
    """What is sent, and the same text as it grows."""
    with Server(tmp_path, *UNLIMITED) as server:
        async with browser(tmp_path) as tab:
            await tab.open(server.url)
            await until(tab, ASKED, True)
            await tab.run(
                """
                document.getElementById("name-input").value = "Anna";
                document.getElementById("name-form").requestSubmit();
                """
            )
            await until(tab, STATE, ["live", "WebSocket"])
            await say(tab, MARKED)
            await until(tab, PENDING, 0)
            await until(tab, LOOKS, [["p", "ul", "div", "div"], ["def", "return"], True, True])
            grown = await tab.run(
                f"""
                const {{ Growing }} = await import("./static/growing.js");
                const text = {MARKED!r};
                const element = document.createElement("div");
                const growing = new Growing(element);
                for (let end = 0; end < text.length; end += 3) growing.show(text.slice(0, end), true);
                growing.show(text);
                return [[...element.children].map((block) => block.localName), element.textContent];
                """
            )
        assert grown == [["p", "ul", "div", "div"], "Hello all donePythonCopydef f(x):\n    return xab12"]
