"""verify's own reading of HTTP/1.1 and of server-sent events, against answers made by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.verify.endings import Broken
from tornado_chat.verify.event_stream import Block, EventStream
from tornado_chat.verify.responses import MAX_BODY_BYTES, Answer, Chunks, Head, read_head, refusal
from tornado_chat.verify.stream_transport import read_id


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> Head:
    return read_head("".join(f"{line}\r\n" for line in (status, *lines, "")).encode("latin-1"))


def test_a_head() -> None:
    found = head(
        "Content-Type: Text/Event-Stream; charset=utf-8", "cache-control:no-store", "Cache-Control:  no-transform "
    )
    assert (found.status, found.minor, found.media_type, found.keeps) == (200, 1, "text/event-stream", True)
    assert found.listed("cache-control") == ["no-store", "no-transform"]
    assert not head("Connection: keep-alive, Close").keeps
    assert not head(status="HTTP/1.0 200 OK").keeps
    assert head("Content-Length: 5").length == 5
    assert head("Transfer-Encoding: Chunked").length is None
    assert head(status="HTTP/1.1 204 No Content").length == 0


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Content-Length: -1",),
        ("Content-Length: 1_0",),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked",),
        (f"Content-Length: {MAX_BODY_BYTES + 1}",),
        ("Content-Length: 1", "Content-Encoding: gzip"),
        ("Content-Length: 1", "Name : x"),
        ("Content-Length: 1", " folded"),
        ("Content-Length: 1", "A: b\nC: d"),
        ("Content-Length: 1", "Content-Type: a/b", "Content-Type: c/d"),
    ],
)
def test_heads_that_a_server_must_not_send(lines: tuple[str, ...]) -> None:
    with pytest.raises(Broken):
        _ = head(*lines).length


@pytest.mark.parametrize("status", ["HTTP/2 200 OK", "HTTP/1.1 200", "HTTP/1.1 2000 OK", "http/1.1 200 OK", ""])
def test_what_is_not_http(status: str) -> None:
    with pytest.raises(Broken, match="not HTTP"):
        head(status=status)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.data())
def test_chunks_in_any_pieces(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(chunk, [*parts, b""]))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    chunks = Chunks()
    got = b"".join(chunks.feed(whole[at:end]) for at, end in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    assert (got, chunks.ended) == (b"".join(parts), True)


@pytest.mark.parametrize(
    "data",
    [
        b"g\r\n",
        b"\r\n",
        b"-1\r\na\r\n",
        b"1;x=y\r\na\r\n",
        b"1\r\nab\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
        b"0\r\n\r\nHTTP/1.1 200 OK",
        b"12345678901",
        b"fffffff\r\n",
    ],
)
def test_chunks_that_a_server_must_not_send(data: bytes) -> None:
    with pytest.raises(Broken):
        Chunks().feed(data)


def answer(status: int, body: object, *headers: str, media_type: str = "application/json") -> Answer:
    found = head(f"Content-Type: {media_type}", *headers, status=f"HTTP/1.1 {status} X")
    return Answer(found, json.dumps(body).encode())


def error(code: str, **more: object) -> object:
    return {"error": {"code": code, "message": "m", **more}}


def test_refusals() -> None:
    found = refusal(answer(503, error("overloaded", retry_after=2), "Retry-After: 2"))
    assert (found.status, found.retry_after, str(found)) == (503, 2.0, "HTTP 503: overloaded: m")
    assert refusal(answer(503, error("unavailable"))).retry_after is None
    assert refusal(answer(429, error("rate_limited", retry_after=0.25), "Retry-After: 1")).retry_after == 0.25
    assert refusal(answer(502, "", media_type="text/html")).status == 502, "a proxy's"
    assert refusal(answer(426, error("bad_request"))).status == 426


@pytest.mark.parametrize(
    "wrong",
    [
        answer(400, error("forbidden")),
        answer(503, error("rate_limited")),
        answer(503, error("overloaded", retry_after=2), "Retry-After: 3"),
        answer(503, error("overloaded", retry_after=2), "Retry-After: 1"),
        answer(503, error("overloaded", retry_after=2)),
        answer(503, error("overloaded", retry_after="2"), "Retry-After: 2"),
        answer(503, error("overloaded"), "Retry-After: soon"),
        answer(404, {"error": "none"}),
        answer(404, {}),
        answer(404, [], media_type="text/html"),
        answer(200, {}),
    ],
)
def test_refusals_that_are_not_the_protocols(wrong: Answer) -> None:
    with pytest.raises(Broken):
        refusal(wrong)


# Server-sent events.

STREAM = 'id: e.1\ndata: {"a":"ü"}\n\nretry: 5\ndata:x\n\nevent: ping\ndata: {}\n\nid: e r:1 s:2\n\n'.encode()
BLOCKS = [
    Block("e.1", None, '{"a":"ü"}', None),
    Block(None, None, "x", 5),
    Block(None, "ping", "{}", None),
    Block("e r:1 s:2", None, None, None),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_blocks_in_any_pieces(cuts: list[int]) -> None:
    stream = EventStream()
    got: list[Block] = []
    for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        got += stream.feed(STREAM[start:end])
    stream.end()
    assert got == BLOCKS


@pytest.mark.parametrize(
    "block",
    [
        b": comment",
        b"data: a\ndata: b",
        b"data: a\r",
        b"data",
        b"news: x",
        b"retry: 1.5",
        b"retry: -1",
        b"id: a\0",
        b"data: \xff",
        b"",
    ],
)
def test_blocks_that_a_server_must_not_send(block: bytes) -> None:
    with pytest.raises(Broken):
        list(EventStream().feed(block + b"\n\n"))


def test_a_stream_ends_between_two_blocks() -> None:
    stream = EventStream()
    list(stream.feed(b"data: x\n"))
    with pytest.raises(Broken, match="in the middle"):
        stream.end()


def test_ids() -> None:
    assert read_id("a.b.12", "r") == ("a.b", {"r": 12})
    assert read_id("e r:1 s.t:0", None) == ("e", {"r": 1, "s.t": 0})
    for id, alone in (
        ("12", "r"),
        (".1", "r"),
        ("e.01", "r"),
        ("e.", "r"),
        ("e r", None),
        ("e r:1 r:2", None),
        ("e  r:1", None),
    ):
        with pytest.raises(Broken):
            read_id(id, alone)
