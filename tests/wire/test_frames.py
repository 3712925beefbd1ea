"""The frame reader against its own simple model: any split, any mutation."""

from __future__ import annotations

import contextlib
import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.raw_websocket import client_frame
from tornado_chat.errors import CloseCode
from tornado_chat.wire.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_STATUS,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
    close_frame,
    frame,
    parse_close,
    single,
    unmask,
    unmask_in_python,
)

MAX = 70000

Messages = list[tuple[int, bytes]]


def read_all(pieces: list[bytes], *, deflate: bool = False, limit: int = 64) -> tuple[Messages, FrameError | None]:
    reader = FrameReader(MAX, deflate)
    messages: Messages = []
    for piece in pieces:
        for opcode in (TEXT, BINARY):
            payload = single(piece, opcode, MAX) if reader.holds_nothing else None
            if payload is not None:
                messages.append((opcode, payload))
                break
        else:
            messages += reader.feed(piece, limit)
        while reader.more:
            messages += reader.feed(b"", limit)
    return messages, reader.failure


def deflated(payload: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@given(st.sampled_from([TEXT, BINARY]), st.binary(max_size=300))
def test_a_single_message_is_read_by_itself(opcode: int, payload: bytes) -> None:
    data = client_frame(opcode, payload)
    assert single(data, opcode, len(payload)) == (payload if opcode == BINARY or payload.isascii() else None)
    assert single(data, opcode ^ 3, len(payload)) is None
    if payload:
        assert single(data, opcode, len(payload) - 1) is None


WHOLE = client_frame(BINARY, b"whole")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        WHOLE[:-1],
        WHOLE + b"\x82",
        WHOLE + WHOLE,
        client_frame(BINARY, b"first part", fin=False),
        client_frame(BINARY, b"deflated", rsv=4),
        client_frame(BINARY, bytes(121), length=b"\x7f"),
        client_frame(BINARY, bytes(128), length=b"\x7f\x00\x80"),
        client_frame(BINARY, bytes(100), length=b"\x7e\x00\x64"),
        client_frame(BINARY, bytes(20), key=None),
        client_frame(BINARY, bytes(200), key=None),
    ],
)
def test_what_is_not_just_one_message_is_left_to_a_reader(data: bytes) -> None:
    assert single(data, BINARY, MAX) is None


@pytest.mark.parametrize(
    "before", [WHOLE[:1], client_frame(BINARY, b"part", fin=False), client_frame(3), client_frame(PING)]
)
def test_a_reader_with_a_part_or_a_violation_or_something_to_charge_is_kept(before: bytes) -> None:
    reader = FrameReader(MAX, deflate=True)
    assert reader.holds_nothing
    reader.feed(before)
    assert not reader.holds_nothing


keys = st.binary(min_size=4, max_size=4)
long = st.integers(0, MAX).map(lambda size: b"0123456789"[: size % 10] * (size // 10))
controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
messages_of_a_client = st.one_of(
    controls,
    st.tuples(st.just(TEXT), st.text(max_size=300).map(str.encode)),
    st.tuples(st.just(BINARY), st.one_of(st.binary(max_size=300), long)),
)


@st.composite
def streams(draw: st.DrawFn, *, deflate: bool = True) -> tuple[bytes, Messages]:
    """The bytes of a client that keeps to the RFC, and what they say."""
    data, said = b"", []
    for opcode, payload in draw(st.lists(messages_of_a_client, max_size=8)):
        if opcode >= CLOSE:
            data += client_frame(opcode, payload, key=draw(keys))
            said.append((opcode, payload))
            continue
        compress = deflate and draw(st.booleans())
        wire = deflated(payload) if compress else payload
        cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=3)))
        parts = [wire[a:b] for a, b in itertools.pairwise([0, *cuts, len(wire)])]
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            first_opcode, rsv = (opcode, 4 if compress else 0) if number == 0 else (CONTINUATION, 0)
            data += client_frame(first_opcode, part, fin=last, rsv=rsv, key=draw(keys))
            if not last and draw(st.booleans()):
                control = draw(controls)
                data += client_frame(*control, key=draw(keys))
                said.append(control)
        said.append((opcode, payload))
    return data, said


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(streams(), st.lists(st.integers(0, 1 << 20), max_size=12), st.integers(1, 5))
def test_any_split_gives_the_same_messages(stream: tuple[bytes, Messages], cuts: list[int], limit: int) -> None:
    data, said = stream
    assert read_all([data], deflate=True) == (said, None)
    assert read_all(split(data, cuts), deflate=True, limit=limit) == (said, None)


@settings(max_examples=30)
@given(streams())
def test_one_byte_at_a_time(stream: tuple[bytes, Messages]) -> None:
    data = stream[0][:3000]
    assert read_all([data[i : i + 1] for i in range(len(data))], deflate=True) == read_all([data], deflate=True)


