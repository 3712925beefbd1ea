"""RFC 9112 as a client sees it, written for verify alone: a server's answers, read without forgiving. No I/O."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tornado_chat.verify.codecs import JSON
from tornado_chat.verify.endings import Broken, Refused
from tornado_chat.verify.messages import ERROR_STATUSES, TRANSIENT_STATUSES

MAX_BODY_BYTES = 16 << 20

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2}) [\t -~]*")
_FIELD_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
_ONCE = ("content-length", "content-type", "transfer-encoding")


class Head(NamedTuple):
    """What stands before a body. `headers` by name in lower case; one that comes several times, with commas."""

    minor: int  # of HTTP/1.x
    status: int
    headers: dict[str, str]

    @property
    def keeps(self) -> bool:
        """Whether another request may follow on this connection."""
        return self.minor == 1 and "close" not in self.listed("connection")

    def listed(self, name: str) -> list[str]:
        """The parts of a header that is a list, in lower case."""
        return [part.strip().lower() for part in self.headers.get(name, "").split(",")]

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def length(self) -> int | None:
        """The bytes of the body; None for one in chunks. Broken for one whose end cannot be told from a cut."""
        length, coding = self.headers.get("content-length"), self.headers.get("transfer-encoding")
        if self.status < 200 or self.status in (204, 304):
            if coding is not None or length not in (None, "0"):
                raise Broken(f"an answer of the status {self.status} with a body")
            return 0
        if coding is not None:
            if length is not None or coding.lower() != "chunked" or self.minor == 0:
                raise Broken(f"an answer of HTTP/1.{self.minor} with Transfer-Encoding: {coding}, length {length}")
            return None
        if length is None or not re.fullmatch("[0-9]{1,9}", length):
            raise Broken(f"an answer with Content-Length: {length}")
        if int(length) > MAX_BODY_BYTES:
            raise Broken(f"an answer of {length} bytes")
        return int(length)


def read_head(data: bytes) -> Head:
    """The head in `data`, with the empty line that ends it."""
    first, *lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        raise Broken(f"an answer that is not HTTP: {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD_LINE.fullmatch(line)
        if field is None:
            raise Broken(f"an answer with the header line {line[:80]!r}")
        name, value = field[1].lower(), field[2].strip()
        if name in headers and name in _ONCE:
            raise Broken(f"an answer with {name} twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "content-encoding" in headers:
        raise Broken(f"an answer with a coding that was not asked for: {headers['content-encoding']}")
    return Head(int(status[1]), int(status[2]), headers)


class Chunks:
    """A body in chunks: its bytes in, what is in them out. `ended` once the last chunk came. Raises Broken."""

    __slots__ = ("_rest", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What is in the chunks that `data` completes."""
        data, at, parts = self._rest + data, 0, []
        while not self.ended:
            line = data.find(b"\r\n", at)
            if line < 0:
                if len(data) - at > 10:
                    raise Broken(f"a chunk that begins with {data[at : at + 20]!r}")
                break
            size = data[at:line]
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size) or int(size, 16) > MAX_BODY_BYTES:
                raise Broken(f"a chunk of the size {size[:20]!r}")
            start = line + 2
            end = start + int(size, 16)
            if len(data) < end + 2:
                break
            if data[end : end + 2] != b"\r\n":
                raise Broken(f"a chunk of the size {size.decode()} that goes on with {data[end : end + 20]!r}")
            self.ended = end == start
            parts.append(data[start:end])
            at = end + 2
        self._rest = data[at:]
        if self.ended and self._rest:
            raise Broken(f"bytes after the last chunk: {self._rest[:20]!r}")
        return b"".join(parts)


class Answer(NamedTuple):
    """A whole answer."""

    head: Head
    body: bytes

    def json(self) -> Any:
        """Its body, which must be JSON and say so."""
        if self.head.media_type != "application/json":
            raise Broken(f"an answer with Content-Type: {self.head.headers.get('content-type')}, not JSON")
        return JSON.decode(self.body)


def refusal(answer: Answer) -> Refused:
    """What an answer tells that is not the one asked for; Broken if it must not be told so."""
    status, headers = answer.head.status, answer.head.headers
    after = headers.get("retry-after")
    if after is not None and not re.fullmatch("[0-9]{1,9}", after):
        raise Broken(f"HTTP {status} with Retry-After: {after}")
    seconds = None if after is None else float(after)
    if answer.head.media_type != "application/json" and status in TRANSIENT_STATUSES:
        return Refused(status, "refused by a proxy", seconds)  # its own page, or nothing
    document = answer.json()
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not all(isinstance(error.get(name), str) for name in ("code", "message")):
        raise Broken(f"HTTP {status} whose body is not an error: {json.dumps(document)[:200]}")
    code = error["code"]
    if ERROR_STATUSES.get(status, code) != code and not (status == 503 and code == "overloaded"):
        raise Broken(f"HTTP {status} with the code {code!r}, and must be with {ERROR_STATUSES[status]!r}")
    exact = error.get("retry_after")
    if exact is not None:  # the header has whole seconds
        if type(exact) not in (int, float) or seconds is None or not 0 <= seconds - exact < 1:
            raise Broken(f"HTTP {status} with retry_after {exact!r}, but Retry-After: {after}")
        seconds = float(exact)
    return Refused(status, error["message"], seconds, code)
