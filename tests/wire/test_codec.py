"""The codecs: what they take, what they refuse and how."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.wire.codec import (
    JSON,
    MSGPACK,
    ODD_MAX,
    Codec,
    MapWithOtherKeys,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda children: st.lists(children) | st.dictionaries(TEXTS, children),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXTS, VALUES)
CODEC = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)

MESSAGE = {
    "type": "message",
    "room": "general",
    "seq": 123456,
    "user": "alice",
    "name": "Alice",
    "text": "Has anyone tried the new build? It stops right at the start when I open a second room.",
    "ts": 1700000000000,
    "id": "0123456789abcdef",
}


def refused(codec: Codec, payload: bytes) -> str:
    """The message of the ChatError that `payload` raises."""
    with pytest.raises(ChatError) as caught:
        codec.decode(payload)
    assert caught.value.code is ErrorCode.BAD_REQUEST
    caught.value.message.encode()  # what cannot be encoded could not be sent
    return caught.value.message


def decodes_or_refuses(codec: Codec, payload: bytes) -> None:
    with contextlib.suppress(ChatError):
        codec.decode(payload)
        return
    refused(codec, payload)


def nested(open_: bytes, core: bytes, close: bytes, depth: int) -> bytes:
    return open_ * depth + core + close * depth


@CODEC
@given(data=OBJECTS)
def test_decode_gives_back_what_encode_took(codec: Codec, data: dict[str, Any]) -> None:
    assert codec.decode(codec.encode(data)) == data


@given(data=OBJECTS)
def test_json_is_read_as_the_standard_library_reads_it(data: dict[str, Any]) -> None:
    assert json.loads(JSON.encode(data)) == data
    assert JSON.decode(json.dumps(data, indent=1).encode()) == data


@CODEC
@given(payload=st.binary())
@example(payload=b"")
@example(payload=b"\xff")
@example(payload=b'"\xed\xa0\x80"')
@example(payload=b"\xdf\xff\xff\xff\xff")
@example(payload=b"\x81\x91\x01\x01")
@example(payload=b"\xc7\x0c\xff" + b"\xff" * 12)
@example(payload=b"\x81\xd6\xff\x00\x00\x00\x01\x01")
@example(payload=b"[" * 65_536)
@example(payload=b'{"a":' * 10_000)
@example(payload=b"\x91" * 65_536)
@example(payload=b"\x81" * 65_536)
@example(payload=nested(b"[", b'"\\ud800"', b"]", 1_000))
@example(payload=nested(b"[", b'"\\ud800"', b"]", 20_000))
@example(payload=b'["\\ud800",' + nested(b"[", b"", b"]", 20_000) + b"]")
@example(payload=nested(b"\x81\xa1a", b"\x81\x01\x01", b"", 1_000))
def test_any_bytes_decode_or_raise_chat_error(codec: Codec, payload: bytes) -> None:
    decodes_or_refuses(codec, payload)


@CODEC
@given(data=OBJECTS, at=st.integers(0), replacement=st.binary(max_size=4), cut=st.integers(0, 4))
def test_a_damaged_message_decodes_or_raises_chat_error(
    codec: Codec, data: dict[str, Any], at: int, replacement: bytes, cut: int
) -> None:
    payload = codec.encode(data)
    at %= len(payload) + 1
    decodes_or_refuses(codec, payload[:at] + replacement + payload[at + cut :])


JSON_PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"a"',
    b'"',
    b"1",
    b"0",
    b"-",
    b".",
    b"e",
    b"null",
    b"NaN",
    b" ",
    b"\\u",
]
JSON_PIECES += [b"\n", b"\x01", b"\xc3\xa9", b"true", b"Infinity", b"\\", b"d800", b"\x00", b"/", b"'", b"\xef\xbb\xbf"]


@given(pieces=st.lists(st.sampled_from(JSON_PIECES), max_size=12))
@example([b"0", b"1"])
@example([b"1", b"."])
@example([b'"', b"\x01", b'"'])
def test_json_that_decode_takes_is_json(pieces: list[bytes]) -> None:
    payload = b"".join(pieces)
    try:
        value = JSON.decode(payload)
    except ChatError:
        return
    assert json.loads(payload.decode(), parse_constant=lambda constant: pytest.fail(constant)) == value


@pytest.mark.parametrize(
    "payload",
    [
        *[b"", b" ", b"{", b'{"type":"ping"', b'{"type":"ping"} x', b"{'type':'ping'}", b'{"type":"ping",}', b"\x00"],
        *[b"\xef\xbb\xbf{}", b'"\xff"', b'"\xed\xa0\x80"', '{"type":"ping"}'.encode("utf-16"), b'"\x00"', b'"\n"'],
        *[b"[" * 60_000, b"[" * 60_000 + b"]" * 60_000, b'{"a":' * 2_000 + b"1" + b"}" * 2_000],
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_what_is_not_json_is_refused(payload: bytes) -> None:
    assert refused(JSON, payload).startswith("message: is not JSON: ")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have(constant: str) -> None:
    for payload in (f'{{"text":{constant}}}', f'{{"type":"ping","\\ud800":{constant}}}', f"[{constant}]"):
        assert refused(JSON, payload.encode()).startswith("message: is not JSON: ")


def test_an_integer_past_64_bits_stays_the_integer_that_was_sent() -> None:
    assert JSON.decode(b'{"seq":18446744073709551617}') == {"seq": 18446744073709551617}


def test_an_integer_of_5000_digits_is_refused() -> None:
    assert refused(JSON, f'{{"seq":{"9" * 5_000}}}'.encode()).startswith("message: is not JSON: ")


@pytest.mark.parametrize(
    ("escapes", "sound"),
    [
        (r"a\ud800", r"a\u0000"),
        (r"\udfffa", r"\u0000a"),
        (r"\ud83d\ude00", r"\ud83d\ude00"),
        (r"\ud83d\ud83d\ude00\ude00", r"\u0000\ud83d\ude00\u0000"),
        (r"\uD800\uDBFF", r"\u0000\u0000"),
        (r"\\ud800\ud800", r"\u005cud800\u0000"),
        (r"\\\ud800", r"\u005c\u0000"),
        (r"\\\\ud800 \ude00", r"\u005c\u005cud800 \u0000"),
        (r"\ud800\n\udc00", r"\u0000\n\u0000"),
    ],
)
def test_lone_surrogates_become_what_is_refused_as_well(escapes: str, sound: str) -> None:
    payload = f'{{"text":"{escapes}"}}'.encode()
    assert JSON.decode(payload) == json.loads(f'{{"text":"{sound}"}}')
    assert JSON.decode(b'{"x":"\\ud800",' + payload[1:]) == {"x": "\0", **json.loads(f'{{"text":"{sound}"}}')}


def test_strings_that_are_not_utf8_are_left_for_the_validation() -> None:
    text = MSGPACK.decode(msgpack.packb({"text": "a\ud800"}, unicode_errors="surrogatepass"))["text"]  # type: ignore[index]  # is a dict
    assert text.startswith("a")
    with pytest.raises(UnicodeEncodeError):
        text.encode()


@pytest.mark.parametrize("depth", [500, 950, 1_000, 1_020])
def test_json_nested_a_thousand_deep_is_read(depth: int) -> None:
    assert isinstance(JSON.decode(b'{"text":' + nested(b"[", b"", b"]", depth) + b"}"), dict)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        b"\x80\x80",
        b"\x81\xa1a",
        b"\xdb\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 60_000,
    ],
    ids=lambda payload: repr(payload[:10]),
)
def test_what_is_not_message_pack_is_refused(payload: bytes) -> None:
    message = refused(MSGPACK, payload)
    assert message.startswith("message: is not MessagePack: ")
    assert not message.endswith(": ")


def test_maps_with_other_keys_keep_their_place() -> None:
    data = MSGPACK.decode(msgpack.packb({"type": "send", "meta": {"a": {1: 2}}, "list": [{"b": 1}]}))
    assert isinstance(data, dict)
    assert isinstance(data["meta"]["a"], MapWithOtherKeys)
    assert data["list"] == [{"b": 1}]
    mixed: list[list[Any]] = [[1], [None], [1.5], [b"a", 1], [[1]], [{}], ["a", True]]
    for keys in mixed:
        pairs = b"".join(msgpack.packb(key) + b"\x01" for key in keys)
        assert isinstance(MSGPACK.decode(bytes([0x80 | len(keys)]) + pairs), MapWithOtherKeys)


def test_integer_keys_that_collide_are_never_hashed() -> None:
    # As a dict, 7,000 keys that are equal modulo 2**61 - 1 take 24 million comparisons.
    keys = b"".join(b"\xcf" + (n * (2**61 - 1)).to_bytes(8, "big") + b"\x00" for n in range(8))
    assert isinstance(MSGPACK.decode(b"\x88" + keys), MapWithOtherKeys)


@pytest.mark.parametrize("odd", [b"\x81\x01\x01", b"\x81\xa1\xff\x01"], ids=["other key", "not UTF-8"])
def test_odd_maps_are_bounded(odd: bytes) -> None:
    def array(*maps: bytes) -> bytes:
        return b"\xdc" + len(maps).to_bytes(2, "big") + b"".join(maps)

    plain = [b"\x80"] * (ODD_MAX - 1)
    assert len(MSGPACK.decode(array(odd, *plain))) == ODD_MAX  # type: ignore[arg-type]  # is a list
    assert refused(MSGPACK, array(odd, b"\x80", *plain)).startswith("message: over 1,000 maps")
    arrays = [b"\x90"] * (ODD_MAX - 1)  # and the outermost
    assert len(MSGPACK.decode(array(odd, *arrays))) == ODD_MAX  # type: ignore[arg-type]  # is a list
    assert refused(MSGPACK, array(odd, b"\x90", *arrays)).startswith("message: over 1,000 maps or arrays")
    assert len(MSGPACK.decode(array(*[b"\x80"] * 20_000))) == 20_000  # type: ignore[arg-type]  # is a list


@CODEC
def test_a_failed_encode_leaves_nothing_behind(codec: Codec) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec.encode({"room": "r", "text": object()})
    assert codec.decode(codec.encode(MESSAGE)) == MESSAGE


def test_nan_out_of_message_pack_is_left_for_the_validation() -> None:
    data = MSGPACK.decode(msgpack.packb({"seq": math.nan}))
    assert isinstance(data, dict)
    assert math.isnan(data["seq"])
