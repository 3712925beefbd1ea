"""permessage-deflate without context takeover, and its negotiation."""

from __future__ import annotations

import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tornado_chat.wire.deflate import Inflater, deflate, negotiate

NO_TAKEOVER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def read(data: bytes, limit: int = 100_000) -> bytes:
    inflater = Inflater(limit)
    return inflater.inflate(data) + inflater.finish()


@given(st.binary(max_size=3000), st.integers(9, 15), st.integers(1, 40))
def test_deflate_then_inflate_is_the_identity(payload: bytes, bits: int, times: int) -> None:
    payload *= times
    data = deflate(payload, bits)
    window = zlib.decompressobj(-bits)  # a peer that has no more than the window it was promised
    assert window.decompress(data + b"\0\0\xff\xff") == payload
    assert read(data, len(payload)) == payload


@given(st.binary(max_size=500), st.integers(0, 600), st.integers(1, 50))
def test_inflater_stops_past_the_limit(payload: bytes, limit: int, step: int) -> None:
    inflater = Inflater(limit)
    data = deflate(payload * 20, 15)
    out = b"".join(inflater.inflate(data[i : i + step]) for i in range(0, len(data), step)) + inflater.finish()
    assert out == (payload * 20)[: limit + 1]


@given(st.binary(max_size=100))
def test_rubbish_raises_only_zlibs_error(data: bytes) -> None:
    with contextlib.suppress(zlib.error):
        read(data)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_data_cut_off_is_noticed(payload: bytes, data: st.DataObject) -> None:
    whole = deflate(payload, 15)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(zlib.error):
        read(cut)


def test_final_blocks_inside_a_message() -> None:
    def final(payload: bytes) -> bytes:
        compressor = zlib.compressobj(wbits=-15)
        return compressor.compress(payload) + compressor.flush()

    data = final(b"one") + final(b"two") + b"\x00"
    for step in range(1, len(data) + 1):
        inflater = Inflater(100)
        out = b"".join(inflater.inflate(data[i : i + step]) for i in range(0, len(data), step))
        assert out + inflater.finish() == b"onetwo"
    with pytest.raises(zlib.error, match="final blocks"):
        Inflater(100).inflate(final(b"") * 65)


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        ("permessage-deflate", None),
        ("permessage-deflate; client_max_window_bits", None),
        ("permessage-deflate;client_max_window_bits=8", None),
        ("permessage-deflate; client_max_window_bits=15;server_max_window_bits=15", 15),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", None),
        ("permessage-deflate; server_max_window_bits=9", 9),
        ('permessage-deflate; server_max_window_bits="9"', 9),
        ('permessage-deflate; server_max_window_bits="\\1\\2"', 9),
        ("permessage-deflate ;\tserver_max_window_bits = 10 ", 9),
        ('x-other; a="b, permessage-deflate", permessage-deflate; server_max_window_bits=11', 9),
        (",, permessage-deflate", None),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=14", 9),
        ("permessage-deflate; nonsense, permessage-deflate; server_max_window_bits=13, permessage-deflate", 9),
        ("permessage-bzip2, permessage-deflate", None),
    ],
)
def test_accepted(header: str, asked: int | None) -> None:
    """`asked`: the window that the answer has to name, since the offer does (RFC 7692 section 7.1.2.1)."""
    answer = NO_TAKEOVER if asked is None else f"{NO_TAKEOVER}; server_max_window_bits={asked}"
    assert negotiate(header) == (answer, asked or 15)


@pytest.mark.parametrize(
    "offer",
    [
        "",
        "x-webkit-deflate-frame",
        "Permessage-deflate-2",
        "permessage-deflate; unknown",
        "permessage-deflate; ",
        "permessage-deflate;; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=\u0661\u0660",
        'permessage-deflate; server_max_window_bits="1 0"',
        'permessage-deflate; server_max_window_bits="10',
        'permessage-deflate; server_max_window_bits=""',
        "permessage-deflate; server_max_window_bits=10=10",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate; client_max_window_bits=10; client_max_window_bits=10",
        "permessage-deflate=1",
        '"permessage-deflate"',
        "; permessage-deflate",
    ],
)
def test_declined_and_the_next_is_tried(offer: str) -> None:
    assert negotiate(offer) is None
    if '"' not in offer or offer.count('"') % 2 == 0:
        assert negotiate(f"{offer}, permessage-deflate") == (NO_TAKEOVER, 15)


@given(st.text(alphabet='permsag-dflt;,="\\ 19_', max_size=60))
def test_no_header_raises(header: str) -> None:
    answer = negotiate(header)
    assert answer is None or 9 <= answer[1] <= 15


@pytest.mark.parametrize("unit", ['"\\', '\\"', '"', ";", ",", "a=", '\\\\"', '"a"'])
@pytest.mark.timeout(20)
def test_a_long_header_is_read_in_linear_time(unit: str) -> None:
    assert negotiate("permessage-deflate; " + unit * (65536 // len(unit))) is None  # quadratic would take minutes
