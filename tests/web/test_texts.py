"""`POST` of `text/plain`: a body that grows is a message that grows."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest

from tests.live.test_growing import author, bearer, chat, find, read, reader
from tests.support.chat import SECRET, Running, eventually
from tests.support.plain_http import HTTP
from tornado_chat.auth import mint
from tornado_chat.live.growing import STREAM_CHARS
from tornado_chat.web import texts
from tornado_chat.web.http_connection import HttpConnection
from tornado_chat.web.http_connections import HttpConnections
from tornado_chat.wire.replies import Stop

PATH = "/v1/rooms/r/messages"
TEXT = "text/plain; charset=utf-8"
COOKIE = "chat_session=" + mint(SECRET, "bot", ttl=600)


class Piping:
    """One request with a chunked body, sent bit by bit."""

    def __init__(self, here: Running, path: str = PATH, *, user: str = "bot", **headers: str) -> None:
        self.port = int(here.address.rpartition(":")[2])
        self.head = {
            "Host": "localhost", "Authorization": bearer(user)["Authorization"], "Content-Type": TEXT,
            "Transfer-Encoding": "chunked", **headers,
        }  # fmt: skip
        self.path = path

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(self.first())
        return self

    def first(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.head.items() if value)]
        return "\r\n".join([*lines, "", ""]).encode()

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def say(self, data: str | bytes) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> tuple[int, Any]:
        self.writer.write(b"0\r\n\r\n")
        return await self.answer()

    async def answer(self) -> tuple[int, Any]:
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            if head.startswith("http/1.1 100"):
                return 100, None
            size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            return int(head.split()[1]), json.loads(await self.reader.readexactly(size))


async def test_what_is_piped_in_grows_as_it_comes(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        async with Piping(here, PATH + "?id=log&reply_to=7") as pipe:
            await pipe.say("Grü".encode()[:-1])
            message = await ann.until("message")
            assert (message["streaming"], message["id"], message["reply_to"]) == (True, "log", 7)
            text = await read(ann, until="Gr")
            await pipe.say("ü".encode()[1:] + "ße, ".encode() + "\U0001f600".encode()[:1])
            await read(ann, until="Grüße, ", text=text)
            await pipe.say("\U0001f600".encode()[1:3])
            await pipe.say("\U0001f600".encode()[3:] + b"!")
            status, said = await pipe.end()
            await read(ann, text=text)
            assert (text.text, text.end["reason"], text.end["user"]) == ("Grüße, \U0001f600!", "done", "bot")
            assert (status, said) == (201, {"room": "r", "seq": 1, "ts": message["ts"], "id": "log"})
        async with Piping(here, PATH, **{"Idempotency-Key": "log"}) as again:
            await again.say("Grüße, ")
            await again.say("\U0001f600!")
            assert await again.end() == (200, said)
        assert not here.server.context.bodies


async def test_several_on_one_connection_and_one_that_is_not_chunked(tmp_path: Path) -> None:
    async with chat(tmp_path) as here, HTTP(here) as http:
        token = mint(SECRET, "bot", ttl=60)
        headers = {"Content-Type": "text/plain"}
        for number in range(3):
            answer = await http.tell("POST", PATH, b"all at once", bearer=token, **headers)
            assert (answer.status, json.loads(answer.body)["seq"]) == (201, 2 * number + 1)
        answer = await http.tell("POST", PATH, {"text": "plain"}, bearer=token)
        assert (answer.status, json.loads(answer.body)["seq"]) == (201, 7)
        page = json.loads((await http.tell("GET", PATH, bearer=token)).body)
        assert [one["text"] for one in page["messages"]] == ["all at once"] * 3 + ["plain"]
        assert here.server.context.requests == 0


@pytest.mark.parametrize(
    ("bytes_", "kept", "message"),
    [
        (b"so far \xff\xfe no", "so far ", "must be UTF-8"),
        (b"so far \x00 no", "so far ", "U+0000"),
        (b"so f\xc3", "so f", "ends within a character"),
    ],
)
async def test_what_is_no_text_ends_it(tmp_path: Path, bytes_: bytes, kept: str, message: str) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        async with Piping(here) as pipe:
            await pipe.say("good, ")
            await pipe.say(bytes_)
            status, said = await (pipe.end() if "ends" in message else pipe.answer())
            assert (status, said["error"]["code"]) == (400, "bad_request")
            assert message in said["error"]["message"]
            text = await read(ann)
            assert (text.text, text.end["reason"]) == ("good, " + kept, "error")


async def test_a_text_has_its_bound(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        async with Piping(here) as pipe:
            for _ in range(STREAM_CHARS // 65536):
                await pipe.say("é" * 65536)
            await pipe.say("!")
            status, said = await pipe.answer()
            assert (status, said["error"]["code"]) == (413, "too_large")
        text = await read(ann)
        assert (len(text.text), text.end["reason"]) == (STREAM_CHARS, "error")
        async with Piping(here) as pipe:
            for _ in range(STREAM_CHARS // 65536):
                await pipe.say("\U0001f600" * 65536)
            status, said = await pipe.end()
            assert status == 201
        async with HTTP(here) as http:
            headers = {"Content-Type": TEXT}
            answer = await http.tell("POST", PATH, b"x" * (1 << 20) + b"y", bearer=mint(SECRET, "b", ttl=60), **headers)
            assert (answer.status, answer.error["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain; charset=latin-1"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "text/html"}, 415),
        ({"Authorization": ""}, 401),
        ({"Authorization": "", "Cookie": COOKIE, "Origin": "http://localhost"}, 415),
        ({"Authorization": "Bearer " + mint(SECRET, "bot", ttl=7200, rooms=["s"])}, 403),
        ({"Idempotency-Key": "é" * 65}, 400),
        ({"Expect": "100-continue", "Authorization": "Bearer no"}, 401),
    ],
)  # fmt: skip
async def test_who_may_not_is_told_before_the_body(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with chat(tmp_path) as here:
        async with Piping(here, **headers) as pipe:
            if headers.get("Content-Type") == "text/html":
                await pipe.say("body")
                assert (await pipe.end())[0] == status
            else:
                assert (await pipe.answer())[0] == status
        assert await here.server.log.heads(["r"]) == {"r": 0}
        assert not here.server.context.bodies


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"0\r\n\r\n", "body: must be the text of the message"),
        (b"1\r\n\xc3\r\n0\r\n\r\n", "body: must be UTF-8; it ends within a character"),
        (b"2\r\n\xff\xfe\r\n", "body: must be UTF-8"),
        (b"2\r\n\0x\r\n", "body: must not hold U+0000"),
    ],
)
async def test_a_body_without_a_character_is_refused_and_no_message(tmp_path: Path, body: bytes, message: str) -> None:
    async with chat(tmp_path) as here:
        async with Piping(here) as pipe:
            pipe.writer.write(body)
            status, said = await pipe.answer()
            assert (status, said["error"]["code"], said["error"]["message"]) == (400, "bad_request", message)
        assert await here.server.log.heads(["r"]) == {"r": 0}
        assert not here.server.context.bodies


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Length": "5"}, b"5\r\nhello\r\n0\r\n\r\n"),
        ({"Transfer-Encoding": "gzip, chunked"}, b"5\r\nhello\r\n0\r\n\r\n"),
        ({}, b"5;a=b\r\nhello\r\n0\r\n\r\n"),
        ({}, b"-5\r\nhello\r\n0\r\n\r\n"),
        ({}, b"0\r\nX: trailer\r\n\r\n"),
    ],
)
async def test_what_http_refuses_begins_no_message(tmp_path: Path, headers: dict[str, str], body: bytes) -> None:
    async with chat(tmp_path) as here:
        async with Piping(here, **headers) as pipe:
            pipe.writer.write(body)
            assert (await pipe.reader.read()).startswith(b"HTTP/1.1 400 ")
        await eventually(lambda: not here.server.context.bodies)
        assert await here.server.log.heads(["r"]) == {"r": 0}


async def test_who_goes_before_the_first_character_leaves_no_message(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        async with Piping(here) as pipe:
            await pipe.say(b"\xc3")
            await eventually(lambda: here.server.context.bodies)
        await eventually(lambda: not here.server.context.bodies)
        assert await here.server.log.heads(["r"]) == {"r": 0}


async def test_who_asks_whether_to_go_on_is_told_so(tmp_path: Path) -> None:
    async with chat(tmp_path) as here, Piping(here, Expect="100-continue") as pipe:
        assert await pipe.answer() == (100, None)
        await pipe.say("on")
        assert (await pipe.end())[0] == 201


async def test_a_link_that_breaks_leaves_its_message_to_who_comes_back(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        async with Piping(here, PATH + "?id=log") as pipe:
            await pipe.say("first ")
            text = await read(ann, until="first ")
        await eventually(lambda: find(here).writer is None)
        assert find(here).ends_at is not None
        async with Piping(here, PATH + "?id=log") as pipe:
            await pipe.say("fir")
            await pipe.say("st second")
            await read(ann, until="first second", text=text)
            assert find(here).ends_at is None
            assert (await pipe.end())[1]["seq"] == 1
        await read(ann, text=text)
        async with Piping(here, PATH + "?id=log2") as pipe:
            await pipe.say("first ")
            await read(ann, 3, until="first ")
        find(here, 3).ends_at = 0.0
        assert (await ann.until("finished"))["reason"] == "interrupted"
        async with Piping(here, PATH + "?id=log2") as pipe:
            await pipe.say("first ")
            status, said = await pipe.answer()
            assert (status, said["error"]["code"]) == (409, "conflict")
            assert "interrupted" in said["error"]["message"]
        await here.clients[0].ask(type="send", room="r", id="plain", text="x")
        async with Piping(here, PATH + "?id=plain", user="ann") as pipe:
            await pipe.say("x")
            status, said = await pipe.answer()
            assert status == 409
            assert said["error"]["message"] == "the id is that of event 5, which is no message that grows"


@pytest.mark.parametrize(
    ("pieces", "kept", "reason"),
    [
        ([b"5\r\nfirst\r\n1\r\n \r\n4\r\nlast\r\n0\r\n\r\n"], "first last", "done"),
        ([b"5\r\nfirst\r\n", b"5\r\n last\r\n0\r\n\r\n"], "first last", "done"),
        ([b"5\r\nfirst\r\n5\r\n las"], "first las", "interrupted"),
        ([b"5\r\nfirst\r\n", b"5\r\n last\r\n0\r\n"], "first last", "interrupted"),
        ([b"5\r\nfirst\r\n5\r\n last\r\nx\r\n"], "first last", "interrupted"),
        ([b"5\r\nfirst\r\n5\r\n last0\r\n"], "first last", "interrupted"),
        ([b"5\r\nfirst\r\nffffff\r\n last"], "first", "interrupted"),
    ],
)
async def test_of_who_goes_at_once_all_that_came_is_there(
    tmp_path: Path, pieces: list[bytes], kept: str, reason: str
) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        async with Piping(here) as pipe:
            pipe.writer.write(pieces[0])
            if len(pieces) > 1:
                await ann.until("message")
                pipe.writer.write(pieces[1])
            pipe.writer.write_eof()  # before the server has read the last piece
            if len(pieces) == 1:
                await ann.until("message")
            await eventually(lambda: not here.server.context.bodies)
        for message in here.server.context.growing.by_name.values():
            message.ends_at = 0.0
        text = await read(ann)
        assert (text.text, text.end["reason"]) == (kept, reason)


async def test_a_body_is_read_though_its_client_goes_before_the_head_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        pipe, http = Piping(here), here.server.http
        first = pipe.first()
        _, writer = await asyncio.open_connection("127.0.0.1", pipe.port)

        def hand_on(connection: HttpConnection, said: bytes) -> None:
            writer.write(first[len(said) :] + b"5\r\nhello\r\n0\r\n\r\n")
            writer.write_eof()
            HttpConnections.hand_on(http, connection, said)

        monkeypatch.setattr(http, "hand_on", hand_on)
        writer.write(first[:-2])
        text = await read(ann)
        assert (text.text, text.end["reason"]) == ("hello", "done")
        writer.transport.abort()


async def test_what_is_stopped_ends_at_once(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        await ann.ask(type="send", room="r", text="?", id="q")
        async with Piping(here, PATH + "?reply_to=1") as pipe:
            await pipe.say("on and ")
            text = await read(ann, 2, until="on and ")
            await ann.send(type="stop", id="s", room="r", seq=2)
            await read(ann, 2, text=text)
            assert (text.text, text.end["reason"]) == ("on and ", "stopped")
            await ann.until("ack", id="s")
            await pipe.say("on")
            status, said = await pipe.answer()
            assert (status, said["error"]["code"]) == (409, "conflict")
            assert said["error"]["message"] == "message 2 was stopped by ann"
            await pipe.say("and on")
            pipe.writer.write(b"0\r\n\r\n")


async def test_a_body_that_ends_while_it_is_stopped_is_told_so(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        async with Piping(here) as pipe:
            await pipe.say("on and on")
            text = await read(ann, until="on and on")
            body = next(iter(here.server.context.bodies))
            with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as lock:
                lock.execute("BEGIN IMMEDIATE")
                body.hear(Stop(room="r", seq=1, by="ann"))
                status, said = await pipe.end()
                lock.execute("ROLLBACK")
            assert (status, said["error"]["code"]) == (409, "conflict")
            assert said["error"]["message"] == "message 1 is being stopped by ann"
        await read(ann, text=text)
        assert (text.text, text.end["reason"]) == ("on and on", "stopped")


async def test_of_two_bodies_with_one_id_the_first_is_told_that_the_other_goes_on(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        async with Piping(here, PATH + "?id=log") as first, Piping(here, PATH + "?id=log") as second:
            await first.say("one")
            text = await read(ann, until="one")
            await second.say("one, two")
            await read(ann, until="one, two", text=text)
            await first.say(", three")
            status, said = await first.answer()
            assert (status, said["error"]["message"]) == (
                409,
                "another connection goes on with message 1, or it has ended elsewhere",
            )
            assert (await second.end())[0] == 201


async def test_a_silent_body_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with chat(tmp_path) as here:
        monkeypatch.setattr(texts, "SILENT_SECONDS", -29.5)
        async with Piping(here) as pipe:
            await pipe.say("said")
            with pytest.raises(EOFError):
                await pipe.answer()
        await eventually(lambda: not here.server.context.bodies)


async def test_a_revoked_session_says_no_more(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        token = mint(SECRET, "bot", ttl=60, jti="gone")
        async with Piping(here, Authorization=f"Bearer {token}") as pipe:
            await pipe.say("said")
            await eventually(lambda: here.server.context.bodies)
            await here.server.log.revoke("gone")
            for _ in range(40):
                await pipe.say("more")
                await asyncio.sleep(0.05)
            assert (await pipe.answer())[0] == 401


async def test_who_says_too_much_is_not_read_for_a_while(tmp_path: Path) -> None:
    async with chat(tmp_path, send_rate=5, send_burst=5) as here:
        ann = await reader(here)
        async with Piping(here) as pipe:
            for _ in range(4):
                await pipe.say("é" * 25_000)
            await eventually(lambda: here.server.metrics.throttles > 0)
            assert (await pipe.end())[0] == 201
        assert len((await read(ann)).text) == 100_000


async def test_a_server_that_stops_tells_to_come_again(tmp_path: Path) -> None:
    async with chat(tmp_path) as here, Piping(here, PATH + "?id=log") as pipe, Piping(here) as silent:
        await pipe.say("kept")
        await eventually(lambda: [one.length for one in here.server.context.growing.by_name.values()] == [4])
        await eventually(lambda: len(here.server.context.bodies) == 2)
        stopping = asyncio.create_task(here.server.stop())
        for stopped in (pipe, silent):
            status, said = await stopped.answer()
            assert (status, said["error"]["code"]) == (503, "unavailable")
        await stopping
    async with chat(tmp_path) as there, Piping(there, PATH + "?id=log") as pipe:
        await pipe.say("kept, and more")
        assert (await pipe.end())[0] == 201
        page = await there.server.log.history("r", before=None, limit=1, max_bytes=99)
        assert page[0][0]["text"] == "kept, and more"


def curl(here: Running, *arguments: str) -> list[str]:
    return [
        "curl", "-sS", "-N", "-X", "POST", "-T", "-", "-H", f"Content-Type: {TEXT}",
        "-H", "Authorization: " + bearer("bot")["Authorization"], *arguments, here.address + PATH,
    ]  # fmt: skip


async def test_curl_pipes_in(tmp_path: Path) -> None:
    async with chat(tmp_path) as here:
        ann = await reader(here)
        process = await asyncio.create_subprocess_exec(
            *curl(here), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(b"eins\n")
        text = await read(ann, until="eins\n")
        process.stdin.write("zwei ü\n".encode())
        await read(ann, until="eins\nzwei ü\n", text=text)
        process.stdin.close()
        out, err = await process.communicate()
        assert (json.loads(out)["seq"], err) == (1, b"")
        await read(ann, text=text)

        process = await asyncio.create_subprocess_exec(
            *curl(here, "--fail"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(b"for ever\n")
        await read(ann, 3, until="for ever\n")
        stopper = await author(here)
        await stopper.ask(type="stop", room="r")
        process.stdin.write(b"and ever\n")
        assert await process.wait() == 22, "it is told, and ends, though its input goes on"
        process.stdin.close()
