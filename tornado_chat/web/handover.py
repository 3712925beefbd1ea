"""Where a socket changes hands: from HTTP to a line, which keeps the plain kind of socket: it is smaller."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from tornado.iostream import IOStream, StreamClosedError

from tornado_chat.errors import CloseCode
from tornado_chat.live.session import Session
from tornado_chat.live.socket_line import SocketLine
from tornado_chat.wire.commands import Join

logger = logging.getLogger(__name__)


def take_over(stream: IOStream) -> tuple[socket.SocketType, bytes]:
    """The socket of a stream that was detached from HTTP, not blocking, and what the client sent after its request.

    Raises StreamClosedError if the client has gone meanwhile.
    Only Tornado's public interface is used; its stream closes its own descriptor, ours is a duplicate.
    """
    if stream.closed():
        raise StreamClosedError(stream.error)
    try:
        early = asyncio.ensure_future(stream.read_bytes(stream.max_buffer_size, partial=True))  # the same Future
        data = early.result() if early.done() else b""
        theirs = stream.socket
        sock = socket.SocketType(theirs.family, theirs.type, theirs.proto, os.dup(theirs.fileno()))
    finally:
        stream.close()
    sock.setblocking(False)
    with suppress(OSError):  # a Unix socket has no such options
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)  # as the system has it, not as HTTP had it
    return sock, data


def begin_session(
    session: Session, line: SocketLine, answer: bytes, token: str | None, joins: Sequence[Join], early: bytes
) -> None:
    """Let `session` live on `line`, whose socket gets the `answer`; `early` came behind the request."""
    identity = session.identity
    line.jti, line.expires_at = identity.jti, identity.expires_at
    try:
        session.begin(line, answer, token, joins)
        line.start(early)
    except Exception:  # it ends with whom it concerns
        logger.exception("session not begun user=%s", identity.user)
        line.abort(CloseCode.INTERNAL_ERROR)
