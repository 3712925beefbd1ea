"""Server-sent events: blocks and their framing, ids, and what is told to who is refused."""

from __future__ import annotations

import json
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.streams import Body, parse_block
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.wire.commands import SEQ_MAX
from tornado_chat.wire.event_stream import (
    CHUNKED,
    FRAMINGS,
    GZIPPED,
    PLAIN,
    Framing,
    StreamEncodings,
    accepts_gzip,
    block,
    chunk,
    head,
    is_wanted,
    parse_last_event_id,
    refused,
    retry,
)
from tornado_chat.wire.events import Event
from tornado_chat.wire.refusals import Unread

MESSAGE = {"type": "message", "room": "r", "seq": 7, "text": "a line\nand another\r\u2028end"}
BOTH = False, True
ENCODINGS = StreamEncodings("5f0c9e")


def test_an_encoding_is_the_same_object_each_time() -> None:
    made = {ENCODINGS.get(framing, numbered=numbered) for framing in FRAMINGS for numbered in BOTH}
    assert len(made) == 6
    assert made == {ENCODINGS.get(framing, numbered=numbered) for framing in FRAMINGS for numbered in BOTH}


@pytest.mark.parametrize("numbered", BOTH)
@pytest.mark.parametrize("size", [10, 3000, 200_000])
@pytest.mark.parametrize("framing", FRAMINGS, ids=["plain", "chunked", "gzipped"])
def test_an_event_is_one_block_in_one_chunk(framing: Framing, numbered: bool, size: int) -> None:
    encoding = ENCODINGS.get(framing, numbered=numbered)
    message = {**MESSAGE, "meta": random.Random(1).randbytes(size).hex()}
    event = Event(7, dict(message))
    added = event.encode([encoding])
    frame = event.frames[encoding]
    assert added == len(frame)
    body = Body({name.lower(): value for name, value in framing.headers.items()})
    assert body.feed(framing.begin) == b""
    before = body.chunks
    text = body.feed(frame).decode()
    assert body.chunks - before == (framing is not PLAIN)
    assert not body.ended
    assert text.endswith("\n\n")
    assert text.count("\n\n") == 1, "no line break of the text ends a line of the block"
    assert "\r" not in text
    found = parse_block(text[:-2])
    assert (found.data, found.id, found.event, found.retry) == (message, "5f0c9e.7" if numbered else None, None, None)


def test_what_moves_no_cursor_has_no_id() -> None:
    encoding = ENCODINGS.get(PLAIN, numbered=True)
    assert encoding.frame({"type": "pong"}) == b'data: {"type":"pong"}\n\n'
    assert encoding.ping == b"event: ping\ndata: {}\n\n"
    assert PLAIN.end == b""
    assert CHUNKED.end == GZIPPED.end == b"0\r\n\r\n"


def test_the_head_ends_the_connection_and_lets_nobody_hold_it_back() -> None:
    made = head(CHUNKED, {"Vary": "Origin"}).decode()
    assert made.endswith("\r\n\r\n")
    assert made.split("\r\n")[:-2] == [
        "HTTP/1.1 200 OK",
        "Content-Type: text/event-stream",
        "Cache-Control: no-store, no-transform",
        "X-Accel-Buffering: no",
        "Vary: Origin",
        "Transfer-Encoding: chunked",
        "Connection: close",
    ]
    assert b"Transfer-Encoding" not in head(PLAIN, {})
    assert b"\r\nContent-Encoding: gzip\r\n" in head(GZIPPED, {})


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("application/json, text/event-stream;q=0.9", True),
        ("*/*", False),
        ("text/html", False),
        ("", False),
    ],
)
def test_who_wants_a_stream(accept: str, wanted: bool) -> None:
    assert is_wanted(accept) is wanted


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("gzip, deflate, br, zstd", True),
        ("deflate, GZIP;q=0.5", True),
        ("br;q=1.0, gzip ; q=0.001", True),
        ("gzip;q=0, br", False),
        ("gzip; q=0.000, br", False),
        ("gzip", False),
        ("x-gzip", False),
        ("identity", False),
        ("*", False),
        ("", False),
    ],
)
def test_who_takes_gzip(accept: str, wanted: bool) -> None:
    assert accepts_gzip(accept) is wanted


