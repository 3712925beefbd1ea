"""WebSocket frames (RFC 6455 section 5): reading a client's, making the server's. No I/O."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Callable
from struct import Struct
from zlib import error as DeflateError

from tornado import util

from tornado_chat.errors import CloseCode
from tornado_chat.wire.deflate import Inflater

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

NO_STATUS = 1005  # what a close frame without a code counts as; never on the wire (RFC 6455 section 7.4.1)
ABNORMAL = 1006  # the connection ended without a close frame; never on the wire

_FIN, _RSV1, _RSV2_3, _MASK = 0x80, 0x40, 0x30, 0x80
_TURN_BYTES = 65536  # what one `feed` may make of fragments and deflate data
_FRAME_BYTES = 128  # what each frame, or part of one, counts for besides: 512 of a byte take 0.5 ms
_MEDIUM, _LARGE = Struct("!BBH").pack, Struct("!BBQ").pack


def unmask_in_python(mask: bytes, data: bytes) -> bytes:
    """`data` masked or unmasked, the same operation, by RFC 6455 section 5.3."""
    size = len(data)
    pattern = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(data, "little") ^ pattern).to_bytes(size, "little")


# Tornado's C speed-up: 60 bytes take 0.07 us, 0.37 in Python. It is private, so it may go.
unmask: Callable[[bytes, bytes], bytes] = getattr(util, "_websocket_mask", unmask_in_python)


class FrameError(Exception):
    """The peer broke RFC 6455; the connection is to be closed with `code` and `reason`."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Message:
    """A text or binary message that is not complete yet: split over frames or over reads, or compressed."""

    __slots__ = ("announced", "buffer", "fin", "inflater", "left", "mask", "opcode", "sequence")

    def __init__(self, opcode: int, inflater: Inflater | None) -> None:
        self.opcode = opcode
        self.inflater = inflater
        self.buffer = bytearray()  # one buffer: pieces of a byte or two would cost 30 times their size each
        self.sequence = b""  # the beginning of a UTF-8 sequence whose end is still to come
        self.announced = 0  # bytes of all frames so far, as their headers said
        self.left = 0  # bytes of the frame at hand that are still to come
        self.mask = b""  # turned so that it begins with the next byte
        self.fin = False

    def begin_frame(self, length: int, mask: bytes, fin: bool) -> None:
        self.announced += length
        self.left = length
        self.mask = mask
        self.fin = fin

    def take(self, masked: bytes, max_bytes: int) -> None:
        """Unmask, inflate and check the next bytes of the frame at hand."""
        self.left -= len(masked)
        data = unmask(self.mask, masked)
        turn = len(masked) & 3
        if turn:
            self.mask = self.mask[turn:] + self.mask[:turn]
        self._keep(self.inflater.inflate(data) if self.inflater else data, max_bytes)

    def finish(self, max_bytes: int) -> bytes:
        if self.inflater:
            self._keep(self.inflater.finish(), max_bytes)
        if self.sequence:
            utf_8_decode(self.sequence, "strict", True)
        return bytes(self.buffer)

    def _keep(self, data: bytes, max_bytes: int) -> None:
        self.buffer += data
        if len(self.buffer) > max_bytes:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, f"message over {max_bytes} bytes when inflated")
        if self.opcode == TEXT and (self.sequence or not data.isascii()):
            data = self.sequence + data
            self.sequence = data[utf_8_decode(data, "strict", False)[1] :]  # raises at the first bad byte
            if b"\xed\xa0" <= self.sequence < b"\xee":  # half a surrogate: it would wait for the end
                raise UnicodeDecodeError("utf-8", self.sequence, 0, 2, "surrogate")


