"""Server-sent events are read by the HTML standard, however their bytes are cut into chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.client.sse import Parser

STREAM = (
    b"\xef\xbb\xbf: a comment\n"
    b'id: e.1\ndata: {"a": 1}\n\n'
    b"event: ping\r\ndata: {}\r\n\r\n"
    b"data:one\rdata: two\rdata\r\r"
    b"retry: 100\nevent: nothing\n\n"
    b"data:  spaced\nunknown: x\nno colon\n\n"
    b"data: never ended\n"
)
EVENTS = [("message", b'{"a": 1}'), ("ping", b"{}"), ("message", b"one\ntwo\n"), ("message", b" spaced")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_come_out_the_same_however_they_are_cut(cuts: list[int]) -> None:
    parser = Parser(1000)
    events = []
    at = 0
    for cut in [*sorted(cuts), len(STREAM)]:
        events += list(parser.feed(STREAM[at:cut]))
        at = cut
    assert events == EVENTS


def test_an_event_comes_out_with_its_last_byte() -> None:
    parser = Parser(1000)
    assert list(parser.feed(b"data: x\n")) == []
    assert list(parser.feed(b"\n")) == [("message", b"x")]


@pytest.mark.parametrize("line", [b"data: " + b"x" * 1001, b"data: xxxxxxxxx\n" * 112, b"x" * 1001])
def test_an_event_has_a_bound(line: bytes) -> None:
    parser = Parser(1000)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):  # noqa: PT012
        for at in range(0, len(line), 7):
            list(parser.feed(line[at : at + 7]))


def test_many_events_under_the_bound_pass() -> None:
    parser = Parser(1000)
    assert len(list(parser.feed(b"data: xxxxxxxxx\n\n" * 1000))) == 1000
