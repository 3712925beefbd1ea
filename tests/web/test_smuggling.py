"""Requests that two readers may read differently: each is refused, or read in one way however its bytes arrive.

A request that comes whole is read by `wire.request`, one that comes in two pieces by Tornado. The cases are those of
the literature on request smuggling, and of RFC 9112 sections 2.2, 5.1, 5.2, 6.3 and 11.2.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.chat import Running, eventually, running
from tests.support.raw_websocket import client_frame
from tornado_chat.wire.frames import CLOSE

PATIENCE = 10.0

START = b"GET /ws HTTP/1.1\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
HOST = b"Host: localhost\r\n"
SOUND = START + HOST + UPGRADE + b"\r\n"
HELLO = client_frame(CLOSE, b"\x03\xe8")


def sound(*fields: bytes, start: bytes = START, after: bytes = b"") -> bytes:
    """A handshake with `fields` before the others, each with its end of line, and `after` behind its head."""
    return start + b"".join(fields) + HOST + UPGRADE + b"\r\n" + after


ACCEPTED = {
    "as it should be": SOUND,
    "white space around a value": SOUND.replace(b"Host: localhost", b"Host:\t localhost \t"),
    "no white space": SOUND.replace(b": ", b":"),
    "an empty value": sound(b"X:\r\n"),
    "text that is not ASCII": sound(b"X: \xe9\xff\r\n"),
    "underscores": sound(b"Content_Length: 5\r\nTransfer_Encoding: chunked\r\n"),
    "names in capitals": SOUND.replace(b"Host", b"HOST").replace(b"Upgrade: ", b"UPGRADE: "),
    "no body, said twice": sound(b"Content-Length: 0\r\n"),
    "a list in two fields": sound(b"Connection: keep-alive\r\n"),
    "a frame in the same piece": SOUND + HELLO,
}

REFUSED = {
    # A body: what is frames to one reader is the next request to another.
    "a body": sound(b"Content-Length: 5\r\n", after=b"hello"),
    "a body with a sign": sound(b"Content-Length: +0\r\n"),
    "a body in hexadecimal": sound(b"Content-Length: 0x0\r\n"),
    "two lengths": sound(b"Content-Length: 0\r\nContent-Length: 5\r\n", after=b"hello"),
    "the same length twice": sound(b"Content-Length: 0\r\nContent-Length: 0\r\n"),
    "a list of lengths": sound(b"Content-Length: 0, 5\r\n"),
    "an empty length": sound(b"Content-Length:\r\n"),
    "CL.TE": sound(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", after=b"0\r\n\r\nG"),
    "TE.CL": sound(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", after=b"5c\r\nGPOST / HTTP/1.1\r\n"),
    "CL.0": sound(b"Content-Length: 30\r\n", after=b"GET /metrics HTTP/1.1\r\nX: y"),
    "chunks": sound(b"Transfer-Encoding: chunked\r\n", after=b"0\r\n\r\n"),
    "chunks with an extension": sound(b"Transfer-Encoding: chunked\r\n", after=b"0;a=\n\r\n\r\n"),
    "xchunked": sound(b"Transfer-Encoding: xchunked\r\n"),
    "chunked, in capitals": sound(b"Transfer-Encoding: CHUNKED\r\n"),
    "chunked twice": sound(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
    "chunked in quotes": sound(b'Transfer-Encoding: "chunked"\r\n'),
    "chunked behind a vertical tab": sound(b"Transfer-Encoding: \x0bchunked\r\n"),
    "chunked on a line of its own": sound(b"Transfer-Encoding:\r\n chunked\r\n"),
    "chunked before a space": sound(b"Transfer-Encoding : chunked\r\n"),
    "chunked behind a space": sound(b" Transfer-Encoding: chunked\r\n"),
    "chunked behind a bare LF": sound(b"X: y\nTransfer-Encoding: chunked\r\n"),
    "chunked behind a bare CR": sound(b"X: y\rTransfer-Encoding: chunked\r\n"),
    "chunked behind a NUL": sound(b"X: y\0Transfer-Encoding: chunked\r\n"),
    # Lines.
    "bare LF everywhere": SOUND.replace(b"\r\n", b"\n"),
    "bare LF behind the first line": SOUND.replace(b"\r\n", b"\n", 1),
    "bare LF at the end": SOUND[:-2] + b"\n",
    "CR CR LF": SOUND.replace(b"\r\n", b"\r\r\n", 1),
    "CR CR LF behind a field": SOUND.replace(b"localhost\r\n", b"localhost\r\r\n"),
    "LF CR": SOUND.replace(b"localhost\r\n", b"localhost\n\r\r\n"),
    "a continued line": SOUND.replace(b"localhost\r\n", b"localhost\r\n  X: y\r\n"),
    "a continued line, with a tab": SOUND.replace(b"localhost\r\n", b"localhost\r\n\tX: y\r\n"),
    "a first field with a space": START + b" " + HOST + UPGRADE + b"\r\n",
    "a field without a colon": sound(b"X\r\n"),
    "a field without a name": sound(b": x\r\n"),
    "a name with a space": sound(b"X Y: z\r\n"),
    "a name with a tab at its end": sound(b"X\t: z\r\n"),
    "a name with a NUL": sound(b"X\0: z\r\n"),
    "a name that is no token": sound(b"X(): z\r\n"),
    "a name that is not ASCII": sound(b"\xc3\xa9: z\r\n"),
    "a NUL in a value": sound(b"X: \0\r\n"),
    "a DEL in a value": sound(b"X: \x7f\r\n"),
    "too many fields": sound(b"X: y\r\n" * 101),
    "a line that is too long": sound(b"X: " + b"y" * 17_000 + b"\r\n"),
    # The first line.
    "HTTP/1.0": sound(start=b"GET /ws HTTP/1.0\r\n"),
    "HTTP/1.2": sound(start=b"GET /ws HTTP/1.2\r\n"),
    "HTTP/2.0": sound(start=b"GET /ws HTTP/2.0\r\n"),
    "HTTP/0.9": b"GET /ws\r\n\r\n",
    "HTTP/01.1": sound(start=b"GET /ws HTTP/01.1\r\n"),
    "http/1.1": sound(start=b"GET /ws http/1.1\r\n"),
    "get": sound(start=b"get /ws HTTP/1.1\r\n"),
    "another method": sound(start=b"POST /ws HTTP/1.1\r\n"),
    "no method that could be": sound(start=b"GE(T /ws HTTP/1.1\r\n"),
    "two spaces": sound(start=b"GET  /ws HTTP/1.1\r\n"),
    "a tab": sound(start=b"GET\t/ws HTTP/1.1\r\n"),
    "a space at the end": sound(start=b"GET /ws HTTP/1.1 \r\n"),
    "a space in the target": sound(start=b"GET /ws /x HTTP/1.1\r\n"),
    "a NUL in the target": sound(start=b"GET /ws\0 HTTP/1.1\r\n"),
    "a target with a host": sound(start=b"GET http://localhost/ws HTTP/1.1\r\n"),
    "a target that is a host": sound(start=b"GET localhost:80 HTTP/1.1\r\n"),
    "a target with a fragment": sound(start=b"GET /ws#x HTTP/1.1\r\n"),
    "a target in escapes": sound(start=b"GET /%77s HTTP/1.1\r\n"),
    "a target behind dots": sound(start=b"GET /x/../ws HTTP/1.1\r\n"),
    "a target that is not ASCII": sound(start=b"GET /ws/\xe9 HTTP/1.1\r\n"),
    # Whose it is.
    "no host": START + UPGRADE + b"\r\n",
    "two hosts": sound(b"Host: localhost\r\n"),
    "two hosts in one field": SOUND.replace(b"localhost", b"localhost, localhost"),
    "two hosts, one in capitals": sound(b"HOST: localhost\r\n"),
    "a host with a space": SOUND.replace(b"localhost", b"local host"),
    "a host with a path": SOUND.replace(b"localhost", b"localhost/x"),
    "a host with a user": SOUND.replace(b"localhost", b"a@localhost"),
    "a host that is not ASCII": SOUND.replace(b"localhost", b"localhost\xe9"),
    "two keys": sound(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
    "two versions": sound(b"Sec-WebSocket-Version: 13\r\n"),
    # Sound, and not let in.
    "another version": SOUND.replace(b"13", b"12"),
    "a page of another origin": sound(b"Origin: http://evil.example\r\nAccept: text/html\r\n"),
    "another name": SOUND.replace(b"localhost", b"evil.example"),
    "a token that is none": sound(b"Authorization: Bearer x\r\n"),
    "a room that is none": sound(start=b"GET /ws/UPPER HTTP/1.1\r\n"),
    "no upgrade": SOUND.replace(UPGRADE, b""),
}


def is_whole(said: bytes) -> bool:
    head, end, body = said.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(end) and (head.startswith(b"HTTP/1.1 101 ") or (length != b"" and len(body) == int(length)))


async def answer_to(here: Running, *pieces: bytes) -> bytes:
    """The answer to what is sent so, each piece read before the next is sent; of a WebSocket's the head alone."""
    loop = asyncio.get_running_loop()
    with closing(socket.socket()) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", int(here.address.rpartition(":")[2])))
        for piece in pieces[:-1]:
            await loop.sock_sendall(sock, piece)
            await eventually(lambda: any(each.stream for each in here.server.http._serving))  # Tornado has it
        await loop.sock_sendall(sock, pieces[-1])
        said = b""
        async with asyncio.timeout(PATIENCE):
            try:
                while not is_whole(said) and (more := await loop.sock_recv(sock, 65536)):
                    said += more
            except ConnectionResetError:
                pass  # it had not read all that was sent
    await eventually(lambda: not len(here.server.http) and not here.server.lines.open)
    if said.startswith(b"HTTP/1.1 101 "):
        return said.partition(b"\r\n\r\n")[0]
    head, _, body = said.partition(b"\r\n\r\n")
    head = re.sub(rb"\r\nDate: [^\r]*", b"", head)  # the second may have passed
    return b"\r\n".join([head[:8] + head[8:].lower(), b"", body])  # Tornado has spellings of its own


