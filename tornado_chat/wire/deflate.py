"""permessage-deflate (RFC 7692), without context takeover on either side: no zlib object outlives its message.

A gzip body is made of the same pieces: each is a fragment that ends where bytes do, so that all clients share it.
"""

from __future__ import annotations

import re
import zlib

# What the sender cut off (RFC 7692 section 7.2.2), then an empty final block: only whole deflate data reaches its end.
_TAIL = b"\x00\x00\xff\xff" + b"\x01\x00\x00\xff\xff"

_MAX_STREAMS = 8  # a message may have final blocks inside; each costs a new zlib object

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_QUOTED = r'"(?:\\.|[^"\\])*"?'  # also one that never ends, or finding that out would cost quadratic time
_OFFER = re.compile(rf'(?:^|,)((?:[^",]|{_QUOTED})*)', re.DOTALL)
_PARAMETER = re.compile(rf'(?:^|;)((?:[^";]|{_QUOTED})*)', re.DOTALL)
_WINDOW_BITS = {str(bits): bits for bits in range(8, 16)}


_FLUSHED = b"\x00\x00\xff\xff"  # the end of a fragment, an empty stored block, which `deflate` leaves out
_STORED_BYTES = 65535  # of one block (RFC 1951 section 3.2.4)

GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
"""The beginning of a gzip body (RFC 1952 section 2.3), without a time or a name."""


def fragment(data: bytes, least: int) -> bytes:
    """`data` as a part of a gzip body that refers to nothing before it; compressed if it has `least` bytes or more."""
    if len(data) >= least:
        deflated = deflate(data, zlib.MAX_WBITS) + _FLUSHED
        if len(deflated) < len(data):
            return deflated
    blocks = [_stored(data[at : at + _STORED_BYTES]) for at in range(0, len(data), _STORED_BYTES)]
    return b"".join((*blocks, b"\x00", _FLUSHED))  # Go's inflater shows a stored block only when another follows it


def _stored(data: bytes) -> bytes:
    size = len(data)
    return b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + data


def deflate(payload: bytes, window_bits: int) -> bytes:
    """`payload` as one message's raw deflate data; `window_bits` (9 to 15) bounds the window."""
    # A window and tables beyond the payload's size only cost: 250 bytes take 4 us so, 52 us with zlib's defaults.
    bits = min(window_bits, max(9, len(payload).bit_length()))
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -bits, bits - 7)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Inflater:
    """One message's deflate data in, piece by piece; its bytes out, never more than `max_bytes` + 1 in all.

    More than `max_bytes` came out: the message is too big, and the rest of it is not looked at.
    """

    __slots__ = ("_room", "_streams", "_zlib")

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes + 1
        self._streams = 1
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)

    def inflate(self, data: bytes) -> bytes:
        """What `data` adds to the message; raises zlib.error if it is not deflate data."""
        out = b""
        while data and self._room:
            if self._zlib.eof:  # a block marked as final need not be the last one (RFC 7692 section 7.2.1)
                if self._streams == _MAX_STREAMS:
                    raise zlib.error(f"more than {_MAX_STREAMS} final blocks")
                self._streams += 1
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
            piece = self._zlib.decompress(data, self._room)
            self._room -= len(piece)
            out = out + piece if out else piece
            data = self._zlib.unused_data
        return out

    def finish(self) -> bytes:
        """What was left when the message ended; raises zlib.error if its data is incomplete."""
        out = self.inflate(_TAIL)
        if self._room and not self._zlib.eof:
            raise zlib.error("incomplete deflate data")
        return out


MAX_OFFERS = 1024
"""Characters of offers; a browser sends 50. 16 KiB of commas took 12 ms."""


def negotiate(header: str) -> tuple[str, int] | None:
    """Take the first acceptable offer of a Sec-WebSocket-Extensions header (RFC 7692 section 7.1).

    Returns the value to answer with and the bits of the window for `deflate`. Invalid offers are declined, as section
    5.1 asks; none left, or more than MAX_OFFERS characters of them: None, and the connection goes uncompressed.
    """
    if len(header) > MAX_OFFERS:
        return None
    for offer in _OFFER.findall(header):
        name, *parameters = (part.strip(" \t") for part in _PARAMETER.findall(offer))
        if name == "permessage-deflate":
            accepted = _accept(parameters)
            if accepted is not None:
                return accepted
    return None


def _accept(parameters: list[str]) -> tuple[str, int] | None:
    """Check one offer's parameters: as `negotiate` returns it, or None to decline."""
    seen: dict[str, str | None] = {}
    for parameter in parameters:
        name, equals, text = (part.strip(" \t") for part in parameter.partition("="))
        value = _value(text) if equals else None
        if name in seen or (equals and value is None):
            return None
        seen[name] = value
    answer, bits = "permessage-deflate; server_no_context_takeover; client_no_context_takeover", 15
    for name, value in seen.items():
        match name:
            case "server_no_context_takeover" | "client_no_context_takeover" if value is None:
                pass
            case "client_max_window_bits" if value is None or value in _WINDOW_BITS:
                pass
            case "server_max_window_bits" if value in _WINDOW_BITS and value != "8":  # zlib has no raw window of 8 bits
                # The answer must have it too (section 7.1.2.1). A smaller window than asked for is allowed: two sizes
                # only, or a room would have to encode an event in as many ways as its members think of.
                bits = 15 if value == "15" else 9
                answer += f"; server_max_window_bits={bits}"
            case _:
                return None
    return answer, bits


def _value(text: str) -> str | None:
    """A parameter's value: a token, or a quoted string whose content is one (RFC 6455 section 9.1)."""
    if text[:1] == text[-1:] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    return text if _TOKEN.fullmatch(text) else None
