"""The transport that is a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import IOStream
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from tornado_chat.client.ends import Lost, Refused, closed, refused
from tornado_chat.client.http import reason
from tornado_chat.client.transport import MAX_MESSAGE_BYTES, Listener, Target, TransportKind, decode
from tornado_chat.errors import CloseCode
from tornado_chat.wire.encodings import opcode_of, subprotocol_of
from tornado_chat.wire.events import Data
from tornado_chat.wire.frames import BINARY

log = logging.getLogger(__name__)

NO_ANSWER = 599  # Tornado's status of a request that was not answered
CLOSE_TIMEOUT = 1.0


class WebSocketTransport:
    """See Transport."""

    kind: TransportKind = "websocket"

    def __init__(self, target: Target) -> None:
        self.heard = asyncio.get_running_loop().time()
        self._target = target
        self._codec = target.codec
        self._connection: WebSocketClientConnection | None = None
        self._writes: set[asyncio.Future[None]] = set()
        self._reading = False  # waiting for the server, not for the listener
        self._ended = False  # the server has closed it
        self._silent = False  # it has not answered a ping

    @property
    def unwritten(self) -> int:
        return len(self._writes)

    async def open(self, joins: Sequence[Data]) -> Data:
        self._connection = await self._connect()
        try:
            async with asyncio.timeout(self._target.connect_timeout):
                frame = await self._connection.read_message()
        except TimeoutError:
            raise Lost(f"{self._target.where} took the connection, but said nothing", suspect=True) from None
        if frame is None:
            raise self._verdict()
        welcome = self._decode(frame)
        if welcome["type"] != "welcome":
            text = f"{self._target.where} began with {welcome['type']} instead of welcome"
            raise Refused(CloseCode.PROTOCOL_ERROR, text)
        return welcome

    async def run(self, listener: Listener) -> None:
        assert self._connection is not None
        watch = asyncio.create_task(self._watch(_stream(self._connection)))
        try:
            while True:
                self._reading = True
                frame = await self._connection.read_message()
                self._reading = False
                if frame is None:
                    raise self._verdict()
                self.heard = asyncio.get_running_loop().time()
                await listener(self._decode(frame))
        finally:
            watch.cancel()

    def write(self, *payloads: bytes) -> None:
        for payload in payloads:
            self._write(payload)

    async def written(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes)

    def _write(self, payload: bytes) -> None:
        assert self._connection is not None
        with contextlib.suppress(WebSocketClosedError):  # the reader is about to be told
            write = asyncio.ensure_future(
                self._connection.write_message(payload, binary=opcode_of(self._codec) == BINARY)
            )
            self._writes.add(write)
            write.add_done_callback(self._written)

    def join(self, join: Data) -> None:
        self.write(self._codec.encode({"type": "join", **join}))

    def leave(self, room: str) -> None:
        self.write(self._codec.encode({"type": "leave", "room": room}))

    async def close(self) -> None:
        """The close handshake, or after CLOSE_TIMEOUT without it."""
        if self._connection is None:
            return
        stream = _stream(self._connection)
        self._connection.close(CloseCode.NORMAL)  # which lets go of the stream
        while not self._ended:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    while await self._connection.read_message() is not None:
                        pass
                self._ended = True
            except TimeoutError:
                self._ended = stream.closed()
                stream.close()
        if self._writes:
            await asyncio.wait(self._writes)

    def _written(self, write: asyncio.Future[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.exception()  # WebSocketClosedError: the reader is told too

    async def _connect(self) -> WebSocketClientConnection:
        target = self._target
        request = HTTPRequest(
            target.websocket_url(),
            headers={"Authorization": f"Bearer {target.token}"} if target.token else {},
            connect_timeout=target.connect_timeout,
            request_timeout=target.connect_timeout,
            ssl_options=target.tls,
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
            response = error.response
            if error.code == NO_ANSWER:
                raise Lost(f"cannot connect to {target.where}: {error.message}", suspect=True) from error
            headers, body = (response.headers, response.body) if response is not None else ({}, b"")
            raise refused(target.where, error.code, headers, body, error.message) from error
        except ssl.SSLCertVerificationError as error:
            raise Refused(0, f"{target.where}: {error.verify_message}") from error
        except OSError as error:
            reset = isinstance(error, ConnectionResetError | BrokenPipeError)
            raise Lost(f"cannot connect to {target.where}: {reason(error)}", suspect=reset) from error
        except Exception as error:  # Tornado has no one exception for an answer that is not a handshake
            text = str(error) or type(error).__name__
            raise Refused(0, f"{target.where} does not speak WebSocket: {text}", suspect=True) from error

    async def _watch(self, stream: IOStream) -> None:
        """Ping a server that was silent for `ping_interval`, cut it off if it stays silent for as long again.

        Not Tornado's pings: those would cut off a server whose pong stands behind events that our user does not take.
        """
        pinged = False
        while True:
            heard = self.heard
            await asyncio.sleep(self._target.ping_interval)
            if self.heard != heard or not self._reading:
                pinged = False
            elif not pinged:
                self.write(self._codec.encode({"type": "ping"}))
                pinged = True
            else:
                log.info("no answer to a ping server=%s seconds=%g", self._target.where, self._target.ping_interval)
                self._silent = True
                stream.close()
                return

    def _decode(self, frame: str | bytes) -> Data:
        try:
            return decode(frame.encode() if isinstance(frame, str) else frame, self._codec)
        except ValueError as error:
            text = f"{self._target.where} does not speak {subprotocol_of(self._codec)}: {error}"
            raise Refused(CloseCode.INVALID_DATA, text) from None

    def _verdict(self) -> Lost | Refused:
        assert self._connection is not None
        self._ended = True
        if self._silent:
            silence = 2 * self._target.ping_interval
            return Lost(f"nothing heard for {silence:g} s", suspect=True, silent=True)
        said = self._connection.close_reason or ""
        return closed(self._target.where, self._connection.close_code, said, self._target.longest_pause)


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