def single(data: bytes, opcode: int, max_bytes: int) -> bytes | None:
    """The payload, if `data` is one whole message of `opcode` in one frame and nothing more: most reads are.

    None: it is something else, or too long, or a text that is not ASCII, all of which is for a FrameReader.
    """
    size = len(data)
    if size < 6 or data[0] != _FIN | opcode:
        return None
    length, start = data[1] - _MASK, 6
    if length >= 126:
        if length == 127 or (data[2] == 0 and data[3] < 126):
            return None
        length, start = data[2] << 8 | data[3], 8
    if start + length != size or length > max_bytes:
        return None
    payload = unmask(data[start - 4 : start], data[start:])
    return payload if opcode != TEXT or payload.isascii() else None


class FrameReader:
    """Bytes from a client in, messages out. Any split of the bytes gives the same messages.

    `max_bytes` bounds a message, on the wire and inflated; `deflate` says that permessage-deflate was negotiated.
    UTF-8 is checked as it arrives, also in the middle of a frame. Between messages the reader holds nothing.

    `overhead` counts, in bytes of messages, what took time and is no message: control frames, fragments, pieces.
    Whoever lets the client pay for it takes it.
    """

    __slots__ = ("_deflate", "_max_bytes", "_message", "_tail", "failure", "more", "overhead")

    def __init__(self, max_bytes: int, deflate: bool) -> None:
        self._max_bytes = max_bytes
        self._deflate = deflate
        self._message: _Message | None = None
        self._tail = b""  # an incomplete header or control frame; whole frames only when `more`
        self.more = False
        self.overhead = 0
        self.failure: FrameError | None = None

    @property
    def holds_nothing(self) -> bool:
        """Whether a new reader would go on as well as this one."""
        return self._message is None and not self._tail and self.failure is None and not self.overhead

    def feed(self, data: bytes, limit: int = 64) -> list[tuple[int, bytes]]:
        """The messages and control frames that `data` completes, at most `limit` of them, as (opcode, payload).

        At most 512 fragments are taken, and not many more than 64 KiB inflated: one message may go past that.
        If `more` is true, further ones may be there already: feed b"" to go on. A violation sets `failure` after what
        stood before it; from then on everything is ignored. A close frame's payload is for `parse_close`.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        self.more = False
        messages: list[tuple[int, bytes]] = []
        if self.failure is not None:
            return messages
        at, end = 0, len(data)
        spent = 0
        try:
            while at < end:
                if len(messages) >= limit:
                    self.more = True
                    break
                # The usual case, inline: a whole message in one frame, all of it here.
                opcode = data[at] - _FIN
                if TEXT <= opcode <= BINARY and end - at >= 8 and self._message is None:
                    length, key = data[at + 1] - _MASK, at + 2
                    if length == 126:
                        length, key = data[key] << 8 | data[key + 1], at + 4
                        if length < 126:
                            length = -1
                    stop = key + 4 + length
                    if 0 <= length != 127 and stop <= end and length <= self._max_bytes:
                        payload = unmask(data[key : key + 4], data[key + 4 : stop])
                        if opcode == TEXT and not payload.isascii():
                            utf_8_decode(payload, "strict", True)
                        messages.append((opcode, payload))
                        at = stop
                        continue
                then = self._advance(data, at, end, messages)
                if then == at:
                    break
                at = then
                spent += _FRAME_BYTES
                self.overhead += _FRAME_BYTES
                if self._message is None:  # a message is complete, or a control frame
                    spent += len(messages[-1][1])
                if spent >= _TURN_BYTES:
                    self.more = at < end
                    break
        except FrameError as failure:
            self._fail(failure)
        except UnicodeDecodeError:
            self._fail(FrameError(CloseCode.INVALID_DATA, "text is not UTF-8"))
        except DeflateError:
            self._fail(FrameError(CloseCode.INVALID_DATA, "not deflate data"))
        else:
            if at < end:
                self._tail = data[at:]
        return messages

    def _fail(self, failure: FrameError) -> None:
        self.failure = failure
        self.more = False
        self._message = None

    def _advance(self, data: bytes, at: int, end: int, messages: list[tuple[int, bytes]]) -> int:
        """Take a frame, or a part of a data frame, from data[at:end]; where it ended, or `at` if more is needed."""
        message = self._message
        if message is None or not message.left:
            first = data[at]
            if first & 0x0F >= CLOSE:
                return _control(data, at, end, messages)
            header = self._header(data, at, end)
            if header is None:
                return at
            length, start = header
            if message is None:
                inflater = Inflater(self._max_bytes) if first & _RSV1 else None
                message = self._message = _Message(first & 0x0F, inflater)
            message.begin_frame(length, data[start - 4 : start], bool(first & _FIN))
            at = start
        stop = min(at + message.left, end)
        if stop > at:
            message.take(data[at:stop], self._max_bytes)
        if message.fin and not message.left:
            messages.append((message.opcode, message.finish(self._max_bytes)))
            self._message = None
        return stop

    def _header(self, data: bytes, at: int, end: int) -> tuple[int, int] | None:
        """Check the header of a data frame: (payload's length, where it starts); None: more is needed."""
        first = data[at]
        opcode = first & 0x0F
        if opcode > BINARY:
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"reserved opcode {opcode}")
        if first & _RSV2_3 or (first & _RSV1 and not (self._deflate and opcode)):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bit set")
        message = self._message
        if opcode == CONTINUATION and message is None:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "continuation of nothing")
        if opcode and message is not None:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "new message inside a fragmented one")
        if end - at < 2:
            return None
        _check_masked(data[at + 1])
        length, start = data[at + 1] & 0x7F, at + 2
        if length >= 126:
            size, least = (2, 126) if length == 126 else (8, 65536)
            if end - start < size:
                return None
            length = int.from_bytes(data[start : start + size], "big")
            start += size
            if length >> 63:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "length of 64 bits")
            if length < least:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "length not in its shortest form")
        if length + (message.announced if message else 0) > self._max_bytes:
            raise FrameError(CloseCode.MESSAGE_TOO_BIG, f"message over {self._max_bytes} bytes")
        return (length, start + 4) if end - start >= 4 else None