@given(
    streams(),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4),
    st.lists(st.integers(0, 1 << 20), max_size=6),
    st.booleans(),
)
def test_mutations_never_raise_and_any_split_agrees(
    stream: tuple[bytes, Messages], changes: list[tuple[int, int]], cuts: list[int], deflate: bool
) -> None:
    data = bytearray(stream[0] or b"\0")
    for place, value in changes:
        data[place % len(data)] = value
    whole, failure = read_all([bytes(data)], deflate=deflate)
    pieces, failure_of_pieces = read_all(split(bytes(data), cuts), deflate=deflate)
    assert pieces == whole
    assert (failure and failure.code) == (failure_of_pieces and failure_of_pieces.code)


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
def test_no_input_raises(pieces: list[bytes], deflate: bool) -> None:
    for opcode, payload in read_all(pieces, deflate=deflate)[0]:
        assert opcode in (TEXT, BINARY, CLOSE, PING, PONG)
        if opcode == TEXT:
            payload.decode()


@given(st.sampled_from([TEXT, BINARY, PING]), st.binary(max_size=125), keys)
def test_a_servers_frame_read_back_is_the_payload(opcode: int, payload: bytes, key: bytes) -> None:
    """The server's own frame, masked by hand, is what the reader takes."""
    made = frame(opcode, payload)
    assert made[2:] == payload
    assert client_frame(opcode, payload, key=None) == made


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_lengths_of_a_servers_frame(size: int) -> None:
    assert frame(TEXT, b"x" * size) == client_frame(TEXT, b"x" * size, key=None)
    assert frame(BINARY, b"x" * size, rsv1=True) == client_frame(BINARY, b"x" * size, key=None, rsv=4)


def could_become_text(data: bytes) -> bool:
    """Whether some continuation makes `data` valid UTF-8; asked of Python's own decoder, whole strings only."""
    for size in range(4):
        for more in itertools.product((0x80, 0x90, 0xA0), repeat=size):  # one of these fits wherever any byte does
            try:
                (data + bytes(more)).decode()
            except UnicodeDecodeError:
                continue
            return True
    return False


def test_utf8_fails_at_the_first_byte_that_cannot_be_right() -> None:
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xFF)
    tried = [bytes([a]) for a in range(256)]
    tried += [bytes([a, b]) for a in range(0x7F, 256) for b in edges]
    tried += [bytes([a, b, c]) for a in range(0xDF, 256) for b in edges for c in edges]
    tried += [bytes([a, b, c, d]) for a in range(0xEF, 0xF6) for b in edges for c in edges for d in edges]
    header = client_frame(TEXT, key=b"\0\0\0\0", length=b"\x64")
    for data in tried:
        for pieces in [header + data], [header, *(data[i : i + 1] for i in range(len(data)))]:
            messages, failure = read_all(pieces)
            assert messages == []
            assert (failure is None) == could_become_text(data), data
            assert failure is None or failure.code == CloseCode.INVALID_DATA


def test_messages_before_a_violation_are_delivered_and_nothing_after_it() -> None:
    data = client_frame(TEXT, b"one") + client_frame(3) + client_frame(TEXT, b"two")
    reader = FrameReader(MAX, False)
    assert reader.feed(data) == [(TEXT, b"one")]
    assert reader.failure
    assert reader.failure.code == CloseCode.PROTOCOL_ERROR
    assert "opcode 3" in reader.failure.reason
    assert reader.feed(client_frame(TEXT, b"three")) == []
    assert not reader.more


def test_at_most_limit_messages_at_a_time() -> None:
    reader = FrameReader(MAX, False)
    assert len(reader.feed(client_frame(PING) * 150)) == 64
    assert reader.more
    assert len(reader.feed(b"")) == 64
    assert reader.more
    assert len(reader.feed(b"")) == 22
    assert not reader.more


@pytest.mark.parametrize("part", [b"", b"x"])
def test_at_most_512_fragments_at_a_time(part: bytes) -> None:
    one = client_frame(CONTINUATION, part, fin=False)
    data = client_frame(TEXT, fin=False) + one * 2000 + client_frame(CONTINUATION) + client_frame(PING)
    reader = FrameReader(MAX, False)
    assert reader.feed(data) == []
    assert reader.more
    assert len(data) - len(reader._tail) <= 512 * len(one)
    assert read_all([data]) == ([(TEXT, part * 2000), (PING, b"")], None)


def test_about_64_kib_inflated_at_a_time() -> None:
    data = client_frame(TEXT, deflated(bytes(40_000)), rsv=4) * 20
    reader = FrameReader(MAX, True)
    assert len(reader.feed(data)) == 2
    assert reader.more
    assert len(reader.feed(b"")) == 2
    assert read_all([data], deflate=True) == ([(TEXT, bytes(40_000))] * 20, None)
    assert len(FrameReader(MAX, True).feed(client_frame(TEXT, deflated(b"short"), rsv=4) * 100)) == 64


