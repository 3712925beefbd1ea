"""Fragments of HTML: what somebody typed is never markup, and a fragment never more than one line."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.wire.event_stream import CHUNKED, StreamEncodings
from tornado_chat.wire.fragments import HTML
from tornado_chat.wire.replies import Appended, Closing, Joined, Pong, Stream

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' hx-get='/v1/session' hx-trigger='load",
    "</div></article><hx-partial hx-target='body'>",
    "&lt;b&gt; &amp;",
    "one\ntwo\r\nthree\r\n\r\nevent: ping\rdata: x",
    "<!--", "<template>", "\u2028\x0b\x85\x7f",
)  # fmt: skip


class Parsed(HTMLParser):
    def __init__(self, fragment: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(fragment.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        return [(tag, list(attributes)) for tag, attributes in self.tags]


def message(text: str, user: str = "ann", name: str = "Ann") -> dict[str, Any]:
    return {
        "type": "message",
        "room": "r",
        "seq": 7,
        "n": 1,
        "user": user,
        "name": name,
        "text": text,
        "ts": 86_399_999,
    }


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.sampled_from(ATTACKS)


@given(texts, texts, texts)
def test_what_somebody_typed_is_text(text: str, user: str, name: str) -> None:
    made = HTML.encode(message(text, user, name))
    assert not {b"\n", b"\r"} & {made[at : at + 1] for at in range(len(made))}
    parsed, plain = Parsed(made), Parsed(HTML.encode(message("x", "ann", "Ann")))
    assert parsed.shape == plain.shape
    assert parsed.tags[1][1]["data-user"] == user
    assert "".join(parsed.texts) == f"{name} 23:59{text}"


@pytest.mark.parametrize("text", ATTACKS)
def test_so_it_is_in_all_that_has_a_text(text: str) -> None:
    for obj in (
        {"type": "edited", "room": "r", "seq": 8, "target": 7, "user": "ann", "text": text, "ts": 1},
        {"type": "finished", "room": "r", "seq": 8, "target": 7, "user": "a", "text": text, "reason": "done", "ts": 1},
        Appended(room="r", chunks=[(7, 1, 0, text)]),
        Appended(room="r", chunks=[(7, 1, 5, text)]),
        Stream(room="r", seq=7, gen=1, offset=0, text=text, done=False),
        Closing(code=4001, reason=text),
    ):
        made = HTML.encode(obj)
        parsed = Parsed(made)
        assert b"\n" not in made
        assert "".join(parsed.texts) == text
        assert {tag for tag, _ in parsed.tags} <= {"div", "p"}


def test_each_says_where_it_goes_and_what_it_is() -> None:
    kinds = {"agent": True, "streaming": True, "reply_to": 3, "text": ""}
    outer, article, *_, text = Parsed(HTML.encode(message("") | kinds)).tags
    assert outer == ("div", {"hx-swap-oob": "beforeend: #messages:not(:has(#m7))"})
    assert article[1] == {
        "id": "m7", "class": "message agent", "data-user": "ann", "data-ts": "86399999", "data-reply-to": "3"
    }  # fmt: skip
    assert text == ("div", {"id": "m7-text", "class": "text streaming"})
    assert "guest" in HTML.encode(message("", user="guest-5ebc")).decode()
    assert HTML.encode(Appended(room="r", chunks=[(7, 1, 0, "a"), (9, 1, 4, "b")])) == (
        b'<div id="m7-text" class="text streaming" hx-swap-oob="true">a</div>'
        b'<div hx-swap-oob="beforeend: #m9-text">b</div>'
    )
    stopped = {"type": "finished", "seq": 8, "target": 7, "user": "a", "text": "x", "reason": "stopped", "ts": 1}
    assert HTML.encode(stopped) == b'<div id="m7-text" class="text stopped" hx-swap-oob="true">x</div>'
    gone = b'<div id="m7-text" class="text deleted" hx-swap-oob="true"></div>'
    for type in ("edited", "deleted", "finished"):
        assert HTML.encode({"type": type, "seq": 8, "target": 7, "user": "a", "deleted": True, "ts": 1}) == gone


def test_what_is_not_shown_moves_the_cursor_and_ends_no_body() -> None:
    """An empty chunk would be the last one of a chunked body."""
    encoding = StreamEncodings("e").fragments(CHUNKED)
    reacted = {"type": "reacted", "room": "r", "seq": 8, "target": 7, "user": "a", "emoji": "x", "on": True, "ts": 1}
    assert encoding.wrap_at(HTML.encode(reacted), 8) == b"9\r\nid: e.8\n\n\r\n"
    assert encoding.frame(Pong()) == b"3\r\n:\n\n\r\n"
    assert encoding.frame(Joined(id="8", room="r", head=9, cursor=8, read=0, epoch="e")) == b"3\r\n:\n\n\r\n"
    assert b"load it again" in encoding.frame(Joined(id="8", room="r", head=7, cursor=7, read=0, epoch="e"))
