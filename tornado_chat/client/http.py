"""Requests to the server over HTTP/1.1, one at a time, on a connection that is kept as long as the server keeps it.

Not Tornado's HTTP client: that one hands over the bytes of an answer without end as they come, whether or not anybody
takes them. Here, who does not read stops the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Mapping

from tornado.httputil import HTTPHeaders, HTTPInputError, ResponseStartLine, parse_response_start_line

from tornado_chat.client.ends import Lost, Refused
from tornado_chat.client.transport import Target

HEAD_BYTES = 64 << 10
CHUNK_BYTES = 64 << 10
CLOSE_TIMEOUT = 1.0


class Response:
    """The head of an answer, and its body, to be read to its end before the next request.

    Reading raises OSError or EOFError where the answer breaks off, ValueError where it is not HTTP.
    """

    __slots__ = ("_chunked", "_left", "_reader", "_until_close", "headers", "reusable", "status", "text")

    def __init__(self, start: ResponseStartLine, headers: HTTPHeaders, reader: asyncio.StreamReader) -> None:
        self.status = start.code
        self.text = start.reason
        self.headers = headers
        self._reader = reader
        self._chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        length = headers.get("Content-Length")
        self._until_close = not self._chunked and length is None and start.code != 204
        self._left = 0 if length is None or self._chunked else int(length)  # of the body, or of the chunk
        close = start.version != "HTTP/1.1" or headers.get("Connection", "").lower() == "close"
        self.reusable = not close and not self._until_close

    async def read(self) -> bytes:
        """The next bytes of the body as they come, CHUNK_BYTES at most; b"" at its end."""
        if self._until_close:
            return await self._reader.read(CHUNK_BYTES)
        if self._chunked and not self._left:
            self._left = int((await self._line()).partition(b";")[0], 16)
            if not self._left:
                while await self._line() != b"\r\n":
                    pass  # a trailer
                self._chunked = False
        if not self._left:
            return b""
        data = await self._reader.read(min(self._left, CHUNK_BYTES))
        if not data:
            raise EOFError("the answer breaks off")
        self._left -= len(data)
        if self._chunked and not self._left:
            await self._reader.readexactly(2)
        return data

    async def _line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError as error:
            raise ValueError(f"a line without end: {error}") from None

    async def whole(self, max_bytes: int) -> bytes:
        """The whole body; ValueError if it is longer than `max_bytes`."""
        parts: list[bytes] = []
        size = 0
        while part := await self.read():
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise ValueError(f"an answer of more than {max_bytes:,} bytes")
        return b"".join(parts)


class Answer:
    """A whole answer."""

    __slots__ = ("body", "headers", "status", "text")

    def __init__(self, response: Response, body: bytes) -> None:
        self.status = response.status
        self.text = response.text
        self.headers = response.headers
        self.body = body


class Connection:
    """To the server of `target`. A call that is cancelled leaves it closed; the next one connects again."""

    __slots__ = ("_reader", "_used", "_writer", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._used = False  # it has carried an answer: the server may be about to close it

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, *, seconds: float, max_bytes: int
    ) -> Answer:
        """The whole answer, within `seconds`; Lost if there is none, Refused if it cannot be one of this server's."""
        try:
            async with asyncio.timeout(seconds):
                response = await self.begin(method, path, headers, body)
                answer = Answer(response, await response.whole(max_bytes))
        except TimeoutError:
            self.cut()
            raise Lost(f"no answer from {self.target.where} within {seconds:g} s", suspect=True) from None
        except (OSError, EOFError) as error:
            self.cut()
            raise Lost(f"connection lost: {reason(error)}", suspect=True) from error
        except ValueError as error:
            self.cut()
            raise Refused(0, f"{self.target.where} does not speak HTTP: {error}", suspect=True) from error
        except BaseException:
            self.cut()
            raise
        if not response.reusable:
            self.cut()
        return answer

    async def begin(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """The head of the answer; the caller reads the body, and gives up after a while if need be.

        A connection that the server closed while nobody used it is made anew.
        """
        if self._writer is not None and self._used:
            with contextlib.suppress(Lost):
                return await self._exchange(method, path, headers, body)
            self.cut()
        await self._connect()
        return await self._exchange(method, path, headers, body)

    async def _connect(self) -> None:
        target = self.target
        assert self._writer is None
        try:
            async with asyncio.timeout(target.connect_timeout):
                self._reader, self._writer = await asyncio.open_connection(
                    target.url.hostname,
                    target.url.port or (80 if target.tls is None else 443),
                    ssl=target.tls,
                    limit=HEAD_BYTES,
                )
        except TimeoutError:
            raise Lost(f"cannot connect to {target.where}: Timeout while connecting", suspect=True) from None
        except ssl.SSLCertVerificationError as error:
            raise Refused(0, f"{target.where}: {error.verify_message}") from error
        except OSError as error:
            raise Lost(f"cannot connect to {target.where}: {reason(error)}") from error
        self._used = False

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        assert self._reader is not None
        assert self._writer is not None
        sent = {"Host": self.target.where, "Content-Length": str(len(body)), **headers}
        if self.target.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.target.token}")
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        if any("\r" in line or "\n" in line for line in lines):
            raise Refused(0, "a token cannot have line breaks")
        try:
            if self._writer.transport.is_closing():
                raise EOFError  # uvloop would not say it so
            self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            await self._writer.drain()
            while True:
                head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, _, fields = head.partition("\r\n")
                start = parse_response_start_line(line)
                if start.code >= 200:  # the others announce it
                    break
            response = Response(start, HTTPHeaders.parse(fields), self._reader)
        except (OSError, EOFError) as error:
            raise Lost(f"cannot connect to {self.target.where}: {reason(error)}", suspect=True) from error
        except (ValueError, asyncio.LimitOverrunError, HTTPInputError) as error:
            text = f"{self.target.where} does not speak HTTP: {error}"
            raise Refused(0, text, suspect=True) from error
        self._used = True
        return response

    def cut(self) -> None:
        """Close it without a word."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None

    async def close(self) -> None:
        """Close it, and wait until it is."""
        writer = self._writer
        self.cut()
        if writer is not None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await writer.wait_closed()
        await asyncio.sleep(0)  # one that was cut off before closes its socket in the next turn


def reason(error: OSError | EOFError) -> str:
    """Why a connection ended or did not come about, for people: in the system's words, whichever loop tells it."""
    if not isinstance(error, OSError):
        return "it was closed before the answer was whole"
    if isinstance(error, ssl.SSLError | socket.gaierror):  # with numbers of their own
        return error.strerror or str(error)
    # Where a name has several addresses, asyncio tells of all of them in one text.
    number = error.errno or next(map(int, re.findall(r"\[Errno ([0-9]+)\]", str(error))), None)
    return str(error) if number is None else os.strerror(number)