def test_no_more_when_the_bound_is_reached_by_the_last_frame() -> None:
    reader = FrameReader(MAX, True)
    assert len(reader.feed(client_frame(TEXT, deflated(bytes(MAX)), rsv=4))) == 1
    assert not reader.more


@given(st.binary(min_size=4, max_size=4), st.binary())
def test_unmask_in_python_is_the_same(key: bytes, data: bytes) -> None:
    assert unmask is not unmask_in_python
    assert unmask_in_python(key, data) == unmask(key, data)


def test_too_big_is_known_from_the_header() -> None:
    for opcode, announced in (TEXT, MAX + 1), (BINARY, MAX + 1), (TEXT, (1 << 63) - 1):
        reader = FrameReader(MAX, False)
        header = client_frame(opcode, length=b"\x7f" + announced.to_bytes(8, "big"), key=b"")
        assert reader.feed(header) == []
        assert reader.failure
        assert reader.failure.code == CloseCode.MESSAGE_TOO_BIG


def test_fragments_count_together() -> None:
    half = b"x" * (MAX // 2)
    data = client_frame(TEXT, half, fin=False) + client_frame(CONTINUATION, half, fin=False)
    assert read_all([data]) == ([], None)
    _, failure = read_all([data, client_frame(CONTINUATION, b"x")[:-1]])
    assert failure
    assert failure.code == CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("limit", [10, 125, 1000, 70000])
def test_the_limit_of_a_whole_frame(limit: int) -> None:
    reader = FrameReader(limit, False)
    assert reader.feed(client_frame(TEXT, b"x" * limit)) == [(TEXT, b"x" * limit)]
    assert reader.feed(client_frame(TEXT, b"x" * (limit + 1))) == []
    assert reader.failure
    assert reader.failure.code == CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("step", [100, MAX])
def test_inflated_size_counts(step: int) -> None:
    data = client_frame(BINARY, deflated(bytes(MAX)), rsv=4)
    assert read_all([data], deflate=True) == ([(BINARY, bytes(MAX))], None)
    data = client_frame(BINARY, deflated(bytes(MAX + 1)), rsv=4)
    messages, failure = read_all([data[i : i + step] for i in range(0, len(data), step)], deflate=True)
    assert messages == []
    assert failure
    assert failure.code == CloseCode.MESSAGE_TOO_BIG


def test_nothing_is_held_between_messages() -> None:
    reader = FrameReader(MAX, True)
    for data in client_frame(TEXT, b"x" * MAX), client_frame(TEXT, deflated(b"x" * MAX), rsv=4):
        assert len([message for i in range(0, len(data), 999) for message in reader.feed(data[i : i + 999])]) == 1
        assert reader._tail == b""
        assert reader._message is None
    reader.feed(client_frame(TEXT, b"x" * MAX)[:-1])
    reader.feed(client_frame(PING))  # its first byte ends the text, the rest breaks the protocol
    assert reader.failure
    assert reader._message is None


def test_a_large_frame_is_not_gone_through_again_with_each_read() -> None:
    """What waits to be parsed again is never more than a header, however much of the frame is there."""
    reader = FrameReader(1 << 20, False)
    data = client_frame(BINARY, bytes(1 << 20))
    for i in range(0, len(data), 7):
        reader.feed(data[i : i + 7])
        assert len(reader._tail) < 14


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (1000, "", b"\x03\xe8"),
        (4999, "bye", b"\x13\x87bye"),
        (NO_STATUS, "dropped", b""),
        (1001, "é" * 100, b"\x03\xe9" + "é".encode() * 61),
        (1001, "x" * 123, b"\x03\xe9" + b"x" * 123),
    ],
)
def test_close_frame(code: int, reason: str, payload: bytes) -> None:
    assert close_frame(code, reason) == client_frame(CLOSE, payload, key=None)


@given(st.sampled_from([1000, 1001, 1011, 3000, 4001, 4999]), st.text())
def test_close_frame_read_back(code: int, reason: str) -> None:
    got, read = parse_close(close_frame(code, reason)[2:])
    assert got == code
    assert reason.startswith(read)
    assert len(read.encode()) == min(len(reason.encode()), 123) or len(reason.encode()) > 120


@given(st.binary(max_size=125))
def test_parse_close_raises_only_its_own_error(payload: bytes) -> None:
    with contextlib.suppress(FrameError):
        code, _ = parse_close(payload)
        assert code == NO_STATUS if not payload else 1000 <= code <= 4999


def test_parse_close_of_every_code() -> None:
    right = {*range(1000, 1015), *range(3000, 5000)} - {1004, 1005, 1006}
    for code in range(65536):
        if code in right:
            assert parse_close(code.to_bytes(2, "big")) == (code, "")
        else:
            with pytest.raises(FrameError) as raised:
                parse_close(code.to_bytes(2, "big"))
            assert raised.value.code == CloseCode.PROTOCOL_ERROR
