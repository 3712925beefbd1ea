"""The encodings: what goes to a line, by codec and framing."""

from __future__ import annotations

import zlib
from random import Random

import pytest

from tornado_chat.wire.codec import JSON, MSGPACK, Codec
from tornado_chat.wire.encodings import DEFLATE_FROM, SUBPROTOCOLS, Encoding, opcode_of, subprotocol_of, websocket
from tornado_chat.wire.events import Event
from tornado_chat.wire.frames import BINARY, TEXT, frame

CODEC = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
TEXT_OF_EVENT = "a text that is long enough to be deflated, and says the same thing again and again, "
MESSAGE = {"type": "message", "room": "r", "seq": 1, "user": "u", "name": "U", "text": TEXT_OF_EVENT, "ts": 1}


def test_codecs_are_found_by_their_sub_protocol() -> None:
    assert SUBPROTOCOLS == {"chat.v1.json": JSON, "chat.v1.msgpack": MSGPACK}
    assert [subprotocol_of(codec) for codec in (JSON, MSGPACK)] == list(SUBPROTOCOLS)
    assert [opcode_of(codec) for codec in (JSON, MSGPACK)] == [TEXT, BINARY]


def test_a_codec_serialises_an_event_once_whatever_the_framings() -> None:
    calls = []

    def encode(obj: object) -> bytes:
        calls.append(obj)
        return JSON.encode(obj)

    counting = Codec("json", encode, JSON.decode, JSON.decoder)
    framings = [Encoding(counting, lambda payload: b"<" + payload), Encoding(counting, lambda payload: payload + b">")]
    event = Event(1, dict(MESSAGE))
    payload = JSON.encode(MESSAGE)
    assert event.encode(framings) == 2 * len(payload) + 2
    assert list(event.frames.values()) == [b"<" + payload, payload + b">"]
    assert calls == [MESSAGE]
    assert event.encode(framings) == 0
    assert calls == [MESSAGE]


def test_the_plain_form_of_an_encoding_is_the_one_without_deflate() -> None:
    assert websocket(JSON, 15).plain is websocket(JSON)
    assert websocket(JSON).plain is websocket(JSON) is websocket(JSON, 0)


@CODEC
def test_a_small_event_is_one_plain_frame(codec: Codec) -> None:
    data = {"type": "pong"}
    assert (
        websocket(codec).frame(data) == websocket(codec, 15).frame(data) == frame(opcode_of(codec), codec.encode(data))
    )


@CODEC
@pytest.mark.parametrize("window_bits", [9, 12, 15])
def test_a_long_event_is_deflated_where_that_was_negotiated(codec: Codec, window_bits: int) -> None:
    data = {**MESSAGE, "text": TEXT_OF_EVENT * 4}
    plain, deflated = websocket(codec).frame(data), websocket(codec, window_bits).frame(data)
    assert plain == frame(opcode_of(codec), codec.encode(data))
    assert len(deflated) < len(plain)
    assert deflated[0] == 0xC0 | opcode_of(codec)  # FIN and RSV1
    payload = deflated[2:] if deflated[1] < 126 else deflated[4:]
    inflated = zlib.decompressobj(-window_bits).decompress(payload + b"\x00\x00\xff\xff")
    assert codec.decode(inflated) == data


@CODEC
def test_deflate_begins_at_its_threshold(codec: Codec) -> None:
    spare = DEFLATE_FROM - len(codec.encode({"text": "a" * 100}))
    below, at = ({"text": "a" * (100 + spare - less)} for less in (1, 0))
    assert len(codec.encode(at)) == DEFLATE_FROM
    assert websocket(codec, 15).frame(below)[0] & 0x40 == 0
    assert websocket(codec, 15).frame(at)[0] & 0x40


def test_what_deflate_would_lengthen_goes_plain() -> None:
    random = Random(1)
    data = {"meta": [random.getrandbits(64) | 1 << 63 for _ in range(35)]}
    assert len(MSGPACK.encode(data)) > DEFLATE_FROM
    assert websocket(MSGPACK, 15).frame(data) == frame(BINARY, MSGPACK.encode(data))


def test_an_encoding_is_the_same_object_each_time() -> None:
    assert websocket(JSON, 15) is websocket(JSON, 15)
    assert len({websocket(codec, bits) for codec in (JSON, MSGPACK) for bits in (0, 9, 15)}) == 6
