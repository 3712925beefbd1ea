"""The plain head of a request: what is taken, that Tornado would read the same, and what is left to it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, parse_request_start_line

from tornado_chat.wire.request import MAX_HEAD_BYTES, MAX_HEADERS, Request, has_bare_breaks, parse

BROWSER = (
    b"GET /ws/lobby?last=50 HTTP/1.1\r\nHost: chat.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade:websocket\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nOrigin:\t https://chat.example \t\r\nX-Empty:\r\nX-Latin: \xe9\r\n"
    b"Cookie: a=b\r\nSec-WebSocket-Version: 13\r\ncookie: c=d; e=f\r\n\r\n"
)


def test_a_whole_head() -> None:
    assert parse(BROWSER + b"\x81\x80\r\n\r\n") == Request(
        "GET",
        "/ws/lobby?last=50",
        {
            "host": "chat.example",
            "connection": "keep-alive, Upgrade",
            "upgrade": "websocket",
            "user-agent": "Mozilla/5.0 (X11; Linux x86_64)",
            "origin": "https://chat.example",
            "x-empty": "",
            "x-latin": "\xe9",
            "cookie": "a=b,c=d; e=f",
            "sec-websocket-version": "13",
        },
        b"\x81\x80\r\n\r\n",
    )


@pytest.mark.parametrize("size", range(0, len(BROWSER), 7))
def test_no_part_of_a_head_is_one(size: int) -> None:
    assert parse(BROWSER[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n" + BROWSER,
        b"G1T" + BROWSER[3:],
        b"GE" + BROWSER[3:],
        b"PROPFIND" + BROWSER[3:],
        b"get" + BROWSER[3:],
        b"GET  /ws HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\t/ws HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ws HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET /ws HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET /ws HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET /ws HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /ws http/1.1\r\nHost: a\r\n\r\n",
        b"GET /ws\r\n\r\n",
        b"GET http://a/ws HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ws HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ws\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ws\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ws HTTP/1.1\nHost: a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\n\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\rb: c\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\nb: c\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\n\n",
        b"GET /ws HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n: a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\0\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\x7f\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\x0b\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nH\xf6st: a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHo(st): a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"GET /ws HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
)
def test_what_is_left_to_tornado(data: bytes) -> None:
    assert parse(data) is None


def test_the_bounds_are_reached() -> None:
    assert parse(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEADERS + b"\r\n") is not None
    head = b"GET / HTTP/1.1\r\na: \r\n\r\n"
    full = head.replace(b"a: ", b"a: " + b"b" * (MAX_HEAD_BYTES - len(head)))
    assert parse(full + b"more") == Request("GET", "/", {"a": "b" * (MAX_HEAD_BYTES - len(head))}, b"more")
    assert parse(full.replace(b"bb", b"bbb", 1)) is None


# fmt: off
PIECES = st.sampled_from([
    b"GET ", b"POST ",
    b"/ws", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"Host", b"hOST", b": ", b":", b" ", b"\t", b"a", b",",
    b"Cookie", b"\r", b"\n", b"\0", b"\x7f", b"\x80", b"\xff", b"_", b"(", b"HTTP/1.0", b"?", b"%0a",
])
# fmt: on
FIELDS = st.lists(st.tuples(st.sampled_from([b"a", b"A", b"Host", b"x_y", b"~"]), st.lists(PIECES, max_size=4)))


def head_of(fields: list[tuple[bytes, list[bytes]]]) -> bytes:
    lines = [name + b":" + b"".join(value) for name, value in fields]
    return b"\r\n".join([b"GET /ws HTTP/1.1", *lines, b"", b""])


@given(st.lists(PIECES).map(b"".join) | st.binary() | FIELDS.map(head_of))
@example(BROWSER)
@example(b"GET / HTTP/1.1\r\n\r\n\r\n\r\n")
def test_tornado_reads_the_same_of_whatever_is_taken(data: bytes) -> None:
    request = parse(data)
    if request is None:
        return
    head = data[: len(data) - len(request.rest)]
    assert not has_bare_breaks(head)
    text = head.decode("latin-1")  # from here on as Tornado's HTTP1Connection does
    end = text.find("\n")
    headers = HTTPHeaders.parse(text[end:])
    assert parse_request_start_line(text[:end].rstrip("\r")) == (request.method, request.target, "HTTP/1.1")
    assert {name.lower(): value for name, value in headers.items()} == request.headers


@pytest.mark.parametrize(
    ("head", "bare"),
    [
        (b"GET / HTTP/1.1\r\na: b\r\n\r\n", False),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\n\n", True),
        (b"GET / HTTP/1.1\r\na: b\n\r\n", True),
        (b"GET / HTTP/1.1\r\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\na: b\rc\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\na: b\n\rc: d\r\n\r\n", True),
    ],
)
def test_bare_breaks(head: bytes, bare: bool) -> None:
    assert has_bare_breaks(head) is bare
