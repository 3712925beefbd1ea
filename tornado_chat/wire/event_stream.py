"""Server-sent events (HTML standard section 9.2), the server's side: blocks, their framing, cursors. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.wire import replies
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.commands import SEQ_MAX
from tornado_chat.wire.deflate import GZIP_HEADER, fragment
from tornado_chat.wire.encodings import DEFLATE_FROM, Encoding
from tornado_chat.wire.fragments import HTML

CONTENT_TYPE = "text/event-stream"

HEADERS = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
"""Of every answer that is a stream. `no-transform`: who compresses on the way holds events back."""

RETRY_SECONDS = 5.0
"""Of a stream that is refused without a time to wait."""

PING = b"event: ping\ndata: {}\n\n"
_ZERO = re.compile(r"q=0(\.0*)?")
_SEQ = re.compile("[0-9]{1,19}")
_EPOCH = re.compile("[A-Za-z0-9_-]{1,64}")


def is_wanted(accept: str) -> bool:
    """Whether the header Accept asks for a stream, as an EventSource does."""
    return CONTENT_TYPE in accept.lower()


def names_gzip(accept_encoding: str) -> bool:
    """Whether the header Accept-Encoding (RFC 9110 section 12.5.3) names gzip, and does not refuse it."""
    for part in accept_encoding.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() == "gzip":
            return not _ZERO.fullmatch(weight.replace(" ", ""))
    return False


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a stream may be compressed: the header Accept-Encoding names gzip among others.

    Libraries and proxies that ask for it by themselves, to unpack it before anybody sees it, name it alone: Caddy holds
    a stream back while it does.
    """
    return "," in accept_encoding and names_gzip(accept_encoding)


def chunk(data: bytes) -> bytes:
    """A chunk of HTTP/1.1's chunked body (RFC 9112 section 7.1); without data: the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Framing:
    """How a body goes over its connection: `begin`, then parts, which need not be whole blocks, then `end`."""

    __slots__ = ("begin", "end", "headers", "part")

    def __init__(
        self, part: Callable[[bytes], bytes], headers: Mapping[str, str], *, begin: bytes = b"", end: bytes = b""
    ) -> None:
        self.part = part
        self.headers = headers
        self.begin = begin
        self.end = end


PLAIN = Framing(bytes, {})
"""A body that ends with the connection, as HTTP/1.0 has it."""

CHUNKED = Framing(chunk, {"Transfer-Encoding": "chunked"}, end=chunk(b""))

GZIPPED = Framing(
    lambda data: chunk(fragment(data, DEFLATE_FROM)),
    {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"},
    begin=chunk(GZIP_HEADER),
    end=CHUNKED.end,
)
"""All clients get the same fragments, so none has a state here. The check sum that ends a gzip file would be one: it is
left out. Chromium, Firefox and WebKitGTK (EventSource and fetch), curl, Node, httpx and requests do not miss it, and
show each event as it comes."""

FRAMINGS = PLAIN, CHUNKED, GZIPPED


def block(payload: bytes) -> bytes:
    """The block of one object in JSON or HTML, which has no line break; of nothing, a comment."""
    return b"data: %b\n\n" % payload if payload else b":\n\n"


def retry(milliseconds: int) -> bytes:
    """A line at the beginning of a block: when an EventSource comes back once the stream has ended."""
    return b"retry: %d\n" % milliseconds


def head(framing: Framing, headers: Mapping[str, str]) -> bytes:
    """The head of the answer, with `headers` besides the usual. The connection ends with the stream."""
    lines = [f"{name}: {value}" for name, value in {**HEADERS, **headers, **framing.headers}.items()]
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "Connection: close", "", "")).encode("latin-1")


def refused(code: str, message: str, retry_after: float | None, milliseconds: int) -> bytes:
    """The whole body of a stream that is refused for now; an EventSource comes back after `milliseconds`."""
    error = replies.Error(code=code, message=message, retry_after=retry_after)
    return retry(milliseconds) + block(JSON.encode(error))


class StreamEncoding(Encoding):
    """JSON or HTML in blocks, in the framing of the body.

    With an `epoch`, what moves a client's cursor has it as `id: EPOCH.SEQ`: for streams of one room.
    """

    __slots__ = ("_epoch", "framing", "ping")

    def __init__(self, framing: Framing, epoch: str | None, codec: Codec = JSON) -> None:
        part = framing.part
        super().__init__(codec, lambda payload: part(block(payload)))
        self._epoch = epoch.encode() if epoch is not None else b""
        self.framing = framing
        self.ping = part(PING)

    def wrap_at(self, payload: bytes, seq: int) -> bytes:
        if not self._epoch:
            return self.wrap(payload)
        # The id comes last: some clients take it before they have the data, and would lose what is cut off in between.
        data = b"data: %b\n" % payload if payload else b""
        return self.framing.part(b"%bid: %b.%d\n\n" % (data, self._epoch, seq))


class StreamEncodings:
    """Those of one server, by whether they tell cursors and how the body is framed: one object for each."""

    __slots__ = ("_epoch", "_fragments", "_made")

    def __init__(self, epoch: str) -> None:
        """`epoch` is that of the log."""
        self._epoch = epoch
        self._made = {
            (framing, numbered): StreamEncoding(framing, epoch if numbered else None)
            for framing in FRAMINGS
            for numbered in (False, True)
        }
        self._fragments = {framing: StreamEncoding(framing, epoch, HTML) for framing in FRAMINGS}

    def get(self, framing: Framing, *, numbered: bool) -> StreamEncoding:
        return self._made[framing, numbered]

    def fragments(self, framing: Framing) -> StreamEncoding:
        """Of one room, in HTML."""
        return self._fragments[framing]

    def cursors(self, cursors: Mapping[str, int]) -> bytes:
        """A line that moves the client's Last-Event-ID, by room; a block of it alone dispatches nothing."""
        told = " ".join((self._epoch, *(f"{room}:{seq}" for room, seq in cursors.items())))
        return b"id: %b\n" % told.encode()


def parse_last_event_id(value: str) -> int | dict[str, int]:
    """The cursor in an id of ours, of a stream of one room, or those by room; ChatError (bad_request) if it is none.

    The epoch is not looked at: who has cursors of another log is told so by `joined`.
    """
    epoch, *cursors = value.split(" ")
    if not cursors:
        epoch, _, seq = value.rpartition(".")
        if _EPOCH.fullmatch(epoch) and _is_seq(seq):
            return int(seq)
    elif _EPOCH.fullmatch(epoch):
        pairs = [cursor.rpartition(":") for cursor in cursors]
        if all(room and _is_seq(seq) for room, _, seq in pairs):
            return {room: int(seq) for room, _, seq in pairs}
    raise ChatError(
        ErrorCode.BAD_REQUEST, "Last-Event-ID: must be an id as a stream gives it, EPOCH.SEQ or EPOCH room:seq ..."
    )


def _is_seq(text: str) -> bool:
    return _SEQ.fullmatch(text) is not None and int(text) <= SEQ_MAX
