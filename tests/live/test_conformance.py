"""RFC 6455 and RFC 7692, case by case, over real sockets against `bench.echo_server` in a process of its own.

The numbers of the cases are those of the Autobahn test suite, whose list this one follows.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from websockets.sync.client import connect

from tests.support import ROOT
from tests.support.raw_websocket import KEY, Frame, RawClient, client_frame, mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    command = [sys.executable, "-m", "bench.echo_server", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stderr
        try:
            line = server.stdout.readline()
            assert line.startswith("listening on http://127.0.0.1:"), line or server.stderr.read()
            yield int(line.rsplit(":", 1)[1])
        finally:
            server.send_signal(signal.SIGTERM)
            errors = server.communicate(timeout=20)[1]
        assert server.returncode == 0
        assert "Traceback" not in errors, errors


def text(payload: str | bytes, **how: object) -> bytes:
    return client_frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **how)  # type: ignore[arg-type]  # passed through


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return client_frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def octets(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def chops(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def fragments(opcode: int, *parts: bytes) -> bytes:
    last = len(parts) - 1
    return b"".join(client_frame(CONTINUATION if i else opcode, part, fin=i == last) for i, part in enumerate(parts))


class Case(NamedTuple):
    """What goes out, segment by segment, and all that comes back until the server hangs up.

    `close` is the code of the server's close frame. If it is 1000, the client says goodbye first, unless it did so in
    `send`; any other code is the server's own doing, and the client says nothing.
    """

    name: str
    send: list[bytes]
    echo: tuple[tuple[int, bytes], ...] = ()
    close: int | None = 1000
    goodbye: bool = True


def ok(name: str, send: bytes | list[bytes], *echo: tuple[int, bytes]) -> Case:
    return Case(name, send if isinstance(send, list) else [send], echo)


def bad(name: str, send: bytes | list[bytes], *echo: tuple[int, bytes], code: int = 1002) -> Case:
    return Case(name, send if isinstance(send, list) else [send], echo, code)


def framing() -> Iterator[Case]:
    for group, opcode, letter in (1, TEXT, b"*"), (2, BINARY, b"\xfe"):
        for number, size in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1):
            payload = letter * size
            yield ok(f"1.{group}.{number}", client_frame(opcode, payload), (opcode, payload))
        yield ok(f"1.{group}.8", chops(client_frame(opcode, letter * 65536), 997), (opcode, letter * 65536))
    yield bad("not masked", text("hello", key=None))
    yield bad("ping not masked", client_frame(PING, key=None))
    yield bad("close not masked", client_frame(CLOSE, b"\x03\xe8", key=None))
    yield ok("masked with zeros", text("hello", key=b"\0\0\0\0"), (TEXT, b"hello"))
    yield bad("16 bits for 125", text("*" * 125, length=b"\x7e\x00\x7d"))
    yield bad("64 bits for 125", text("*" * 125, length=b"\x7f" + (125).to_bytes(8, "big")))
    yield bad("64 bits for 65535", text("*" * 65535, length=b"\x7f" + (65535).to_bytes(8, "big")))
    yield bad("length of 64 bits", text("", length=b"\x7f\x80" + bytes(7)))
    yield bad("length of 64 bits, binary", client_frame(BINARY, length=b"\x7f" + b"\xff" * 8))
    yield bad("16 bits for 125 in a continuation", fragments(TEXT, b"a", b"")[:7] + b"\x80\xfe\x00\x7d" + KEY)


def pings() -> Iterator[Case]:
    full = b"\xfe" * 125
    yield ok("2.1", client_frame(PING), (PONG, b""))
    yield ok("2.2", client_frame(PING, b"Hello, world!"), (PONG, b"Hello, world!"))
    yield ok(
        "2.3", client_frame(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"), (PONG, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")
    )
    yield ok("2.4", client_frame(PING, full), (PONG, full))
    yield bad("2.5", client_frame(PING, full + b"\xfe"))
    yield ok("2.6", octets(client_frame(PING, full)), (PONG, full))
    yield ok("2.7", client_frame(PONG))
    yield ok("2.8", client_frame(PONG, b"unasked"))
    yield ok("2.9", client_frame(PONG, b"unasked") + client_frame(PING, b"asked"), (PONG, b"asked"))
    ten = [b"payload-%d" % i for i in range(10)]
    yield ok("2.10", [client_frame(PING, p) for p in ten], *((PONG, p) for p in ten))
    yield ok("2.11", octets(b"".join(client_frame(PING, p) for p in ten)), *((PONG, p) for p in ten))
    yield bad("pong of 126", client_frame(PONG, full + b"\xfe"))
    yield bad("ping with a long length", client_frame(PING, b"", length=b"\x7f" + bytes(8)))


def reserved() -> Iterator[Case]:
    hello, echo = text("Hello"), (TEXT, b"Hello")
    yield bad("3.1", text("Hello", rsv=4))
    yield bad("3.2", hello + text("Hello", rsv=2) + client_frame(PING), echo)
    yield bad("3.3", [hello, text("Hello", rsv=3), client_frame(PING)], echo)
    yield bad("3.4", octets(hello + text("Hello", rsv=4)), echo)
    yield bad("3.5", client_frame(BINARY, b"\x00\xff", rsv=5))
    yield bad("3.6", client_frame(PING, b"Hello", rsv=6))
    yield bad("3.7", client_frame(CLOSE, b"\x03\xe8", rsv=7))
    for number, opcode in enumerate((3, 4, 5, 6, 7, 11, 12, 13, 14, 15)):
        name = f"4.{number // 5 + 1}.{number % 5 + 1}"
        yield bad(name, client_frame(opcode))
        yield bad(f"{name}, after a text", [hello + client_frame(opcode, b"payload"), client_frame(PING)], echo)


def fragmentation() -> Iterator[Case]:
    two = fragments(TEXT, b"fragment1", b"fragment2")
    one, rest = two[: -6 - 9], two[-6 - 9 :]
    ping, pong, whole = client_frame(PING, b"ping"), (PONG, b"ping"), (TEXT, b"fragment1fragment2")
    final, open_ = client_frame(CONTINUATION, b"non-cont"), client_frame(CONTINUATION, b"non-cont", fin=False)
    yield bad("5.1", fragments(PING, b"frag", b"ment"))
    yield bad("5.2", fragments(PONG, b"frag", b"ment"))
    yield ok("5.3", two, whole)
    yield ok("5.4", [one, rest], whole)
    yield ok("5.5", octets(two), whole)
    yield ok("5.6", one + ping + rest, pong, whole)
    yield ok("5.7", [one, ping, rest], pong, whole)
    yield ok("5.8", octets(one + ping + rest), pong, whole)
    for number, start in ((9, final), (12, open_)):
        yield bad(f"5.{number}", start + text("Hello"))
        yield bad(f"5.{number + 1}", [start, text("Hello")])
        yield bad(f"5.{number + 2}", octets(start))
    yield bad("5.15", two + open_ + text("Hello"), whole)
    yield bad("5.16", [open_, text("fragment1", fin=False), client_frame(CONTINUATION, b"fragment2")] * 2)
    yield bad("5.17", [final, text("fragment1", fin=False), client_frame(CONTINUATION, b"fragment2")] * 2)
    yield bad("5.18", text("fragment1", fin=False) + text("fragment2"))
    yield bad("5.18, binary inside a text", text("fragment1", fin=False) + client_frame(BINARY, b"fragment2"))
    parts = [text("1", fin=False), client_frame(CONTINUATION, b"2", fin=False), ping]
    parts += [client_frame(CONTINUATION, b"3", fin=False), client_frame(CONTINUATION, b"4", fin=False), ping]
    parts += [client_frame(CONTINUATION, b"5")]
    yield ok("5.19", b"".join(parts), pong, pong, (TEXT, b"12345"))
    yield ok("5.20", parts, pong, pong, (TEXT, b"12345"))
    yield ok("binary in fragments", fragments(BINARY, b"\xff", b"", b"\xfe"), (BINARY, b"\xff\xfe"))
    yield ok("a message after a fragmented one", two + text("next"), whole, (TEXT, b"next"))
    yield bad("rsv1 in a continuation", text("a", fin=False) + client_frame(CONTINUATION, b"b", rsv=4))


KOSME = "κόσμε".encode()
VALID_UTF8 = {
    "6.2": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "6.5": KOSME,
    "6.7.1": b"\x00",
    "6.7.2": b"\xc2\x80",
    "6.7.3": b"\xe0\xa0\x80",
    "6.7.4": b"\xf0\x90\x80\x80",
    "6.9.1": b"\x7f",
    "6.9.2": b"\xdf\xbf",
    "6.9.3": b"\xef\xbf\xbf",
    "6.9.4": b"\xf4\x8f\xbf\xbf",
    "6.11.1": b"\xed\x9f\xbf",
    "6.11.2": b"\xee\x80\x80",
    "6.11.3": b"\xef\xbf\xbd",
    "6.11.4": b"\xf4\x8f\xbf\xbf",
    **{f"6.22.{n}": (chr(n << 16 | 0xFFFE) + chr(n << 16 | 0xFFFF)).encode() for n in range(17)},
    "6.23": b"\xef\xbf\xbd" * 7,
}
INVALID_UTF8 = {
    "6.3": KOSME + b"\xed\xa0\x80edited",
    **{f"6.6.{n}": KOSME[:n] for n in range(1, 11) if n not in (2, 4, 6, 8, 10)},
    "6.8.1": b"\xf8\x88\x80\x80\x80",
    "6.8.2": b"\xfc\x84\x80\x80\x80\x80",
    "6.10.1": b"\xf7\xbf\xbf\xbf",
    "6.10.2": b"\xfb\xbf\xbf\xbf\xbf",
    "6.10.3": b"\xfd\xbf\xbf\xbf\xbf\xbf",
    "6.11.5": b"\xf4\x90\x80\x80",
    "6.12.1": b"\x80",
    "6.12.2": b"\xbf",
    **{f"6.12.{n + 1}": b"\x80\xbf" * (n // 2) + b"\x80" * (n % 2) for n in range(2, 8)},
    "6.12.9": bytes(range(0x80, 0xC0)),
    "6.13.1": b"".join(b"%c " % c for c in range(0xC0, 0xE0)),
    "6.13.2": b"".join(b"%c " % c for c in range(0xE0, 0xF0)),
    "6.13.3": b"".join(b"%c " % c for c in range(0xF0, 0xF8)),
    "6.13.4": b"\xf8 \xf9 \xfa \xfb ",
    "6.13.5": b"\xfc \xfd ",
    "6.14.1": b"\xc0",
    "6.14.2": b"\xe0\x80",
    "6.14.3": b"\xf0\x80\x80",
    "6.14.4": b"\xf8\x80\x80\x80",
    "6.14.5": b"\xfc\x80\x80\x80\x80",
    "6.14.6": b"\xdf",
    "6.14.7": b"\xef\xbf",
    "6.14.8": b"\xf7\xbf\xbf",
    "6.14.9": b"\xfb\xbf\xbf\xbf",
    "6.14.10": b"\xfd\xbf\xbf\xbf\xbf",
    "6.15.1": b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf\xfb\xbf\xbf\xbf",
    "6.16.1": b"\xfe",
    "6.16.2": b"\xff",
    "6.16.3": b"\xfe\xfe\xff\xff",
    "6.17.1": b"\xc0\xaf",
    "6.17.2": b"\xe0\x80\xaf",
    "6.17.3": b"\xf0\x80\x80\xaf",
    "6.17.4": b"\xf8\x80\x80\x80\xaf",
    "6.17.5": b"\xfc\x80\x80\x80\x80\xaf",
    "6.18.1": b"\xc1\xbf",
    "6.18.2": b"\xe0\x9f\xbf",
    "6.18.3": b"\xf0\x8f\xbf\xbf",
    "6.18.4": b"\xf8\x87\xbf\xbf\xbf",
    "6.18.5": b"\xfc\x83\xbf\xbf\xbf\xbf",
    "6.19.1": b"\xc0\x80",
    "6.19.2": b"\xe0\x80\x80",
    "6.19.3": b"\xf0\x80\x80\x80",
    "6.19.4": b"\xf8\x80\x80\x80\x80",
    "6.19.5": b"\xfc\x80\x80\x80\x80\x80",
    **{
        f"6.20.{i}": bytes((0xED, c >> 6 & 0x3F | 0x80, c & 0x3F | 0x80))
        for i, c in enumerate((0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF), 1)
    },
    "6.21.1": b"\xed\xa0\x80\xed\xb0\x80",
    "6.21.8": b"\xed\xaf\xbf\xed\xbf\xbf",
}


def utf8() -> Iterator[Case]:
    yield ok("6.1.1", text(""), (TEXT, b""))
    yield ok("6.1.2", fragments(TEXT, b"", b"", b""), (TEXT, b""))
    yield ok("6.1.3", fragments(TEXT, b"", b"middle frame payload", b""), (TEXT, b"middle frame payload"))
    for name, payload in VALID_UTF8.items():
        yield ok(name, text(payload), (TEXT, payload))
        yield ok(f"{name}, fragments", fragments(TEXT, *octets(payload)), (TEXT, payload))
        yield ok(f"{name}, octets", octets(text(payload)), (TEXT, payload))
    for name, payload in INVALID_UTF8.items():
        yield bad(name, text(payload), code=1007)
        yield bad(f"{name}, fragments", fragments(TEXT, *octets(payload)), code=1007)
        yield bad(f"{name}, octets", octets(text(payload)), code=1007)
    # The message never ends: the failure must come with the first bad byte.
    for number, bad_byte in ((1, b"\xf4\x90"), (2, b"\xed\xa0"), (3, b"\xff"), (4, b"\xe0\x9f"), (5, b"\xf0\x8f")):
        first = text(KOSME, fin=False)
        yield bad(f"6.4.1 ({number})", [first, client_frame(0, bad_byte, fin=False)], code=1007)
        lead, then = bad_byte[:-1], bad_byte[-1:]
        yield bad(
            f"6.4.2 ({number})",
            [text(KOSME + lead, fin=False), client_frame(0, then + b"edited", fin=False)],
            code=1007,
        )
        whole = text(KOSME + bad_byte + b"\x80\x80edited")
        until = 6 + len(KOSME) + len(bad_byte)
        yield bad(f"6.4.3 ({number})", [whole[: 6 + len(KOSME)], whole[6 + len(KOSME) : until]], code=1007)
        yield bad(f"6.4.4 ({number})", octets(whole[:until]), code=1007)
    yield ok("binary is not checked", client_frame(BINARY, b"\xff"), (BINARY, b"\xff"))


VALID_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999)
INVALID_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)


def closing() -> Iterator[Case]:
    hello, echo = text("Hello World!"), (TEXT, b"Hello World!")
    long = b"x" * 262144

    def said(name: str, send: list[bytes], *echo: tuple[int, bytes], code: int | None = 1000) -> Case:
        return Case(name, send, echo, code, goodbye=False)

    yield said("7.1.1", [hello + close()], echo)
    yield said("7.1.2", [close() + close()])
    yield said("7.1.3", [close(), client_frame(PING)])
    yield said("7.1.3, at once", [close() + client_frame(PING)])
    yield said("7.1.4", [close() + hello])
    yield said("7.1.5", [text("fragment1", fin=False) + close() + client_frame(CONTINUATION, b"fragment2")])
    yield said("7.1.6", [text(long) + hello + close() + client_frame(PING)], (TEXT, long), echo)
    yield said("rubbish after close", [close() + b"\xff" * 200000])
    yield said("7.3.1", [close(None)], code=None)
    yield bad("7.3.2", client_frame(CLOSE, b"\x03"))
    yield said("7.3.3", [close(1000)])
    yield said("7.3.4", [close(1000, b"Hello World!")])
    yield said("7.3.5", [close(1000, b"*" * 123)])
    yield bad("7.3.6", client_frame(CLOSE, b"\x03\xe8" + b"*" * 124))
    yield bad("7.5.1", close(1000, KOSME + b"\xed\xa0\x80edited"), code=1007)
    yield bad("reason ends inside a character", close(1000, b"\xce"), code=1007)
    for number, code in enumerate(VALID_CODES, 1):
        yield said(f"7.7.{number} ({code})", [close(code)], code=code)
    for number, code in enumerate(INVALID_CODES, 1):
        yield bad(f"7.9.{number} ({code})", close(code))
        yield bad(f"7.9.{number} ({code}, reason)", close(code, b"reason"))
    yield said("close in octets", octets(close(1001, b"bye")), code=1001)


def sizes() -> Iterator[Case]:
    for number, size in enumerate((1 << 16, 1 << 18, 1 << 20, 1 << 22), 1):
        for group, opcode, payload in ((1, TEXT, b"*" * size), (2, BINARY, b"\xfe" * size)):
            yield ok(f"9.{group}.{number}", client_frame(opcode, payload), (opcode, payload))
    yield ok("9.1.6", text(b"*" * (1 << 24)), (TEXT, b"*" * (1 << 24)))
    million = ("é" * (1 << 19)).encode()
    yield ok("9.3, fragments of 64", fragments(TEXT, *chops(million, 64)), (TEXT, million))
    yield ok("9.4, fragments of 4096", fragments(BINARY, *chops(million, 4096)), (BINARY, million))
    yield ok("9.5, chops of 64", chops(text(million[: 1 << 16]), 64), (TEXT, million[: 1 << 16]))
    yield ok("10.1.1", fragments(TEXT, *chops(b"*" * 65536, 1300)), (TEXT, b"*" * 65536))
    many = [(TEXT, b"%d" % i) for i in range(5000)]
    yield ok("9.7, many at once", b"".join(client_frame(o, p) for o, p in many), *many)
    announced = b"\x7f" + ((1 << 24) + 1).to_bytes(8, "big")
    yield bad("too big, as announced", text("", length=announced), code=1009)
    yield bad("too big, binary", client_frame(BINARY, b"", length=announced), code=1009)
    sixteen = text(b"*" * (1 << 24), fin=False)
    yield bad("too big, in fragments", [sixteen, client_frame(CONTINUATION, b"*")], code=1009)


CASES = [*framing(), *pings(), *reserved(), *fragmentation(), *utf8(), *closing(), *sizes()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_rfc6455(port: int, case: Case) -> None:
    with RawClient(port) as client:
        run(client, case)


def run(client: RawClient, case: Case) -> None:
    sent = [*case.send, close()] if case.close == 1000 and case.goodbye else case.send
    try:
        client.send(*sent)
    except ConnectionError:
        assert case.close != 1000  # the server failed the connection before everything was sent
    frames = client.read_to_end()
    *echo, last = frames
    assert [(frame.opcode, frame.payload) for frame in echo] == list(case.echo)
    assert all(frame.fin and frame.rsv == 0 for frame in frames)
    assert last.opcode == CLOSE
    assert (int.from_bytes(last.payload[:2], "big") if last.payload else None) == case.close
    last.payload[2:].decode()


def test_fragmented_message_comes_back_whole_before_the_next_is_sent(port: int) -> None:
    with RawClient(port) as client:
        for _ in range(3):
            client.send(*octets(fragments(TEXT, b"a", b"b")))
            assert client.read() == Frame(TEXT, b"ab")


def test_frames_in_the_segment_of_the_handshake(port: int) -> None:
    many = b"".join(text(str(i)) for i in range(3000))
    with RawClient(port, after=many + close()) as client:
        assert [frame.payload for frame in client.read_to_end()[:-1]] == [b"%d" % i for i in range(3000)]


def test_first_bytes_of_a_frame_in_the_segment_of_the_handshake(port: int) -> None:
    whole = text("split")
    with RawClient(port, after=whole[:3]) as client:
        client.send(whole[3:])
        assert client.read() == Frame(TEXT, b"split")


def test_rfc_example_of_the_accept_value(port: int) -> None:
    with RawClient(port) as client:
        assert client.status == 101
        assert client.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert "Sec-WebSocket-Extensions" not in client.headers


@pytest.mark.parametrize(
    "which", ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
)
def test_handshake_without_a_header_is_refused(port: int, which: str) -> None:
    status, _ = request(port, which)
    assert status == 400


def test_handshake_with_another_version_is_told_the_right_one(port: int) -> None:
    status, head = request(port, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8")
    assert status == 426
    assert "Sec-Websocket-Version: 13" in head


def request(port: int, remove: str, instead: str = "X-Nothing: 1") -> tuple[int, str]:
    head = (
        "GET /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert remove in head
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(head.replace(remove, instead).encode())
        answer = sock.recv(65536).decode()
    return int(answer.split()[1]), answer


# Compression. The peer here uses zlib without any of the server's code.


def deflated(payload: bytes, *, window_bits: int = 15, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(frame: Frame, window_bits: int) -> bytes:
    if not frame.rsv:
        return frame.payload
    assert frame.rsv == 4
    return zlib.decompressobj(-window_bits).decompress(frame.payload + b"\0\0\xff\xff")


NO_TAKEOVER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
OFFERS = {  # offer: (answer, bits of the server's window)
    "permessage-deflate": (NO_TAKEOVER, 15),
    "permessage-deflate; client_max_window_bits": (NO_TAKEOVER, 15),
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover": (NO_TAKEOVER, 15),
    "permessage-deflate; client_max_window_bits=9": (NO_TAKEOVER, 15),
    "permessage-deflate; server_max_window_bits=9": (NO_TAKEOVER + "; server_max_window_bits=9", 9),
    "permessage-deflate; server_max_window_bits=15": (NO_TAKEOVER + "; server_max_window_bits=15", 15),
    'permessage-deflate; server_max_window_bits="10"': (NO_TAKEOVER + "; server_max_window_bits=9", 9),
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": (NO_TAKEOVER, 15),
    "x-unknown, permessage-deflate; client_max_window_bits; server_max_window_bits=12": (
        NO_TAKEOVER + "; server_max_window_bits=9",
        9,
    ),
}


@pytest.mark.parametrize("offer", OFFERS)
def test_deflate_offer(port: int, offer: str) -> None:
    answer, bits = OFFERS[offer]
    line = "x" * 600 + "".join(chr(0x20 + i * 7 % 90) for i in range(5000)) + "é"
    with RawClient(port, headers=f"Sec-WebSocket-Extensions: {offer}\r\n") as client:
        # An answer without server_max_window_bits promises nothing more than 15.
        assert client.headers["Sec-WebSocket-Extensions"] == answer
        for size in (0, 1, 16, 64, 256, 1024, 4096, 5601):
            payload = (line * 12)[-size:].encode() if size else b""
            for rsv, sent in (4, deflated(payload)), (0, payload):
                for opcode in (TEXT, BINARY):
                    client.send(client_frame(opcode, sent, rsv=rsv))
                    back = client.read()
                    assert back.opcode == opcode
                    assert inflated(back, bits) == payload
        payload = line.encode() * 23  # 131 KB, so that the window matters
        client.send(client_frame(TEXT, deflated(payload, window_bits=9), rsv=4))
        back = client.read()
        assert back.rsv == 4
        assert inflated(back, bits) == payload
        client.send(close())
        assert client.read_to_end() == [Frame(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; unknown",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; server_max_window_bits",
        "x-webkit-deflate-frame",
        ';,="',
    ],
)
def test_declined_offer_does_not_fail_the_handshake(port: int, offer: str) -> None:
    with RawClient(port, headers=f"Sec-WebSocket-Extensions: {offer}\r\n") as client:
        assert client.status == 101
        assert "Sec-WebSocket-Extensions" not in client.headers
        client.send(text("plain") + text("Hello", rsv=4))
        assert client.read() == Frame(TEXT, b"plain")
        assert client.read_to_end()[0].payload[:2] == b"\x03\xea"


def compressed() -> Iterator[Case]:
    def packed(payload: bytes, fin: bool = True) -> bytes:
        return client_frame(TEXT, payload, rsv=4, fin=fin)

    hello = deflated(b"Hello")
    yield ok("RFC 7692 7.2.3.1", packed(b"\xf2\x48\xcd\xc9\xc9\x07\x00"), (TEXT, b"Hello"))
    first = packed(b"\xf2\x48\xcd", fin=False)
    yield ok("RFC 7692 7.2.3.1, fragments", first + client_frame(0, b"\xc9\xc9\x07\x00"), (TEXT, b"Hello"))
    yield ok("stored block, 7.2.3.3", packed(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), (TEXT, b"Hello"))
    yield ok("final block, 7.2.3.4", packed(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), (TEXT, b"Hello"))
    yield ok("two blocks, 7.2.3.5", packed(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), (TEXT, b"Hello"))
    yield ok("empty", packed(b"\x00"), (TEXT, b""))
    yield ok("octets", octets(packed(hello)), (TEXT, b"Hello"))
    yield ok(
        "ping between",
        packed(hello[:2], fin=False) + client_frame(PING, b"p") + client_frame(0, hello[2:]),
        (PONG, b"p"),
        (TEXT, b"Hello"),
    )
    yield bad("rsv1 in a continuation", packed(hello[:2], fin=False) + client_frame(0, hello[2:], rsv=4))
    yield bad("rsv1 in a ping", client_frame(PING, rsv=4))
    yield bad("rsv2", client_frame(TEXT, hello, rsv=6))
    yield bad("not deflate data", packed(b"\xff" * 20), code=1007)
    yield bad("cut off", packed(deflated(b"some words that are long enough")[:-6]), code=1007)
    yield bad("nothing at all", packed(b""), code=1007)
    yield bad("final blocks without end", packed(b"\x03\x00" * 10000 + b"\x00"), code=1007)
    yield bad("not UTF-8", packed(deflated(KOSME + b"\xed\xa0\x80edited")), code=1007)
    data = deflated(b"ok\xff" + b"and more" * 100)
    yield bad("not UTF-8, and never ends", [packed(data, fin=False)[:-1]], code=1007)
    yield bad("ends inside a character", packed(deflated(KOSME[:-1])), code=1007)
    bomb = deflated(bytes(64 << 20))
    yield bad("bomb", client_frame(BINARY, bomb, rsv=4), code=1009)
    yield bad("bomb in chops", chops(client_frame(BINARY, bomb, rsv=4), 1000), code=1009)
    edge = deflated(bytes(1 << 24))
    yield ok("as big as may be", client_frame(BINARY, edge, rsv=4), (BINARY, bytes(1 << 24)))


@pytest.mark.parametrize("case", list(compressed()), ids=lambda case: case.name.replace(" ", "-"))
def test_rfc7692(port: int, case: Case) -> None:
    with RawClient(port, headers=DEFLATE) as client:
        try:
            client.send(*case.send, *([close()] if case.close == 1000 else []))
        except ConnectionError:
            assert case.close != 1000
        *echo, last = client.read_to_end()
        assert [(frame.opcode, inflated(frame, 15)) for frame in echo] == list(case.echo)
        assert last.opcode == CLOSE
        assert int.from_bytes(last.payload[:2], "big") == case.close


def test_masking_of_the_test_client() -> None:
    assert client_frame(TEXT, b"Hello") == b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"  # RFC 6455 section 5.7
    assert mask(mask(b"abc")) == b"abc"


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_an_independent_client(port: int, compression: str | None) -> None:
    """The package websockets speaks RFC 6455 and RFC 7692 with code of its own."""
    with connect(f"ws://127.0.0.1:{port}/echo", compression=compression, max_size=None) as client:
        assert [extension.name for extension in client.protocol.extensions] == (
            ["permessage-deflate"] if compression else []
        )
        for message in ("", "Hello", "κόσμε" * 30000, b"", b"\x00\xff" * 70000, "a" * (1 << 20)):
            client.send(message)
            assert client.recv(timeout=10) == message
        client.send(iter(["frag", "", "ments"]))
        assert client.recv(timeout=10) == "fragments"
        assert client.ping().wait(10)
        client.close(4321, "bye")
        assert (client.close_code, client.close_reason) == (4321, "")
