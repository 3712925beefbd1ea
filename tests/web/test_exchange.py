"""How requests come and answers go: sizes, Expect, old HTTP, pipelining, and clients that leave in the middle."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.chat import SECRET, Running, eventually, running
from tests.support.plain_http import HTTP, Answer
from tornado_chat.auth import mint
from tornado_chat.live import questions
from tornado_chat.web import exchange as exchanges
from tornado_chat.web.endpoint import WHOLE_BYTES
from tornado_chat.web.exchange import LINGER_BYTES, LONG_BYTES, MAX_BODY_BYTES
from tornado_chat.wire.codec import JSON

TOKEN = mint(SECRET, "alice", ttl=86_400)
PATH = "/v1/rooms/r/messages"


def head(method: str = "POST", path: str = PATH, version: str = "HTTP/1.1", **headers: object) -> bytes:
    lines = [f"{method} {path} {version}", "Host: localhost", f"Authorization: Bearer {TOKEN}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def exchange(here: Running, *parts: bytes) -> bytes:
    """All that the server says until it hangs up, or until it has said nothing for a moment."""
    said = b""
    async with HTTP(here) as http:
        loop = asyncio.get_running_loop()
        for part in parts:
            try:
                await loop.sock_sendall(http.sock, part)
            except ConnectionError:
                break
            await asyncio.sleep(0.02)
        try:
            async with asyncio.timeout(0.5):
                while data := await loop.sock_recv(http.sock, 1 << 20):
                    said += data
        except (TimeoutError, ConnectionError):
            pass
    return said


async def test_a_body_beyond_the_limit_is_413_however_its_length_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        said = await exchange(here, head(Content_Length=MAX_BODY_BYTES + 1))
        assert said.startswith(b"HTTP/1.1 413 "), "by its head alone"
        assert b"\r\nConnection: close\r\n" in said
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        said = await exchange(here, head(Transfer_Encoding="chunked"), *[chunk] * 17, b"0\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nConnection: close\r\n" in said
        assert b'"too_large"' in said
        body = json.dumps({"text": "x", "junk": "x" * (MAX_BODY_BYTES - 100)}).encode()
        said = await exchange(here, head(Content_Length=len(body)), body)
        assert said.startswith(b"HTTP/1.1 201 ")
        await eventually(lambda: not here.server.limits.http_bytes)


CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
LONG = LONG_BYTES + 1


@pytest.mark.parametrize(
    ("asked", "body", "end", "status"),
    [
        (head(Transfer_Encoding="chunked", Content_Type="text/plain; charset=latin-1"), CHUNK, b"0\r\n\r\n", 415),
        (head(Transfer_Encoding="chunked", Content_Type="text/plain", Origin="http://x"), CHUNK, b"0\r\n\r\n", 403),
        (head(path="/v1/nothing", Transfer_Encoding="chunked"), CHUNK, b"0\r\n\r\n", 404),
        (head("HEAD", "/v1/nothing", Transfer_Encoding="chunked"), CHUNK, b"0\r\n\r\n", 404),
        (head(path="/v1/nothing", Content_Length=LONG), b"x" * (LONG - 1), b"x", 404),
        (head(path="/v1/commands", Origin="http://x", Content_Length=LONG), b"x" * (LONG - 1), b"x", 403),
        (head("PUT", Content_Length=LONG), b"x" * (LONG - 1), b"x", 405),
        (head(Content_Length=MAX_BODY_BYTES + 1), b"x" * MAX_BODY_BYTES, b"x", 413),
        (head(Content_Length=LINGER_BYTES, Expect="100-continue"), b"x" * (LINGER_BYTES - 1), b"x", 413),
    ],
)
async def test_who_is_refused_before_the_body_may_still_send_it(
    tmp_path: Path, asked: bytes, body: bytes, end: bytes, status: int
) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(http.sock, asked)
        await eventually(lambda: here.server.context.hub.metrics.refusals[status])
        await asyncio.sleep(0.05)  # a socket that is closed at once answers what comes with a reset
        for at in range(0, len(body), 65536):
            await loop.sock_sendall(http.sock, body[at : at + 65536])
        answer = await http.answer(head=asked.startswith(b"HEAD"))
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await loop.sock_recv(http.sock, 1)
        await loop.sock_sendall(http.sock, end)
        assert await loop.sock_recv(http.sock, 100) == b"", "nothing follows"
        await eventually(lambda: not len(here.server.http))
        assert not here.server.limits.http_bytes


@pytest.mark.parametrize("asked", [head(Transfer_Encoding="chunked"), head(Content_Length=2 * LINGER_BYTES)])
async def test_what_is_dropped_has_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bytes) -> None:
    refused = asked.replace(b"/messages", b"/nothing")
    async with running(tmp_path) as here:
        loop = asyncio.get_running_loop()
        async with HTTP(here) as http:
            await loop.sock_sendall(http.sock, refused)
            assert (await http.answer()).status in (404, 413)
            with pytest.raises(ConnectionError):
                await loop.sock_sendall(http.sock, CHUNK * (4 * LINGER_BYTES // 65536))
            await eventually(lambda: not len(here.server.http))
        monkeypatch.setattr(exchanges, "LINGER_SECONDS", 0.1)
        async with HTTP(here) as http:
            await loop.sock_sendall(http.sock, refused)
            assert (await http.answer()).status in (404, 413)
            await eventually(lambda: not len(here.server.http))


@pytest.mark.parametrize("hosts", [(), ("localhost", "localhost"), ("local host",)])
async def test_a_request_names_one_host(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    """RFC 9112 section 3.2: else a proxy before us and we might each take it for another site's."""
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    async with running(tmp_path) as here:
        for accept in ("application/json", "text/event-stream"):
            said = await exchange(here, f"GET /v1/rooms/r/events HTTP/1.1\r\n{lines}Accept: {accept}\r\n\r\n".encode())
            assert said.startswith(b"HTTP/1.1 400 "), accept
            assert b"the header Host should be there" in said
        said = await exchange(here, b"GET /v1/rooms/r/events HTTP/1.0\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200 "), "which knew none"