def _control(data: bytes, at: int, end: int, messages: list[tuple[int, bytes]]) -> int:
    """Take one control frame (RFC 6455 section 5.5); where it ended, or `at`: more is needed."""
    first = data[at]
    opcode = first & 0x0F
    if opcode > PONG:
        raise FrameError(CloseCode.PROTOCOL_ERROR, f"reserved opcode {opcode}")
    if first & (_RSV1 | _RSV2_3):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bit set in a control frame")
    if not first & _FIN:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
    if end - at < 2:
        return at
    _check_masked(data[at + 1])
    length = data[at + 1] & 0x7F
    if length > 125:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame over 125 bytes")
    stop = at + 6 + length
    if stop > end:
        return at
    messages.append((opcode, unmask(data[at + 2 : at + 6], data[at + 6 : stop])))
    return stop


def _check_masked(second: int) -> None:
    if not second & _MASK:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "frame from a client not masked")


def frame(opcode: int, payload: bytes, *, rsv1: bool = False) -> bytes:
    """A whole frame from the server: final, not masked. `rsv1`: the payload is deflated (RFC 7692 section 6)."""
    first = _FIN | _RSV1 | opcode if rsv1 else _FIN | opcode
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return _MEDIUM(first, 126, length) + payload
    return _LARGE(first, 127, length) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; `reason` is cut, at a character's end, to the 123 bytes that fit. NO_STATUS gives an empty one."""
    if code == NO_STATUS:
        return frame(CLOSE, b"")
    cut = reason.encode()[:123].decode(errors="ignore")
    return frame(CLOSE, code.to_bytes(2, "big") + cut.encode())


def parse_close(payload: bytes) -> tuple[int, str]:
    """The code and reason of a close frame, (NO_STATUS, "") if it is empty (RFC 6455 sections 5.5.1 and 7.4)."""
    if not payload:
        return NO_STATUS, ""
    if len(payload) == 1:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, NO_STATUS, ABNORMAL):
        raise FrameError(CloseCode.PROTOCOL_ERROR, f"invalid close code {code}")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_DATA, "close reason is not UTF-8") from None
