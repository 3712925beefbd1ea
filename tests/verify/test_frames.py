"""verify's own reading of the wire, against frames made by hand and by another implementation of RFC 6455."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from tests.support.raw_websocket import client_frame as raw_frame
from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.codecs import JSON, MSGPACK
from tornado_chat.verify.endings import Broken
from tornado_chat.verify.frames import (
    BINARY,
    CLOSE,
    DEFLATE_FROM,
    PING,
    TEXT,
    ServerFrames,
    client_frame,
    read_close,
)
from tornado_chat.verify.handshake import Offer, agreed

SIZES = [0, 1, 125, 126, 300, 65_535, 65_536, 70_000]


def server_frame(opcode: int, payload: bytes = b"", **wrong: Any) -> bytes:
    """As a server sends it: not masked."""
    return raw_frame(opcode, payload, key=None, **wrong)


def deflated(payload: bytes, window_bits: int = 15) -> bytes:
    """A text frame as another implementation deflates it."""
    extension = PerMessageDeflate(True, True, 15, window_bits)
    return Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[extension])


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(SIZES)), max_size=5), st.data())
def test_frames_of_a_server_in_any_pieces(parts: list[tuple[bool, int]], data: st.DataObject) -> None:
    payloads = [b"%d" % number + b"ab" * (size // 2) for number, (_, size) in enumerate(parts)]
    whole = b"".join(
        deflated(payload) if deflate else Frame(Opcode.TEXT, payload).serialize(mask=False)
        for (deflate, _), payload in zip(parts, payloads, strict=True)
    )
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    reader = ServerFrames(15)
    got: list[tuple[int, bytes]] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += reader.feed(whole[start:end])
    assert got == [(TEXT, payload) for payload in payloads]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (raw_frame(TEXT, b"a"), "masked"),
        (server_frame(TEXT, b"a", fin=False), "several frames"),
        (server_frame(0, b"a"), "several frames"),
        (server_frame(3, b"a"), "opcode 3"),
        (server_frame(11), "opcode 11"),
        (server_frame(TEXT, b"a", rsv=1), "reserved"),
        (server_frame(BINARY, b"a", rsv=2), "reserved"),
        (server_frame(TEXT, b"a", rsv=4), "reserved"),
        (server_frame(PING, b"a", rsv=4), "reserved"),
        (server_frame(PING, b"a", fin=False), "fragments"),
        (server_frame(PING, b"a" * 126), "control frame of more than 125"),
        (server_frame(TEXT, b"a", length=b"\x7e\0\x01"), "a length of 1 in"),
        (server_frame(TEXT, b"a" * 126, length=b"\x7f" + (126).to_bytes(8, "big")), "a length of 126 in"),
        (server_frame(TEXT, b"", length=b"\x7f" + b"\x80" + bytes(7)), "bytes"),
        (server_frame(CLOSE, b"\x03\xe8") + server_frame(TEXT, b"a"), "after the close"),
    ],
)
def test_frames_that_a_server_must_not_send(data: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why):
        list(ServerFrames(None).feed(data))


def test_deflate_that_is_broken() -> None:
    payload = bytes(range(256)) * 8
    sound = deflated(payload)
    assert list(ServerFrames(15).feed(sound)) == [(TEXT, payload)]
    for broken in (
        server_frame(TEXT, sound[4:-3], rsv=4),  # its end is missing
        server_frame(TEXT, b"\xff" * 20, rsv=4),
        server_frame(PING, b"", rsv=4),
        deflated(b"\0" * (17 << 20)),
    ):
        with pytest.raises(Broken):
            list(ServerFrames(15).feed(broken))


def test_a_window_larger_than_agreed_is_found() -> None:
    far = bytes(range(256)) * 2 + bytes(1200) + bytes(range(256))  # repeats what was 1,456 bytes before
    assert list(ServerFrames(10).feed(deflated(far, 10))) == [(TEXT, far)]
    with pytest.raises(Broken, match="inflated"):
        list(ServerFrames(10).feed(deflated(far, 15)))


def test_a_final_block_inside() -> None:
    """RFC 7692 section 7.2.3.4."""
    assert list(ServerFrames(15).feed(server_frame(TEXT, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", rsv=4))) == [
        (TEXT, b"Hello")
    ]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\x03", "one byte"),
        (b"\x03\xed", "1005"),
        (b"\x03\xee", "1006"),
        (b"\x03\xe8\xff", "UTF-8"),
        (b"\0\0", "code 0"),
    ],
)
def test_close_frames_that_a_server_must_not_send(payload: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why):
        read_close(payload)


def test_close_frames() -> None:
    assert read_close(b"") == (1005, "")
    assert read_close(b"\x03\xf4retry_after_ms=5") == (1012, "retry_after_ms=5")
    assert read_close((4003).to_bytes(2, "big")) == (4003, "")


def parsed(data: bytes, extensions: list[PerMessageDeflate]) -> Frame:
    """The frame that another implementation takes from `data`, all of it."""
    left = data

    def read_exact(size: int) -> Generator[None, None, bytes]:
        nonlocal left
        taken, left = left[:size], left[size:]
        return taken
        yield

    parse = Frame.parse(read_exact, mask=True, extensions=extensions)
    with pytest.raises(StopIteration) as end:
        next(parse)
    assert left == b""
    found: Frame = end.value.value
    return found


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("size", [*SIZES, DEFLATE_FROM - 1, DEFLATE_FROM])
def test_frames_of_a_device(size: int, compress: bool) -> None:
    payload = bytes(number % 251 for number in range(size))
    data = client_frame(TEXT, payload, compress=compress)
    assert bool(data[0] & 0x40) is (compress and size >= DEFLATE_FROM)
    frame = parsed(data, [PerMessageDeflate(True, True, 15, 15)] if compress else [])
    assert (frame.opcode, bytes(frame.data), frame.fin) == (Opcode.TEXT, payload, True)
    assert data != client_frame(TEXT, payload, compress=compress), "the same key twice"


# The codecs.


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_a_codec_there_and_back(codec: Any) -> None:
    data = {"type": "send", "text": "über 🦊", "meta": {"n": [1, -1, 2.5, None, True, 2**63 - 1]}}
    assert codec.decode(codec.encode(data)) == data


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"{} {}", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1,"a":2}', b'{"a":"\xff"}', b'"\n"', b"[" * 100_000],
)
def test_what_is_not_json(payload: bytes) -> None:
    with pytest.raises(Broken):
        JSON.decode(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",
        b"\x80\x80",
        b"\x81\x01\x02",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\xa1\xff",
        b"\x91" * 100_000,
    ],
)
def test_what_is_not_messagepack(payload: bytes) -> None:
    with pytest.raises(Broken):
        MSGPACK.decode(payload)


# The handshake.

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
ANSWER = {
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    "sec-websocket-protocol": "chat.v1.json",
}
BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offered", "answered", "bits"),
    [
        (None, None, None),
        (15, None, None),
        (15, BOTH, 15),
        (15, f"{BOTH}; server_max_window_bits=15", 15),
        (10, f"{BOTH}; server_max_window_bits=9", 9),
    ],
)
def test_a_sound_handshake(offered: int | None, answered: str | None, bits: int | None) -> None:
    headers = ANSWER | ({} if answered is None else {"sec-websocket-extensions": answered})
    assert agreed(headers, KEY, Offer(JSON, offered)) == bits


def without(name: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda headers: {key: value for key, value in headers.items() if key != name}


@pytest.mark.parametrize(
    ("offered", "wrong"),
    [
        *[(None, {name: "x"}) for name in ANSWER],
        *[(None, {name: ""}) for name in ANSWER],
        (None, {"sec-websocket-extensions": BOTH}),
        (15, {"sec-websocket-extensions": "permessage-deflate; client_no_context_takeover"}),
        (15, {"sec-websocket-extensions": "permessage-deflate; server_no_context_takeover"}),
        (15, {"sec-websocket-extensions": f"{BOTH}; client_max_window_bits=9"}),
        (15, {"sec-websocket-extensions": f"{BOTH}, {BOTH}"}),
        (15, {"sec-websocket-extensions": f"{BOTH}; server_no_context_takeover"}),
        (15, {"sec-websocket-extensions": f"{BOTH}; server_max_window_bits=16"}),
        (15, {"sec-websocket-extensions": f"x-{BOTH}"}),
        (10, {"sec-websocket-extensions": BOTH}),
        (10, {"sec-websocket-extensions": f"{BOTH}; server_max_window_bits=11"}),
    ],
)
def test_a_handshake_that_a_server_must_not_answer_with(offered: int | None, wrong: dict[str, str]) -> None:
    with pytest.raises(Broken):
        agreed(ANSWER | wrong, KEY, Offer(JSON, offered))


def test_addresses() -> None:
    assert ServerAddress.of("http://h:81") == ServerAddress("h", 81, "/ws", False)
    assert ServerAddress.of("wss://h/chat/ws?a=b") == ServerAddress("h", 443, "/chat/ws?a=b", True)
    assert ServerAddress.of("http://[::1]/").authority == "[::1]:80"
    assert ServerAddress.of("http://h").under_v1("/events?ids=1") == "/v1/events?ids=1"
    assert ServerAddress.of("wss://h/chat/ws?a=b").under_v1("/poll") == "/chat/v1/poll?a=b"
    assert ServerAddress.of("wss://h/chat?a=b").under_v1("/events?ids=1") == "/chat/v1/events?ids=1&a=b"
