"""The client's way to the server: one connection at a time, and another whenever that one is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import IOStream
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from tornado_chat.errors import FINAL_CLOSES, TRANSIENT_STATUSES, ChatError, CloseCode, retry_after
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.encodings import opcode_of, subprotocol_of
from tornado_chat.wire.events import Data
from tornado_chat.wire.frames import BINARY

log = logging.getLogger(__name__)

Token = str | Callable[[], Awaitable[str]] | None

NO_ANSWER = 599  # Tornado's status of a request that was not answered
UNAUTHORIZED = frozenset({401, CloseCode.TOKEN_EXPIRED, CloseCode.SESSION_REVOKED})

MAX_MESSAGE_BYTES = 16 << 20  # the largest, a page of history, is about 1 MiB
CLOSE_TIMEOUT = 1.0
LONGEST_WAIT = 3600.0  # whatever a server asks for


class Closed(Exception):
    """The client is closed, by `close()` or because it gave up; its text says why."""


class Refused(Closed):
    """The server will not have this client, and asking again would not change that.

    `code` is the HTTP status of the refused handshake or the close code; 0 where there was neither.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Lost(Exception):
    """This connection is over, and another is to be tried; `wait` is in seconds, None: the link's own back-off."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class LinkOwner(Protocol):
    def on_welcome(self, welcome: Data) -> None:
        """A connection is open and may be written to."""

    async def on_message(self, message: Data) -> None:
        """What comes after `welcome`; the next is not read from the socket before this has returned."""

    def on_lost(self) -> None:
        """The connection that was welcomed is over; what was written last may not have arrived."""


class Link:
    """See Client for the parameters. `run` is its one task."""

    def __init__(
        self,
        owner: LinkOwner,
        url: str,
        *,
        token: Token,
        name: str | None,
        codec: Codec,
        connect_timeout: float,
        ping_interval: float,
        backoff: tuple[float, float],
        notify: Callable[[str], None],
    ) -> None:
        self.reading = False  # waiting for the server, not for the owner
        self._owner = owner
        self._url = _websocket_url(url, name)
        self._where = urlsplit(self._url).netloc.rpartition("@")[2]
        self._fetch = token if callable(token) else None
        self._token = token if isinstance(token, str) else None
        self._accepted = False  # the token was good for a connection
        self._guest = False
        self._codec = codec
        self._connect_timeout = connect_timeout
        self._ping_interval = ping_interval
        self._backoff = backoff
        self._notify = notify
        self._away = False  # the user was told that the connection is lost
        self._connection: WebSocketClientConnection | None = None  # open and welcomed
        self._writes: set[asyncio.Future[None]] = set()
        self._heard = 0  # frames

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def unwritten(self) -> int:
        """Frames that the socket has not taken yet."""
        return len(self._writes)

    def write(self, payload: bytes) -> None:
        """Hand a frame to the socket, if there is one; it may be lost with the connection."""
        if self._connection is not None:
            with contextlib.suppress(WebSocketClosedError):  # the reader is about to be told
                write = asyncio.ensure_future(
                    self._connection.write_message(payload, binary=opcode_of(self._codec) == BINARY)
                )
                self._writes.add(write)
                write.add_done_callback(self._written)

    def _written(self, write: asyncio.Future[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.exception()  # WebSocketClosedError: the reader is told too

    async def run(self) -> None:
        """Stay connected until cancelled, which leaves no socket and no task, or until Refused."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._converse(await self._connect())
            except Lost as error:
                lost = error
            if loop.time() - began > self._longest_pause(failures):
                failures = 0
            delay = self.pause(failures) if lost.wait is None else min(lost.wait, LONGEST_WAIT)
            failures += 1
            self._away = True
            self._notify(f"{lost}, retrying in {delay:.1f} s")
            await asyncio.sleep(delay)

    def pause(self, failures: int) -> float:
        """Exponential back-off with full jitter, so that clients cut off together do not come back together."""
        return random.uniform(0, self._longest_pause(failures))

    def _longest_pause(self, failures: int) -> float:
        shortest, longest = self._backoff
        return min(longest, shortest * 2.0 ** min(failures, 30))

    async def _connect(self) -> WebSocketClientConnection:
        if self._token is None and self._fetch is not None:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    self._token = await self._fetch()
            except OSError as error:  # TimeoutError is one
                raise Lost(f"no token: {str(error) or 'timed out'}") from error
        request = HTTPRequest(
            self._url,
            headers={"Authorization": f"Bearer {self._token}"} if self._token else {},
            connect_timeout=self._connect_timeout,
            request_timeout=self._connect_timeout,
        )
        # Compression is not offered: Tornado would deflate every frame of ours, and most are too short to gain by it.
        attempt = asyncio.ensure_future(
            websocket_connect(request, subprotocols=[subprotocol_of(self._codec)], max_message_size=MAX_MESSAGE_BYTES)
        )
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.wait({attempt}, timeout=CLOSE_TIMEOUT)
            attempt.add_done_callback(_cut)
            raise
        except HTTPClientError as error:
            raise self._refusal(error) from error
        except ssl.SSLCertVerificationError as error:
            raise Refused(0, f"{self._where}: {error.verify_message}") from error
        except OSError as error:
            raise Lost(f"cannot connect to {self._where}: {error.strerror or error}") from error
        except Exception as error:  # Tornado has no one exception for an answer that is not a handshake
            text = str(error) or type(error).__name__
            raise Refused(0, f"{self._where} does not speak WebSocket: {text}") from error

    async def _converse(self, connection: WebSocketClientConnection) -> None:
        """Pass on what the server says until the connection ends; then raises what that means."""
        stream = _stream(connection)
        watch = None
        frame: str | bytes | None = ""
        try:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    frame = await connection.read_message()
            except TimeoutError:
                raise Lost(f"{self._where} took the connection, but said nothing") from None
            if frame is not None:
                welcome = self._decode(frame)
                self._on_welcome(welcome)
                self._connection = connection
                self._owner.on_welcome(welcome)
                watch = asyncio.create_task(self._watch(stream))
            while frame is not None:
                self.reading = True
                frame = await connection.read_message()
                self.reading = False
                self._heard += 1
                if frame is not None:
                    await self._owner.on_message(self._decode(frame))
        finally:
            if watch is not None:
                watch.cancel()
            if self._connection is not None:
                self._connection = None
                self._owner.on_lost()
            await self._hang_up(connection, stream, ended=frame is None)
        raise self._verdict(connection.close_code, connection.close_reason or "")

    async def _hang_up(self, connection: WebSocketClientConnection, stream: IOStream, *, ended: bool) -> None:
        """The close handshake, or after CLOSE_TIMEOUT without it; nothing of `connection` is left then."""
        connection.close(CloseCode.NORMAL)
        while not ended:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    while await connection.read_message() is not None:
                        pass
                ended = True
            except TimeoutError:
                ended = stream.closed()
                stream.close()
        if self._writes:
            await asyncio.wait(self._writes)

    async def _watch(self, stream: IOStream) -> None:
        """Ping a server that was silent for `ping_interval`, cut it off if it stays silent for as long again.

        Not Tornado's pings: those would cut off a server whose pong stands behind events that our user does not take.
        """
        pinged = False
        while True:
            heard = self._heard
            await asyncio.sleep(self._ping_interval)
            if self._heard != heard or not self.reading:
                pinged = False
            elif not pinged:
                self.write(self._codec.encode({"type": "ping"}))
                pinged = True
            else:
                log.info("no answer to a ping server=%s seconds=%g", self._where, self._ping_interval)
                stream.close()
                return

    def _decode(self, frame: str | bytes) -> Data:
        try:
            message = self._codec.decode(frame.encode() if isinstance(frame, str) else frame)
            if isinstance(message, dict) and isinstance(message.get("type"), str):
                return message
            reason = "not an object with a type"
        except ChatError as error:
            reason = error.message
        raise Refused(CloseCode.INVALID_DATA, f"{self._where} does not speak {subprotocol_of(self._codec)}: {reason}")

    def _on_welcome(self, welcome: Data) -> None:
        if welcome["type"] != "welcome":
            raise Refused(CloseCode.PROTOCOL_ERROR, f"{self._where} began with {welcome['type']} instead of welcome")
        self._accepted = True
        self._guest = "token" in welcome
        self._token = welcome.get("token", self._token)
        if self._away:
            self._away = False
            self._notify("back")

    # What an end means.

    def _refusal(self, error: HTTPClientError) -> Lost | Refused:
        """Of a handshake that was answered with the HTTP status `error.code`, or (599) not at all."""
        response, text = error.response, error.message
        if response is not None:
            with contextlib.suppress(ChatError, KeyError, TypeError):  # a proxy's page, or nothing
                text = JSON.decode(response.body)["error"]["message"]  # type: ignore[index]  # TypeError is expected
        if error.code == 401 and self._renew(401):
            return Lost(f"{self._where} does not take the token any more: {text}")
        if error.code not in TRANSIENT_STATUSES and error.code != NO_ANSWER:
            return Refused(error.code, f"{self._where} refused the connection: {text} (HTTP {error.code})")
        after = response.headers.get("Retry-After", "") if response is not None else ""
        wait = int(after) + self.pause(0) if re.fullmatch("[0-9]{1,9}", after) else None
        return Lost(f"cannot connect to {self._where}: {text}", wait)

    def _verdict(self, code: int | None, reason: str) -> Lost | Refused:
        """Of a connection that was closed with `code`; None: without a close frame."""
        if code is None:
            return Lost("connection lost")
        if code in FINAL_CLOSES or (code in UNAUTHORIZED and not self._renew(code)):
            return Refused(code, f"{self._where} closed the connection: {code} {reason}".rstrip())
        wait = None
        if code in (CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER):
            wait = retry_after(reason)
        elif code == CloseCode.POLICY_VIOLATION:
            wait = self._backoff[1]
        return Lost(f"connection closed with {code} {reason}".rstrip(), wait)

    def _renew(self, code: int) -> bool:
        """Whether another token may do where the present one, good before, is refused; a revoked guest stays out."""
        can_renew = self._fetch is not None or (self._guest and code != CloseCode.SESSION_REVOKED)
        if not can_renew or not self._accepted:
            return False
        self._token, self._accepted = None, False
        return True


def _stream(connection: WebSocketClientConnection) -> IOStream:
    protocol = connection.protocol
    assert protocol is not None
    assert protocol.stream is not None
    return protocol.stream


def _cut(attempt: asyncio.Future[WebSocketClientConnection]) -> None:
    """Close what came of an attempt to connect that nobody waits for any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        _stream(attempt.result()).close()
        attempt.result().close()


def _websocket_url(url: str, name: str | None) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError(f"{url!r} is not the address of a server, such as http://127.0.0.1:8080")
    path = parts.path.rstrip("/")
    query = parse_qsl(parts.query) + ([("name", name)] if name is not None else [])
    return urlunsplit((scheme, parts.netloc, path if path.endswith("/ws") else path + "/ws", urlencode(query), ""))