async def test_a_length_that_is_a_digit_of_another_script_is_no_length(tmp_path: Path) -> None:
    """Python takes a raised two for a digit, and can make no number of it."""
    async with running(tmp_path) as here:
        for path in (PATH, "/v1/nothing"):
            said = await exchange(here, head(path=path, Content_Length="@").replace(b"@", b"\xb2"))
            assert said.split(b" ")[1] in (b"400", b"404")


async def test_of_a_long_body_only_the_fields_that_count_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def decode(payload: bytes) -> object:
        decoded.append(len(payload))
        return json.loads(payload)

    monkeypatch.setattr(JSON, "decode", decode)
    rest = b'"as": null, "junk": [%b[]]' % (b"[]," * 300_000)
    async with running(tmp_path) as here, HTTP(here) as http:

        async def post(body: bytes, path: str = PATH) -> Answer:
            return await http.tell("POST", path, body, bearer=TOKEN)

        answer = await post(b'{"text": "\\u00e9", "id": "1", %b}' % rest)
        assert (answer.status, json.loads(answer.body)["id"]) == (201, "1")
        assert (await post(b'{"rooms": {"r": 0}, %b}' % rest, "/v1/poll")).status == 200
        assert 0 < max(decoded) < WHOLE_BYTES
        for body, status, what in (
            (b'{"text": "%b"}' % (b"x" * WHOLE_BYTES), 413, "65,538 bytes"),
            (b'{"text": "%b", "meta": {"a": "%b"}}' % ((b"x" * (WHOLE_BYTES // 2),) * 2), 413, "too_large"),
            (b'{"text": "%b"}' % (b"x" * 9000) + b" " * WHOLE_BYTES, 400, "text: must be"),
            (b'{"text": 7, %b}' % rest, 400, "text: must be"),
            (b"{%b}" % rest, 400, "text: is missing"),
            (b"[%b[]]" % (b"[]," * 30_000), 400, "must be a JSON object"),
            (b'{"text": "x", %b' % rest, 400, "must be a JSON object"),
            (b'{"text": "x", "junk": %b}' % (b"[" * WHOLE_BYTES + b"]" * WHOLE_BYTES), 400, "must be a JSON object"),
        ):
            answer = await post(body)
            assert answer.status == status, body[:40]
            assert what in answer.body.decode()


async def test_bodies_that_are_refused_are_charged_too(tmp_path: Path) -> None:
    """Whoever sends them: their address pays, and long ones are not read before it has."""
    body = b"[" + b"1," * 2 * WHOLE_BYTES + b"1]"
    asked = head(path="/v1/commands", Content_Length=len(body)).replace(b"Bearer ", b"Nobody ")
    async with running(tmp_path, send_rate=1, send_burst=1, address_users=1) as here:
        assert (await exchange(here, asked, body)).startswith(b"HTTP/1.1 400 ")
        said = await exchange(here, asked)
        assert said.startswith(b"HTTP/1.1 429 "), "by its head alone"
        assert b"\r\nRetry-After: " in said
        await eventually(lambda: not here.server.limits.http_bytes)


async def test_long_bodies_count_with_what_waits_for_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "UNREAD_BYTES", 3 * LONG_BYTES)
    async with running(tmp_path) as here, HTTP(here) as slow:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(slow.sock, head(Content_Length=2 * LONG_BYTES) + b"{")
        await eventually(lambda: here.server.limits.http_bytes == 2 * LONG_BYTES)
        said = await exchange(here, head(Content_Length=2 * LONG_BYTES))
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b'"overloaded"' in said
        assert b"\r\nRetry-After: 5\r\n" in said
        assert (await exchange(here, head(Content_Length=12), b'{"text":"x"}')).startswith(b"HTTP/1.1 201 ")
        slow.sock.close()
        await eventually(lambda: not here.server.limits.http_bytes)


async def test_a_long_answer_counts_until_it_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        for number in range(2):
            commands = [{"type": "send", "id": f"{number}-{at}", "room": "r", "text": "x" * 8000} for at in range(64)]
            await http.tell("POST", "/v1/commands", commands, bearer=TOKEN)
        async with HTTP(here) as slow:
            await asyncio.get_running_loop().sock_sendall(slow.sock, head("GET", PATH + "?limit=200") * 8)
            await eventually(lambda: here.server.limits.http_bytes > 500_000)
        await eventually(lambda: not here.server.limits.http_bytes)
        page = await http.tell("GET", PATH + "?limit=200", bearer=TOKEN)
        assert len(json.loads(page.body)["messages"]) == 128
        await eventually(lambda: not here.server.limits.http_bytes)


async def test_expect_100_continue_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for value in ("100-continue", "100-Continue"):
            said = await exchange(here, head(Content_Length=12, Expect=value), b'{"text":"x"}')
            assert said.startswith(b"HTTP/1.1 100 ")
            assert b"HTTP/1.1 201 Created\r\n" in said
        said = await exchange(here, head(Content_Length=MAX_BODY_BYTES + 1, Expect="100-continue"))
        assert said.startswith(b"HTTP/1.1 413 ")
        said = await exchange(here, head(Content_Length=12, Expect="100-continue", version="HTTP/1.0"), b'{"text":"x"}')
        assert said.startswith(b"HTTP/1.1 201 "), "HTTP/1.0 knows no 100"


async def test_old_http_ends_the_connection_unless_it_asks(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        body = b'{"text":"x"}'
        said = await exchange(here, head(Content_Length=12, version="HTTP/1.0") + body)
        assert said.count(b"HTTP/1.1 201 ") == 1
        kept = head(Content_Length=12, Connection="keep-alive", version="HTTP/1.0") + body
        said = await exchange(here, kept, kept)
        assert said.count(b"HTTP/1.1 201 ") == 2


async def test_requests_in_a_row_are_answered_in_their_order(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        body = b'{"text":"x"}'
        one = head(Content_Length=12) + body
        said = await exchange(here, one * 3 + head("GET", PATH) + head("HEAD", PATH) + one)
        statuses = [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"201", b"201", b"201", b"200", b"200", b"201"]
        page, without_body = said.split(b"HTTP/1.1 ")[4:6]
        assert page.count(b'"seq"') == 3
        assert without_body.endswith(b"\r\n\r\n"), "HEAD"
        assert b"Content-Length: " in without_body


async def test_a_method_that_there_is_not_is_told_which_there_are(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        for method, allow in (("PUT", "POST, GET, HEAD"), ("TRACE", "POST, GET, HEAD")):
            answer = await http.tell(method, PATH, bearer=TOKEN)
            assert (answer.status, answer.headers["allow"]) == (405, allow)
            assert answer.error["code"] == "bad_request"


async def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for part in (b"", b'{"te', b"x" * 100_000):
            async with HTTP(here) as http:
                await asyncio.get_running_loop().sock_sendall(http.sock, head(Content_Length=500_000) + part)
                await eventually(lambda: here.server.limits.http_bytes)
            await eventually(lambda: not len(here.server.http))
            assert not here.server.limits.http_bytes
        assert not here.server.log.delays()["writer"]


@pytest.mark.logs("request failed method=GET path=/v1/rooms/{room}/presence")
async def test_a_fault_is_logged_and_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("tornado_chat.web.exchange.Exchange.who", broken)
        answer = await http.tell("GET", "/v1/rooms/r/presence", bearer=TOKEN)
        assert (answer.status, answer.error["code"]) == (500, "unavailable")
        monkeypatch.undo()
        assert (await http.tell("GET", "/v1/rooms/r/presence", bearer=TOKEN)).status == 200
