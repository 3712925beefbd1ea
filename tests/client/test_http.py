"""Requests against a server that answers as no good one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tornado_chat.client.ends import Lost, Refused
from tornado_chat.client.http import Answer, Connection
from tornado_chat.client.transport import Target, split
from tornado_chat.wire.codec import JSON

OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def answering(*answers: bytes | None) -> AsyncIterator[tuple[Connection, list[bytes]]]:
    """A connection to a server whose n-th request is answered with the n-th of `answers`; None: it hangs up."""
    heads: list[bytes] = []
    left = iter(answers)
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                answer = next(left)
                if answer is None:
                    return
                writer.write(answer)
                if b"Content-Length" not in answer and b"chunked" not in answer:
                    return
        except (EOFError, OSError):
            pass
        finally:
            writer.close()
            await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        target = Target(
            url=split(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/under/ws?a=b"),
            tls=None,
            token="t",
            name="née",
            codec=JSON,
            connect_timeout=5.0,
            ping_interval=20.0,
            longest_pause=10.0,
        )
        connection = Connection(target)
        yield connection, heads
        await connection.close()
        await asyncio.gather(*(task for task in serving if task is not None), return_exceptions=True)


async def ask(connection: Connection) -> Answer:
    path = connection.target.path("/v1/poll", guest=True)
    return await connection.ask("POST", path, {"Accept": "x"}, b"", seconds=5.0, max_bytes=100)


async def test_a_connection_is_kept_and_a_request_says_who_asks_whom() -> None:
    answer = OK + b"Content-Length: 2\r\n\r\nhi"
    async with answering(answer, answer) as (connection, heads):
        assert (await ask(connection)).body == b"hi"
        port = connection._writer and connection._writer.get_extra_info("sockname")
        assert (await ask(connection)).body == b"hi"
        assert connection._writer is not None
        assert connection._writer.get_extra_info("sockname") == port
    lines = heads[1].decode().split("\r\n")
    assert lines[0] == "POST /under/v1/poll?a=b&name=n%C3%A9e HTTP/1.1"
    assert lines[1].startswith("Host: 127.0.0.1:")
    assert "Authorization: Bearer t" in lines


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\nTrailer: 1\r\n\r\n",
        OK + b"\r\nhi",  # until the connection ends
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
async def test_every_framing_is_read_and_the_next_request_goes_well(answer: bytes) -> None:
    async with answering(answer, answer) as (connection, _):
        assert (await ask(connection)).body == b"hi"
        assert (await ask(connection)).body == b"hi"


async def test_a_kept_connection_that_the_server_has_closed_is_made_anew() -> None:
    answer = OK + b"Content-Length: 2\r\n\r\nhi"
    async with answering(answer, None, answer, None) as (connection, heads):
        assert (await ask(connection)).body == b"hi"
        assert (await ask(connection)).body == b"hi"
        assert len(heads) == 3
        with pytest.raises(Lost):
            await ask_twice(connection)


async def test_a_kept_connection_that_was_reset_is_made_anew() -> None:
    answer = OK + b"Content-Length: 2\r\n\r\nhi"
    async with answering(answer, answer) as (connection, _):
        assert (await ask(connection)).body == b"hi"
        assert connection._writer is not None
        writer = connection._writer
        writer.transport.abort()  # what the loop does with one that the server has reset
        await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})
        assert (await ask(connection)).body == b"hi"


async def ask_twice(connection: Connection) -> None:
    """A new connection that is closed is not made anew once more."""
    connection.cut()
    await ask(connection)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (OK + b"Content-Length: 10\r\nConnection: close\r\n\r\nhi", Lost),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhi", Lost),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nfive\r\n", Refused),
        (OK + b"Content-Length: two\r\n\r\nhi", Refused),
        (OK + b"Content-Length: 101\r\n\r\n" + b"x" * 101, Refused),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", Refused),
        (OK + b"X: " + b"x" * (1 << 17), Refused),
        (None, Lost),
    ],
)
async def test_what_breaks_off_or_is_no_http_ends_the_transport(answer: bytes | None, kind: type[Exception]) -> None:
    async with answering(answer) as (connection, heads):
        with pytest.raises(kind) as caught:
            await connection.ask("POST", "/", {}, b"", seconds=0.5, max_bytes=100)
        assert len(heads) == 1
    assert isinstance(caught.value, Lost | Refused)
    assert caught.value.suspect