def test_a_long_event_is_compressed_for_all_who_take_it_and_a_short_one_is_not() -> None:
    """From wherever a client comes in, what follows is its gzip body: nothing refers to what was before."""
    encoding = ENCODINGS.get(GZIPPED, numbered=True)
    frames = [
        encoding.wrap_at(b"%d " % n + b"the same again and again " * repeats, n)
        for n in range(5)
        for repeats in (1, 40)
    ]
    assert len(frames[0]) > 25 + 10
    assert all(frame.endswith(b"\x00\x00\x00\xff\xff\r\n") for frame in frames), "each is flushed"
    assert len(frames[1]) < 200
    for first in range(len(frames)):
        body = Body({"transfer-encoding": "chunked", "content-encoding": "gzip"})
        body.feed(GZIPPED.begin)
        for number, frame in enumerate(frames[first:], first):
            assert b"data: %d the same" % (number // 2) in body.feed(frame), "each comes out at once"


def test_ids_are_read_as_they_are_told() -> None:
    assert parse_last_event_id("5f0c9e.0") == 0
    assert parse_last_event_id(f"5f0c9e.{SEQ_MAX}") == SEQ_MAX
    told = ENCODINGS.cursors({"lobby": 41, "team.a-b_c": 7})
    assert told == b"id: 5f0c9e lobby:41 team.a-b_c:7\n"
    found = parse_block(told.decode()[:-1])
    assert found.data is None
    assert found.id is not None
    assert parse_last_event_id(found.id) == {"lobby": 41, "team.a-b_c": 7}


@pytest.mark.parametrize(
    "value",
    [
        " ",
        ".",
        "41",
        "5f0c9e",
        "5f0c9e.",
        ".41",
        "5f0c9e.-1",
        "5f0c9e.4 1",
        "5f0c9e.4.1",
        "5f0c9e.\u0661",
        f"5f0c9e.{SEQ_MAX + 1}",
        "5f0c9e." + "9" * 5000,
        "e" * 65 + ".1",
        "5f0c9e lobby",
        "5f0c9e lobby:",
        "5f0c9e :1",
        "5f0c9e lobby:x",
        "5f0c9e  lobby:1",
        " lobby:1",
    ],
)
def test_an_id_that_is_none_is_a_bad_request(value: str) -> None:
    with pytest.raises(ChatError) as caught:
        parse_last_event_id(value)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@given(st.text(max_size=80))
def test_whatever_the_id_it_is_read_or_refused(value: str) -> None:
    with suppress(ChatError):
        parse_last_event_id(value)


def test_parts_of_a_body_need_not_be_blocks() -> None:
    parts = [retry(1500), block(b'{"type":"welcome"}')]
    assert b"".join(map(PLAIN.part, parts)) == b'retry: 1500\ndata: {"type":"welcome"}\n\n'
    body = Body({"transfer-encoding": "chunked"})
    assert body.feed(b"".join(map(chunk, parts))) == b"".join(parts)


def test_a_refusal_is_a_stream_of_one_error() -> None:
    found = parse_block(refused("overloaded", "too many", 2, 2345).decode()[:-2])
    assert found.retry == 2345
    assert found.data == {"type": "error", "code": "overloaded", "message": "too many", "retry_after": 2}


GET = b"GET /v1/events HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", 503),
        (GET, 503),
        (GET + b"Accept: */*\r\n\r\n", 503),
        (GET + b"X: text/event-stream\r\n\r\n", 503),
        (GET + b"X-Accept: text/event-stream\r\n\r\n", 503),
        (GET + b"Accept: text/event-stream\r\n\r\n", 200),
        (GET + b"aCCept:text/html, Text/Event-Stream\r\n", 200),
    ],
)
def test_who_is_refused_unread_is_answered_in_the_way_that_it_understands(said: bytes, status: int) -> None:
    answer = Unread(503, "overloaded", "too many", 3).answer(said)
    lines, _, body = answer.decode().partition("\r\n\r\n")
    assert lines.startswith(f"HTTP/1.1 {status} ")
    assert f"Content-Length: {len(body)}" in lines
    if status == 503:
        assert json.loads(body)["error"]["retry_after"] == 3
    else:
        assert parse_block(body[:-2]).retry == 3000
        assert b"\r\n\r\nretry: 3456\n" in Unread(503, "overloaded", "too many", 3).answer(said, 456)
        assert "Access-Control" not in lines


def test_any_page_may_read_that_it_is_to_come_back() -> None:
    unread = Unread(503, "overloaded", "too many", 3)
    for accept, status in ((b"text/event-stream", b"200"), (b"application/json", b"503")):
        said = GET + b"Accept: %b\r\nOrigin: https://a.example \r\n\r\n" % accept
        assert unread.answer(said).startswith(b"HTTP/1.1 " + status)
        assert b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in unread.answer(said)
    odd = GET + b"Accept: text/event-stream\r\nOrigin: a\xe9\x00b\r\n\r\n"
    assert b"Access-Control" not in unread.answer(odd)
