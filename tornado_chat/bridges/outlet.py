"""An answer as server-sent events of another protocol: on a line of ours, so that a slow or dead client is one."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus

from tornado_chat.bridges.asking import Asking
from tornado_chat.errors import ChatError, CloseCode, ErrorCode, LogUnavailable
from tornado_chat.live.event_stream import EventStream
from tornado_chat.live.limits import AddressAccount
from tornado_chat.live.line import Listener
from tornado_chat.live.socket_line import Lines
from tornado_chat.web.endpoint import EVENTS_TYPE
from tornado_chat.web.exchange import Exchange
from tornado_chat.wire import event_stream
from tornado_chat.wire.event_stream import StreamEncoding
from tornado_chat.wire.frames import ABNORMAL

logger = logging.getLogger(__name__)

COMMENT = b": ping\n\n"
"""A heartbeat for clients that take each event for a part of the answer."""

STOPPING = ChatError(ErrorCode.OVERLOADED, "this server is stopping, and the answer goes on: come back", 1.0)

Blocks = AsyncGenerator[bytes, None]
"""Whole blocks of a stream; LogUnavailable and ChatError end them."""


class AnswerStream(EventStream):
    """It ends with the answer: not by its age, and with no words of ours."""

    __slots__ = ("_goodbye_of", "_heartbeat")

    def __init__(
        self,
        lines: Lines,
        sock: socket.SocketType,
        listener: Listener,
        encoding: StreamEncoding,
        heartbeat: bytes,
        goodbye_of: Callable[[ChatError], bytes],
    ) -> None:
        super().__init__(lines, sock, listener, encoding)
        self._left = math.inf
        self._heartbeat = encoding.framing.part(heartbeat)
        self._goodbye_of = goodbye_of

    def _ping(self) -> None:
        self.write(self._heartbeat)

    def _goodbye(self, code: int, reason: str) -> bytes:
        framing = self._encoding.framing
        if code == CloseCode.NORMAL:
            return framing.end
        error = STOPPING
        if code in (CloseCode.TOKEN_EXPIRED, CloseCode.SESSION_REVOKED):
            error = ChatError(ErrorCode.UNAUTHORIZED, f"{reason}: sign in again")
        elif code != CloseCode.SERVICE_RESTART:
            error = ChatError(ErrorCode.UNAVAILABLE, "the server failed on this answer: come back", 1.0)
        return framing.part(self._goodbye_of(error)) + framing.end


class _Pouring:
    """The Listener of one stream: what is said on it is nothing, but that somebody hangs up."""

    def __init__(self, address: AddressAccount, asking: Asking) -> None:
        self._address = address
        self._asking = asking
        self.drained = asyncio.Event()
        self.hung_up = False
        """The client did, or is dead."""

    def on_message(self, payload: bytes) -> None: ...

    def on_overhead(self, size: int) -> None: ...

    def on_drained(self) -> None:
        self.drained.set()

    def on_closed(self, code: int, reason: str) -> None:
        self._address.connections -= 1
        self.hung_up = code in (ABNORMAL, CloseCode.WRITE_TIMEOUT)
        self.drained.set()
        self._asking.leave()


async def pour(
    exchange: Exchange,
    asking: Asking,
    blocks: Blocks,
    goodbye_of: Callable[[ChatError], bytes],
    *,
    headers: Mapping[str, str] | None = None,
    heartbeat: bytes = COMMENT,
) -> bool:
    """Answer `exchange` with the blocks, which tell of `asking`, up to their end. Whether the client went before that.

    `goodbye_of` makes the last block where something is in the way.
    """
    context, identity = exchange.gate.context, asking.asker.identity
    told = {**exchange.cross_origin_headers(), **(headers or {})}
    async with aclosing(blocks):
        if exchange.method == "HEAD":
            exchange.answer(HTTPStatus.OK, headers=told, content_type=EVENTS_TYPE)
            return False
        try:
            if exchange.gone:
                return True
            sock, early = exchange.detach()
        except OSError:  # it has gone meanwhile, or no file is left for the duplicate
            return True
        framing = event_stream.PLAIN if exchange.version == "HTTP/1.0" else event_stream.CHUNKED
        pouring = _Pouring(context.limits.addresses.enter(exchange.address), asking)
        encoding = context.streams.get(framing, numbered=False)
        line = AnswerStream(context.lines, sock, pouring, encoding, heartbeat, goodbye_of)
        line.jti, line.expires_at = identity.jti, identity.expires_at
        line.write(event_stream.head(framing, told) + framing.begin)
        line.start(early)
        try:
            async for block in blocks:
                line.write(framing.part(block))
                while line.outbox_bytes > context.settings.high_water_mark // 2 and not line.closing:
                    pouring.drained.clear()
                    line.want_drained()
                    await pouring.drained.wait()
                if line.closing:
                    break
        except (ChatError, LogUnavailable, TimeoutError) as error:
            if not isinstance(error, ChatError):
                context.log_warning.warning("log unavailable reason=%s", error)
                error = ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: come back", 1.0)
            line.write(framing.part(goodbye_of(error)))
        except Exception:
            logger.exception("answer not told")
            line.close(CloseCode.INTERNAL_ERROR)
        line.close(CloseCode.NORMAL)
        await asyncio.sleep(0)  # `on_closed` is called from the loop
        return pouring.hung_up
