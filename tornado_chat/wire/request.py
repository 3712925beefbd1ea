"""An HTTP/1.1 request that is plain, out of bytes (RFC 9112 sections 3 and 5). No I/O.

What is not plain is left to Tornado. So `parse` takes less than Tornado does, and reads what it takes in the same way:
`tests/wire/test_request.py` holds it to that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

MAX_HEAD_BYTES, MAX_HEADERS = 16 * 1024, 100
"""Of one request. To take 15,000 headers apart costs 100 ms, for which everybody else waits."""

_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # a token (RFC 9110 section 5.6.2)
_VALUE = r"[^\x00-\x08\x0a-\x1f\x7f]*+"  # RFC 9110 section 5.5, with the white space around it
_HEAD = re.compile(
    rf"([A-Z]{{3,7}}) (/[!-~]*+) HTTP/1\.1\r\n((?:{_NAME}:{_VALUE}\r\n){{0,{MAX_HEADERS}}}+)\r\n".encode("ascii"),
)


class Request(NamedTuple):
    """`headers` have names in lower case; one that came several times is one value with commas."""

    method: str
    target: str
    headers: dict[str, str]
    rest: bytes  # what came after the head

    def body_bytes(self) -> int | None:
        """The length of its body; None if that is not plain, or if the client wants something that is not."""
        headers = self.headers
        if "transfer-encoding" in headers or "expect" in headers or "upgrade" in headers:
            return None
        if headers.get("connection", "").lower() not in ("", "keep-alive", "close"):
            return None
        return content_length(headers)

    @property
    def is_last(self) -> bool:
        """The connection is to end with its answer."""
        return self.headers.get("connection", "").lower() == "close"


def parse(data: bytes) -> Request | None:
    """The request that `data` begins with; None if it is not plain, or not whole.

    It takes 3 us, and 8 us with a browser's 15 headers. httptools takes 3 and 6, and leaves its own to be checked: the
    bounds, the form of the target, and whether Tornado would read the same.
    """
    head = _HEAD.match(data, 0, MAX_HEAD_BYTES)
    if head is None:
        return None
    headers: dict[str, str] = {}
    for field in head[3].decode("latin-1").split("\r\n")[:-1]:
        name, _, value = field.partition(":")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return Request(head[1].decode("ascii"), head[2].decode("ascii"), headers, data[head.end() :])


def content_length(headers: Mapping[str, str]) -> int | None:
    """The header Content-Length, 0 without it; None if that is no number of up to 19 digits (RFC 9110 section 8.6)."""
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None


def has_bare_breaks(head: bytes) -> bool:
    """Whether a CR or LF stands alone: one reader ends a line there, and another does not (RFC 9112 section 2.2)."""
    return not head.count(b"\r\n") == head.count(b"\r") == head.count(b"\n")
