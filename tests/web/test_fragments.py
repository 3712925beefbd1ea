"""A room as fragments of HTML, put into a page as HTMX does, and the form that says something there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.support.chat import SECRET, Running, eventually, running
from tests.support.plain_http import HTTP, Answer
from tornado_chat.auth import mint

ROOM = "/v1/rooms/r/fragments"
FORM = "application/x-www-form-urlencoded"


class Page(HTMLParser):
    """What stands in `#messages`: of each message its attributes, and the class and the text of its text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.messages: dict[str, dict[str, str]] = {}
        self.texts: dict[str, tuple[str, str]] = {}  # by the id of the element
        self.notes: list[str] = []
        self.cleared = 0
        self.bytes = 0
        self.last_id = ""
        self._swap = ""  # how the element that is read is swapped
        self._into = ""  # the id of the element whose text is read

    def take(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if name == "id":
            self.last_id = value
        elif name == "data":
            self.feed(value)
            self._into = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        id = found.get("id", "")
        if "hx-swap-oob" in found:
            self._swap = found["hx-swap-oob"]
            if self._swap == "innerHTML: #messages":
                self.messages, self.texts, self.notes = {}, {}, []
                self.cleared += 1
            elif self._swap.endswith("-text"):
                self._into = self._swap.removeprefix("beforeend: #")
                assert self._into in self.texts
        if tag == "article":
            assert self._swap == f"beforeend: #messages:not(:has(#{id}))"
            if id in self.messages:
                self._swap = "not at all"
            else:
                self.messages[id] = found
        elif id.endswith("-text"):
            known = self._swap == "true"
            if self._swap != "not at all" and known == (id in self.texts):  # else there is no such place
                self.texts[id] = found["class"].removeprefix("text "), ""
                self._into = id
        elif tag == "p":
            self._into = "note"

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self._into = ""

    def handle_data(self, data: str) -> None:
        if self._into == "note":
            self.notes.append(data)
        elif self._into:
            kind, text = self.texts[self._into]
            self.texts[self._into] = kind, text + data

    def shown(self) -> list[tuple[str, str]]:
        return [self.texts[f"{id}-text"] for id in self.messages]


@asynccontextmanager
async def shown(here: Running, query: str = "", page: Page | None = None, **headers: str) -> AsyncIterator[Page]:
    page = page or Page()

    async def read(response: httpx.Response) -> None:
        async for line in response.aiter_lines():
            page.bytes += len(line.encode()) + 1
            page.take(line)

    async with httpx.AsyncClient(base_url=here.address, timeout=10) as client:
        asked = {"Accept-Encoding": "identity", **headers}
        async with client.stream("GET", ROOM + query, headers=asked) as response:
            assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
            task = asyncio.create_task(read(response))
            try:
                yield page
            finally:
                task.cancel()
                await asyncio.wait({task})


async def grow(client: Any, text: str, *, piece: int = 64) -> int:
    """A message that has grown to `text`, and has not ended; its seq."""
    seq: int = (await client.ask(type="begin", room="r", id="g"))["seq"]
    for offset in range(0, len(text), piece):
        await client.send(type="append", room="r", stream="g", offset=offset, text=text[offset : offset + piece])
    return seq


async def test_who_watches_and_who_comes_later_see_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("r")
        async with shown(here) as live:
            for text in ("one", "<b>two</b>\n\nthree", "four"):
                await client.ask(type="send", room="r", text=text)
            await client.ask(type="edit", room="r", seq=1, text="one & all")
            await client.ask(type="delete", room="r", seq=3)
            await client.ask(type="react", room="r", seq=1, emoji="x", on=True)
            seq = await grow(client, "Long, and longer. " * 50)
            await eventually(lambda: live.shown()[-1] == ("streaming", "Long, and longer. " * 50))
            assert live.cleared == 1
            async with shown(here) as later:
                await eventually(lambda: later.shown() == live.shown())
                await client.send(type="append", room="r", stream="g", offset=900, text="Done.")
                await client.ask(type="finish", room="r", stream="g", length=905, reason="done")
                await eventually(lambda: live.shown()[-1] == ("done", "Long, and longer. " * 50 + "Done."))
                await eventually(lambda: later.shown() == live.shown())
            async with shown(here) as last:
                await eventually(lambda: last.shown() == live.shown())
            assert live.shown()[:3] == [("done edited", "one & all"), ("done", "<b>two</b>\n\nthree"), ("deleted", "")]
            assert list(live.messages) == ["m1", "m2", "m3", f"m{seq}"]


async def test_a_reply_that_was_cut_is_shown_as_it_ended(tmp_path: Path) -> None:
    """Who watches has more than its author kept, which only the whole text tells a page."""
    async with running(tmp_path) as here:
        client = await here.join("r")
        async with shown(here) as page:
            await grow(client, "abcdefghij")
            await eventually(lambda: page.shown() == [("streaming", "abcdefghij")])
            await client.ask(type="finish", room="r", stream="g", length=4, reason="stopped")
            await eventually(lambda: page.shown() == [("stopped", "abcd")])
        assert "text" not in await client.until("finished"), "for others nothing has changed"


async def test_a_long_reply_costs_its_length_and_not_the_square_of_it(tmp_path: Path) -> None:
    size = 64 * 1024
    async with running(tmp_path) as here:
        client = await here.join("r")
        async with shown(here) as page:
            await eventually(lambda: page.cleared)
            await grow(client, "x" * size, piece=16)
            await client.ask(type="finish", room="r", stream="g", length=size, reason="done")
            await eventually(lambda: page.shown() == [("done", "x" * size)])
        # Once as it grows, once at its end; 4,096 pieces are told in far fewer fragments.
        assert 2 * size < page.bytes < 3 * size


async def test_a_page_goes_on_where_it_is_or_begins_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("r")
        for number in range(1, 4):
            await client.ask(type="send", room="r", text=f"{number}")
        async with shown(here, "?last=2") as page:
            await eventually(lambda: page.shown() == [("done", "2"), ("done", "3")])
        epoch = here.server.hub.log.epoch
        assert page.last_id == f"{epoch}.3"
        await client.ask(type="send", room="r", text="4")
        async with shown(here, "?last=2", page, **{"Last-Event-ID": page.last_id}):  # as an EventSource comes back
            await eventually(lambda: len(page.shown()) == 3)
            assert page.cleared == 1
        async with shown(here, "?last=2", page):  # as htmx does when that gave up
            await eventually(lambda: page.cleared == 2 and page.shown() == [("done", "3"), ("done", "4")])
        async with shown(here, "?after=1", page):  # from an address with a cursor: nothing stands there twice
            await eventually(lambda: len(page.shown()) == 3)
            assert page.cleared == 2
        async with shown(here, "?after=3", page, **{"Last-Event-ID": "another.9"}):
            await eventually(lambda: page.cleared == 3 and len(page.shown()) == 4)
        async with shown(here, "?after=999", page):
            await eventually(lambda: page.notes)


async def test_a_page_whose_token_ends_is_told_so(tmp_path: Path) -> None:
    token = mint(SECRET, "ann", ttl=1)
    async with running(tmp_path, ping_interval=1) as here, shown(here, f"?token={token}") as page:
        await eventually(lambda: page.notes == ["token expired"])


async def post(here: Running, body: bytes | None, path: str = ROOM, **headers: str) -> Answer:
    sent = {"Content-Type": FORM} if body is not None else {}
    async with HTTP(here) as http:
        return await http.tell("POST", path, body, **sent, **headers)


async def test_a_form_says_something(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("r")
        bearer = {"Authorization": f"Bearer {mint(SECRET, 'ann', ttl=100)}"}
        fields = [("text", "Grüße\r\nan alle"), ("reply_to", ""), ("mentions", "bob"), ("mentions", "eve"), ("x", "y")]
        answer = await post(here, urlencode(fields).encode(), **bearer)
        assert (answer.status, answer.body) == (204, b"")
        event = await client.until("message")
        assert (event["text"], event["mentions"], "reply_to" in event) == ("Grüße\nan alle", ["bob", "eve"], False)
        for body, message in (
            (b"text=", "text: is missing"),
            (b"text=a&reply_to=x", "reply_to: must be a seq"),
            ("text=ü".encode(), "percent signs"),
            (b"&" * 200, "at most"),
        ):
            refused = await post(here, body, **bearer)
            assert refused.status == 400, body
            assert message in refused.error["message"]
        assert (await post(here, b"text=" + b"a" * 70_000, **bearer)).status == 413


async def test_with_the_cookie_a_form_comes_from_htmx_on_a_page_of_the_same_origin(tmp_path: Path) -> None:
    """No page can send that header elsewhere without asking, and this server does not allow it."""
    async with running(tmp_path) as here:
        htmx, own = {"HX-Request": "true"}, {"Origin": "http://localhost"}
        named = await post(here, b"name=Ada", "/v1/session", **htmx, **own)
        assert named.status == 200
        cookie = {"Cookie": named.headers["set-cookie"].partition(";")[0]}
        assert (await post(here, b"text=a", **htmx, **own, **cookie)).status == 204
        for headers, status in ((own, 415), (htmx, 403), (htmx | {"Origin": "http://evil.example"}, 403)):
            assert (await post(here, b"text=b", **headers, **cookie)).status == status
        assert (await post(here, b"name=Eve", "/v1/session", **own)).status == 415
        assert (await post(here, b"text=b", **htmx, **own)).status == 401
        async with shown(here) as page:
            await eventually(lambda: page.shown() == [("done", "a")])
            assert page.messages["m1"]["class"] == "message guest"