@pytest.mark.parametrize("case", [*ACCEPTED, *REFUSED])
async def test_a_request_is_read_in_one_way_however_it_arrives(tmp_path: Path, case: str) -> None:
    data = ACCEPTED.get(case) or REFUSED[case]
    async with running(tmp_path) as here:
        refusals = here.server.metrics.refusals
        counted = []
        answers = set()
        for pieces in ((data,), (data[:10], data[10:])):
            answers.add(await answer_to(here, *pieces))
            counted.append(refusals.copy())
            refusals.clear()
        assert counted[0] == counted[1]
        assert len(answers) == 1
        answer = answers.pop()
        if case in ACCEPTED:
            assert answer.startswith(b"HTTP/1.1 101 ")
        else:
            assert answer.startswith(b"HTTP/1.1 4")


async def test_what_follows_a_handshake_is_frames_and_never_a_request(tmp_path: Path) -> None:
    second = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with running(tmp_path) as here:
        for pieces in ((SOUND + second,), (SOUND[:10], SOUND[10:] + second)):
            before = here.server.lines.closes[1002]
            assert (await answer_to(here, *pieces)).startswith(b"HTTP/1.1 101 ")
            assert here.server.lines.closes[1002] == before + 1


@pytest.mark.parametrize("head", [b"GET /healthz HTTP/1.1\nHost: localhost\n\n", b"\nGET /healthz HTTP/1.1\r\n\r\n"])
async def test_bare_breaks_are_refused_at_every_address(tmp_path: Path, head: bytes) -> None:
    async with running(tmp_path) as here:
        assert (await answer_to(here, head)).startswith(b"HTTP/1.1 400 ")
        assert (await answer_to(here, head[:10], head[10:])).startswith(b"HTTP/1.1 400 ")
